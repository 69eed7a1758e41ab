"""One run's scores part by part: by speaker and by whatever group the index carries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.folds import numbers_first
from finetune.predictions import Prediction
from finetune.record import Run
from finetune.reporting import document as doc
from finetune.reporting.resampling import alone, intervals
from finetune.scores import Values, metric_name, score_units

# A group of fewer units or people says little; it is marked.
SMALL_UNITS = 20
SMALL_SPEAKERS = 5
# Speakers in the table, of many: so many of the worst and of the best.
_WORST, _BEST = 30, 10
# More names than this cannot be read beside an axis.
MAX_NAMED = 60


@dataclass(frozen=True, kw_only=True)
class Group:
    """Units that have something in common.

    Args:
        interval: 95 % of the leading metric.
        num_speakers: None where somebody is not named.
    """

    name: str
    units: Sequence[Prediction]
    scores: Values
    interval: tuple[float, float]
    num_speakers: int | None

    def is_small(self, *, people: bool) -> bool:
        """Whether it says little; ``people`` if its speakers count too."""
        few = people and self.num_speakers is not None and self.num_speakers < SMALL_SPEAKERS
        return len(self.units) < SMALL_UNITS or few


def group_section(run: Run, figures: Path) -> doc.Section | None:
    """A table for each column by which the predictions can be grouped, and one picture.

    Returns: nothing where there is no such column. A sample without a value is in the group
        ``(none)``.
    """
    tables: list[doc.Section] = []
    panels = []
    for column in dict.fromkeys(name for item in run.units for name in item.groups):
        members: dict[str, list[Prediction]] = {}
        for item in run.units:
            members.setdefault(item.groups.get(column) or "(none)", []).append(item)
        values = sorted(members, key=numbers_first)
        groups = [_group(run, value, members[value]) for value in values]
        tables.append(doc.Section(title=f"By {column}", parts=[_table(run, column, groups)]))
        panels.append((column, groups))
    if not tables:
        return None
    leading = run.benchmark.ranking
    path = figures / "groups.png"
    dot_figure(run, panels, path, people=True, title=f"{run.title}: scores by group")
    parts: list[doc.Part] = [
        f"Pooled over folds. {_meaning(run)} 95 %: of {metric_name(leading)}, bootstrap by"
        f" {run.benchmark.speaker} within the group (by {alone(run.benchmark)} where the group has"
        f" one or they are not named). *small*: fewer than {SMALL_UNITS} {unit_name(run)} or fewer"
        f" than {SMALL_SPEAKERS} {run.benchmark.speaker}s. A gap between groups may be one between"
        " other things in which they differ.",
        doc.Picture(path=path, caption="Scores by group"),
        *tables,
    ]
    return doc.Section(title="Scores by group", parts=parts)


def speaker_section(run: Run, figures: Path) -> doc.Section | None:
    """The scores of each speaker, the worst first, as a table and a picture.

    Returns: nothing where speakers are not named, or there is one.
    """
    members: dict[str, list[Prediction]] = {}
    for item in run.units:
        members.setdefault(item.speaker, []).append(item)
    if "" in members or len(members) < 2:
        return None
    leading, who = run.benchmark.ranking, run.benchmark.speaker
    surely = len(members) <= MAX_NAMED
    groups = [_group(run, name, units, surely=surely) for name, units in members.items()]
    groups.sort(key=lambda one: (np.nan_to_num(one.scores[leading], nan=math.inf), one.name))
    path = figures / "speakers.png"
    title = f"{run.title}: scores by {who}, the worst first"
    dot_figure(run, [("", groups)], path, people=False, title=title)
    shown, left_out = groups, ""
    if len(groups) > _WORST + _BEST:
        shown = [one for one in groups if not math.isnan(one.scores[leading])]
        told, unscored = f"{len(shown)} with a score", len(groups) - len(shown)
        if len(shown) > _WORST + _BEST:
            shown = [*shown[:_WORST], *shown[-_BEST:]]
            told = f"{_WORST} worst and the {_BEST} best"
        without = f", {unscored} of whom have no score" if unscored else ""
        left_out = f" The table has the {told} of {len(groups)}{without}; the picture has all."
    by = alone(run.benchmark)
    sure = f" 95 %: of {metric_name(leading)}, bootstrap by {by}." if surely else ""
    parts: list[doc.Part] = [
        f"Pooled over folds, the worst first. {_meaning(run)}{sure} *small*: fewer than"
        f" {SMALL_UNITS} {unit_name(run)}.{left_out}",
        doc.Picture(path=path, caption=f"Scores by {who}"),
        _table(run, who, shown, people=False, surely=surely),
    ]
    return doc.Section(title=f"Scores by {who}", parts=parts)


def unit_name(run: Run) -> str:
    """What is counted in tables: ``samples``, or what outputs are averaged over."""
    return f"{run.benchmark.average_over}s" if run.benchmark.average_over else "samples"


def dot_figure(
    run: Run,
    panels: Sequence[tuple[str, Sequence[Group]]],
    path: Path,
    *,
    people: bool,
    title: str,
) -> None:
    """Draw leading scores with intervals as dots, in one panel for each kind of group.

    A small group's dot is hollow; a dashed line is the score of all samples.

    Args:
        panels: Headings and rows, from above; more rows than ``MAX_NAMED`` lose their names.
        people: Whether few speakers make a group small, too.
    """
    leading = run.benchmark.ranking
    overall, what = run.scores.pooled[leading], doc.measured(metric_name(leading), run.facts.rule)
    rows = [len(groups) for _, groups in panels]
    heights = [0.21 * count + 0.15 if count <= MAX_NAMED else 6.0 for count in rows]
    figure = doc.make_figure(7.6, 1.4 + sum(heights) + 0.35 * len(panels), title)
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)
    for axes, (heading, groups) in zip(grid[:, 0], panels, strict=True):
        places = np.arange(len(groups))[::-1]
        for place, one in zip(places, groups, strict=True):
            if not np.isnan(one.interval[0]):
                axes.plot(one.interval, [place, place], color=doc.BLUE, linewidth=1.2, alpha=0.6)
            if np.isnan(one.scores[leading]):
                beside = axes.get_yaxis_transform()  # no score is 0, and the axis need not hold it
                axes.text(
                    0.01, place, "n/a", va="center", fontsize=8, color=doc.GREY, transform=beside
                )
            else:
                colour = "white" if one.is_small(people=people) else doc.BLUE
                axes.plot(
                    one.scores[leading],
                    place,
                    "o",
                    markersize=5,
                    markerfacecolor=colour,
                    color=doc.BLUE,
                    zorder=3,
                )
        if not np.isnan(overall):
            axes.axvline(overall, color=doc.GREY, linewidth=1, linestyle="--")
        if len(groups) <= MAX_NAMED:
            names = [f"{one.name} ({len(one.units)})" for one in groups]
            axes.set_yticks(places, names, fontsize=8)
        else:
            axes.set_yticks([])
            axes.set_ylabel(f"{len(groups)} of them")
        axes.set_ylim(-0.7, len(groups) - 0.3)
        if heading:
            axes.set_title(heading, fontsize=10, loc="left")
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        doc.plain(axes)
    every = [one for _, groups in panels for one in groups]
    key = [] if all(np.isnan(one.interval[0]) for one in every) else ["line: 95 %"]
    key += [] if np.isnan(overall) else [f"dashed: all samples, {overall:.3f}"]
    key += ["hollow: few samples"] if any(one.is_small(people=people) for one in every) else []
    grid[-1, 0].set_xlabel(f"{what} ({'; '.join(key)})" if key else what)
    doc.save(figure, path)


def _group(run: Run, name: str, units: Sequence[Prediction], *, surely: bool = True) -> Group:
    """Score units that have something in common; ``surely`` with an interval."""
    speakers = {item.speaker for item in units}
    found = intervals(run.benchmark, [units]).values if surely else {}
    return Group(
        name=name,
        units=units,
        scores=score_units(run.benchmark, units),
        interval=found.get(run.benchmark.ranking, (math.nan, math.nan)),
        num_speakers=None if "" in speakers else len(speakers),
    )


def _table(
    run: Run, column: str, groups: Sequence[Group], *, people: bool = True, surely: bool = True
) -> doc.Table:
    leading, mark, rule = run.benchmark.ranking, run.facts.mark, run.facts.rule
    metrics = sorted(run.scores.pooled, key=lambda metric: metric != leading)
    heads = [column, unit_name(run)]
    if people:
        heads.append(f"{run.benchmark.speaker}s")
    heads.append(doc.measured(metric_name(leading), rule))
    if surely:
        heads.append(doc.measured("95 %", rule))
    heads += [doc.measured(metric_name(metric), rule) for metric in metrics[1:]]
    rows = []
    for one in groups:
        small = " (small)" if one.is_small(people=people) else ""
        cells = [one.name, f"{len(one.units)}{small}"]
        if people:
            cells.append("not named" if one.num_speakers is None else str(one.num_speakers))
        cells.append(mark(doc.number(one.scores[leading])))
        if surely:
            cells.append(mark(doc.range_of(*one.interval)))
        cells += [mark(doc.number(one.scores[metric], metric)) for metric in metrics[1:]]
        rows.append(cells)
    return doc.Table(columns=heads, rows=rows)


def _meaning(run: Run) -> str:
    if run.benchmark.heads:
        return "A score is of the samples of the group that have its head's label."
    if run.benchmark.task == "classification":
        return "UAR is the mean over the classes that occur in the group."
    return (
        "CCC is taken within the group: low where the true values hardly differ there, n/a where"
        " they are all the same."
    )
