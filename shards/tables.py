"""The rows of a CSV or JSON-lines file as plain values, with the line each came from.

For: reading manifests, whose meaning is in ``manifest.py``. Not for: label tables of datasets.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hicmae.plain import did_you_mean
from shards.index import COLUMNS

TEXT_COLUMNS = ("key", "path", "audio", "boxes", "region", "speaker", "split")
RESERVED = (*TEXT_COLUMNS, "start", "end", "fps")


def delimiter(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def read_csv(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Rows with their line numbers; empty cells are left out and each column is of one kind."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter(path))
            header = [name.strip() for name in next(reader, [])]
            check_columns(path, header)
            lines = [(reader.line_num, cells) for cells in reader if any(cells)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read as CSV ({error}); save it as UTF-8") from error
    for number, cells in lines:
        if len(cells) != len(header):
            raise ValueError(
                f"{path} line {number}: {len(cells)} cells under {len(header)} columns; quote "
                "cells that hold a comma"
            )
    columns = {
        name: _typed([cells[place] for _, cells in lines], text=name in TEXT_COLUMNS)
        for place, name in enumerate(header)
    }
    return [
        (number, {name: values[at] for name, values in columns.items() if values[at] is not None})
        for at, (number, _) in enumerate(lines)
    ]


# Numbers as a program writes them; ids with leading zeros are none.
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
_NUMBER = re.compile(r"-?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


def _typed(cells: Sequence[str], *, text: bool) -> list[Any]:
    """The values of a CSV column: all whole numbers, all numbers or all text; None if empty."""
    cells = [cell.strip() for cell in cells]
    given = [cell for cell in cells if cell]
    kind: Any = str
    if not text and all(_INTEGER.fullmatch(cell) for cell in given):
        kind = int
    elif not text and all(_NUMBER.fullmatch(cell) for cell in given):
        kind = float
    return [kind(cell) if cell else None for cell in cells]


def read_json_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Rows with their line numbers; nulls are left out."""
    rows = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no UTF-8 text ({error.reason})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"{path} line {number}: no JSON ({error}); each line is one object"
            ) from error
        if not isinstance(row, dict):
            raise ValueError(f"{path} line {number}: {type(row).__name__}, not an object")
        check_columns(path, list(row), f" line {number}")
        rows.append((number, {name: value for name, value in row.items() if value is not None}))
    return rows


def check_columns(path: Path, names: list[str], where: str = "") -> None:
    """Refuse a manifest without paths, and names that the index needs for itself."""
    problems = []
    if "path" not in names:
        near = next((name for name in names if did_you_mean(name.lower(), ["path"])), None)
        problems.append(
            f"no column 'path' (found: {', '.join(names) or 'nothing'}"
            + (f"; is it {near!r}?)" if near else ")")
        )
    for name in names:
        if not name:
            problems.append("a column without a name")
        elif names.count(name) > 1:
            problems.append(f"column {name!r} is there twice")
        elif name in COLUMNS and name not in RESERVED:
            problems.append(f"column {name!r} is a name of the index; rename it")
    if problems:
        raise ValueError(f"{path}{where}: {'; '.join(dict.fromkeys(problems))}")
