"""Scores of a run, computed from its predictions alone.

Every metric per fold, pooled over all tested samples, and as mean and deviation over folds; what
is scored are samples, or recordings whose samples' outputs are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from finetune.benchmark import Benchmark
from finetune.folds import as_text, need_column
from finetune.heads import Head, combination, score_names
from finetune.predictions import Prediction, head_arrays, make_prediction, named_shares, of_head
from hicmae.heads import blend_metrics
from hicmae.metrics import (
    classification_metrics,
    distribution_metrics,
    multilabel_metrics,
    ordinal_metrics,
    regression_metrics,
)

Values = dict[str, float]

_NAMES = {
    "uar": "UAR",
    "war": "WAR",
    "weighted_f1": "weighted F1",
    "macro_f1": "macro F1",
    "ccc": "CCC",
    "pcc": "PCC",
    "mse": "MSE",
    "micro_f1": "micro F1",
    "exact": "exact match",
    "intersection": "intersection",
    "cosine": "cosine",
    "kl": "KL",
    "presence": "presence accuracy",
    "salience": "salience accuracy",
    "qwk": "QWK",
    "mae": "MAE",
}


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Metric names to values; not-a-number where a metric is undefined.

    Args:
        folds: Of each fold, in order.
        counts: What was scored of each fold: samples, or recordings (``average_over``).
        pooled: Over the samples of all folds together: the headline.
        mean: Over folds, unweighted.
        sd: Sample standard deviation over folds; not-a-number for a single fold.
    """

    folds: dict[str, Values]
    counts: dict[str, int]
    pooled: Values
    mean: Values
    sd: Values

    @property
    def num_samples(self) -> int:
        """Samples (or recordings) scored."""
        return sum(self.counts.values())

    def to_dict(self) -> dict[str, Any]:
        """What ``scores.json`` holds; an undefined value is null."""
        return {
            "num_samples": self.num_samples,
            **{name: null_for_nan(getattr(self, name)) for name in ("pooled", "mean", "sd")},
            "folds": {
                name: {"num_samples": self.counts[name], **null_for_nan(values)}
                for name, values in self.folds.items()
            },
        }


def score(benchmark: Benchmark, predictions: Sequence[Prediction]) -> Values:
    """Every metric of a benchmark over some predictions of samples.

    Where the benchmark averages over recordings, these are what is scored; see ``score_units``.
    """
    return score_units(benchmark, scored_units(benchmark, predictions))


def score_units(benchmark: Benchmark, units: Sequence[Prediction]) -> Values:
    """Every metric of a benchmark over what is scored.

    Returns: fractions by name. For real values, ``ccc`` is the mean over the targets and
        ``ccc_<target>`` one of them; a constant target makes both metrics not-a-number, a constant
        prediction PCC alone.
    """
    if not benchmark.heads:
        return _head_scores(benchmark.every_head[0], units, benchmark.metrics)
    every: Values = {}
    told: list[str] = []
    for head in benchmark.heads:
        own = _head_scores(head, of_head(head, units), head.scored)
        every |= {f"{head.name}.{name}": value for name, value in own.items()}
        told += [f"{head.name}.{n}" for n in own if n in score_names(head, head.metrics)]
    for name, weights in benchmark.combinations.items():
        every[name] = float(combination(weights, every))
    kept = dict.fromkeys([benchmark.ranking, *told, *benchmark.combinations])
    return {name: every[name] for name in kept}


def _head_scores(head: Head, units: Sequence[Prediction], metrics: Sequence[str]) -> Values:
    """Metrics of one head over units that have its label; not-a-number where there are none."""
    if not units:
        return dict.fromkeys(score_names(head, metrics), math.nan)
    true, predicted = head_arrays(head, units)
    found: dict[str, float]
    if head.kind == "regression":
        by_target, values = regression_metrics(true, predicted), {}
        for name in metrics:
            each = [float(value) for value in by_target[name]]
            values[name] = float(np.mean(each))
            if len(each) > 1:
                values |= zip([f"{name}_{target}" for target in head.targets], each, strict=True)
        return values
    if head.kind == "classification":
        found = classification_metrics(true, predicted, num_classes=len(head.classes))
    elif head.kind == "ordinal":
        found = ordinal_metrics(true, predicted, num_levels=len(head.classes))
    elif head.kind == "multilabel":
        found = multilabel_metrics(true, predicted)
    else:
        found = distribution_metrics(true, predicted)
        if head.names_blends:
            found |= blend_metrics(true, named_shares(head, units))
    return {name: float(found[name]) for name in metrics}


def score_run(benchmark: Benchmark, predictions: Sequence[Prediction]) -> Scores:
    """Score every fold, the pool, and the spread over folds."""
    units = scored_units(benchmark, predictions)
    by_fold: dict[str, list[Prediction]] = {}
    for item in units:
        by_fold.setdefault(item.fold, []).append(item)
    folds = {name: score_units(benchmark, items) for name, items in by_fold.items()}
    pooled = score_units(benchmark, units)
    table = {metric: np.array([values[metric] for values in folds.values()]) for metric in pooled}
    return Scores(
        folds=folds,
        counts={name: len(items) for name, items in by_fold.items()},
        pooled=pooled,
        mean={metric: float(values.mean()) for metric, values in table.items()},
        sd={
            metric: float(values.std(ddof=1)) if len(values) > 1 else math.nan
            for metric, values in table.items()
        },
    )


def scored_units(benchmark: Benchmark, predictions: Sequence[Prediction]) -> list[Prediction]:
    """Average the outputs of the samples of each recording, every sample with the same weight.

    Returns: one prediction a unit, in the order of their first samples. Its key is the unit's
        value, its views are its samples' outputs; where the samples' speakers or groups differ,
        its own is empty.
    Raises: ValueError: samples of one unit that have different truths.
    """
    if benchmark.average_over is None:
        return list(predictions)
    members: dict[tuple[str, str], list[Prediction]] = {}
    for item in predictions:
        members.setdefault((item.fold, item.unit), []).append(item)
    return [_unit(benchmark, unit, items) for (_, unit), items in members.items()]


def check_units(benchmark: Benchmark, rows: pd.DataFrame) -> None:
    """Prove that every sample has a unit, and that all samples of one have the same truth.

    Raises: ValueError: no such column, a sample without a unit, or the first unit of which they
        have not, with how many there are.
    """
    if benchmark.average_over is None:
        return
    need_column(rows, benchmark.average_over, f"benchmark '{benchmark.name}' (average_over)")
    units = rows[benchmark.average_over].map(as_text)
    missing = np.flatnonzero((units == "").to_numpy())
    if len(missing):
        raise ValueError(
            f"sample '{rows.iloc[int(missing[0])]['key']}' has no {benchmark.average_over}"
            f" ({len(missing)} such samples), over which benchmark '{benchmark.name}' averages;"
            " name it in the manifest"
        )
    truth = rows[list(benchmark.columns)].map(as_text).agg("\n".join, axis=1)
    found = truth.groupby(units).nunique()
    wrong = found[found > 1]
    if len(wrong):
        raise ValueError(
            f"{benchmark.average_over} '{wrong.index[0]}' has samples of different"
            f" {', '.join(benchmark.columns)} ({len(wrong)} of {len(found)} are so); benchmark"
            f" '{benchmark.name}' averages over it (average_over)"
        )


def undefined(scores: Scores) -> list[str]:
    """Sentences about the metrics that have no value, and why."""
    sentences = []
    for where, values in [("pooled", scores.pooled), *scores.folds.items()]:
        names = [metric for metric, value in values.items() if math.isnan(value)]
        if names:
            place = "Pooled" if where == "pooled" else f"Fold {where}"
            nobody = any("." in name for name in names)  # of one of several heads
            alone = any(name.endswith(".salience") for name in names)
            sentences.append(
                f"{place}: {', '.join(map(metric_name, names))} undefined, because the true values"
                " (or, for PCC, the predictions) are constant there"
                f"{' or nobody has the label of the head' if nobody else ''}"
                f"{' or, for salience, nobody shows a blend' if alone else ''}; shown as n/a, not"
                " as 0."
            )
    return sentences


def metric_name(metric: str) -> str:
    """A metric as people write it: ``ccc_valence`` is ``CCC valence``."""
    if metric in _NAMES:
        return _NAMES[metric]
    head, point, own = metric.partition(".")
    if point and own.partition("_")[0] in {name.partition("_")[0] for name in _NAMES}:
        return f"{head} {metric_name(own)}"
    base, _, target = metric.partition("_")
    return f"{_NAMES[base]} {target}" if base in _NAMES else metric  # a combination, by its name


def chance_score(benchmark: Benchmark) -> float:
    """What guessing reaches in the leading metric, whatever the truth: each class equally often,
    or values that have nothing to do with it.

    Returns: not-a-number where that depends on how many samples each class has (an F1), and of a
        combination of several heads' metrics.
    """
    name, _, metric = benchmark.ranking.rpartition(".")
    head = next((each for each in benchmark.every_head if each.name == name), None)
    kind = metric.partition("_")[0]
    if head and head.kind == "classification" and kind in ("uar", "war"):
        return 1 / len(head.classes)
    return 0.0 if head and head.kind == "regression" and kind in ("ccc", "pcc") else math.nan


def null_for_nan(values: Values) -> dict[str, float | None]:
    """JSON has no not-a-number."""
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def _unit(benchmark: Benchmark, unit: str, items: Sequence[Prediction]) -> Prediction:
    """The prediction of one recording."""
    first = items[0]
    other = next((item for item in items if item.truths != first.truths), None)
    if other is not None:
        raise ValueError(
            f"{benchmark.average_over} '{unit}': samples '{first.key}' and '{other.key}' have"
            " different truths; make the predictions again"
        )
    outputs = [item.outputs for item in items]
    return make_prediction(
        benchmark,
        key=unit,
        fold=first.fold,
        speaker=_common([item.speaker for item in items]),
        true=first.truths,
        views=np.array(outputs, dtype=np.float64),
        unit=unit,
        thresholds=first.limits,
        groups={
            name: _common([item.groups.get(name, "") for item in items]) for name in first.groups
        },
    )


def _common(values: Sequence[str]) -> str:
    """The value that all have, or nothing."""
    return values[0] if len(set(values)) == 1 else ""
