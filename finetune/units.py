"""What is scored: samples, or recordings whose samples' outputs are averaged.

For: ``average_over`` of a benchmark (clips of one video), and the check that its truth is one. Not
for: views of a sample, which are averaged when it is predicted (``finetune/predictions.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from finetune.benchmark import Benchmark
from finetune.folds import as_text
from finetune.predictions import Prediction, make_prediction


def scored_units(benchmark: Benchmark, predictions: Sequence[Prediction]) -> list[Prediction]:
    """Average the outputs of the samples of each recording, every sample with the same weight.

    Args:
        benchmark: What is predicted; without ``average_over`` each sample is a unit.
        predictions: Of samples.

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
    """Prove that all samples of a unit have the same truth.

    Raises: ValueError: the first unit of which they do not, with how many there are.
    """
    if benchmark.average_over is None or benchmark.average_over not in rows.columns:
        return
    truth = rows[list(benchmark.columns)].map(as_text).agg("\n".join, axis=1)
    found = truth.groupby(rows[benchmark.average_over].map(as_text)).nunique()
    wrong = found[found > 1]
    if len(wrong):
        raise ValueError(
            f"{benchmark.average_over} '{wrong.index[0]}' has samples of different"
            f" {', '.join(benchmark.columns)} ({len(wrong)} of {len(found)} are so); benchmark"
            f" '{benchmark.name}' averages over it (average_over)"
        )


def _unit(benchmark: Benchmark, unit: str, items: Sequence[Prediction]) -> Prediction:
    """The prediction of one recording."""
    first = items[0]
    other = next((item for item in items if item.true != first.true), None)
    if other is not None:
        raise ValueError(
            f"{benchmark.average_over} '{unit}': samples '{first.key}' and '{other.key}' have"
            " different truths; make the predictions again"
        )
    outputs = [
        item.predicted if item.probabilities is None else item.probabilities for item in items
    ]
    return make_prediction(
        benchmark,
        key=unit,
        fold=first.fold,
        speaker=_common([item.speaker for item in items]),
        true=first.true,
        views=np.array(outputs, dtype=np.float64),
        unit=unit,
        groups={
            name: _common([item.groups.get(name, "") for item in items]) for name in first.groups
        },
    )


def _common(values: Sequence[str]) -> str:
    """The value that all have, or nothing."""
    return values[0] if len(set(values)) == 1 else ""
