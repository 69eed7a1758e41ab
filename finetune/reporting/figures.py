"""Pictures of a run: what is confused with what, how far off, and which layers are read.

For: PNG files beside a report, drawn from predictions and learned weights. Not for: the numbers,
which stand in the report's tables.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from finetune.benchmark import Benchmark
from finetune.predictions import Prediction, true_and_predicted
from finetune.scores import Scores, metric_name

# Two hues that colour-blind readers tell apart (Okabe and Ito, 2008).
_COLOURS = {"video": "#0072B2", "audio": "#D55E00"}
_GREY = "#555555"


def confusion_figure(
    benchmark: Benchmark, predictions: Sequence[Prediction], path: Path, *, title: str
) -> None:
    """Draw the confusion matrix: shares of each true class as shades, counts as text."""
    true, predicted = true_and_predicted(benchmark, predictions)
    size = len(benchmark.classes)
    counts = np.zeros((size, size), dtype=np.int64)
    np.add.at(counts, (true, predicted), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.6 + 0.72 * size
    figure = _figure(side + 0.8, side)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(size, size):
        axes.text(
            column,
            row,
            f"{100 * shares[row, column]:.0f} %\n({counts[row, column]})",
            ha="center",
            va="center",
            fontsize=9,
            color="white" if shares[row, column] > 0.55 else "black",
        )
    axes.set_xticks(range(size), benchmark.classes, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), benchmark.classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=11)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label("share of the true class")
    _save(figure, path)


def scatter_figure(
    benchmark: Benchmark,
    predictions: Sequence[Prediction],
    scores: Scores,
    path: Path,
    *,
    title: str,
) -> None:
    """Draw predicted against true, one panel a target, with the line of perfect prediction."""
    true, predicted = true_and_predicted(benchmark, predictions)
    panels = len(benchmark.targets)
    figure = _figure(4.3 * panels + 0.4, 4.6)
    figure.suptitle(title, fontsize=11)
    for panel, target in enumerate(benchmark.targets):
        axes = figure.add_subplot(1, panels, panel + 1)
        x, y = true[:, panel], predicted[:, panel]
        ends = [min(x.min(), y.min()), max(x.max(), y.max())]
        axes.plot(ends, ends, color=_GREY, linewidth=1, linestyle="--", label="predicted = true")
        axes.scatter(x, y, s=22, alpha=0.55, color=_COLOURS["video"], edgecolors="none")
        ccc = scores.pooled.get(f"ccc_{target}", scores.pooled.get("ccc"))
        axes.set_title(target if ccc is None else f"{target} (CCC {ccc:.3f})", fontsize=11)
        axes.set_xlabel(f"true {target}")
        axes.set_ylabel(f"predicted {target}")
        axes.set_aspect("equal", adjustable="datalim")
        axes.legend(fontsize=9, loc="upper left", frameon=False)
        _plain(axes)
    _save(figure, path)


def layer_weight_figure(
    weights: Sequence[Mapping[str, Sequence[float]]], path: Path, *, title: str
) -> None:
    """Draw the learned weight of each encoder layer, by modality.

    Args:
        weights: One mapping a fold: modality to the weights of its layers, which sum to 1.
        path: The PNG.
        title: Above the picture.
    """
    figure = _figure(7.0, 4.0)
    axes = figure.add_subplot()
    modalities = list(weights[0])
    width = 0.8 / len(modalities)
    num_layers = max(len(values) for values in weights[0].values())
    for index, modality in enumerate(modalities):
        values = np.array([fold[modality] for fold in weights])  # (folds, L)
        places = np.arange(1, values.shape[1] + 1) + (index - (len(modalities) - 1) / 2) * width
        spread = values.std(axis=0, ddof=1) if len(values) > 1 else None
        axes.bar(
            places,
            values.mean(axis=0),
            width=width * 0.92,
            yerr=spread,
            capsize=3,
            color=_COLOURS[modality],
            ecolor=_GREY,
            label=modality,
        )
    axes.axhline(1 / num_layers, color=_GREY, linewidth=1, linestyle="--", label="equal weights")
    axes.set_xticks(range(1, num_layers + 1))
    axes.set_xlabel("encoder layer")
    axes.set_ylabel("learned weight (softmax)")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.18)  # room for the legend
    bars = "" if len(weights) == 1 else f"; bars: mean of {len(weights)} folds ± 1 sd"
    axes.set_title(title + bars, fontsize=11)
    axes.legend(fontsize=9, ncols=3, loc="upper right", frameon=False)
    _plain(axes)
    _save(figure, path)


def comparison_figure(
    names: Sequence[str], scores: Sequence[Scores], metric: str, path: Path, *, title: str
) -> None:
    """Draw the pooled value of one metric for several runs, with every fold as a dot."""
    figure = _figure(8.0, 1.5 + 0.5 * len(names))
    axes = figure.add_subplot()
    places = np.arange(len(names))[::-1]
    for place, one in zip(places, scores, strict=True):
        pooled = one.pooled[metric]
        folds = [values[metric] for values in one.folds.values()]
        shown = 0.0 if np.isnan(pooled) else pooled
        axes.barh(place, shown, height=0.62, color=_COLOURS["video"], alpha=0.75)
        axes.scatter(folds, [place] * len(folds), s=20, color="black", zorder=3)
        right = max([shown, *(value for value in folds if not np.isnan(value))])
        text = "n/a" if np.isnan(pooled) else f"{pooled:.3f}"
        axes.text(max(right, 0) + 0.015, place, text, va="center", fontsize=10)
    axes.set_yticks(places, names)
    axes.set_xlim(min(0.0, axes.get_xlim()[0]), max(1.0, axes.get_xlim()[1]) + 0.08)
    axes.set_xlabel(f"{metric_name(metric)} (bar: pooled over folds; dots: single folds)")
    axes.set_title(title, fontsize=11)
    _plain(axes)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    """An empty figure, inches; no window and no global state."""
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plain(axes: Axes) -> None:
    """Take away the frame that says nothing."""
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    """Write a PNG beside its place, then rename it into it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(beside, format="png")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
