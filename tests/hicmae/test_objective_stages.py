"""Contrast alone, and stages: gradients reach what they should and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hicmae.bench import step_flops
from hicmae.checkpoints.portable import PortableModel
from hicmae.config import from_dict, to_dict
from hicmae.pretraining import HiCMAE
from hicmae.settings import ModelConfig, ObjectiveConfig
from tests.hicmae.test_encoder import clip

ALONE = ObjectiveConfig(reconstruction=False, video_mask_ratio=0.5, audio_mask_ratio=0.5)
STAGED = ObjectiveConfig(stages={"apart": 2, "audio": 1})


def parts_with_gradients(network: HiCMAE) -> set[str]:
    """Names of the parameters that have a gradient which is not zero."""
    return {
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().max() > 0
    }


def step(
    config: ModelConfig, objective: ObjectiveConfig, stage: str = "audio-video"
) -> tuple[HiCMAE, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    network = HiCMAE(config, objective)
    network.stage = stage
    output = network(*clip(config, batch=4))
    output.loss.backward()
    return network, output.terms | {"loss": output.loss.detach()}


def test_contrast_alone_trains_both_encoders_and_nothing_that_it_does_not_read(
    tiny_model_config: ModelConfig,
) -> None:
    network, terms = step(tiny_model_config, ALONE)
    trained = {name for name, item in network.named_parameters() if item.requires_grad}
    assert {name.split(".")[1] for name in trained} == {"video", "audio"}
    assert all(name.startswith("encoder.") for name in trained)
    # Whatever an optimizer holds has a gradient, or processes would wait for it.
    assert all(network.get_parameter(name).grad is not None for name in trained)
    for tower in ("video", "audio"):
        assert f"encoder.{tower}.project.weight" in parts_with_gradients(network)
    assert not {"video", "audio"} & terms.keys()
    assert terms["loss"] == pytest.approx(0.0025 * terms["contrast"].item())


@pytest.mark.slow
def test_contrast_alone_decodes_nothing_in_training_and_all_of_it_when_asked(
    tiny_model_config: ModelConfig,
) -> None:
    network = HiCMAE(tiny_model_config, ALONE)
    assert network(*clip(tiny_model_config, batch=2)).given.video_prediction is None
    assert network.eval()(*clip(tiny_model_config, batch=2)).given.video_prediction is not None
    probe = network.probe_masks(torch.Generator().manual_seed(0))
    video, fbank = clip(tiny_model_config, batch=1)
    found = network.probe_output(probe | {"input.video": video, "input.fbank": fbank})
    assert isinstance(network, PortableModel)
    assert found.keys() == {"output.video_prediction", "output.audio_prediction"}
    full = replace(ALONE, reconstruction=True)
    assert 0 < step_flops(tiny_model_config, ALONE) < step_flops(tiny_model_config, full)


def test_contrast_alone_learns_which_sound_goes_with_which_picture(
    tiny_model_config: ModelConfig,
) -> None:
    torch.manual_seed(0)
    network = HiCMAE(tiny_model_config, replace(ALONE, contrast_weight=1.0))
    batch = clip(tiny_model_config, batch=4)
    hidden = [torch.arange(count) % 2 == 0 for count in (32, 8)]
    masks = {
        name: mask.expand(4, -1)
        for name, mask in zip(("video_mask", "fbank_mask"), hidden, strict=True)
    }
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(30):
        output = network(*batch, **masks)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(output.loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_apart_each_modality_learns_what_it_learns_alone(tiny_model_config: ModelConfig) -> None:
    """Against networks that are trained on one modality."""
    torch.manual_seed(0)
    both = HiCMAE(tiny_model_config, STAGED)
    both.stage = "apart"
    video, fbank = clip(tiny_model_config, batch=3)
    hidden = [torch.arange(count).expand(3, -1) % 2 == 0 for count in (32, 8)]
    both(video, fbank, video_mask=hidden[0], fbank_mask=hidden[1]).loss.backward()
    for name, inputs in (("video", (video, None)), ("audio", (None, fbank))):
        alone = HiCMAE(tiny_model_config, ObjectiveConfig(), name)
        alone.load_state_dict(both.state_dict())
        alone(*inputs, video_mask=hidden[0], fbank_mask=hidden[1]).loss.backward()
        for parameter, item in alone.named_parameters():
            if item.requires_grad:
                assert item.grad is not None
                found = both.get_parameter(parameter).grad
                torch.testing.assert_close(found, item.grad, msg=parameter, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("stage", "idle"),
    [
        ("apart", ("cross", "context")),
        ("audio", ("cross", "context", "encoder.video.", "video_decoder", "fusion.video")),
        ("video", ("cross", "context", "encoder.audio.", "audio_decoder", "fusion.audio")),
    ],
)
def test_a_stage_moves_what_it_names_and_leaves_the_rest(
    tiny_model_config: ModelConfig, stage: str, idle: tuple[str, ...]
) -> None:
    network, terms = step(tiny_model_config, STAGED, stage)
    moved = parts_with_gradients(network)
    names = {id(item): name for name, item in network.named_parameters()}
    named = {names[id(item)] for item in network.idle_parameters()}
    # The layers with which a decoder reads the encoder's are not the fusion encoder's.
    expected = {
        name
        for name in names.values()
        if any(part in name for part in idle)
        and not ("decoder" in name and not any(name.startswith(part) for part in idle))
    }
    assert named == expected
    assert not moved & named
    assert not any(item.grad is None for item in network.parameters())  # one graph for all stages
    wanted = {"apart": terms["video"] + terms["audio"]}.get(stage, terms.get(stage))
    assert torch.equal(terms["loss"], wanted)
    assert terms["contrast"] > 0  # still in the log


def test_after_the_stages_nothing_differs_from_a_run_without(
    tiny_model_config: ModelConfig,
) -> None:
    staged, _ = step(tiny_model_config, STAGED)
    plain, _ = step(tiny_model_config, ObjectiveConfig())
    assert not list(staged.idle_parameters())
    for one, other in zip(staged.parameters(), plain.parameters(), strict=True):
        assert one.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_older_configurations_are_written_as_they_were() -> None:
    assert not {"stages", "reconstruction"} & to_dict(ObjectiveConfig()).keys()
    for objective in (ALONE, STAGED):
        assert from_dict(ObjectiveConfig, to_dict(objective), "here") == objective


@pytest.mark.parametrize(
    ("changes", "modalities", "said"),
    [
        ({"contrast": False}, "audio-video", "no loss is left to train audio-video with"),
        ({}, "audio", "no loss is left to train audio with; set reconstruction: true"),
        ({"contrast_weight": 0.0}, "audio-video", "every weight is 0"),
        ({"reconstruction": True, "audio_weight": 0.0}, "audio", "every weight is 0"),
        ({"contrast_layers": (1,)}, "audio-video", "no loss reads layers 2 to 2 of the encoder"),
        (
            {"reconstruction": True, "audio_weight": 0.0, "stages": {"audio": 1}},
            "audio-video",
            "every weight of stage audio is 0",
        ),
        ({"reconstruction": True, "stages": {"audio": 1}}, "video", "stages are of a training on"),
    ],
)
def test_what_would_train_nothing_is_refused(
    tiny_model_config: ModelConfig, changes: dict[str, object], modalities: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        HiCMAE(tiny_model_config, replace(ALONE, **changes), modalities)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stages": {"sound": 1}}, "stages: 'sound' is none of apart, audio, video"),
        ({"stages": {"apart": 0}}, r"stages.apart = 0 epochs \(must be positive\)"),
        ({"stages": {"apart": 1}, "reconstruction": False}, "reconstruction is false"),
    ],
)
def test_stages_that_are_none_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ObjectiveConfig(**changes)
