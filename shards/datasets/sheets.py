"""Tables that ship with datasets, by the names of their columns, every cell as text.

Cells of manifests have kinds: see ``shards/tables.py``, which reads both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hicmae.config import did_you_mean
from shards.tables import read_cells

Row = dict[str, str]


def read_sheet(path: Path, *, keep: Sequence[str] = ()) -> list[Row]:
    """Rows of a CSV or TSV (by its suffix), or of the first sheet of an ``.xlsx``.

    Names of columns lose the blanks around them; so do cells, and a whole number of a spreadsheet
    has no decimal point.

    Args:
        keep: Columns to keep of a large table; none given: all.

    Raises:
        ValueError: It cannot be read; one line with the remedy.
    """
    lines = [cells for _, cells in read_cells(path).lines]
    if not lines:
        raise ValueError(f"{path}: holds no table")
    kept = [(place, name) for place, name in enumerate(lines[0]) if not keep or name in keep]
    return [{name: line[place] for place, name in kept if place < len(line)} for line in lines[1:]]


def column(rows: Sequence[Row], names: Sequence[str], path: Path) -> str:
    """The first of some names that is a column, letters in any case.

    Raises:
        ValueError: None is; one line with the columns there are.
    """
    known = list(rows[0]) if rows else []
    for name in names:
        for there in known:
            if there.lower() == name.lower():
                return there
    near = did_you_mean(names[0], known)
    raise ValueError(
        f"{path}: no column {' or '.join(names)} (found: {', '.join(known) or 'no row'}){near}"
    )


def number(text: str) -> float | None:
    """A cell as a number; None if it is none (``NaN`` included)."""
    try:
        value = float(text)
    except ValueError:
        return None
    return None if value != value or value in (float("inf"), float("-inf")) else value
