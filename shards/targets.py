"""What a sample is to be recognised as: columns of the index as class numbers or real values.

For: labelled datasets. Not for: which samples are taken, or metrics (``hicmae/metrics.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas


def class_numbers(rows: pandas.DataFrame, column: str, names: Sequence[str]) -> np.ndarray:
    """The place of each row's label in the list of classes.

    Args:
        rows: Of the index.
        column: Which holds the labels; whole numbers are compared as they are written.
        names: Of the classes, in order.

    Returns: int64 (number of rows,).

    Raises:
        ValueError: No such column, a label that is missing or outside the list, a name twice.
    """
    _require_columns(rows, [column])
    numbers = {str(name): number for number, name in enumerate(names)}
    if len(numbers) < len(names) or not numbers:
        raise ValueError(f"classes of {column!r} are {list(names)} (each name once, one or more)")
    found = [_label_text(value) for value in rows[column]]
    strange = [place for place, label in enumerate(found) if label not in numbers]
    if strange:
        example = rows["key"].iloc[strange[0]]
        label = found[strange[0]]
        shown = "no label" if label is None else f"label {label!r}"
        raise ValueError(
            f"sample {example!r} has {shown} in column {column!r} ({len(strange)} of {len(rows)} "
            f"samples are outside the list; allowed: {', '.join(numbers)}); mend the manifest or "
            "leave these rows out"
        )
    return np.array([numbers[str(label)] for label in found], dtype=np.int64)


def real_values(rows: pandas.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """The real-valued targets of each row.

    Returns: float32 (number of rows, number of columns), the caller's own.

    Raises:
        ValueError: No such column, or a value that is missing or no finite number.
    """
    if not columns:
        raise ValueError("targets: no column given")
    _require_columns(rows, columns)
    values = rows.loc[:, list(columns)].apply(pandas.to_numeric, errors="coerce")
    # A copy: pandas hands out its own memory, which may not be written to.
    targets = values.to_numpy(dtype=np.float32, copy=True)
    bad = np.argwhere(~np.isfinite(targets))
    if len(bad):
        row, place = bad[0]
        raise ValueError(
            f"sample {rows['key'].iloc[row]!r} has no number in column {columns[place]!r} (found "
            f"{rows[columns[place]].iloc[row]!r}; {len(np.unique(bad[:, 0]))} of {len(rows)} "
            "samples are so); mend the manifest or leave these rows out"
        )
    return targets


def _label_text(value: object) -> str | None:
    """A label as it was written; a column with gaps turns whole numbers into fractions."""
    if value is None or value != value:  # NaN
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _require_columns(rows: pandas.DataFrame, columns: Sequence[str]) -> None:
    absent = [name for name in columns if name not in rows.columns]
    if absent:
        raise ValueError(
            f"the index has no column {', '.join(map(repr, absent))} (found "
            f"{', '.join(map(str, rows.columns))})"
        )
