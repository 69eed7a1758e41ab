"""Traces: a time and the values at a rate of one's own, one file a face (``trace-face0.csv``), as
``hicmae shards manifest traces`` reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hicmae.prediction.messages import SHORTEST_HOP


class TraceForm(NamedTuple):
    """``rate``: values a second; ``smoothing_seconds``: what is said is averaged over so much
    before; 0: it stays as it is. ``shift_seconds``: how long after its window's middle it stands.
    """

    rate: float
    smoothing_seconds: float = 0.0
    shift_seconds: float = 0.0


def hop_of(rate: float | None, hop: float) -> float:
    """Seconds from one window to the next: ``hop``, or for a trace of so many values a second.

    Raises: ValueError: the rate is not positive, or more than a window's settings allow.
    """
    if rate is None:
        return hop
    if not 0 < rate <= 1 / SHORTEST_HOP:
        raise ValueError(
            f"rate = {rate} (must be values per second, more than 0 and at most"
            f" {1 / SHORTEST_HOP:g})"
        )
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


def gaps_between(spans: np.ndarray, hop: float) -> np.ndarray:
    """Numbers (K,) of those of the windows (N, 2) before which others are missing: the face was not
    seen, or did not speak.
    """
    least = 1.5 * max(float((spans[:, 1] - spans[:, 0]).max()), hop)
    return np.flatnonzero(np.diff(spans.mean(axis=1)) > least) + 1


def write_trace(
    file: Path,
    spans: np.ndarray,
    values: np.ndarray,
    names: Sequence[str],
    form: TraceForm,
) -> None:
    """Write what is said of one face or of the sound at equal steps.

    A value stands at the middle of its window, or where the form says; between two it is
    interpolated. Nothing is said before the first, after the last, and in gaps between windows.

    Args:
        spans: (N, 2) begin and end of each window, seconds.
        values: (N, D) what is said of it.
        names: D columns.
    """
    import pandas

    rate, smoothing_seconds, shift_seconds = form
    order = np.argsort(spans.mean(axis=1), kind="stable")
    middles, values = spans.mean(axis=1)[order] + shift_seconds, values[order]
    if smoothing_seconds > 0:
        values = moving_mean(middles, values, smoothing_seconds)
    gaps = gaps_between(spans[order], 1 / rate)  # where nothing is known
    values = np.insert(values, gaps, np.nan, axis=0)
    middles = np.insert(middles, gaps, (middles[gaps - 1] + middles[gaps]) / 2)
    first = np.ceil(max(middles[0], spans.min()) * rate - 1e-6)
    last = np.floor(min(middles[-1], spans.max()) * rate + 1e-6)
    times = np.arange(int(first), int(last) + 1) / rate if last >= first else middles[:1]
    table = pandas.DataFrame({"time": [time_text(time) for time in times]})
    for number, name in enumerate(names):
        course = np.interp(times, middles, values[:, number])
        table[f"{name}_" if name == "time" else name] = course
    table.to_csv(file, index=False, float_format="%.6g")


def time_text(seconds: float) -> str:
    """A time as tables hold it: six digits, which after 1000 s are too few, or milliseconds."""
    if abs(seconds) < 1000:
        return f"{seconds:.6g}"
    return f"{seconds:.3f}".rstrip("0").rstrip(".")
