"""The pictures of a receipt: histograms, and a contact sheet of faces.

For: PNG files whose bytes are the same for the same folder. Not for: the numbers
(``distributions.py``) or choosing faces (``contact_sheet.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from shards.index import Index
from shards.receipts.contact_sheet import Cell, draw_contact_sheet, save_png
from shards.receipts.distributions import QUANTITIES

FACES_PICTURE = "faces.png"
HISTOGRAMS_PICTURE = "distributions.png"

# Two hues that colour-blind readers tell apart (Okabe and Ito, 2008).
_BARS, _MEDIAN = "#0072B2", "#D55E00"
_PANEL_INCHES = (2.9, 2.3)
_COLUMNS = 4


def write_pictures(folder: Path, index: Index, about: Mapping[str, Any]) -> list[Cell]:
    """Write both pictures into a folder and remove what else was in it.

    Args:
        folder: Of the pictures.
        index: Of the shards.
        about: The content of ``receipt.json``.

    Returns: what the contact sheet shows.
    """
    folder.mkdir(exist_ok=True)
    cells = draw_contact_sheet(folder / FACES_PICTURE, index)
    _draw_histograms(folder / HISTOGRAMS_PICTURE, about)
    for path in folder.iterdir():
        if path.is_file() and path.name not in (FACES_PICTURE, HISTOGRAMS_PICTURE):
            path.unlink()
    return cells


def _draw_histograms(path: Path, about: Mapping[str, Any]) -> None:
    """One panel a quantity, and two of counts: sound states and how boxes were found."""
    num_panels = len(QUANTITIES) + 2
    rows = -(-num_panels // _COLUMNS)
    width, height = _PANEL_INCHES
    figure = Figure(
        figsize=(width * _COLUMNS, height * rows), dpi=100, facecolor="w", layout="constrained"
    )
    FigureCanvasAgg(figure)
    places = iter(range(1, num_panels + 1))
    for name in QUANTITIES:
        axes = figure.add_subplot(rows, _COLUMNS, next(places))
        _draw_quantity(axes, name, about["distributions"][name])
    _draw_counts(
        figure.add_subplot(rows, _COLUMNS, next(places)),
        "sound, samples",
        about["sound"]["states"],
    )
    _draw_counts(
        figure.add_subplot(rows, _COLUMNS, next(places)),
        "face box, frames",
        about["faces"]["found_by"],
    )
    save_png(figure, path)


def _draw_quantity(axes: Axes, name: str, found: Mapping[str, Any]) -> None:
    """A histogram with its median."""
    quantity = QUANTITIES[name]
    _style(axes, quantity.title)
    if not found["num"]:
        _say(axes, quantity.missing or "no values")
        return
    if quantity.logarithmic:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    starts, ends, counts = np.array(found["bins"], dtype=np.float64).T
    if name == "face_coverage":  # nearly all samples are at 1, and the others matter
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.bar(starts, counts, ends - starts, align="edge", color=_BARS, linewidth=0)
    median = found["quantiles"]["0.5"]
    axes.axvline(median, color=_MEDIAN, linewidth=1)
    missing = f"; {found['num_missing']} {quantity.missing}" if found["num_missing"] else ""
    axes.set_xlabel(f"median {median:.4g} {quantity.unit}".rstrip() + missing, fontsize=7)
    axes.set_xlim(*_limits(quantity.edges, starts[0], ends[-1]))


def _limits(edges: np.ndarray, start: float, end: float) -> tuple[float, float]:
    """What to show: the bins with values, and a few more where these are few."""
    first = max(0, int(np.searchsorted(edges, start)) - 3)
    last = min(len(edges) - 1, int(np.searchsorted(edges, end * 0.9999)) + 3)
    return float(edges[first]), float(edges[last])


def _draw_counts(axes: Axes, title: str, counts: Mapping[str, int]) -> None:
    """Horizontal bars with their numbers."""
    _style(axes, title)
    if not counts:
        _say(axes, "none")
        return
    bars = axes.barh(list(counts), list(counts.values()), color=_BARS, height=0.6)
    axes.bar_label(bars, fmt="{:,.0f}", fontsize=7, padding=2)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.margins(x=0.25)
    axes.invert_yaxis()
    axes.set_ylim(max(len(counts), 3) - 0.5, -0.5)


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _say(axes: Axes, text: str) -> None:
    """An empty panel that says why."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(
        0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, fontsize=8, color="0.4"
    )
