"""Network, objective, conversion, inputs and scores against the numbers of the authors' code.

Every ``<case>.json`` that has its two tensor files is a case; sizes come from the json.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hicmae.checkpoints.checkpoint import load_weights
from hicmae.checkpoints.convert import from_reference, reference_name
from hicmae.emotion import EmotionConfig, EmotionModel
from hicmae.encoder import take_tokens, tubelets
from hicmae.masks import masks_from_hidden
from hicmae.metrics import classification_metrics, regression_metrics
from hicmae.objective.reconstruction import video_target
from hicmae.optimization import parameter_groups, warmup_cosine
from hicmae.pretraining import HiCMAE, PretrainOutput
from hicmae.settings import InputConfig, ModelConfig, ObjectiveConfig
from hicmae.transforms import FilterBank
from hicmae.views import test_views
from tests.hicmae.test_transforms_audio import assert_same_energies

# Cases are collected before any fixture runs, so the folder is found here as conftest finds it.
PARITY_DIR = Path(
    os.environ.get("HICMAE_PARITY_DIR") or Path(__file__).parents[2] / "shared" / "parity"
)
VALUES = {"atol": 1e-4, "rtol": 0.0}
LOSSES = {"rel": 1e-5}
NORMS = {"rel": 1e-3}
SAME_NAME = {field.name for field in fields(ModelConfig)}  # there and here, but for two


class Case:
    """One case: its sizes, tensors, and our networks with its weights."""

    def __init__(self, file: Path) -> None:
        self.facts: dict[str, Any] = json.loads(file.read_text())
        self.pretrain = load_file(file.with_name(f"{file.stem}_pretrain.safetensors"))
        self.finetune = load_file(file.with_name(f"{file.stem}_finetune.safetensors"))
        sizes = self.facts["config"]
        self.model = ModelConfig(
            input=InputConfig(
                image_size=sizes["image_size"],
                num_frames=sizes["num_frames"],
                fbank_frames=sizes["audio_size"][0],
                mel_bins=sizes["audio_size"][1],
            ),
            tubelet_frames=sizes["tubelet_size"],
            feature_layers=tuple(layer + 1 for layer in sizes["skip_layers_zero_based"]),
            **{name: value for name, value in sizes.items() if name in SAME_NAME},
        )
        self.objective = ObjectiveConfig(
            video_mask_ratio=sizes["mask_ratio_video"],
            audio_mask_ratio=sizes["mask_ratio_audio"],
            temperature=sizes["temperature"],
            contrast_weight=sizes["contrastive_weight"],
            frame_difference=sizes["frame_difference_target_used_in_loss"],
        )

    def hicmae(self) -> HiCMAE:
        network = HiCMAE(self.model, self.objective)
        load_weights(network, from_reference(parameters(self.pretrain)), where="case")
        return network

    @cached_property
    def output(self) -> PretrainOutput:
        return self.step(self.hicmae())

    def step(self, network: HiCMAE) -> PretrainOutput:
        return network(
            self.pretrain["video"],
            self.pretrain["audio"].squeeze(1),
            video_mask=self.pretrain["mask_video"],
            fbank_mask=self.pretrain["mask_audio"],
        )

    def emotion(self) -> EmotionModel:
        network = EmotionModel(self.model, EmotionConfig(num_outputs=self.facts["num_classes"]))
        load_weights(network, from_reference(parameters(self.finetune)), where="case")
        return network.eval()


def parameters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix("param."): value
        for name, value in tensors.items()
        if name.startswith("param.")
    }


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        files = sorted(
            file
            for file in PARITY_DIR.glob("*.json")
            if file.with_name(f"{file.stem}_pretrain.safetensors").is_file()
        )
        skipped = [pytest.param(None, marks=pytest.mark.skip(f"no cases in {PARITY_DIR}"))]
        metafunc.parametrize(
            "case", [pytest.param(file, id=file.stem) for file in files] or skipped, indirect=True
        )


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("video_target", "target_video_framediff"),
        ("audio_target", "target_audio"),
        ("video_prediction", "pred_video"),
        ("audio_prediction", "pred_audio"),
    ],
)
def test_targets_and_predictions_are_those_of_the_reference(
    case: Case, ours: str, theirs: str
) -> None:
    torch.testing.assert_close(getattr(case.output.given, ours), case.pretrain[theirs], **VALUES)


def test_video_target_without_frame_difference_is_that_of_the_reference(case: Case) -> None:
    cut = tubelets(case.pretrain["video"], case.model.tubelet_frames, case.model.patch_size)
    target = video_target(
        take_tokens(cut, masks_from_hidden(case.pretrain["mask_video"]).masked),
        tubelet_frames=case.model.tubelet_frames,
        image_std=case.model.input.image_std,
        frame_difference=False,
    )
    torch.testing.assert_close(target, case.pretrain["target_video"], **VALUES)


def test_contrast_logits_are_those_of_the_reference(case: Case) -> None:
    assert len(case.output.contrast_logits) == len(case.model.feature_layers)
    for place, found in enumerate(case.output.contrast_logits):
        wanted = case.pretrain[f"logits_video_to_audio.{place}"]
        torch.testing.assert_close(found, wanted, **VALUES)


def test_every_loss_is_that_of_the_reference(case: Case) -> None:
    output = case.output
    found = {
        "loss_video": output.terms["video"],
        "loss_audio": output.terms["audio"],
        "loss_contrastive": output.terms["contrast"],
        "loss_total": output.loss,
    }
    for name, value in found.items():
        assert value.item() == pytest.approx(case.pretrain[name].item(), **LOSSES), name


def test_gradient_norms_are_those_of_the_reference(case: Case) -> None:
    network = case.hicmae()
    case.step(network).loss.backward()
    found = {name: value.grad for name, value in network.named_parameters()}
    expected = {reference_name(name): v for name, v in case.facts["gradient_norms"].items()}
    assert set(found) == set(expected)
    for name, wanted in expected.items():
        gradient = found[name]
        assert gradient is not None, name
        assert gradient.norm().item() == pytest.approx(wanted, abs=1e-9, **NORMS), name


def test_finetuning_features_and_logits_are_those_of_the_reference(case: Case) -> None:
    network = case.emotion()
    clip = case.finetune["video"], case.finetune["audio"].squeeze(1)
    with torch.no_grad():
        torch.testing.assert_close(network.features(*clip), case.finetune["features"], **VALUES)
        torch.testing.assert_close(network(*clip), case.finetune["logits"], **VALUES)


def test_finetuning_takes_its_encoder_from_pretraining(case: Case) -> None:
    pretrained, finetuned = case.hicmae().encoder, case.emotion().encoder
    for name, value in pretrained.state_dict().items():
        assert torch.equal(value, finetuned.state_dict()[name]), name


def test_parameter_groups_are_those_of_the_reference(case: Case) -> None:
    groups = parameter_groups(
        case.emotion(),
        learning_rate=0.5,
        weight_decay=0.05,
        layer_decay=case.facts["layer_decay"],
    )
    found = {name: group for group in groups for name in group["names"]}
    expected = case.facts["finetune_parameter_groups"]
    assert set(found) == {reference_name(name) for name in expected}
    for name, wanted in expected.items():
        group = found[reference_name(name)]
        assert group["lr_scale"] == pytest.approx(wanted["lr_scale"]), name
        assert group["lr"] == pytest.approx(0.5 * wanted["lr_scale"]), name
        assert group["weight_decay"] == wanted["weight_decay"], name


def published(folder: Path, name: str) -> Path:
    if not (folder / name).exists():
        pytest.skip(f"{name} is not in the parity folder")
    return folder / name


@pytest.fixture
def numbers(parity_dir: Path) -> dict[str, Any]:
    return json.loads(published(parity_dir, "metrics_and_schedules.json").read_text())


def test_filter_bank_meets_every_published_case_in_one_batch(parity_dir: Path) -> None:
    sounds = load_file(published(parity_dir, "fbank.safetensors"))
    names = sorted(name.removeprefix("wave.") for name in sounds if name.startswith("wave."))
    assert names
    waves = [sounds[f"wave.{name}"][0] for name in names]
    num_samples = torch.tensor([len(wave) for wave in waves])
    waveform = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    frames, bins = sounds[f"fbank.{names[0]}"].shape
    input = InputConfig(fbank_frames=frames, mel_bins=bins)
    fbank = FilterBank(input)(waveform, num_samples)
    for name, found in zip(names, fbank, strict=True):
        assert_same_energies(found, sounds[f"fbank.{name}"], input)


def test_classification_scores_meet_the_published_numbers(numbers: dict[str, Any]) -> None:
    case = numbers["classification"]
    scores = classification_metrics(
        case["labels"], case["predictions"], max(case["labels"] + case["predictions"]) + 1
    )
    for name, value in scores.items():
        assert value == pytest.approx(case[name], abs=1e-6), name


def test_correlations_meet_the_published_numbers(numbers: dict[str, Any]) -> None:
    case = numbers["regression"]
    scores = regression_metrics(case["targets"], case["predictions"])
    for name in ("pcc", "ccc"):
        assert scores[name] == pytest.approx(case[name], abs=1e-9), name


def test_schedule_meets_the_published_numbers_step_by_step(numbers: dict[str, Any]) -> None:
    case = numbers["cosine_schedule"]
    num_steps = case["epochs"] * case["steps_per_epoch"]
    assert len(case["values"]) == num_steps
    assert case["warmup_start"] == 0
    for step, expected in enumerate(case["values"]):
        value = case["base"] * warmup_cosine(
            step,
            final=case["final"] / case["base"],
            num_steps=num_steps,
            warmup_steps=case["warmup_epochs"] * case["steps_per_epoch"],
        )
        assert value == pytest.approx(expected, rel=1e-9, abs=1e-15), f"step {step}"


def test_test_time_frames_meet_the_published_ones(numbers: dict[str, Any]) -> None:
    assert numbers["test_time_frames"]
    for case in numbers["test_time_frames"]:
        views = test_views(
            case["num_frames"], case["clip_frames"], case["stride"], case["segments"]
        )
        assert [view.tolist() for view in views] == case["frames"], case["num_frames"]
