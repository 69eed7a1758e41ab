"""Runs that differ in their seeds alone, as one entry, and the summary of a sweep over seeds."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.record import Run
from finetune.reporting.document import Table, json_number, mean_and_sd, number, range_of, spread
from finetune.reporting.resampling import Intervals, intervals
from finetune.scores import metric_name
from finetune.selection import rule_sentence
from hicmae.files import write_json, write_text

Summary = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class SeedGroup:
    """Runs of one experiment with a seed each; often a single one.

    Args:
        name: In tables.
        runs: In the order of their seeds.
    """

    name: str
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> str:
        """The seeds, separated by commas."""
        return ", ".join(str(run.facts.seed) for run in self.runs)

    @property
    def keys(self) -> frozenset[str]:
        """What was scored."""
        return frozenset(item.key for item in self.runs[0].units)

    def over_seeds(self, metric: str) -> Summary:
        """Mean and sample deviation of the pooled score over seeds."""
        return mean_and_sd([run.scores.pooled[metric] for run in self.runs])

    def over_folds(self, metric: str) -> Summary:
        """Mean and sample deviation over folds, each fold's score being its mean over seeds."""
        by_fold = [
            float(np.mean([run.scores.folds[fold][metric] for run in self.runs]))
            for fold in self.runs[0].scores.folds
        ]
        return mean_and_sd(by_fold)

    @functools.cached_property
    def intervals(self) -> Intervals:
        """How sure the mean over seeds is."""
        if len(self.runs) == 1:
            return self.runs[0].intervals
        return intervals(self.runs[0].benchmark, [run.units for run in self.runs])


def group_seeds(pairs: Sequence[tuple[str, Run]]) -> list[SeedGroup]:
    """Put runs together that differ in their seeds alone.

    Args:
        pairs: Names and runs. A run with a seed that its group has already begins another group
            (the same experiment in another folder).
    """
    found: list[tuple[tuple[object, ...], list[tuple[str, Run]]]] = []
    for name, run in pairs:
        facts = run.facts
        mark = (
            facts.experiment_digest or facts.configuration_digest,
            tuple(run.scores.folds),
            run.folder.resolve().parent if facts.experiment_digest else run.folder,
        )
        for other, members in found:
            if other == mark and all(facts.seed != run.facts.seed for _, run in members):
                members.append((name, run))
                break
        else:
            found.append((mark, [(name, run)]))
    return [_group(members) for _, members in found]


def seeds_table(groups: Sequence[SeedGroup], *, title: str = "") -> Table:
    """One row an entry: the pooled scores over seeds."""
    first = groups[0].runs[0]
    leading = first.benchmark.ranking
    metrics = sorted(first.scores.pooled, key=lambda metric: metric != leading)
    heads = ["entry", "seeds", "selection", *(f"{metric_name(m)}, seeds" for m in metrics)]
    rows = []
    for group in groups:
        facts = group.runs[0].facts
        cells = [group.name, group.seeds, facts.rule]
        cells += [facts.mark(spread(*group.over_seeds(metric))) for metric in metrics]
        cells.append(facts.mark(spread(*group.over_folds(leading))))
        cells.append(facts.mark(range_of(*group.intervals.values[leading])))
        rows.append(cells)
    name = metric_name(leading)
    return Table(columns=[*heads, f"{name}, folds", f"{name}, 95 %"], rows=rows, title=title)


def write_seed_summary(folder: Path, runs: Sequence[Run]) -> SeedGroup:
    """Write ``seeds.json`` and ``seeds.md`` beside the runs of a sweep over seeds.

    Args:
        folder: That holds the runs.
        runs: Of one experiment.
    """
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
            "intervals": {
                "what": group.intervals.sentence(),
                **{
                    name: None if math.isnan(low) else [low, high]
                    for name, (low, high) in group.intervals.values.items()
                },
            },
        },
    )
    parts = [
        f"# {group.name}: {len(runs)} seeds",
        how_to_read_seeds(group),
        seeds_table([group]).markdown(),
        "\n".join(
            f"- [{run.name}]({run.name}/report.md): {metric_name(run.benchmark.ranking)}"
            f" {facts.mark(number(run.scores.pooled[run.benchmark.ranking]))}"
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


def _group(members: Sequence[tuple[str, Run]]) -> SeedGroup:
    ordered = sorted(members, key=lambda member: member[1].facts.seed)
    name = ordered[0][0]
    if len(ordered) > 1:
        parent = name.rpartition("/")[0] or ordered[0][1].folder.resolve().parent.name
        name = f"{parent} ({len(ordered)} seeds)"
    return SeedGroup(name=name, runs=tuple(run for _, run in ordered))


def _plain(summary: Summary) -> dict[str, float | None]:
    return dict(zip(("mean", "sd"), map(json_number, summary), strict=True))
