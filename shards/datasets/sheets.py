"""Tables that ship with datasets: CSV, TSV or a spreadsheet, every cell as text.

Cells of manifests have kinds: see ``shards/manifest.py``.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from hicmae.config import did_you_mean

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
    if path.suffix.lower() in (".xlsx", ".xlsm"):
        return _rows(iter(_spreadsheet(path)), path, keep)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _rows(csv.reader(file, delimiter=delimiter), path, keep)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read ({error}); save it as UTF-8 CSV") from error


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


def _rows(lines: Iterator[list[str]], path: Path, keep: Sequence[str]) -> list[Row]:
    """A table's lines by the names of its head; empty lines are none."""
    head = [name.strip() for name in next(lines, [])]
    if not any(head):
        raise ValueError(f"{path}: holds no table")
    kept = [(place, name) for place, name in enumerate(head) if not keep or name in keep]
    return [
        {name: line[place].strip() for place, name in kept if place < len(line)}
        for line in lines
        if any(line)
    ]


def _spreadsheet(path: Path) -> list[list[str]]:
    """Cells of the first sheet as text."""
    import pandas

    try:
        cells = pandas.read_excel(path, header=None, dtype=str, na_filter=False)
    except ImportError as error:
        raise ValueError(
            f"{path}: needs the package openpyxl (pip install openpyxl), or save it as CSV beside"
        ) from error
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise ValueError(f"{path}: no spreadsheet that can be read; save it as CSV") from error
    return [[str(cell) for cell in line] for line in cells.to_numpy().tolist() if any(line)]
