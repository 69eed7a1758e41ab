"""Predictions as traces: their times, their values, and that they can be read back as labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest

from hicmae.prediction.exports import TraceForm, hop_of, write_trace
from shards.traces import read_notes


@pytest.mark.parametrize("rate", [5.0, 4.0, 0.5])
def test_a_trace_has_equal_steps_and_the_values_of_its_windows(tmp_path: Path, rate: float) -> None:
    middles = np.array([0.7, 0.9, 1.1, 1.6, 6.3])
    spans = np.stack([middles - 0.5, middles + 0.5], axis=1)
    file = tmp_path / "trace-face0.csv"
    write_trace(
        file, spans, np.stack([2 * middles, -middles], 1), ("valence", "time"), TraceForm(rate)
    )
    noted = read_notes(file)
    times = noted["valence"]["mean"].start
    assert np.allclose(np.diff(times), 1 / rate)
    assert 0.7 <= times[0] < 0.7 + 1 / rate
    assert 6.3 - 1 / rate < times[-1] <= 6.3 + 1e-6
    assert noted["valence"]["mean"].value == pytest.approx(2 * times, rel=1e-5)
    assert noted["time_"]["mean"].value == pytest.approx(-times, rel=1e-5)


def test_a_smoothed_trace_is_the_mean_around_each_window(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    middles = np.concatenate([np.arange(1, 4, 0.25), np.arange(7, 9, 0.25)])  # absent between
    spans = np.stack([middles - 0.3, middles + 0.3], axis=1)
    values = draws.normal(size=(len(middles), 2))
    order = draws.permutation(len(middles))
    file = tmp_path / "trace.csv"
    write_trace(file, spans[order], values[order], ("a", "b"), TraceForm(4.0, 1.0))
    found = pandas.read_csv(file).set_index("time")
    for place, middle in enumerate(middles):
        near = np.abs(middles - middle) <= 0.5 + 1e-9
        assert 3 <= near.sum() <= 5
        assert found.loc[middle].to_numpy() == pytest.approx(values[near].mean(axis=0), abs=1e-5)
        assert found.loc[middle, "a"] != pytest.approx(values[place, 0], abs=1e-5)


def test_a_rate_takes_the_place_of_the_hop() -> None:
    assert hop_of(None, 1.5) == 1.5
    assert hop_of(4.0, 1.5) == 0.25
    for wrong in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="rate = "):
            hop_of(wrong, 1.0)
