"""Score against the number of labels: does pretraining save labels, and how many?

Runs of one benchmark that were trained on different numbers of samples are points of curves, one
for each start and each choice of modalities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.reporting.canvas import GREY, MARKERS, PALETTE, make_figure, plain, save
from finetune.reporting.document import (
    Part,
    Picture,
    Section,
    Table,
    measured,
    number,
    range_of,
    signed,
)
from finetune.reporting.resampling import LEVEL, NUM_DRAWS, compare
from finetune.reporting.seeds import SeedGroup
from finetune.scores import metric_name

_SCRATCH = "scratch"
# How far the mean number of samples may be from twice another and still count as twice: a fold
# has a few more of them than the next.
_TWICE = 0.05


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Entries that differ in the number of training samples.

    Args:
        start: ``scratch``, or the checkpoint's folder.
        modalities: Of its networks.
        points: Mean number of training samples a fold, to the entry; ascending.
    """

    start: str
    modalities: str
    points: Mapping[float, SeedGroup]

    @property
    def name(self) -> str:
        """In tables and legends."""
        # A run is known by its folder, not by the one of its last step in it.
        said = [part for part in Path(self.start).parts if part not in ("checkpoints", "last")]
        words = self.start if self.start == _SCRATCH else f"checkpoint {(said or ['last'])[-1]}"
        return f"{words}, {self.modalities}"


def label_curves(groups: Sequence[SeedGroup]) -> list[Curve]:
    """The curves among the entries of a benchmark.

    An entry whose folds do not say what they were trained on is left out, and of two with equally
    many samples on one curve the first counts. A curve has two points or more.
    """
    found: dict[tuple[str, str], dict[float, SeedGroup]] = {}
    for group in groups:
        facts, counts = group.runs[0].facts, [fold.num_train for fold in group.runs[0].folds]
        if facts.evaluates or not counts or None in counts:
            continue
        start = facts.checkpoint or "" if facts.init == "checkpoint" else _SCRATCH
        points = found.setdefault((start, facts.modalities), {})
        points.setdefault(sum(count or 0 for count in counts) / len(counts), group)
    return [
        Curve(start=start, modalities=modalities, points=dict(sorted(points.items())))
        for (start, modalities), points in found.items()
        if len(points) > 1
    ]


def label_curve_parts(groups: Sequence[SeedGroup], figure: Path) -> list[Part]:
    """A picture and a table of the curves; nothing where there are none.

    Args:
        groups: Entries of one benchmark.
        figure: PNG to write.
    """
    curves = label_curves(groups)
    if not curves:
        return []
    draw_label_curves(curves, figure)
    parts: list[Part] = [
        Picture(path=figure, caption="Score against the number of labels"),
        _points_table(curves),
    ]
    scratch = {curve.modalities: curve for curve in curves if curve.start == _SCRATCH}
    rows = [
        row
        for curve in curves
        if curve.start != _SCRATCH and curve.modalities in scratch
        for row in _gains(curve, scratch[curve.modalities])
    ]
    if rows:
        name = metric_name(curves[0].points[min(curves[0].points)].runs[0].benchmark.ranking)
        heads = ["entry", "labels", "from scratch with", f"{name} more than from scratch", "95 %"]
        parts += [
            Table(columns=heads, rows=rows),
            f"Differences are paired: {LEVEL:.0%} interval of a bootstrap of {NUM_DRAWS} draws, the"
            " same for both; they do not see the chance of training again. Where a network from a"
            " checkpoint is no worse than one from scratch with twice the labels, pretraining"
            " halves the labels that are needed.",
        ]
    return [Section(title="Score by the number of labels", parts=parts)]


def draw_label_curves(curves: Sequence[Curve], path: Path) -> None:
    """Draw the pooled leading metric of every point with its interval, labels on a log scale."""
    first = next(iter(curves[0].points.values())).runs[0]
    leading = first.benchmark.ranking
    figure = make_figure(7.0, 4.4)
    axes = figure.add_subplot()
    ticks = sorted({labels for curve in curves for labels in curve.points})
    starts = list(dict.fromkeys(curve.start for curve in curves))
    modalities = list(dict.fromkeys(curve.modalities for curve in curves))
    for curve in curves:
        scores, below, above = [], [], []
        for group in curve.points.values():
            score, _ = group.over_seeds(leading)
            low, high = group.intervals.values[leading]
            scores.append(score)
            below.append(max(0.0, score - low))
            above.append(max(0.0, high - score))
        axes.errorbar(
            list(curve.points),
            scores,
            yerr=[below, above],
            label=curve.name,
            color=PALETTE[starts.index(curve.start) % len(PALETTE)],
            marker=MARKERS[modalities.index(curve.modalities) % len(MARKERS)],
            linestyle=("-", "--", ":")[modalities.index(curve.modalities) % 3],
            capsize=3,
            linewidth=1.8,
        )
    if first.benchmark.task == "classification":
        guess = 1 / len(first.benchmark.classes)
        axes.axhline(guess, color=GREY, linestyle=":", linewidth=1)
        axes.annotate(
            "guessing",
            (1, guess),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            color=GREY,
        )
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{labels:g}" for labels in ticks])
    axes.minorticks_off()
    axes.set_xlabel("labelled clips that each fold is trained on")
    axes.set_ylabel(f"{metric_name(leading)}, pooled over folds (bars: {LEVEL:.0%})")
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.0)
    rules = ", ".join(dict.fromkeys(_rule(group) for c in curves for group in c.points.values()))
    axes.set_title(f"{first.benchmark.name}: {measured(metric_name(leading), rules)}", fontsize=11)
    axes.legend(frameon=False, loc="lower right")
    plain(axes)
    save(figure, path)


def _points_table(curves: Sequence[Curve]) -> Table:
    entry = next(iter(curves[0].points.values())).runs[0]
    leading = entry.benchmark.ranking
    rows = []
    for curve in curves:
        for labels, group in curve.points.items():
            facts = group.runs[0].facts
            score, _ = group.over_seeds(leading)
            cells = [curve.name, f"{labels:g}", str(facts.epochs), facts.rule]
            cells += [facts.mark(number(score))]
            rows.append([*cells, facts.mark(range_of(*group.intervals.values[leading]))])
    heads = ["entry", "labels a fold", "epochs", "selection", metric_name(leading), "95 %"]
    return Table(columns=heads, rows=rows)


def _gains(curve: Curve, scratch: Curve) -> list[list[str]]:
    """Each point against scratch with as many labels, and with twice as many."""
    rows = []
    for labels, group in curve.points.items():
        for times, words in ((1, "as many"), (2, "twice as many")):
            other = next(
                (
                    entry
                    for count, entry in scratch.points.items()
                    if math.isclose(count, times * labels, rel_tol=_TWICE)
                ),
                None,
            )
            if other is None or group.keys != other.keys:
                continue
            benchmark = group.runs[0].benchmark
            found = compare(
                benchmark, [run.units for run in group.runs], [run.units for run in other.runs]
            )
            mark = group.runs[0].facts.mark
            row = [curve.name, f"{labels:g}", words, mark(signed(found.difference))]
            rows.append([*row, mark(range_of(found.low, found.high))])
    return rows


def _rule(group: SeedGroup) -> str:
    return group.runs[0].facts.rule
