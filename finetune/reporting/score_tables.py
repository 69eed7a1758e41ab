"""The scores of a run as tables: by metric beside what others published, and by fold.

For: the first thing a reader looks at. Published and measured numbers never share a column, and
every measured column names its selection rule. Not for: scores of parts of the samples
(``finetune/reporting/breakdown.py``).
"""

from __future__ import annotations

from finetune.benchmark import Benchmark, Published
from finetune.record import Run
from finetune.reporting.breakdown import unit_name
from finetune.reporting.document import Section
from finetune.reporting.tables import Table, mean_and_sd, measured, number, range_of
from finetune.scores import metric_name


def metrics_table(run: Run) -> Table:
    """One row a metric: pooled, its interval, mean and deviation, and each published number."""
    scores, mark, rule = run.scores, run.facts.mark, run.facts.rule
    leading = run.benchmark.ranking
    published = run.benchmark.published
    rows = []
    for metric in sorted(scores.pooled, key=lambda name: name != leading):
        name = metric_name(metric)
        cells = [f"**{name}**" if metric == leading else name]
        cells.append(mark(number(scores.pooled[metric])))
        cells.append(mark(range_of(*run.intervals.values[metric])))
        if len(scores.folds) > 1:
            cells.append(mark(mean_and_sd(scores, metric)))
        cells += [
            number(item.scores[metric]) if metric in item.scores else "" for item in published
        ]
        rows.append(cells)
    heads = ["metric", measured("pooled", rule), measured("95 %", rule)]
    heads += [measured("mean ± sd over folds", rule)] if len(scores.folds) > 1 else []
    heads += [f"published: {name}" for name in published_names(run.benchmark)]
    return Table(columns=heads, rows=rows)


def scores_table(run: Run) -> Table:
    """Every metric per fold, pooled with its interval, and as mean and deviation."""
    scores, mark = run.scores, run.facts.mark
    metrics = list(scores.pooled)
    rows = [
        [f"fold {name}", str(scores.counts[name]), *(mark(number(values[m])) for m in metrics)]
        for name, values in scores.folds.items()
    ]
    rows.append(
        ["**pooled**", str(scores.num_samples), *(mark(number(scores.pooled[m])) for m in metrics)]
    )
    rows.append(["95 % interval", "", *(mark(range_of(*run.intervals.values[m])) for m in metrics)])
    if len(scores.folds) > 1:
        rows.append(["mean ± sd", "", *(mark(mean_and_sd(scores, m)) for m in metrics)])
    heads = [measured(metric_name(metric), run.facts.rule) for metric in metrics]
    return Table(
        columns=[f"selection: {run.facts.rule}", unit_name(run), *heads],
        rows=rows,
        title=f"{run.facts.benchmark}, selection: {run.facts.rule}",
    )


def published_names(benchmark: Benchmark) -> list[str]:
    """A name for each published entry that no other has."""
    names = [item.method for item in benchmark.published]

    def named(item: Published) -> str:
        twice = names.count(item.method) > 1 and item.modalities
        return f"{item.method} ({item.modalities})" if twice else item.method

    return [named(item) for item in benchmark.published]


def published_section(benchmark: Benchmark) -> Section | None:
    """Numbers of others with their sources, in a table of their own; nothing without any."""
    if not benchmark.published:
        return None
    metrics = list(dict.fromkeys(name for item in benchmark.published for name in item.scores))
    rows = [
        [
            item.method,
            item.modalities,
            *(number(item.scores[m]) if m in item.scores else "" for m in metrics),
            item.source,
            item.note,
        ]
        for item in benchmark.published
    ]
    names = [f"{metric_name(metric)}, published" for metric in metrics]
    return Section(
        title="Published by others, not measured here",
        parts=[
            Table(columns=["method", "modalities", *names, "source", "what differs"], rows=rows)
        ],
    )


def chance(benchmark: Benchmark) -> str:
    """What guessing reaches in the leading metric, as a sentence."""
    if benchmark.task == "regression":
        return "Guessing one value for everybody has a CCC of 0."
    size = len(benchmark.classes)
    return f"Guessing has a UAR of 1/{size} = {1 / size:.3f}."
