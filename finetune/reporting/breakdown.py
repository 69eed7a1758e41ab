"""One run's scores part by part: by class and by whatever group the index carries.

For: tables that say where a score comes from. Not for: the scores of folds
(``finetune/reporting/run_report.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

from finetune.predictions import Prediction, true_and_predicted
from finetune.record import Run
from finetune.reporting.tables import Table, number
from finetune.scores import metric_name, score_units
from hicmae.metrics import confusion_matrix


def class_table(run: Run) -> Table:
    """Recall and precision of each class."""
    true, predicted = true_and_predicted(run.benchmark, run.units)
    matrix = confusion_matrix(true, predicted, len(run.benchmark.classes))
    rows = []
    for index, name in enumerate(run.benchmark.classes):
        hits, samples, calls = matrix[index, index], matrix[index].sum(), matrix[:, index].sum()
        recall = run.facts.mark(number(hits / samples)) if samples else "n/a"
        precision = run.facts.mark(number(hits / calls)) if calls else "n/a"
        rows.append([name, str(samples), recall, precision])
    return Table(columns=["class", "samples", "recall", "precision"], rows=rows)


def group_sections(run: Run) -> list[str]:
    """A table for each ``groups`` column of the benchmark, of the pooled predictions.

    Returns: Markdown; nothing where the benchmark has no groups. A sample without a value is in
        the row ``(none)``.
    """
    parts = []
    for column in run.benchmark.groups:
        members: dict[str, list[Prediction]] = {}
        for item in run.units:
            if column in item.groups:
                members.setdefault(item.groups[column] or "(none)", []).append(item)
        if members:
            parts += [f"### By {column}", _group_table(run, column, members).markdown()]
    if not parts:
        return []
    return [
        "## Scores by group",
        "Pooled over folds; UAR is the mean over the classes that occur in the group.",
        *parts,
    ]


def absent_classes(run: Run) -> list[str]:
    """Sentences about folds that test no sample of a class, and what their scores then mean."""
    if not run.benchmark.label:
        return []
    sentences = []
    for fold in run.scores.folds:
        seen = {item.true for item in run.units if item.fold == fold}
        absent = [name for name in run.benchmark.classes if name not in seen]
        if absent:
            sentences.append(
                f"Fold {fold} tests no sample of {', '.join(absent)}: its UAR is the mean over the"
                " classes it tests."
            )
    return sentences


def unit_name(run: Run) -> str:
    """What is counted in tables: ``samples``, or what outputs are averaged over."""
    return f"{run.benchmark.average_over}s" if run.benchmark.average_over else "samples"


def _group_table(run: Run, column: str, members: dict[str, list[Prediction]]) -> Table:
    """Every metric of each value of a column."""
    metrics: Sequence[str] = list(run.scores.pooled)
    rows = []
    for value in sorted(members):
        found = score_units(run.benchmark, members[value])
        speakers = {item.speaker for item in members[value]}
        rows.append(
            [
                value,
                str(len(members[value])),
                "not named" if "" in speakers else str(len(speakers)),
                *(run.facts.mark(number(found[metric])) for metric in metrics),
            ]
        )
    heads = [column, unit_name(run), f"{run.benchmark.speaker}s", *map(metric_name, metrics)]
    return Table(columns=heads, rows=rows)
