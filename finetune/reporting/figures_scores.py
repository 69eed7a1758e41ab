"""Pictures of scores side by side: runs, groups of samples, speakers.

For: one leading metric with its intervals. Not for: the numbers, which stand in the report's
tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.reporting.canvas import BLUE, GREY, ORANGE, make_figure, plain, save
from finetune.scores import Scores, metric_name

# More names than this cannot be read beside an axis.
MAX_NAMED = 60


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One row of a dot plot.

    Args:
        name: Beside it.
        value: Where the dot is; not-a-number: no dot.
        low: Of its interval; not-a-number: none.
        high: The same.
        small: Whether it stands for few samples, and is drawn hollow.
    """

    name: str
    value: float
    low: float = float("nan")
    high: float = float("nan")
    small: bool = False


def comparison_figure(
    names: Sequence[str],
    scores: Sequence[Scores],
    intervals: Sequence[tuple[float, float]],
    metric: str,
    path: Path,
    *,
    title: str,
) -> None:
    """Draw the pooled value of one metric for several runs, with interval and folds."""
    figure = make_figure(8.4, 1.5 + 0.55 * len(names))
    axes = figure.add_subplot()
    places = np.arange(len(names))[::-1]
    for place, one, (low, high) in zip(places, scores, intervals, strict=True):
        pooled = one.pooled[metric]
        folds = [values[metric] for values in one.folds.values()]
        shown = 0.0 if np.isnan(pooled) else pooled
        axes.barh(place, shown, height=0.62, color=BLUE, alpha=0.6)
        axes.plot([low, high], [place, place], color="black", linewidth=1.5)
        axes.scatter(folds, [place] * len(folds), s=22, color=ORANGE, zorder=3)
        right = max([shown, *(value for value in (*folds, high) if not np.isnan(value))])
        text = "n/a" if np.isnan(pooled) else f"{pooled:.3f}"
        axes.text(max(right, 0) + 0.015, place, text, va="center", fontsize=10)
    axes.set_yticks(places, names)
    axes.set_xlim(min(0.0, axes.get_xlim()[0]), max(1.0, axes.get_xlim()[1]) + 0.08)
    axes.set_xlabel(
        f"{metric_name(metric)} (bar: pooled over folds; line: 95 %; dots: single folds)"
    )
    axes.set_title(title, fontsize=11)
    plain(axes)
    save(figure, path)


def dot_figure(
    panels: Sequence[tuple[str, Sequence[Dot]]],
    overall: float,
    path: Path,
    *,
    what: str,
    title: str,
) -> None:
    """Draw scores with intervals as dots, in one panel for each kind of group.

    Args:
        panels: Headings and rows, from above; more rows than ``MAX_NAMED`` lose their names.
        overall: Of all samples; a line. Not-a-number: none.
        path: The PNG.
        what: Is drawn along the axis.
        title: Above the picture.
    """
    heights = [_height(len(dots)) for _, dots in panels]
    figure = make_figure(7.6, 1.4 + sum(heights) + 0.35 * len(panels))
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)
    for axes, (heading, dots) in zip(grid[:, 0], panels, strict=True):
        places = np.arange(len(dots))[::-1]
        for place, dot in zip(places, dots, strict=True):
            if not np.isnan(dot.low):
                axes.plot([dot.low, dot.high], [place, place], color=BLUE, linewidth=1.2, alpha=0.6)
            if np.isnan(dot.value):
                axes.text(0.0, place, "n/a", va="center", fontsize=8, color=GREY)
            else:
                colour = "white" if dot.small else BLUE
                axes.plot(
                    dot.value,
                    place,
                    "o",
                    markersize=5,
                    markerfacecolor=colour,
                    color=BLUE,
                    zorder=3,
                )
        if not np.isnan(overall):
            axes.axvline(overall, color=GREY, linewidth=1, linestyle="--")
        if len(dots) <= MAX_NAMED:
            axes.set_yticks(places, [dot.name for dot in dots], fontsize=8)
        else:
            axes.set_yticks([])
            axes.set_ylabel(f"{len(dots)} of them")
        axes.set_ylim(-0.7, len(dots) - 0.3)
        if heading:
            axes.set_title(heading, fontsize=10, loc="left")
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        plain(axes)
    every = [dot for _, dots in panels for dot in dots]
    key = [] if all(np.isnan(dot.low) for dot in every) else ["line: 95 %"]
    key += [] if np.isnan(overall) else [f"dashed: all samples, {overall:.3f}"]
    key += ["hollow: few samples"] if any(dot.small for dot in every) else []
    grid[-1, 0].set_xlabel(f"{what} ({'; '.join(key)})" if key else what)
    save(figure, path)


def _height(rows: int) -> float:
    """Inches of a panel."""
    return 0.21 * rows + 0.15 if rows <= MAX_NAMED else 6.0
