"""Pictures of features: samples in a plane before and after, and which layers are read.

For: t-SNE panels and learned layer weights. Not for: laying features out
(``finetune/reporting/embedding.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from finetune.benchmark import Benchmark
from finetune.reporting.canvas import (
    GREY,
    MARKERS,
    MODALITY_COLOURS,
    PALETTE,
    make_figure,
    plain,
    save,
)


def embedding_figure(
    benchmark: Benchmark,
    panels: Mapping[str, np.ndarray],
    truth: np.ndarray,
    path: Path,
    *,
    title: str,
) -> None:
    """Draw samples in a plane, one panel a set of weights, coloured by their truth.

    Args:
        benchmark: What is predicted.
        panels: Heading to places (N, 2).
        truth: Class numbers (N,), or values of every target (N, D), which has a row each.
        path: The PNG.
        title: Above the picture.
    """
    targets = (None,) if benchmark.task == "classification" else benchmark.targets
    figure = make_figure(
        4.4 * len(panels) + (1.5 if targets == (None,) else 0.6), 4.2 * len(targets)
    )
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(len(targets), len(panels), squeeze=False)
    size = 36 if len(truth) <= 300 else 14
    for row, target in enumerate(targets):
        for axes, (heading, places) in zip(grid[row], panels.items(), strict=True):
            if target is None:
                for index, name in enumerate(benchmark.classes):
                    own = places[truth == index]
                    axes.scatter(
                        own[:, 0],
                        own[:, 1],
                        s=size,
                        alpha=0.75,
                        linewidths=0,
                        color=PALETTE[index % len(PALETTE)],
                        marker=MARKERS[index // len(PALETTE) % len(MARKERS)],
                        label=name,
                    )
            else:
                points = axes.scatter(
                    places[:, 0],
                    places[:, 1],
                    s=size,
                    alpha=0.85,
                    linewidths=0,
                    c=truth[:, row],
                    cmap="viridis",
                )
            axes.set_title(heading, fontsize=10)
            axes.set_xticks([])
            axes.set_yticks([])
        if target is not None:
            figure.colorbar(points, ax=list(grid[row]), label=f"true {target}", fraction=0.03)
    if targets == (None,):
        _class_legend(figure, benchmark, grid[0][0].get_legend_handles_labels())
    save(figure, path)


def layer_weight_figure(
    weights: Sequence[Mapping[str, Sequence[float]]], path: Path, *, title: str
) -> None:
    """Draw the learned weight of each encoder layer, by modality.

    Args:
        weights: One mapping a fold: modality to the weights of its layers, which sum to 1.
        path: The PNG.
        title: Above the picture.
    """
    figure = make_figure(7.0, 4.0)
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
            color=MODALITY_COLOURS[modality],
            ecolor=GREY,
            label=modality,
        )
    axes.axhline(1 / num_layers, color=GREY, linewidth=1, linestyle="--", label="equal weights")
    axes.set_xticks(range(1, num_layers + 1))
    axes.set_xlabel("encoder layer")
    axes.set_ylabel("learned weight (softmax)")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.18)  # room for the legend
    bars = "" if len(weights) == 1 else f"; bars: mean of {len(weights)} folds ± 1 sd"
    axes.set_title(title + bars, fontsize=11)
    axes.legend(fontsize=9, ncols=3, loc="upper right", frameon=False)
    plain(axes)
    save(figure, path)


def _class_legend(figure: Figure, benchmark: Benchmark, handles: tuple[Sequence, Sequence]) -> None:
    """One legend for all panels, beside them; in columns where there are many classes."""
    figure.legend(
        *handles,
        fontsize=9 if len(benchmark.classes) <= 14 else 6,
        loc="outside right center",
        ncols=1 + len(benchmark.classes) // 23,
        frameon=False,
    )
