"""The parts of a report about predicted classes: confusion, recall, calibration.

For: sections of a run of a classification benchmark. Not for: real values
(``finetune/reporting/value_parts.py``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from finetune.predictions import true_and_predicted
from finetune.record import Run
from finetune.reporting.breakdown import unit_name
from finetune.reporting.calibration import NUM_BINS, calibrate
from finetune.reporting.document import Picture, Section
from finetune.reporting.figures_classes import (
    confusion_figure,
    recall_figure,
    reliability_figure,
)
from finetune.reporting.resampling import class_intervals
from finetune.reporting.tables import Table, measured, number, range_of
from hicmae.metrics import confusion_matrix


def class_sections(run: Run, figures: Path, title: str) -> list[Section]:
    """Confusion, recall and calibration of a run.

    Args:
        run: Of a classification benchmark.
        figures: Folder for the pictures.
        title: Above each picture.
    """
    counts = run_counts(run)
    confusion, recall = figures / "confusion.png", figures / "recall.png"
    confusion_figure(run.benchmark, counts, confusion, title=title)
    sure = class_intervals(run.benchmark, run.units)
    recall_figure(run.benchmark, counts, sure, recall, title=title)
    return [
        Section(
            title="Classes",
            parts=[
                "Recall: how many of a class were found; their mean is the UAR. Precision: how many"
                " that were called so are so. 95 %: of the recall, bootstrap by"
                f" {run.intervals.by}.",
                _class_table(run, counts, sure),
                Picture(path=recall, caption="Recall of each class"),
                Picture(path=confusion, caption="Confusion matrix"),
            ],
        ),
        _calibration(run, figures, title),
    ]


def run_counts(run: Run) -> np.ndarray:
    """Confusion matrix of a run, int64 (C, C): true class by predicted class."""
    true, predicted = true_and_predicted(run.benchmark, run.units)
    return confusion_matrix(true, predicted, len(run.benchmark.classes))


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


def _class_table(run: Run, counts: np.ndarray, sure: list[tuple[float, float]]) -> Table:
    """Recall and precision of each class."""
    mark, rule = run.facts.mark, run.facts.rule
    rows = []
    for index, name in enumerate(run.benchmark.classes):
        hits, samples, calls = counts[index, index], counts[index].sum(), counts[:, index].sum()
        recall = mark(number(hits / samples)) if samples else "n/a"
        precision = mark(number(hits / calls)) if calls else "n/a"
        interval = mark(range_of(*sure[index])) if samples else "n/a"
        rows.append([name, str(samples), recall, interval, precision, str(calls)])
    heads = ["class", unit_name(run), measured("recall", rule)]
    heads += [measured("95 %", rule), measured("precision", rule), "called so"]
    return Table(columns=heads, rows=rows)


def _calibration(run: Run, figures: Path, title: str) -> Section:
    """Whether the probabilities can be believed."""
    found = calibrate(run.benchmark, run.units)
    path = figures / "reliability.png"
    reliability_figure(found, path, title=title)
    mark = run.facts.mark
    rows = [
        [
            f"{low:.2f} to {high:.2f}",
            str(count),
            mark(number(confidence)),
            mark(number(accuracy)),
        ]
        for low, high, count, confidence, accuracy in zip(
            found.edges[:-1],
            found.edges[1:],
            found.counts.tolist(),
            found.confidence,
            found.accuracy,
            strict=True,
        )
        if count
    ]
    heads = ["highest probability", unit_name(run)]
    heads += [measured(name, run.facts.rule) for name in ("mean probability", "accuracy")]
    return Section(
        title="Calibration",
        parts=[
            f"Expected calibration error: **{mark(number(found.expected_error))}**"
            f" (selection {run.facts.rule}): {NUM_BINS} bins of equal width over the highest"
            " probability; the gap between mean probability and accuracy of each, averaged over"
            f" {unit_name(run)} (Guo et al., 2017). Largest gap of a bin:"
            f" {mark(number(found.largest_error))}. {found.verdict(run.facts)}",
            Picture(path=path, caption="Reliability, and how often each probability is given"),
            Table(columns=heads, rows=rows),
        ],
    )
