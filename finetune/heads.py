"""Heads of a benchmark: what each predicts, where its labels stand, and how it is trained.

A benchmark of one task has one head without a name; ``task: joint`` lists several. Labels become
one row of numbers a sample here, and a clip may lack the labels of a head.

Shape letters: N samples, K classes, levels or real values of one head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from finetune.losses import Term, default_loss, loss_terms
from hicmae.config import did_you_mean
from hicmae.files import with_a_point
from hicmae.heads import HALF, KINDS, UNCHOSEN, HeadLabels, Kind

# Metrics of each kind, by the names of hicmae.metrics; those of the next table are on demand.
METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("uar", "war", "weighted_f1", "macro_f1"),
    "regression": ("ccc", "pcc"),
    "multilabel": ("macro_f1", "micro_f1", "exact"),
    "distribution": ("intersection", "cosine", "kl"),
    "ordinal": ("qwk", "war", "mae"),
}
_BLENDS = ("presence", "salience")  # of hicmae.heads; they come together
_ASKED_FOR: dict[str, tuple[str, ...]] = {"regression": ("mse",), "distribution": _BLENDS}
# The lower, the better: they are told, and lead nowhere but in a combination.
FALLING = ("mse", "kl", "mae")
# Kinds that choose among names, each of which somebody must have in training.
NAMED = ("classification", "multilabel", "ordinal")
# Which keys say where the labels are: one of each kind's.
_SOURCES: dict[str, tuple[str, ...]] = {
    "classification": ("label",),
    "multilabel": ("label", "columns"),
    "distribution": ("columns", "votes"),
    "regression": ("targets",),
    "ordinal": ("label",),
}
# Proportions are rounded: so much may their sum be off.
_ROUNDING = 0.02
# A name for what stands in one cell beside others.
_BETWEEN = r"[;+|]"


def known_metrics(kind: str) -> tuple[str, ...]:
    """Every metric of a kind, those that are told on demand last."""
    return METRICS[kind] + _ASKED_FOR.get(kind, ())


def score_names(head: Head, metrics: Sequence[str]) -> list[str]:
    """Names of scores of a head: of several real values also those of each."""
    each = head.targets if len(head.targets) > 1 else ()
    return [n for metric in metrics for n in (metric, *(f"{metric}_{target}" for target in each))]


@dataclass(frozen=True, kw_only=True)
class Head:
    """One head.

    Args:
        name: As scores and files call it.
        kind: As of ``hicmae.heads.HeadLabels``.
        label: Column of the class, of the level, or (multilabel) of names separated by ``;``.
        classes: Of every kind but regression: the classes, or the levels from the lowest.
        ignore: Labels that count as none.
        targets: Regression: columns of the real values.
        columns: One for each class: multilabel: whether it is there (0 or 1); distribution: its
            proportion, of a sum of 1 or of 100.
        votes: Distribution: how many raters chose each class, in place of proportions.
        metrics: What is reported; none given: those of the kind.
        loss: Training loss, or a sum such as ``mse+0.5*ccc``; none given: the first of the kind.
        loss_settings: Settings of losses that have some, by the loss's name.
        weight: Factor on this head's loss in the sum over heads.
        unblended: Distribution with presence or salience among its metrics: the class that is
            named alone or not at all.
    """

    name: str
    kind: Kind
    label: str | None = None
    classes: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    votes: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    loss: str | None = None
    loss_settings: dict[str, Any] = field(default_factory=dict, hash=False)
    weight: float = 1.0
    unblended: str | None = field(default=None, metadata={"omit_default": True})

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"head '{self.name}': kind = {self.kind}{did_you_mean(self.kind, KINDS)} (must be"
                f" one of {', '.join(KINDS)})"
            )
        problems = self._problems()
        known = known_metrics(self.kind)
        problems += [
            f"metric '{metric}' is none of {self.kind}{did_you_mean(metric, known)} (allowed:"
            f" {', '.join(known)})"
            for metric in self.metrics
            if metric not in known
        ]
        try:
            assert self.terms
        except ValueError as error:
            problems.append(str(error))
        if problems:
            raise ValueError(f"head '{self.name}': {'; '.join(problems)}")
        if not self.metrics:
            object.__setattr__(self, "metrics", METRICS[self.kind])

    def _problems(self) -> list[str]:
        """What the kind needs, and what it has no use for."""
        problems = []
        given = [n for n in ("label", "targets", "columns", "votes") if getattr(self, n)]
        allowed = _SOURCES[self.kind]
        if len(given) != 1 or given[0] not in allowed:
            problems.append(
                f"labels come from {', '.join(given) or 'nowhere'} (must be {' or '.join(allowed)})"
            )
        if "." in self.name:
            problems.append("a name has no point")
        if self.kind == "regression":
            problems += [
                f"{n} is not for regression" for n in ("classes", "ignore") if getattr(self, n)
            ]
        elif len(self.classes) < 2:
            problems.append(f"classes has {len(self.classes)} entries (2 or more needed)")
        for what in ("classes", "targets", "columns", "votes", "metrics"):
            names = getattr(self, what)
            if len(set(names)) != len(names):
                problems.append(f"{what} names one twice")
            if what in ("columns", "votes") and names and len(names) != len(self.classes):
                problems.append(
                    f"{what} has {len(names)} columns for {len(self.classes)} classes (one for"
                    " each, in their order)"
                )
        both = sorted(set(self.classes) & set(self.ignore))
        if both:
            problems.append(f"{', '.join(both)} in classes and in ignore")
        if self.names_blends and self.votes:
            problems.append("presence and salience are of proportions (columns), not of votes")
        if self.unblended is not None and not (self.names_blends and self.unblended in self.names):
            problems.append(
                f"unblended = {self.unblended} (must be one of the classes of a distribution with"
                " metric presence or salience)"
            )
        if not 0 < self.weight < float("inf"):
            problems.append(f"weight = {self.weight} (must be a positive number)")
        return problems

    @property
    def names(self) -> tuple[str, ...]:
        """One for each output."""
        return self.targets if self.kind == "regression" else self.classes

    @property
    def where(self) -> str:
        """What a message about it begins with; nothing of the one head of a single task."""
        return f"head '{self.name}': " if self.name else ""

    @property
    def names_blends(self) -> bool:
        """Whether it names blends, so that it has two thresholds and both accuracies."""
        return self.kind == "distribution" and bool({*_BLENDS} & {*self.metrics})

    @property
    def has_thresholds(self) -> bool:
        """Whether some are chosen on samples kept out of training."""
        return self.kind == "multilabel" or self.names_blends

    @property
    def scored(self) -> tuple[str, ...]:
        """Every metric that it can have, reported or not."""
        left = () if self.names_blends else _BLENDS
        return tuple(name for name in known_metrics(self.kind) if name not in left)

    @property
    def sources(self) -> tuple[str, ...]:
        """Columns of the index that hold its labels."""
        return (self.label,) if self.label else self.targets or self.columns or self.votes

    @property
    def terms(self) -> list[Term]:
        """What its loss is a sum of."""
        return loss_terms(self.loss_text, self.kind, self.loss_settings)

    @property
    def loss_text(self) -> str:
        """Its loss as recipes write it."""
        return self.loss or default_loss(self.kind)

    def labels(self, thresholds: Sequence[float] = ()) -> HeadLabels:
        """What its outputs stand for, with its thresholds (none given: nobody has chosen)."""
        chosen: tuple[float, ...] = ()
        if self.has_thresholds:
            unchosen = UNCHOSEN if self.names_blends else (HALF,) * len(self.classes)
            chosen = tuple(thresholds) or unchosen
        return HeadLabels(
            name=self.name,
            kind=self.kind,
            names=self.names,
            thresholds=chosen,
            unblended=self.unblended or "",
        )


def as_text(value: Any) -> str:
    """A cell as the text a person would write: 3.0 is ``3``, nothing is empty."""
    if value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA:
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def plain(value: Any) -> Any:
    """A cell as Python has it, for a message: NumPy's numbers show their type."""
    return value.item() if isinstance(value, np.generic) else value


def read_truth(head: Head, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Labels of a head as numbers.

    Returns: float64 (N, K): one-hot classes and levels, yes or no, shares, or real values; and
        bool (N,): who has a label. Who has none (nothing in a cell, or an ignored label) has zeros.
    Raises: ValueError: a label outside the head's list, a cell that is no number, proportions whose
        sum is neither 1 nor 100; with the key of the first such sample.
    """
    if head.label:
        return _named_truth(head, rows)
    cells = rows[list(head.sources)]
    empty = cells.map(as_text).to_numpy() == ""
    values = cells.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~np.isfinite(values)
    what = "is no finite number"
    if head.kind == "multilabel":
        wrong, what = ~np.isin(values, (0, 1)), "is neither 0 nor 1"
    elif head.kind == "distribution":
        wrong, what = wrong | (values < 0), "is no share or count"
    refused = np.argwhere(wrong & ~empty)
    if len(refused):
        first, column = rows.iloc[int(refused[0, 0])], head.sources[int(refused[0, 1])]
        raise ValueError(
            f"sample '{first['key']}': {column} = {plain(first[column])!r} {what}"
            f" ({len(np.unique(refused[:, 0]))} such samples; head '{head.name}')"
            f"{with_a_point(first[column])}"
        )
    if head.votes:  # a cell without a number is a rater's silence
        values = np.where(empty, 0.0, values)
        totals = values.sum(axis=1)
        known = np.asarray(totals > 0)
        return np.where(known, values.T / np.where(known, totals, 1), 0.0).T, known
    known = np.asarray(~empty.any(axis=1))
    values = np.where(known[:, None], values, 0.0)
    if head.kind != "distribution":
        return values, known
    totals = values.sum(axis=1)
    whole = np.where(totals > 2, 100.0, 1.0)
    off = np.flatnonzero(known & (np.abs(totals / whole - 1) > _ROUNDING))
    if len(off):
        row = rows.iloc[int(off[0])]
        raise ValueError(
            f"sample '{row['key']}': {', '.join(head.columns)} sum to {totals[off[0]]:g}"
            f" (proportions of head '{head.name}' must sum to 1 or to 100; {len(off)} such samples;"
            " counts of raters are named by votes)"
        )
    return np.where(known, values.T / np.where(known, totals, 1.0), 0.0).T, known


def truth_of(head: Head, row: np.ndarray) -> str | tuple[float, ...]:
    """One row of ``read_truth`` as predictions write it: the class or level, or the numbers."""
    if head.kind in ("classification", "ordinal"):
        return head.classes[int(row.argmax())]
    return digits(row)


def digits(values: np.ndarray) -> tuple[float, ...]:
    """Seven significant digits of each value, as float32 has."""
    return tuple(float(f"{value:.7g}") for value in values)


def chosen(head: Head, values: np.ndarray, thresholds: Sequence[float] = ()) -> Any:
    """What values (K,) of a head predict, in the form of ``truth_of``."""
    if head.kind == "multilabel":
        limits = np.asarray(head.labels(thresholds).thresholds)
        return tuple((values >= limits).astype(float).tolist())
    return truth_of(head, values)


def parsed(head: Head, value: Any) -> str | tuple[float, ...]:
    """A truth or a prediction out of a file, in the form of ``truth_of``.

    Raises: ValueError: a name that is none of the head's, or another number of values.
    """
    if head.kind in ("classification", "ordinal"):
        if value not in head.classes:
            raise ValueError(f"{head.where}class '{value}' is none of {', '.join(head.classes)}")
        return str(value)
    if len(value) != len(head.names):
        raise ValueError(f"{head.where}{len(head.names)} values are expected")
    return tuple(map(float, value))


def combination(weights: Mapping[str, float], values: Mapping[str, Any]) -> Any:
    """A weighted sum of scores (numbers, or arrays of them) by their names."""
    return sum(weight * values[name] for name, weight in weights.items())


def _named_truth(head: Head, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    assert head.label is not None
    text = rows[head.label].map(as_text)
    cells = (
        text.str.split(_BETWEEN, regex=True)
        if head.kind == "multilabel"
        else text.map(lambda t: [t])
    )
    truth = np.zeros((len(rows), len(head.classes)))
    wrong: list[tuple[int, str]] = []
    for number, names in enumerate(cells):
        for name in (each.strip() for each in names):
            if name in head.classes:
                truth[number, head.classes.index(name)] = 1
            elif name and name not in head.ignore:
                wrong.append((number, name))
    if wrong:
        number, name = wrong[0]
        raise ValueError(
            f"sample '{rows.iloc[number]['key']}': {head.label} '{name}' is no class of head"
            f" '{head.name}' ({len({n for n, _ in wrong})} such samples; classes:"
            f" {', '.join(head.classes)}){did_you_mean(name, head.classes)}"
        )
    return truth, np.asarray(truth.any(axis=1))
