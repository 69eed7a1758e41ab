"""Training on a part of the training side: some samples of each class, or a share.

For: few-shot and data-fraction runs. Not for: what is kept out to choose an epoch
(``finetune/validation.py``).
"""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

from finetune.benchmark import Benchmark
from finetune.folds import as_text

# Bands of the first real value that a share is taken from alike.
NUM_BANDS = 5


def training_subset(
    benchmark: Benchmark, rows: pd.DataFrame, *, shots: int | None, fraction: float, seed: int
) -> pd.DataFrame:
    """Choose what is trained on.

    Who is chosen follows from the seed and the sample's key alone: every machine chooses the same,
    and a larger number or share holds the smaller one's samples of a class.

    Args:
        benchmark: What is predicted.
        rows: Of the training side.
        shots: Samples of each class; none: as the fraction says.
        fraction: Share of each class, or of each fifth of the first real value; at least one
            sample of each.
        seed: Of the choice.

    Returns: rows in their old order.
    Raises: ValueError: a class with fewer samples than are wanted.
    """
    if shots is None and fraction == 1:
        return rows
    place = rows["key"].map(lambda key: hashlib.sha256(f"{seed}\n{key}".encode()).hexdigest())
    chosen: list[int] = []
    for name, numbers in _strata(benchmark, rows).items():
        if shots is not None and len(numbers) < shots:
            raise ValueError(
                f"class {name} has {len(numbers)} training samples, and recipe.shots = {shots} are"
                " wanted of each; lower it"
            )
        number = shots if shots is not None else max(1, round(fraction * len(numbers)))
        chosen += sorted(numbers, key=lambda row: place.iloc[row])[:number]
    return rows.iloc[sorted(chosen)]


def _strata(benchmark: Benchmark, rows: pd.DataFrame) -> dict[str, list[int]]:
    """Positions of the rows by class, or by band of the first real value."""
    if benchmark.label:
        names = rows[benchmark.label].map(as_text).to_numpy()
    else:
        rank = pd.to_numeric(rows[benchmark.targets[0]]).rank(method="first").to_numpy()
        names = np.ceil(rank / len(rows) * min(NUM_BANDS, len(rows))).astype(int).astype(str)
    return {str(name): np.flatnonzero(names == name).tolist() for name in sorted(set(names))}
