"""Pictures of predicted classes: what is confused with what, what is found, what is believed.

For: confusion matrix, recall by class, reliability diagram. Not for: the numbers, which stand in
the report's tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from finetune.benchmark import Benchmark
from finetune.reporting.calibration import Calibration
from finetune.reporting.canvas import BLUE, GREY, ORANGE, make_figure, plain, save

# More classes than this are drawn in small cells that have no room for counts.
_FEW_CLASSES = 14


def confusion_figure(benchmark: Benchmark, counts: np.ndarray, path: Path, *, title: str) -> None:
    """Draw the confusion matrix: shares of each true class as shades, counts as text.

    Args:
        benchmark: Whose classes.
        counts: (C, C) true class by predicted class.
        path: The PNG.
        title: Above the picture.
    """
    size = len(benchmark.classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    few = size <= _FEW_CLASSES
    side = 2.6 + (0.72 if few else 0.27) * size
    figure = make_figure(side + 0.8, side)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(size, size):
        share = f"{100 * shares[row, column]:.0f}"
        if few:
            text = f"{share} %\n({counts[row, column]})"
        else:
            text = share if shares[row, column] >= 0.095 else ""
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=9 if few else 6,
            color="white" if shares[row, column] > 0.55 else "black",
        )
    small = None if few else 7
    axes.set_xticks(
        range(size),
        benchmark.classes,
        rotation=35 if few else 90,
        ha="right",
        rotation_mode="anchor",
        va="top" if few else "center",
        fontsize=small,
    )
    axes.set_yticks(range(size), benchmark.classes, fontsize=small)
    axes.set_xlabel("predicted" if few else "predicted (numbers: per cent of the true class)")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=11)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label("share of the true class")
    save(figure, path)


def recall_figure(
    benchmark: Benchmark,
    counts: np.ndarray,
    intervals: Sequence[tuple[float, float]],
    path: Path,
    *,
    title: str,
) -> None:
    """Draw the recall of each class with its interval and its number of samples.

    Args:
        benchmark: Whose classes.
        counts: (C, C) true class by predicted class.
        intervals: Low and high of each class; not-a-number where there is none.
        path: The PNG.
        title: Above the picture.
    """
    size = len(benchmark.classes)
    support = counts.sum(axis=1)
    figure = make_figure(7.4, 1.5 + 0.34 * size)
    axes = figure.add_subplot()
    places = np.arange(size)[::-1]
    for index, place in enumerate(places):
        if not support[index]:
            axes.text(0.01, place, "no sample", va="center", fontsize=9, color=GREY)
            continue
        recall = counts[index, index] / support[index]
        axes.barh(place, recall, height=0.64, color=BLUE, alpha=0.75)
        low, high = intervals[index]
        if not np.isnan(low):
            axes.plot([low, high], [place, place], color="black", linewidth=1.3)
        right = max(recall, 0 if np.isnan(high) else high)
        axes.text(
            right + 0.012,
            place,
            f"{recall:.2f} of {support[index]}",
            va="center",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )
    seen = support > 0
    mean = float((counts.diagonal()[seen] / support[seen]).mean())
    axes.axvline(mean, color=GREY, linewidth=1, linestyle="--", label=f"UAR {mean:.3f}")
    axes.axvline(1 / size, color=GREY, linewidth=1, linestyle=":", label=f"chance 1/{size}")
    axes.set_yticks(places, benchmark.classes)
    axes.set_xlim(0, 1.17)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_ylim(-0.6, size - 0.4)
    axes.set_xlabel("recall (line: 95 %)")
    axes.set_title(title, fontsize=11)
    figure.legend(*axes.get_legend_handles_labels(), fontsize=9, ncols=2, loc="outside lower right")
    plain(axes)
    save(figure, path)


def reliability_figure(found: Calibration, path: Path, *, title: str) -> None:
    """Draw accuracy against the highest probability, and how often each probability is given.

    Args:
        found: Of the run.
        path: The PNG.
        title: Above the picture.
    """
    figure = make_figure(5.6, 6.4)
    figure.suptitle(title, fontsize=11)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.1))
    _accuracy(above, found)
    width = found.edges[1] - found.edges[0]
    below.bar(
        found.edges[:-1],
        found.counts / found.counts.sum(),
        width=width,
        align="edge",
        color=BLUE,
        alpha=0.75,
        edgecolor="white",
    )
    below.axvline(
        found.mean_confidence, color=ORANGE, label=f"mean probability {found.mean_confidence:.2f}"
    )
    below.axvline(
        found.mean_accuracy,
        color="black",
        linestyle="--",
        label=f"accuracy {found.mean_accuracy:.2f}",
    )
    below.set_ylabel("share of samples")
    below.set_xlabel("highest probability")
    below.set_ylim(0, below.get_ylim()[1] * 1.5)  # room for the legend
    below.legend(fontsize=8, loc="upper right", ncols=2, frameon=False)
    plain(below)
    save(figure, path)


def _accuracy(axes: Axes, found: Calibration) -> None:
    """The upper panel: a bar of accuracy a bin, and the gap to what it should be."""
    width = found.edges[1] - found.edges[0]
    filled = found.counts > 0
    left, accuracy = found.edges[:-1][filled], found.accuracy[filled]
    confidence = found.confidence[filled]
    axes.bar(
        left,
        accuracy,
        width=width,
        align="edge",
        color=BLUE,
        alpha=0.75,
        edgecolor="white",
        label="accuracy",
    )
    axes.bar(
        left,
        confidence - accuracy,
        bottom=accuracy,
        width=width,
        align="edge",
        facecolor="none",
        edgecolor=ORANGE,
        hatch="///",
        linewidth=0.8,
        label="gap to the mean probability",
    )
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="calibrated")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_ylabel("accuracy")
    axes.set_title(f"calibration error {found.expected_error:.3f}", fontsize=10, loc="right")
    axes.legend(fontsize=9, loc="upper left", frameon=False)
    plain(axes)
