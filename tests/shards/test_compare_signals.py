"""What is in two preparations is compared: pixels, sound, and when things happen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console

from shards.receipts.compare import (
    DIFFERENT,
    OTHER_ENCODING,
    _print_signals,
    compare_preparations,
    read_preparation,
)
from shards.receipts.differences import (
    DecodedSample,
    compare_sample,
    picture_shift,
    sound_shift,
)
from tests.support.preparations import FPS, RATE, moving_sample, write_preparation


def compared(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """Four samples against themselves with something changed, all of them decoded."""
    quality = changes.pop("quality", 80)  # other bytes, so that something is left to compare
    sides = [
        write_preparation(tmp_path / name, [moving_sample(n, **made) for n in range(4)])
        for name, made in (("a", {}), ("b", {"quality": quality, **changes}))
    ]
    first, second = map(read_preparation, sides)
    return compare_preparations(first, second, num_signals=8)


def test_same_pictures_coded_otherwise_are_near_and_not_shifted(tmp_path: Path) -> None:
    found = compared(tmp_path)
    assert found["verdict"] == OTHER_ENCODING
    assert found["signals"]["num_shifted"] == 0
    assert 28 < found["signals"]["median_psnr_db"] < 50
    for sample in found["signals"]["samples"]:
        assert sample["picture_shift_frames"] == 0
        assert (sample["sound_shift_samples"], sample["sync_change_ms"]) == (0, 0)
        assert sample["sound_correlation"] == pytest.approx(1)


def test_same_pictures_are_said_to_be_the_same(tmp_path: Path) -> None:
    found = compared(tmp_path, quality=90)
    assert found["signals"]["median_psnr_db"] is None
    assert {sample["mean_difference"] for sample in found["signals"]["samples"]} == {0.0}


@pytest.mark.parametrize("frames", [1, -3])
def test_picture_that_is_late_is_found_to_the_frame(tmp_path: Path, frames: int) -> None:
    found = compared(tmp_path, picture_later=frames)
    assert [sample["picture_shift_frames"] for sample in found["signals"]["samples"]] == [
        frames
    ] * 4
    assert found["signals"]["num_shifted"] == 4
    assert found["signals"]["samples"][0]["sync_change_ms"] == -40 * frames
    assert found["verdict"] == DIFFERENT
    assert any("shifted in time" in reason for reason in found["reasons"])


@pytest.mark.parametrize("samples", [400, -1234])
def test_sound_that_is_late_is_found_to_the_sample(tmp_path: Path, samples: int) -> None:
    found = compared(tmp_path, sound_later=samples)
    for sample in found["signals"]["samples"]:
        assert sample["sound_shift_samples"] == samples
        assert sample["sync_change_ms"] == pytest.approx(1000 * samples / RATE, abs=0.01)
        assert abs(sample["sound_correlation"]) < 0.2
    assert found["signals"]["num_shifted"] == 4


def test_shift_is_found_in_another_crop_of_another_size(tmp_path: Path) -> None:
    found = compared(tmp_path, picture_later=2, zoom=1.25, side=48)
    assert {sample["picture_shift_frames"] for sample in found["signals"]["samples"]} == {2}


def test_sample_without_sound_or_movement_has_no_shift(tmp_path: Path) -> None:
    still = np.full((30, 32, 32, 3), 99, dtype=np.uint8)
    empty = np.zeros(0, dtype=np.int16)
    one = DecodedSample(frames=still, fps=FPS, sound=empty, sample_rate=RATE)
    found = compare_sample(one, one)
    assert found["psnr_db"] is None
    for name in ("picture_shift_frames", "sound_shift_samples", "sound_correlation"):
        assert found[name] is None
    assert not found["shifted"]
    silent = np.zeros(9000, dtype=np.int16)
    assert sound_shift(silent, silent, RATE, max_seconds=0.4) == (None, None)


def test_a_picture_on_one_side_alone_is_not_said_to_be_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def sample(num_frames: int) -> DecodedSample:
        frames = np.zeros((num_frames, 8, 8, 3), dtype=np.uint8)
        sound = np.zeros(0, dtype=np.int16)
        return DecodedSample(frames=frames, fps=FPS, sound=sound, sample_rate=RATE)

    found = compare_sample(sample(30), sample(0))
    assert found["mean_difference"] is None
    signals = {"samples": [{"key": "a", **found}], "median_psnr_db": None, "num_shifted": 0}
    _print_signals(Console(width=200), signals, 1)
    said = capsys.readouterr().out
    assert "same" not in said
    assert "1 samples decoded: no pictures on both sides, 0 shifted in time" in said


def test_psnr_is_that_of_opencv() -> None:
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    noisy = np.clip(frames + random.normal(0, 9, frames.shape), 0, 255).astype(np.uint8)
    sound = np.zeros(0, dtype=np.int16)
    a, b = (
        DecodedSample(frames=one, fps=FPS, sound=sound, sample_rate=RATE) for one in (frames, noisy)
    )
    found = compare_sample(a, b)
    assert found["psnr_db"] == pytest.approx(cv2.PSNR(frames.ravel(), noisy.ravel()), abs=0.01)
    difference = np.abs(frames.astype(int) - noisy).mean()
    assert found["mean_difference"] == pytest.approx(difference, abs=1e-3)


def test_other_frame_rates_are_laid_over_one_another_by_time() -> None:
    """A blob whose place is a function of time, seen at 25 and at 30 frames a second."""
    random = np.random.default_rng(3)
    knots = np.cumsum(random.uniform(-9, 9, (60, 2)), axis=0)
    rows, columns = np.mgrid[:48, :48]

    def filmed(fps: float, later: float) -> np.ndarray:
        frames = []
        for time in np.arange(round(4 * fps)) / fps - later + 1:
            x, y = (np.interp(time * 8, np.arange(60), knots[:, axis]) for axis in (0, 1))
            square = (columns - 24 - 14 * np.tanh(x / 20)) ** 2 + (
                rows - 24 - 14 * np.tanh(y / 20)
            ) ** 2
            frames.append(30 + 190 * np.exp(-square / 50))
        return np.repeat(np.stack(frames)[..., None], 3, axis=3).round().astype(np.uint8)

    for later in (0, 4):  # frames of the faster rate
        shift = picture_shift(filmed(25, 0), 25, filmed(30, later / 30), 30, max_seconds=0.4)
        assert shift == later


def test_unrelated_pictures_and_sounds_have_no_shift() -> None:
    random = np.random.default_rng(1)
    frames = [random.integers(0, 256, (50, 24, 24, 3), dtype=np.uint8) for _ in range(2)]
    assert picture_shift(frames[0], FPS, frames[1], FPS, max_seconds=0.4) is None
    sounds = [random.normal(0, 999, 16000).astype(np.int16) for _ in range(2)]
    shift, correlation = sound_shift(*sounds, RATE, max_seconds=0.4)
    assert shift is None
    assert correlation is not None
    assert abs(correlation) < 0.1
