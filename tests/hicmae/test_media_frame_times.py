"""Frames of a constant rate are the nearest in time, and nothing drifts."""

from __future__ import annotations

import numpy as np
import pytest

from hicmae.media.frame_times import constant_rate_indices


def nearest(timestamps: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.abs(wanted[:, None] - timestamps[None]).argmin(axis=1)


def test_the_same_rate_changes_nothing() -> None:
    for start in (0.0, 0.033, 7.3):
        for count in (1, 2, 174, 1000):
            indices = constant_rate_indices(start + np.arange(count) / 25, 25)
            np.testing.assert_array_equal(indices, np.arange(count))
            assert indices.dtype == np.int64


@pytest.mark.parametrize("fps", [12.5, 20, 29.97, 30, 50, 59.94])
def test_other_rates_take_the_nearest_frame(fps: float) -> None:
    timestamps = 0.1 + np.arange(300) / fps
    indices = constant_rate_indices(timestamps, 25)
    assert len(indices) == pytest.approx(300 / fps * 25, abs=1)
    wanted = timestamps[0] + np.arange(len(indices)) / 25
    error = np.abs(timestamps[indices] - wanted)
    assert error.max() <= 0.5 / fps + 1e-6 or error[:-1].max() <= 0.5 / fps + 1e-6
    if fps == 50:
        np.testing.assert_array_equal(indices, np.arange(0, 300, 2))


def test_dropped_frames_are_filled_and_never_shift_what_follows() -> None:
    whole = np.arange(100) / 25
    left = np.delete(np.arange(100), [*range(30, 45), 60, 61, 80])
    indices = constant_rate_indices(whole[left], 25)
    assert len(indices) == 100
    np.testing.assert_array_equal(left[indices][left], left)
    distance = np.abs(whole[left][indices] - whole)  # of two that are equally near, either
    best = np.abs(whole[left][nearest(whole[left], whole)] - whole)
    np.testing.assert_allclose(distance, best, atol=1e-6)


def test_random_times_give_the_nearest_frame() -> None:
    rng = np.random.default_rng(0)
    timestamps = np.cumsum(rng.uniform(0.005, 0.2, 200))
    indices = constant_rate_indices(timestamps, 25)
    wanted = timestamps[0] + np.arange(len(indices)) / 25
    np.testing.assert_array_equal(indices, nearest(timestamps, wanted))
    assert np.all(np.diff(indices) >= 0)


def test_a_span_is_cut_from_the_middle() -> None:
    timestamps = np.arange(100) / 25
    np.testing.assert_array_equal(
        constant_rate_indices(timestamps, 25, start=1.0, end=2.0), np.arange(25, 50)
    )
    assert constant_rate_indices(timestamps, 25, start=3.9, end=9.0)[-1] == 99


def test_impossible_spans_are_refused() -> None:
    timestamps = np.arange(100) / 25
    for start, end in ((5.0, 6.0), (-2.0, -1.0), (2.0, 2.0), (2.0, 1.0)):
        with pytest.raises(ValueError, match="lies outside"):
            constant_rate_indices(timestamps, 25, start=start, end=end)
    with pytest.raises(ValueError, match="empty"):
        constant_rate_indices(np.zeros(0), 25)
    with pytest.raises(ValueError, match="fps = 0"):
        constant_rate_indices(timestamps, 0)
