"""How the lengths, faces and levels of samples are spread, on bins that never change.

For: the receipt, whose histograms of two preparations can be laid over one another, and the
distance between two of them. Not for: drawing (``receipt_pictures.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Something measured of every sample.

    Args:
        title: What it is, with its unit.
        unit: Short.
        edges: Of the bins, ascending; values beyond them count in the outermost.
        values: From the table of an index.
        words: A smaller and a larger value, in words.
        missing: Why a sample may have no value.
        logarithmic: Whether the bins, and so the axis, are.
    """

    title: str
    unit: str
    edges: np.ndarray
    values: Callable[[pandas.DataFrame], pandas.Series[Any]]
    words: tuple[str, str]
    missing: str = ""
    logarithmic: bool = False


def _doubling(first: float, octaves: int, per_octave: int) -> np.ndarray:
    """Edges at equal ratios."""
    return np.asarray(first * 2.0 ** (np.arange(octaves * per_octave + 1) / per_octave))


# A change of bins makes old receipts incomparable: raise RECEIPT_VERSION with it.
QUANTITIES: dict[str, Quantity] = {
    "seconds": Quantity(
        title="duration, seconds",
        unit="s",
        edges=_doubling(0.125, 17, 4),  # to 16384 s
        values=lambda table: table["seconds"],
        words=("shorter", "longer"),
        logarithmic=True,
    ),
    "face_pixels": Quantity(
        title="face size, pixels of the source",
        unit="px",
        edges=_doubling(8, 9, 6),  # to 4096 pixels
        values=lambda table: table["face_pixels"],
        words=("smaller", "larger"),
        missing="no detector",
        logarithmic=True,
    ),
    "face_coverage": Quantity(
        title="face coverage, share of frames",
        unit="",
        edges=np.linspace(0, 1, 51),
        values=lambda table: table["face_coverage"],
        words=("lower", "higher"),
    ),
    "loudness_db": Quantity(
        title="loudness, dBFS",
        unit="dB",
        edges=np.arange(-100.0, 1.0),
        values=lambda table: table["loudness_db"],
        words=("quieter", "louder"),
        missing="absent or silent",
    ),
    "image_bytes": Quantity(
        title="size of an image, bytes",
        unit="B",
        edges=_doubling(256, 12, 6),  # to 1 MiB
        values=lambda table: table["mjpg_length"] / table["num_frames"],
        words=("smaller", "larger"),
        logarithmic=True,
    ),
}


def describe_values(name: str, table: pandas.DataFrame) -> dict[str, Any]:
    """Summarise a quantity.

    Args:
        name: In ``QUANTITIES``.
        table: Of an index.

    Returns: ``num``, ``num_missing``, ``mean``, ``sd``, ``quantiles`` (name → value; the first
        three are absent or null where nothing is known) and ``bins``: [from, to, count] of those
        with any.
    """
    column = pandas.to_numeric(QUANTITIES[name].values(table))
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    known = values[np.isfinite(values)]
    edges = QUANTITIES[name].edges
    counts, _ = np.histogram(np.clip(known, edges[0], edges[-1]), bins=edges)
    return {
        "num": len(known),
        "num_missing": len(values) - len(known),
        "mean": _short(known.mean()) if len(known) else None,
        "sd": _short(known.std()) if len(known) else None,
        "quantiles": {
            f"{share:g}": _short(value)
            for share, value in zip(QUANTILES, np.quantile(known, QUANTILES), strict=True)
        }
        if len(known)
        else {},
        "bins": [
            [_short(edges[place]), _short(edges[place + 1]), int(counts[place])]
            for place in np.flatnonzero(counts)
        ],
    }


def histogram_distance(first: Mapping[str, Any], second: Mapping[str, Any]) -> float | None:
    """Largest difference of two cumulative histograms: the Kolmogorov-Smirnov statistic seen
    through bins, which is at most the true one.

    Returns: 0..1; None if either has no values.
    """
    if not first["num"] or not second["num"]:
        return None
    counts: dict[float, list[int]] = {}
    for side, one in enumerate((first, second)):
        for start, _, count in one["bins"]:
            counts.setdefault(float(start), [0, 0])[side] += int(count)
    table = np.array([counts[start] for start in sorted(counts)], dtype=np.float64)
    shares = table.cumsum(axis=0) / table.sum(axis=0)
    return float(np.abs(shares[:, 0] - shares[:, 1]).max())


def exact_distance(
    name: str, first: pandas.DataFrame, second: pandas.DataFrame
) -> tuple[float, float] | None:
    """Kolmogorov-Smirnov statistic of a quantity and its p-value, from the tables of two indexes.

    Returns: None if either has no values.
    """
    sides = [
        pandas.to_numeric(QUANTITIES[name].values(table)).dropna().to_numpy(dtype=np.float64)
        for table in (first, second)
    ]
    if not len(sides[0]) or not len(sides[1]):
        return None
    from scipy.stats import ks_2samp  # a second of import that only a comparison waits for

    result = ks_2samp(*sides, method="asymp")
    return float(result.statistic), float(result.pvalue)


def shift_in_words(name: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """How the second differs from the first by its mean: ``12 % shorter``, ``3.1 dB louder``."""
    if not first["num"] and not second["num"]:
        return "neither known"
    if not first["num"] or not second["num"]:
        return f"known only in {'B' if not first['num'] else 'A'}"
    quantity = QUANTITIES[name]
    before, after = float(first["mean"]), float(second["mean"])
    word = quantity.words[int(after > before)]
    if quantity.logarithmic:  # positive, and ratios are what matters
        change = abs(after / before - 1)
        return "same mean" if change < 0.0005 else f"{change:.1%} {word}"
    change = abs(after - before)
    if name == "face_coverage":
        return "same mean" if change < 0.0005 else f"{100 * change:.1f} points {word}"
    return "same mean" if change < 0.05 else f"{change:.1f} {quantity.unit} {word}"


def _short(value: float | np.floating[Any]) -> float:
    """Six digits are more than two preparations agree in, and can be read."""
    return float(f"{float(value):.6g}")
