"""Entries of a comparison: runs that differ in their seeds alone, and curves of such entries.

A sweep over seeds has a summary of its own. Entries of one benchmark that were trained on different
numbers of samples are points of curves, one for each start and each choice of modalities: does
pretraining save labels, and how many?
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.record import CONFIG, SCORES, Run, read_run
from finetune.reporting import document as doc
from finetune.reporting.resampling import (
    LEVEL,
    NUM_DRAWS,
    Comparison,
    Intervals,
    compare,
    intervals,
)
from finetune.scores import chance_score, metric_name
from finetune.selection import rule_sentence
from finetune.settings import MixingConfig, RecipeConfig
from hicmae.config import leaves, load_yaml
from hicmae.files import portable, write_json, write_text
from hicmae.settings import AugmentConfig

Summary = tuple[float, float]
_SCRATCH = "scratch"
# How far the mean number of samples may be from twice another and still count as twice: a fold
# has a few more of them than the next.
_TWICE = 0.05
_TICK = 0.06  # of the width of a picture: the least between two numbers below it
# Settings that tell curves apart, as they are by default, and those of them that follow the labels.
_APART: dict[str, Any] = {
    "recipe": RecipeConfig(),
    "mixing": MixingConfig(),
    "augment": AugmentConfig.finetuning(),
}
_FOLLOWS = ("recipe.fraction", "recipe.shots", "recipe.batch_size")


@dataclass(frozen=True, kw_only=True)
class SeedGroup:
    """Runs of one experiment with a seed each, in the order of their seeds; often a single one."""

    name: str
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> str:
        """The seeds, separated by commas."""
        return ", ".join(str(run.facts.seed) for run in self.runs)

    @property
    def scored(self) -> dict[str, Any]:
        """What was scored: the truth of each key. Entries are paired where it is the same."""
        return {item.key: item.truths for item in self.runs[0].units}

    def over_seeds(self, metric: str) -> Summary:
        """Mean and sample deviation of the pooled score over seeds."""
        return doc.mean_and_sd([run.scores.pooled[metric] for run in self.runs])

    def over_folds(self, metric: str) -> Summary:
        """Mean and sample deviation over folds, each fold's score being its mean over seeds."""
        by_fold = [
            float(np.mean([run.scores.folds[fold][metric] for run in self.runs]))
            for fold in self.runs[0].scores.folds
        ]
        return doc.mean_and_sd(by_fold)

    def minus(self, other: SeedGroup) -> Comparison:
        """The leading metric of this entry minus that of another, which scored the same."""
        ours, theirs = ([run.units for run in group.runs] for group in (self, other))
        return compare(self.runs[0].benchmark, ours, theirs)

    @functools.cached_property
    def intervals(self) -> Intervals:
        """How sure the mean over seeds is."""
        if len(self.runs) == 1:
            return self.runs[0].intervals
        return intervals(self.runs[0].benchmark, [run.units for run in self.runs])


def mark_of(*groups: SeedGroup) -> Callable[[str], str]:
    """How a number that several entries have made is shown: one with test-chosen weights on any
    side says so.
    """
    facts = [group.runs[0].facts for group in groups]
    return next((each for each in facts if each.mark("0") != "0"), facts[0]).mark


def group_seeds(pairs: Sequence[tuple[str, Run]]) -> list[SeedGroup]:
    """Put runs together that differ in their seeds alone.

    Args: pairs: Names and runs. A run with a seed that its group has already begins another group
        (the same experiment in another folder).
    """
    found: list[tuple[tuple[object, ...], set[str], list[tuple[str, Run]]]] = []
    for name, run in pairs:
        facts = run.facts
        place = _place(run) if facts.experiment_digest else run.folder
        mark = (tuple(run.scores.folds), place)
        digests = {facts.experiment_digest or facts.configuration_digest}
        digests.update(facts.experiment_digests)
        for other, theirs, members in found:
            if (
                other == mark
                and not theirs.isdisjoint(digests)
                and all(facts.seed != run.facts.seed for _, run in members)
            ):
                members.append((name, run))
                theirs |= digests
                break
        else:
            found.append((mark, digests, [(name, run)]))
    return [_group(members) for *_, members in found]


def runs_beside(run: Run) -> tuple[Run, ...]:
    """A run of a sweep and those of other seeds, finished earlier too, in the folder above it."""
    folders = run.folder.parent.glob(f"seed-*/{SCORES}")
    groups = group_seeds([(path.parent.name, read_run(path.parent)) for path in sorted(folders)])
    return next(group.runs for group in groups if run.folder in {one.folder for one in group.runs})


def seeds_table(groups: Sequence[SeedGroup], *, title: str = "") -> doc.Table:
    """One row an entry: the pooled scores over seeds."""
    first = groups[0].runs[0]
    leading = first.benchmark.ranking
    metrics = sorted(first.scores.pooled, key=lambda metric: metric != leading)
    heads = ["entry", "seeds", "selection", *(f"{metric_name(m)}, seeds" for m in metrics)]
    rows = []
    for group in groups:
        facts = group.runs[0].facts
        cells = [group.name, group.seeds, facts.rule]
        cells += [facts.mark(doc.spread(*group.over_seeds(metric), metric)) for metric in metrics]
        cells.append(facts.mark(doc.spread(*group.over_folds(leading))))
        cells.append(facts.mark(doc.range_of(*group.intervals.values[leading])))
        rows.append(cells)
    name = metric_name(leading)
    return doc.Table(
        columns=[*heads, f"{name}, folds", f"{name}, 95 %"],
        rows=rows,
        title=title,
        notes=[group.intervals.caution for group in groups],
    )


def write_seed_summary(folder: Path, runs: Sequence[Run]) -> SeedGroup:
    """Write ``seeds.json`` and ``seeds.md`` beside the runs of one experiment, in their folder."""
    group = SeedGroup(name=folder.resolve().name, runs=tuple(runs))
    facts, metrics = runs[0].facts, list(runs[0].scores.pooled)
    write_json(
        folder / "seeds.json",
        {
            "selection": facts.rule,
            "seeds": [run.facts.seed for run in runs],
            "runs": [run.name for run in runs],
            "over_seeds": {m: _plain(group.over_seeds(m)) for m in metrics},
            "over_folds": {m: _plain(group.over_folds(m)) for m in metrics},
            "intervals": group.intervals.to_dict(),
        },
    )
    parts = [
        f"# {group.name}: {len(runs)} seeds",
        how_to_read_seeds(group),
        seeds_table([group]).markdown(),
        "\n".join(
            f"- [{run.name}]({run.name}/report.md): {metric_name(run.benchmark.ranking)}"
            f" {facts.mark(doc.number(run.scores.pooled[run.benchmark.ranking]))}"
            for run in runs
        ),
    ]
    write_text(folder / "seeds.md", "\n\n".join(parts) + "\n")
    return group


def how_to_read_seeds(group: SeedGroup) -> str:
    """What the columns of ``seeds_table`` are."""
    facts = group.runs[0].facts
    return (
        "*seeds*: mean ± sample standard deviation over seeds of the score pooled over folds;"
        " *folds*: over folds, each fold's score averaged over seeds first; *95 %*: of the mean"
        f" over seeds. {group.intervals.sentence()}"
        f" Selection rule: {rule_sentence(facts.selection, facts.protocol)}."
    )


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Entries that differ in the number of training samples, and in how long they were trained.

    Args:
        start: ``scratch``, or the checkpoint's folder.
        settings: What else they have in common, by name: modalities, selection, recipe, mixing and
            augment.
        points: Mean number of training samples a fold, to the entry; ascending.
        left_out: Entries with as many samples as one of these.
    """

    start: str
    settings: Mapping[str, str]
    name: str
    points: Mapping[float, SeedGroup]
    left_out: Sequence[str]


def label_curves(groups: Sequence[SeedGroup]) -> list[Curve]:
    """The curves among the entries of a benchmark.

    An entry whose folds do not say what they were trained on is left out, and of two with equally
    many samples on one curve the first counts. A curve has two points or more.
    """
    found: dict[tuple[str, tuple[tuple[str, str], ...]], list[tuple[float, SeedGroup]]] = {}
    for group in groups:
        facts, counts = group.runs[0].facts, [fold.num_train for fold in group.runs[0].folds]
        if facts.evaluates or not counts or None in counts:
            continue
        start = facts.checkpoint or "" if facts.init == "checkpoint" else _SCRATCH
        labels = sum(count or 0 for count in counts) / len(counts)
        found.setdefault((start, _settings(group.runs[0])), []).append((labels, group))
    found = {of: points for of, points in found.items() if len(dict(points)) > 1}
    words = _start_names(dict.fromkeys(start for start, _ in found))
    every = [dict(settings) for _, settings in found]
    curves = []
    for (start, own), points in found.items():
        settings, first = dict(own), dict(reversed(points))
        other = [n for n in settings if n != "modalities" and len({e.get(n) for e in every}) > 1]
        curves.append(
            Curve(
                start=start,
                settings=settings,
                name=", ".join(
                    [words[start], settings["modalities"], *(f"{n} {settings[n]}" for n in other)]
                ),
                points=dict(sorted(first.items())),
                left_out=[group.name for labels, group in points if group is not first[labels]],
            )
        )
    return curves


def _settings(run: Run) -> tuple[tuple[str, str], ...]:
    """What runs of one curve have in common; what an early version does not say is the default."""
    path = run.folder / CONFIG
    written = dict(leaves(load_yaml(path))) if path.is_file() else {}
    default = dict(leaves({part: asdict(settings) for part, settings in _APART.items()}))
    told = {"modalities": run.facts.modalities, "selection": run.facts.rule}
    for name in sorted({*default, *written}):
        if name.partition(".")[0] in _APART and name not in _FOLLOWS:
            value = written.get(name, default.get(name))
            told[name] = str(list(value) if isinstance(value, tuple) else value)
    return tuple(told.items())


def _start_names(starts: Iterable[str]) -> dict[str, str]:
    """Each start in words: a checkpoint by its folder, with as many parents as tell them apart."""
    # A run is known by its folder, not by the one of its last step in it.
    parts = {
        start: [part for part in Path(start).parts if part not in ("checkpoints", "last")]
        for start in starts
        if start != _SCRATCH
    }
    for count in range(1, max(map(len, parts.values()), default=0) + 1):
        ends = {start: "/".join(path[-count:]) for start, path in parts.items()}
        if len(set(ends.values())) == len(ends):
            break
    return {_SCRATCH: _SCRATCH} | {
        start: f"checkpoint {ends[start] if path else 'last'}" for start, path in parts.items()
    }


def label_curve_parts(groups: Sequence[SeedGroup], figure: Path) -> list[doc.Part]:
    """A picture (PNG) and a table of the curves of one benchmark; nothing where there are none."""
    curves = label_curves(groups)
    if not curves:
        return []
    draw_label_curves(curves, figure)
    parts: list[doc.Part] = [
        doc.Picture(path=figure, caption="Score against the number of labels"),
        _points_table(curves),
    ]
    scratch = {_but_selection(curve): curve for curve in curves if curve.start == _SCRATCH}
    rows = [
        row
        for curve in curves
        if curve.start != _SCRATCH and _but_selection(curve) in scratch
        for row in _gains(curve, scratch[_but_selection(curve)])
    ]
    if rows:
        name = metric_name(curves[0].points[min(curves[0].points)].runs[0].benchmark.ranking)
        heads = ["entry", "labels", "from scratch with", f"{name} more than from scratch", "95 %"]
        parts += [
            doc.Table(columns=heads, rows=rows),
            f"Differences are paired: {LEVEL:.0%} interval of a bootstrap of {NUM_DRAWS} draws, the"
            " same for both; they do not see the chance of training again. Where a network from a"
            " checkpoint is no worse than one from scratch with twice the labels, pretraining"
            " halves the labels that are needed.",
        ]
    parts += [
        f"**Note.** {doc.literal(name)} is not on its curve, which has a run with as many labels."
        for curve in curves
        for name in curve.left_out
    ]
    return [doc.Section(title="Score by the number of labels", parts=parts)]


def _but_selection(curve: Curve) -> tuple[str, ...]:
    """What a gain over scratch is between: curves alike in all that this says."""
    return tuple(f"{n} {value}" for n, value in curve.settings.items() if n != "selection")


def draw_label_curves(curves: Sequence[Curve], path: Path) -> None:
    """Draw the pooled leading metric of every point with its interval, labels on a log scale."""
    first = next(iter(curves[0].points.values())).runs[0]
    leading = first.benchmark.ranking
    shown = (group.runs[0].facts.rule for curve in curves for group in curve.points.values())
    rules = ", ".join(dict.fromkeys(shown))
    title = f"{first.benchmark.name}: {doc.measured(metric_name(leading), rules)}"
    figure, axes = doc.make_axes(7.0, 4.4, title)
    ticks = sorted({labels for curve in curves for labels in curve.points})
    starts = list(dict.fromkeys(curve.start for curve in curves))
    kinds = list(dict.fromkeys(tuple(curve.settings.items()) for curve in curves))
    for curve in curves:
        scores, below, above = [], [], []
        kind = kinds.index(tuple(curve.settings.items()))
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
            color=doc.PALETTE[starts.index(curve.start) % len(doc.PALETTE)],
            marker=doc.MARKERS[kind % len(doc.MARKERS)],
            linestyle=("-", "--", ":")[kind % 3],
            capsize=3,
            linewidth=1.8,
        )
    guess = chance_score(first.benchmark)
    if guess > 0:
        axes.axhline(guess, color=doc.GREY, linestyle=":", linewidth=1)
        axes.annotate(
            "guessing",
            (1, guess),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            color=doc.GREY,
        )
    axes.set_xscale("log")
    # A number that stands too near the one before it could not be read.
    told = ticks[:1]
    for labels in ticks:
        if math.log(labels / told[-1]) >= _TICK * math.log(ticks[-1] / ticks[0]):
            told.append(labels)
    axes.set_xticks(told, [f"{labels:g}" for labels in told])
    axes.minorticks_off()
    axes.set_xlabel("labelled clips that each fold is trained on")
    axes.set_ylabel(f"{metric_name(leading)}, pooled over folds (bars: {LEVEL:.0%})")
    low, high = axes.get_ylim()
    axes.set_ylim(min(0.0, low), max(1.0, high))  # a combination may be above 1
    axes.legend(frameon=False, loc="lower right")
    doc.plain(axes)
    doc.save(figure, path)


def _place(run: Run) -> Path:
    """The folder with the seeds of a run; one network of several lies in the folder of a seed."""
    folder, network = run.folder.resolve(), run.facts.network
    several = network and folder.name in ("ensemble", f"network-{portable(network)}")
    return folder.parents[1 if several else 0]


def _group(members: Sequence[tuple[str, Run]]) -> SeedGroup:
    ordered = sorted(members, key=lambda member: member[1].facts.seed)
    name, first = ordered[0]
    if len(ordered) > 1:
        place = _place(first)
        _, *network = own = first.folder.resolve().relative_to(place).parts
        parent = "/".join(name.split("/")[: -len(own)]) or place.name
        name = f"{'/'.join([parent, *network])} ({len(ordered)} seeds)"
    return SeedGroup(name=name, runs=tuple(run for _, run in ordered))


def _plain(summary: Summary) -> dict[str, float | None]:
    return dict(zip(("mean", "sd"), map(doc.json_number, summary), strict=True))


def _points_table(curves: Sequence[Curve]) -> doc.Table:
    entry = next(iter(curves[0].points.values())).runs[0]
    leading = entry.benchmark.ranking
    rows = []
    for curve in curves:
        for labels, group in curve.points.items():
            facts = group.runs[0].facts
            score, _ = group.over_seeds(leading)
            cells = [curve.name, f"{labels:g}", str(facts.epochs), facts.rule]
            cells += [facts.mark(doc.number(score))]
            rows.append([*cells, facts.mark(doc.range_of(*group.intervals.values[leading]))])
    heads = ["entry", "labels a fold", "epochs", "selection", metric_name(leading), "95 %"]
    return doc.Table(columns=heads, rows=rows)


def _gains(curve: Curve, scratch: Curve) -> list[list[str]]:
    """Each point against scratch with as many labels, and with twice as many."""
    rows = []
    for labels, group in curve.points.items():
        for times, words in ((1, "as many"), (2, "twice as many")):
            nearest = min(scratch.points, key=lambda count: abs(count - times * labels))
            other = scratch.points[nearest]
            near = math.isclose(nearest, times * labels, rel_tol=_TWICE)
            if not near or group.scored != other.scored:
                continue
            found, mark = group.minus(other), mark_of(group, other)
            row = [curve.name, f"{labels:g}", words, mark(doc.signed(found.difference))]
            rows.append([*row, mark(doc.range_of(found.low, found.high))])
    return rows
