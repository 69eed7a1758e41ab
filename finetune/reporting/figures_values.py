"""Pictures of predicted real values: against the truth, and the error by where the truth lies.

For: scatter and error by range. Not for: the numbers, which stand in the report's tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from finetune.benchmark import Benchmark
from finetune.reporting.canvas import BLUE, GREY, ORANGE, make_figure, plain, save
from finetune.reporting.ranges import RangeError
from finetune.scores import Scores

# More points than this hide each other; they are counted in hexagons.
_MANY_POINTS = 2000


def scatter_figure(
    benchmark: Benchmark,
    true: np.ndarray,
    predicted: np.ndarray,
    scores: Scores,
    path: Path,
    *,
    title: str,
) -> None:
    """Draw predicted against true, one panel a target, with the line of perfect prediction.

    Args:
        benchmark: Whose targets.
        true: (N, D).
        predicted: (N, D).
        scores: Of the run.
        path: The PNG.
        title: Above the picture.
    """
    panels = len(benchmark.targets)
    many = len(true) > _MANY_POINTS
    figure = make_figure((4.9 if many else 4.3) * panels + 0.4, 4.6)
    figure.suptitle(title, fontsize=11)
    for panel, target in enumerate(benchmark.targets):
        axes = figure.add_subplot(1, panels, panel + 1)
        x, y = true[:, panel], predicted[:, panel]
        ends = [min(x.min(), y.min()), max(x.max(), y.max())]
        if many:
            cells = axes.hexbin(
                x, y, gridsize=40, mincnt=1, bins="log", cmap="viridis_r", linewidths=0
            )
            figure.colorbar(cells, ax=axes, label="samples", fraction=0.046)
        else:
            axes.scatter(x, y, s=22, alpha=0.55, color=BLUE, edgecolors="none")
        axes.plot(ends, ends, color=GREY, linewidth=1, linestyle="--", label="predicted = true")
        ccc = scores.pooled.get(f"ccc_{target}", scores.pooled.get("ccc"))
        axes.set_title(target if ccc is None else f"{target} (CCC {ccc:.3f})", fontsize=11)
        axes.set_xlabel(f"true {target}")
        axes.set_ylabel(f"predicted {target}")
        axes.set_aspect("equal", adjustable="datalim")
        axes.legend(fontsize=9, loc="upper left", frameon=False)
        plain(axes)
    save(figure, path)


def range_figure(by_target: Mapping[str, Sequence[RangeError]], path: Path, *, title: str) -> None:
    """Draw bias and error in ranges of the truth, one panel a target.

    Args:
        by_target: Target to its ranges.
        path: The PNG.
        title: Above the picture.
    """
    figure = make_figure(4.9 * len(by_target) + 0.4, 4.2)
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(1, len(by_target), squeeze=False)[0]
    for axes, (target, ranges) in zip(panels, by_target.items(), strict=True):
        places = np.arange(len(ranges))
        axes.bar(
            places - 0.2,
            [item.bias for item in ranges],
            width=0.38,
            color=BLUE,
            label="bias (predicted minus true)",
        )
        axes.bar(
            places + 0.2, [item.rmse for item in ranges], width=0.38, color=ORANGE, label="RMSE"
        )
        axes.axhline(0, color=GREY, linewidth=1)
        names = [
            "\n".join((item.name.replace(" to ", "\nto "), f"n={item.count}")) for item in ranges
        ]
        axes.set_xticks(places, names, fontsize=8)
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.25 * (high - low))  # room for the legend
        axes.set_xlabel(f"true {target}")
        axes.set_ylabel("error")
        axes.set_title(target, fontsize=11)
        axes.legend(fontsize=8, loc="upper right", ncols=2, frameon=False)
        plain(axes)
    save(figure, path)
