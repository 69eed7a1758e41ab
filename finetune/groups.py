"""By which columns of the index scores are broken down.

For: the columns that a benchmark names, and those that look like groups by themselves (age, sex,
who recorded it). Not for: the tables (``finetune/reporting/breakdown.py``).
"""

from __future__ import annotations

import pandas as pd

from finetune.benchmark import Benchmark
from finetune.folds import as_text
from shards.index import COLUMNS

# A column with more values than this is a measurement or a name and no group.
MAX_VALUES = 12


def group_columns(benchmark: Benchmark, rows: pd.DataFrame) -> tuple[str, ...]:
    """Columns by whose values predictions are grouped: the benchmark's, then those found.

    A column is found if the manifest brought it, at least two and at most ``MAX_VALUES`` values
    occur in it, each more than once, and it is text, whole numbers or yes and no. The truth, the
    speaker and what divides the folds are no groups.

    Args:
        benchmark: What is predicted.
        rows: Both sides of a fold.
    """
    named = [name for name in benchmark.groups if name in rows.columns]
    taken = {
        *COLUMNS,
        *benchmark.columns,
        *benchmark.votes,
        benchmark.speaker,
        benchmark.folds.column,
        *benchmark.disjoint,
    }
    found = [
        str(name)
        for name in rows.columns
        if name not in taken and name not in named and _is_group(rows[name])
    ]
    return (*named, *found)


def _is_group(column: pd.Series) -> bool:
    """Whether few values occur often."""
    if pd.api.types.is_float_dtype(column) and not (column.dropna() % 1 == 0).all():
        return False
    if column.nunique(dropna=True) > MAX_VALUES:  # before the slow way
        return False
    counts = column.map(as_text).value_counts()
    counts = counts[counts.index != ""]
    return 2 <= len(counts) <= MAX_VALUES and int(counts.min()) >= 2
