"""Predictions as traces: a time and the values, at a rate of one's own.

One file a face (``trace-face0.csv``), as ``hicmae shards manifest traces`` reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas


class TraceForm(NamedTuple):
    """``rate``: values a second; ``smoothing_seconds``: what is said is averaged over so much
    before; 0: it stays as it is.
    """

    rate: float
    smoothing_seconds: float = 0.0


def hop_of(rate: float | None, hop: float) -> float:
    """Seconds from one window to the next: ``hop``, or for a trace of so many values a second.

    Raises: ValueError: the rate is not positive.
    """
    if rate is None:
        return hop
    if not 0 < rate < float("inf"):
        raise ValueError(f"rate = {rate} (must be values per second, more than 0)")
    return 1 / rate


def moving_mean(times: np.ndarray, values: np.ndarray, window_seconds: float) -> np.ndarray:
    """Mean of the values at most half a window away from each, (N, D).

    Args:
        times: Seconds (N,), ascending.
        values: (N, D).
        window_seconds: More than 0.
    """
    sums = np.concatenate([np.zeros((1, values.shape[1])), values.cumsum(axis=0)])
    half = window_seconds / 2 + 1e-6
    first = np.searchsorted(times, times - half)
    last = np.searchsorted(times, times + half, side="right")
    return np.asarray((sums[last] - sums[first]) / (last - first)[:, None])


def write_trace(
    file: Path,
    spans: np.ndarray,
    values: np.ndarray,
    names: Sequence[str],
    form: TraceForm,
) -> None:
    """Write what is said of one face or of the sound at equal steps.

    A value stands at the middle of its window; between two it is interpolated. Nothing is said
    before the first middle and after the last.

    Args:
        file: The CSV.
        spans: (N, 2) begin and end of each window, seconds.
        values: (N, D) what is said of it.
        names: D columns.
        form: Of the trace.
    """
    rate, smoothing_seconds = form
    order = np.argsort(spans.mean(axis=1), kind="stable")
    middles, values = spans.mean(axis=1)[order], values[order]
    if smoothing_seconds > 0:
        values = moving_mean(middles, values, smoothing_seconds)
    first, last = np.ceil(middles[0] * rate - 1e-6), np.floor(middles[-1] * rate + 1e-6)
    times = np.arange(int(first), int(last) + 1) / rate if last >= first else middles[:1]
    table = pandas.DataFrame({"time": times})
    for number, name in enumerate(names):
        course = np.interp(times, middles, values[:, number])
        table[f"{name}_" if name == "time" else name] = course
    table.to_csv(file, index=False, float_format="%.6g")
