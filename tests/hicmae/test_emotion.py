"""EmotionModel: fusion, single modalities, absent modalities."""

from __future__ import annotations

import pytest
import torch

from hicmae.emotion import EmotionConfig, EmotionModel, HierarchicalFusion
from hicmae.parameters import parameter_groups
from hicmae.settings import ModelConfig
from tests.hicmae.test_encoder import clip


def model(config: ModelConfig, **settings: object) -> EmotionModel:
    torch.manual_seed(0)
    return EmotionModel(config, EmotionConfig(num_outputs=3, **settings)).eval()


def test_hierarchical_fusion_starts_as_the_mean_over_layers_and_tokens() -> None:
    layers = tuple(torch.randn(2, 5, 4) for _ in range(3))
    fused = HierarchicalFusion(3)(layers)
    torch.testing.assert_close(fused, torch.stack(layers).mean(dim=(0, 2)))


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
@pytest.mark.parametrize("feature_fusion", [True, False])
def test_every_trainable_parameter_gets_a_gradient(
    tiny_model_config: ModelConfig, modalities: str, feature_fusion: bool
) -> None:
    network = model(tiny_model_config, modalities=modalities, feature_fusion=feature_fusion)
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
    assert not torch.equal(network(video, None), network(video, fbank))


def test_without_feature_fusion_only_the_last_layer_is_pooled(
    tiny_model_config: ModelConfig,
) -> None:
    network = model(tiny_model_config, feature_fusion=False)
    assert network.encoder.layers == (tiny_model_config.encoder_depth,)


def test_parameter_groups_leave_out_what_is_frozen(tiny_model_config: ModelConfig) -> None:
    network = model(tiny_model_config, modalities="audio")
    groups = parameter_groups(network, learning_rate=1.0, weight_decay=0.1, layer_decay=0.5)
    names = {name for group in groups for name in group["names"]}
    assert names == {name for name, p in network.named_parameters() if p.requires_grad}
    assert not any(name.startswith("encoder.video.") for name in names)
    scale = {name: group["lr_scale"] for group in groups for name in group["names"]}
    # layers: projections 0, encoder 1 and 2, fusion 3, everything else 4
    assert scale["encoder.audio.project.weight"] == 0.5**4
    assert scale["encoder.audio.blocks.1.norm1.weight"] == 0.5**2
    assert scale["encoder.fusion.audio.0.mlp.fc1.weight"] == 0.5
    assert scale["head.weight"] == scale["encoder.audio.norm.weight"] == 1


def test_a_head_without_outputs_is_refused() -> None:
    with pytest.raises(ValueError, match="num_outputs = 0"):
        EmotionConfig(num_outputs=0)
