"""Filter bank, scores, schedule and test-time frames against the numbers of the parity folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hicmae.metrics import classification_metrics, regression_metrics
from hicmae.optimization import warmup_cosine
from hicmae.settings import InputConfig
from hicmae.transforms import FilterBank
from hicmae.views import test_views
from tests.hicmae.test_transforms_audio import assert_same_energies


@pytest.fixture
def numbers(parity_dir: Path) -> dict[str, Any]:
    path = parity_dir / "metrics_and_schedules.json"
    if not path.exists():
        pytest.skip(f"{path.name} is not in the parity folder")
    return json.loads(path.read_text())


@pytest.fixture
def sounds(parity_dir: Path) -> dict[str, torch.Tensor]:
    path = parity_dir / "fbank.safetensors"
    if not path.exists():
        pytest.skip(f"{path.name} is not in the parity folder")
    return load_file(path)


def test_filter_bank_meets_every_published_case_in_one_batch(
    sounds: dict[str, torch.Tensor],
) -> None:
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
    for step, expected in enumerate(case["values"]):
        value = warmup_cosine(
            step,
            base=case["base"],
            final=case["final"],
            num_steps=num_steps,
            warmup_steps=case["warmup_epochs"] * case["steps_per_epoch"],
            warmup_start=case["warmup_start"],
        )
        assert value == pytest.approx(expected, rel=1e-9, abs=1e-15), f"step {step}"


def test_test_time_frames_meet_the_published_ones(numbers: dict[str, Any]) -> None:
    assert numbers["test_time_frames"]
    for case in numbers["test_time_frames"]:
        views = test_views(
            case["num_frames"], case["clip_frames"], case["stride"], case["segments"]
        )
        assert [view.tolist() for view in views] == case["frames"], case["num_frames"]
