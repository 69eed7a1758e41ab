"""EmotionModel: fusion, single modalities, absent modalities."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hicmae.checkpoints.checkpoint import load_checkpoint
from hicmae.checkpoints.convert import export_reference
from hicmae.config import to_dict
from hicmae.emotion import (
    FUSIONS,
    DepthwiseFusion,
    DepthwiseSettings,
    EmotionConfig,
    EmotionModel,
    HierarchicalFusion,
    by_presence,
    clip_values,
)
from hicmae.registry import NoSettings
from hicmae.settings import ModelConfig
from tests.hicmae.test_encoder import clip


def model(config: ModelConfig, **settings: object) -> EmotionModel:
    torch.manual_seed(0)
    return EmotionModel(config, EmotionConfig(num_outputs=3, **settings)).eval()


def test_hierarchical_fusion_starts_as_the_mean_over_layers_and_tokens() -> None:
    layers = tuple(torch.randn(2, 5, 4) for _ in range(3))
    fusion = HierarchicalFusion(3, 5, 4, NoSettings())
    torch.testing.assert_close(fusion(layers), torch.stack(layers).mean(dim=(0, 2)))
    learned = torch.tensor([0.5, 0.3, 0.2])
    fusion.layer_logits.data = learned.log()
    wanted = sum(share * tokens.mean(dim=1) for share, tokens in zip(learned, layers, strict=True))
    torch.testing.assert_close(fusion(layers), wanted)


def test_depthwise_fusion_starts_as_the_mean_of_normed_tokens_and_learns_where_they_are() -> None:
    layers = tuple(torch.randn(2, 5, 4) for _ in range(3))
    fusion = DepthwiseFusion(3, 5, 4, DepthwiseSettings(rate=8.0))
    normed = torch.stack([nn.functional.layer_norm(tokens, (4,)) for tokens in layers])
    torch.testing.assert_close(fusion(layers), normed.mean(dim=(0, 2)))
    fusion.layer_logits.data = torch.tensor([0.5, 0.3, 0.2]).log()
    fusion.places.data = torch.randn(3, 5, 4)
    wanted = sum(
        share * ((8.0 * places + 0.2) * tokens).sum(dim=1)
        for share, places, tokens in zip((0.5, 0.3, 0.2), fusion.places, normed, strict=True)
    )
    torch.testing.assert_close(fusion(layers), wanted)


def test_depthwise_fusion_is_saved_with_its_rate(
    tiny_model_config: ModelConfig, tmp_path: Path
) -> None:
    network = model(tiny_model_config, fusion="global-depthwise", fusion_settings={"rate": 4.0})
    for fusion in (network.video_fusion, network.audio_fusion):
        nn.init.normal_(fusion.places)
    network.save_pretrained(tmp_path / "saved")
    again = EmotionModel.from_pretrained(tmp_path / "saved").eval()
    assert again.video_fusion.rate == 4.0
    batch = clip(tiny_model_config)
    assert torch.equal(again(*batch), network(*batch))
    with pytest.raises(ValueError, match=r"fusion_settings: rate = 0.0 \(must be positive\)"):
        model(tiny_model_config, fusion="global-depthwise", fusion_settings={"rate": 0})


@pytest.mark.parametrize(("modalities", "width"), [("audio-video", 4), ("video", 2), ("audio", 2)])
def test_features_are_as_wide_as_documented(
    tiny_model_config: ModelConfig, modalities: str, width: int
) -> None:
    network = model(tiny_model_config, modalities=modalities)
    batch = clip(tiny_model_config)
    assert network.features(*batch).shape == (2, width * tiny_model_config.encoder_dim)
    assert network(*batch).shape == (2, 3)
    assert set(network.layer_weights()) == set(modalities.split("-"))


def test_a_model_of_one_modality_ignores_the_other(tiny_model_config: ModelConfig) -> None:
    network = model(tiny_model_config, modalities="video")
    video, fbank = clip(tiny_model_config)
    assert torch.equal(network(video, fbank), network(video, fbank + 1))
    assert torch.equal(network(video, fbank), network(video, None))
    with pytest.raises(ValueError, match="reads video alone"):
        network(None, fbank)


@pytest.mark.parametrize("modalities", ["audio-video", "video", "audio"])
@pytest.mark.parametrize(
    "fusion", [{}, {"fusion": "global-depthwise"}, {"feature_fusion": False}], ids=str
)
def test_every_trainable_parameter_gets_a_gradient(
    tiny_model_config: ModelConfig, modalities: str, fusion: dict[str, Any]
) -> None:
    network = model(tiny_model_config, modalities=modalities, **fusion)
    network(*clip(tiny_model_config)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_an_absent_modality_is_zeros_before_the_norm(tiny_model_config: ModelConfig) -> None:
    network = model(tiny_model_config)
    video, fbank = clip(tiny_model_config)
    seen = []
    network.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(video, None)
    parts = seen[0].chunk(4, dim=1)  # video layers, audio layers, fused video, fused audio
    assert [bool(part.any()) for part in parts] == [True, False, True, False]
    encoded = network.encoder(video, None).video
    torch.testing.assert_close(parts[0], network.video_fusion(encoded.layers))
    torch.testing.assert_close(parts[2], encoded.fused.mean(dim=1))
    assert not torch.equal(network(video, None), network(video, fbank))


def test_a_new_network_has_the_published_first_weights_epsilon_and_stochastic_depth(
    tiny_model_config: ModelConfig,
) -> None:
    network = model(replace(tiny_model_config, encoder_depth=3, fusion_depth=3))
    encoder, fusion = network.encoder, network.encoder.fusion
    for blocks in (encoder.video.blocks, encoder.audio.blocks, fusion.video, fusion.audio):
        assert [getattr(block.drop_path, "rate", 0.0) for block in blocks] == [0, 0.05, 0.1]
    for part in network.modules():
        if isinstance(part, nn.LayerNorm):
            assert part.eps == 1e-6
    for part in encoder.modules():
        if isinstance(part, nn.Linear):
            assert part.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert part.bias is None or not part.bias.any()
    assert network.head.bias.any()  # PyTorch's own


def test_a_constant_output_is_its_bias_for_every_clip_and_learned(
    tiny_model_config: ModelConfig,
) -> None:
    network = model(tiny_model_config, constants=(1,))
    said = network(*clip(tiny_model_config))
    assert (said[0] == said[1]).tolist() == [False, True, False]
    said.sum().backward()
    assert network.head.weight.grad.any(dim=1).tolist() == [True, False, True]
    assert network.head.bias.grad.tolist() == [2, 2, 2]


def test_values_of_clips_have_the_temperature_and_the_unit_that_are_given(
    tiny_model_config: ModelConfig,
) -> None:
    network, batch = model(tiny_model_config), clip(tiny_model_config)
    logits, (mean, std) = network(*batch), torch.tensor([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]])
    shares, said = clip_values(network, *batch, task="classification", temperature=2.0)
    torch.testing.assert_close(shares, (logits / 2).softmax(dim=1))
    torch.testing.assert_close(said, logits)
    values, _ = clip_values(
        network, *batch, task="regression", mean=mean, std=std, temperature=2.0
    )  # of classes alone
    torch.testing.assert_close(values, logits * std + mean)


def test_clips_that_lack_a_modality_keep_their_places(tiny_model_config: ModelConfig) -> None:
    network, (video, fbank) = model(tiny_model_config), clip(tiny_model_config, batch=4)
    seen, heard = torch.tensor([False, True, True, True]), torch.tensor([True, True, False, True])
    found = by_presence(network, video, fbank, seen, heard)
    for row in range(4):
        one = [part[row : row + 1] for part in (video, fbank)]
        one = [part if there[row] else None for part, there in zip(one, (seen, heard), strict=True)]
        torch.testing.assert_close(found[row], network(*one)[0])


def test_without_feature_fusion_only_the_last_layer_is_pooled(
    tiny_model_config: ModelConfig,
) -> None:
    network = model(tiny_model_config, feature_fusion=False)
    assert network.encoder.layers == (tiny_model_config.encoder_depth,)
    for fusion in (network.video_fusion, network.audio_fusion):  # whose one weight is always 1
        assert not any(parameter.requires_grad for parameter in fusion.parameters())


@dataclass(frozen=True, kw_only=True)
class ToySettings:
    bias: float = 0.0


class ToyFusion(nn.Module):
    """The mean of the layers through a matrix."""

    def __init__(self, num_layers: int, num_tokens: int, dim: int, settings: ToySettings) -> None:
        super().__init__()
        self.num_layers, self.bias = num_layers, settings.bias
        self.mix = nn.Linear(dim, dim)

    def forward(self, layers: tuple[Tensor, ...]) -> Tensor:
        assert len(layers) == self.num_layers
        return self.mix(torch.stack(layers).mean(dim=(0, 2))) + self.bias


@pytest.fixture
def toy() -> Iterator[None]:
    """A fusion from outside the package."""
    FUSIONS.register("toy", settings=ToySettings)(ToyFusion)
    yield
    FUSIONS.unregister("toy")


def test_a_program_loads_a_checkpoint_whose_fusion_an_installed_package_brings(
    tiny_model_config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site"
    (package / "toys-1.dist-info").mkdir(parents=True)
    points = "[hicmae.plugins]\ntoys = toys_of_a_test\n"
    (package / "toys-1.dist-info" / "entry_points.txt").write_text(points)
    lines = ("from hicmae.emotion import FUSIONS", "from tests.hicmae.test_emotion import *")
    register = "FUSIONS.register('plugged', settings=ToySettings)(ToyFusion)"
    (package / "toys_of_a_test.py").write_text("\n".join([*lines, register, ""]))
    monkeypatch.syspath_prepend(package)
    try:
        saved = model(tiny_model_config, fusion="plugged", fusion_settings={"bias": 0.5})
        saved.save_pretrained(tmp_path / "checkpoint")
        FUSIONS.unregister("plugged")
        sys.modules.pop("toys_of_a_test")  # as in a program that was started now
        again = EmotionModel.from_pretrained(tmp_path / "checkpoint")
        assert again.emotion.fusion_settings == {"bias": 0.5}
        with pytest.raises(ValueError, match=r"feature fusion 'plug' is unknown.*plugged"):
            model(tiny_model_config, fusion="plug")
    finally:
        FUSIONS.unregister("plugged")
        sys.modules.pop("toys_of_a_test", None)


@pytest.mark.usefixtures("toy")
def test_a_registered_fusion_is_not_written_for_the_authors_code(
    tiny_model_config: ModelConfig, tmp_path: Path
) -> None:
    model(tiny_model_config, fusion="toy").save_pretrained(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match=r"checkpoint: fuses layers by 'toy', .*use --format"):
        export_reference(load_checkpoint(tmp_path / "checkpoint"), tmp_path / "theirs.pth")
    assert not (tmp_path / "theirs.pth").exists()


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("modalities", ["audio-video", "audio"])
def test_a_registered_fusion_is_trained_and_travels(
    tiny_model_config: ModelConfig, modalities: str, tmp_path: Path
) -> None:
    chosen = {"fusion": "toy", "fusion_settings": {"bias": 1}, "modalities": modalities}
    network, batch = model(tiny_model_config, **chosen), clip(tiny_model_config)
    assert network.layer_weights() == {}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(3):
        loss = (network(*batch) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    network.save_pretrained(tmp_path / "made")
    back = EmotionModel.from_pretrained(tmp_path / "made")
    assert back.emotion == network.emotion
    assert torch.equal(back(*batch), network(*batch))


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_outputs": 0}, "num_outputs = 0"),
        ({"constants": (2,)}, r"constants = \(2,\) of 2 outputs"),
        ({"drop_path": 1.0}, r"drop_path = 1.0 \(must lie in \[0, 1\)\)"),
        ({"fusion": "hierarchic"}, "'hierarchic' is unknown; did you mean 'hierarchical'"),
        ({"fusion": "toy", "fusion_settings": {"bios": 1}}, "unknown key 'bios'"),
        ({"fusion_settings": {"bias": 1}}, "fusion_settings: unknown key 'bias'"),
        ({"fusion": "toy", "feature_fusion": False}, "leaves nothing to fuse by 'toy'"),
    ],
)
def test_heads_and_fusions_that_cannot_be_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmotionConfig(**({"num_outputs": 2} | settings))


def test_a_fusion_is_written_only_where_it_is_asked_for() -> None:
    assert not {"fusion", "fusion_settings"} & set(to_dict(EmotionConfig(num_outputs=2)))
