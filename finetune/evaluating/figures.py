"""Pictures of evaluations: scores over corpora, and what each modality is worth.

For: PNG files beside a Markdown page. Not for: the numbers, which stand in its tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.patches import Rectangle

from finetune.evaluating.importance import Importance, mean_and_sd
from finetune.evaluating.perturbations import UNSPOILED
from finetune.reporting.canvas import BLUE, GREY, ORANGE, make_figure, plain, save
from finetune.scores import metric_name

if TYPE_CHECKING:
    from finetune.evaluating.matrix import Cell


def matrix_figure(cells: Sequence[Cell], path: Path) -> None:
    """Draw scores over corpora as shades; cells within a corpus have a frame."""
    rows = list(dict.fromkeys(cell.row for cell in cells))
    columns = list(dict.fromkeys(cell.column for cell in cells))
    figure = make_figure(3.4 + 1.5 * len(columns), 1.9 + 0.8 * len(rows))
    axes = figure.add_subplot()
    values = np.full((len(rows), len(columns)), np.nan)
    for cell in cells:
        values[rows.index(cell.row), columns.index(cell.column)] = cell.summary[0]
    low = min(0.0, float(np.nanmin(values, initial=0.0)))
    image = axes.imshow(values, cmap="Blues", vmin=low, vmax=1, aspect="auto")
    for cell in cells:
        place = columns.index(cell.column), rows.index(cell.row)
        shade = (cell.summary[0] - low) / (1 - low)
        axes.text(
            *place,
            cell.text.replace(" ± ", "\n± ").replace(" (", "\n("),
            ha="center",
            va="center",
            fontsize=9,
            color="white" if shade > 0.55 else "black",
        )
        if cell.within:
            corner = (place[0] - 0.48, place[1] - 0.48)
            axes.add_patch(Rectangle(corner, 0.96, 0.96, fill=False, edgecolor=ORANGE, linewidth=2))
    metrics = {cell.column: metric_name(cell.metric) for cell in cells}
    axes.set_xticks(
        range(len(columns)),
        [f"{name}\n({metrics[name]})" for name in columns],
        rotation=20,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel("tested on")
    axes.set_ylabel("trained on")
    axes.set_title("Scores over corpora; framed: within a corpus", fontsize=11)
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03).set_label("leading metric")
    save(figure, path)


def importance_figure(importance: Importance, path: Path, *, title: str) -> None:
    """Draw what is lost with each modality, overall and class by class; whiskers are ± 1 sd."""
    metric = metric_name(importance.benchmark.ranking)
    swaps = [importance.of("picture-swapped")[0], importance.of("sound-swapped")[0]]
    names = list(swaps[0].recall_losses[0]) if swaps[0].recall_losses else []
    figure = make_figure(2.6 + 0.95 * (1 + len(names)), 4.2)
    axes = figure.add_subplot()
    labels = [f"all\n({metric})", *names]
    places = np.arange(len(labels), dtype=float)
    if names:
        places[1:] += 0.4  # another quantity: recall of a class
        axes.axvline(0.7, color=GREY, linewidth=0.8, linestyle=":")
    for index, (swap, colour, who) in enumerate(
        zip(swaps, (BLUE, ORANGE), ("picture", "sound"), strict=True)
    ):
        found = [mean_and_sd(swap.losses), *(swap.recall_loss(name) for name in names)]
        means, sds = (np.array(values) for values in zip(*found, strict=True))
        axes.bar(
            places + (index - 0.5) * 0.38,
            np.nan_to_num(means),
            width=0.35,
            yerr=None if np.isnan(sds).all() else np.nan_to_num(sds),
            capsize=3,
            ecolor=GREY,
            color=colour,
            label=f"another sample's {who}",
        )
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(places, labels, rotation=25 if len(names) > 4 else 0)
    axes.set_ylabel(f"lost {metric}" + (", lost recall of the class" if names else ""))
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.16 * (high - low))  # room for the legend
    axes.legend(fontsize=9, ncols=2, loc="upper right", frameon=False)
    axes.set_title(f"What each modality is worth\n{title}", fontsize=11)
    plain(axes)
    save(figure, path)


def level_figure(importance: Importance, path: Path, *, title: str) -> None:
    """Draw the leading metric against noise and missing frames, one panel a kind."""
    kinds = {
        "sound-noise": ("signal over noise, dB", ORANGE),
        "picture-noise": ("standard deviation of the noise, of 255", BLUE),
        "missing-frames": ("share of missing frames", BLUE),
    }
    shown = {kind: importance.of(kind) for kind in kinds if importance.of(kind)}
    leading = importance.benchmark.ranking
    unspoiled = importance.of(UNSPOILED)[0].mean_and_sd(leading)[0]
    figure = make_figure(3.6 * len(shown) + 0.6, 3.8)
    figure.suptitle(title, fontsize=11)
    first = None
    for panel, (kind, items) in enumerate(shown.items(), start=1):
        axes = figure.add_subplot(1, len(shown), panel, sharey=first)
        first = first or axes
        label, colour = kinds[kind]
        points = sorted(
            (item.condition.level or 0.0, item.mean_and_sd(leading)[0]) for item in items
        )
        levels, values = zip(*points, strict=True)
        axes.plot(levels, values, marker="o", color=colour)
        axes.axhline(unspoiled, color=GREY, linewidth=1, linestyle="--", label="unspoiled")
        frozen = importance.of("video-frozen")
        if kind == "missing-frames" and frozen:
            still = frozen[0].mean_and_sd(leading)[0]
            axes.axhline(still, color=GREY, linewidth=1, linestyle=":", label="one frame, frozen")
        if kind == "sound-noise":
            axes.invert_xaxis()  # worse to the right, as in the other panels
        axes.set_xlabel(label)
        axes.set_title(kind.replace("-", " "), fontsize=11)
        if panel == 1:
            axes.set_ylabel(metric_name(leading))
        axes.legend(fontsize=9, loc="lower left", frameon=False)
        plain(axes)
    save(figure, path)
