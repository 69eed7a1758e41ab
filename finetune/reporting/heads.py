"""What a report says of each head of a joint network.

A head of one class, of levels or of real values has the sections of a run of its own, made of the
samples that have its label; several classes at once and shares have a table each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from finetune.heads import Head
from finetune.predictions import head_arrays, named_shares, of_head
from finetune.record import Run
from finetune.reporting.classes import class_sections
from finetune.reporting.document import Part, Section, Table, measured, number, signed
from finetune.reporting.values import value_sections
from finetune.scores import score_run
from hicmae.heads import blend_metrics


def run_of_head(run: Run, head: Head) -> Run | None:
    """The run as if it had this head alone; none of kinds without a task of their own, or where no
    tested sample has its label.
    """
    benchmark, predictions = run.benchmark.of_head(head), of_head(head, run.predictions)
    if benchmark is None or not predictions:
        return None
    if not head.name:
        return run
    return dataclasses.replace(
        run,
        benchmark=benchmark,
        predictions=tuple(predictions),
        scores=score_run(benchmark, predictions),
        disagreements=(),
    )


def head_sections(run: Run, figures: Path, title: str) -> list[Section]:
    """One section a head; of a single task its sections themselves."""
    sections = []
    for head in run.benchmark.every_head:
        own = run_of_head(run, head)
        about = title if not head.name else f"{title}, head {head.name}"
        parts: list[Section] = []
        if own is not None:
            of_values = head.kind == "regression"
            make: Callable[..., list[Section]] = value_sections if of_values else class_sections
            parts = make(own, figures / head.name, about)
        if not head.name:
            return parts
        labelled = len(of_head(head, run.units))
        told: list[Part] = [
            f"Kind {head.kind}, loss {head.loss_text} with weight {head.weight:g}; {labelled} of"
            f" {len(run.units)} tested have a label."
        ]
        if labelled and head.kind == "multilabel":
            told.append(_class_table(run, head))
        if labelled and head.kind == "distribution":
            told.append(_share_table(run, head))
        if labelled and head.names_blends:
            told += _blend_parts(run, head)
        sections.append(Section(title=f"Head {head.name}", parts=[*told, *parts]))
    return sections


def _class_table(run: Run, head: Head) -> Table:
    """Several classes at once: of each how often it is there, named, and rightly so."""
    units, mark = of_head(head, run.units), run.facts.mark
    true, predicted = head_arrays(head, units)
    limits = np.array([unit.thresholds for unit in units])
    hits, there, named = (true * predicted).sum(0), true.sum(0), predicted.sum(0)
    rows = []
    for place, name in enumerate(head.classes):
        low, high = limits[:, place].min(), limits[:, place].max()
        ratios = [
            (hits[place], named[place]),
            (hits[place], there[place]),
            (2 * hits[place], there[place] + named[place]),
        ]
        rows.append(
            [
                name,
                f"{there[place]:.0f}",
                f"{named[place]:.0f}",
                f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}",
                *(mark(number(over / below if below else float("nan"))) for over, below in ratios),
            ]
        )
    heads = [measured(name, run.facts.rule) for name in ("precision", "recall", "F1")]
    return Table(
        columns=["class", "there", "named", "named from a probability of", *heads], rows=rows
    )


def _share_table(run: Run, head: Head) -> Table:
    """Shares: of each class the mean, as labelled and as predicted, and the gap."""
    true, predicted = head_arrays(head, of_head(head, run.units))
    mark = run.facts.mark
    rows = [
        [
            name,
            number(true[:, place].mean()),
            mark(number(predicted[:, place].mean())),
            mark(signed(float((predicted - true)[:, place].mean()))),
            mark(number(float(np.abs(predicted - true)[:, place].mean()))),
        ]
        for place, name in enumerate(head.classes)
    ]
    names = ("mean share, predicted", "bias", "mean distance")
    heads = [measured(name, run.facts.rule) for name in names]
    return Table(columns=["class", "mean share, true", *heads], rows=rows)


def _blend_parts(run: Run, head: Head) -> list[Part]:
    """Blends: the thresholds of each fold, and of what is shown how often it is named rightly."""
    units, mark = of_head(head, run.units), run.facts.mark
    true, named = head_arrays(head, units)[0], named_shares(head, units)
    limits = dict.fromkeys((unit.fold, *map("{:.2f}".format, unit.thresholds)) for unit in units)
    shown = np.array(["+".join(np.array(head.classes)[row > 0]) for row in true])
    rows = []
    for name in sorted(set(shown), key=lambda name: (name.count("+"), name)):
        found = blend_metrics(true[shown == name], named[shown == name])
        counted = str(int((shown == name).sum()))
        rows.append([name, counted, *(mark(number(value)) for value in found.values())])
    heads = [measured(f"{name} accuracy", run.facts.rule) for name in ("presence", "salience")]
    return [
        "Presence: exactly the emotions that are shown are named. Salience: two are shown, and they"
        " are named in their proportions.",
        Table(
            columns=["fold", "second named from a share of", "equal up to a difference of"],
            rows=[list(row) for row in limits],
        ),
        Table(columns=["shown", "samples", *heads], rows=rows),
    ]
