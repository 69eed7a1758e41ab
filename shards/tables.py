"""Tables as people have them: CSV with any separator, spreadsheets, JSON lines; and their kinds.

Read are what pandas and spreadsheets write (an index column, empty columns, ``;`` with decimal
commas, tabs, UTF-16, blanks before quotes), and lists without a head as the authors of VideoMAE and
HiCMAE have them. What cannot be told apart from a mistake is refused in one line.

Not here: what the columns of a manifest mean (``shards/manifest.py``).
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hicmae.config import did_you_mean
from hicmae.files import csv_records
from hicmae.media.images import SOUND_SUFFIXES, VIDEO_SUFFIXES

_RECORDINGS = VIDEO_SUFFIXES | frozenset(SOUND_SUFFIXES)
_SPREADSHEETS = (".xlsx", ".xlsm")
_JSON = (".json", ".jsonl", ".ndjson")
_OTHER_SPREADSHEETS = (".xls", ".xlsb", ".ods", ".numbers")
_TEXTS = (".csv", ".tsv", ".tab", ".txt", ".lst")
TABLE_SUFFIXES = (*_TEXTS, *_JSON, *_SPREADSHEETS, *_OTHER_SPREADSHEETS)

# Numbers as a program writes them: ids with leading zeros are none, nor are digests such as
# 12e34567, because an exponent follows one digit and its fraction.
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+|[0-9](\.[0-9]*)?[eE][-+]?[0-9]{1,3})")
_DECIMAL_COMMA = re.compile(r"-?[0-9]+(,[0-9]+)?")
_EXACT = 2**53  # whole numbers up to here are told apart as float64 too; beyond are ids
# An id that a program took for a number, as Excel (7.12346E+18) and pandas (7.123456789012346e+18)
# write what is left of it: it names others too.
_SHORTENED = re.compile(r"-?[0-9]\.([0-9]{1,5}E\+(1[1-9]|[2-9][0-9])|[0-9]+e\+(1[6-9]|[2-9][0-9]))")
_NO_NUMBER = frozenset(("nan", "-nan"))  # how programs write a number that is missing

_DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar", " ": "blank"}
_SEPARATOR_LINE = re.compile(r"sep=(.)[\r\n]+")  # what Excel puts on top of a CSV
_PANDAS_INDEX = re.compile(r"(Unnamed: [0-9]+([._][0-9]+)*)?")
_SHOWN = 12  # names of columns in a message


@dataclass(frozen=True)
class Cells:
    """A table as text.

    Args:
        lines: Number of the line in the file, and its cells without blanks around them; lines
            without content are left out.
        delimiter: What was between the cells; empty: a spreadsheet.
    """

    lines: list[tuple[int, list[str]]]
    delimiter: str


def is_shortened(cell: str) -> bool:
    """Whether a cell is what programs leave of a long number, which no table is believed."""
    return bool(_SHORTENED.fullmatch(cell))


def read_table(
    path: Path, *, needed: str, text: Collection[str] = (), taken: Collection[str] = ()
) -> list[tuple[int, dict[str, Any]]]:
    """Rows with the numbers of their lines; empty cells are left out.

    Each column is of one kind throughout: whole numbers, numbers or text (JSON has true and false
    besides). Whole numbers beyond 2^53 are ids, and text.

    Args:
        path: The table; its suffix says of what kind it is.
        needed: The column that every table must have.
        text: Columns that are text whatever they look like.
        taken: Names that no column may have.

    Raises: ValueError: it cannot be understood: one line with the place and the remedy.
    """
    if path.suffix.lower() in _JSON:
        return _json_rows(path, needed, taken)
    cells = read_cells(path, needed=needed)
    head, lines = _with_head(path, cells, needed)
    kept = _named_columns(path, head, lines)
    _check_columns(path, [head[place] for place in kept], needed, taken)
    columns = {
        head[place]: _typed(
            path,
            head[place],
            [(number, line[place] if place < len(line) else "") for number, line in lines],
            text=head[place] in text,
            decimal_comma=cells.delimiter == ";",
        )
        for place in kept
    }
    return [
        (number, {name: values[at] for name, values in columns.items() if values[at] is not None})
        for at, (number, _) in enumerate(lines)
    ]


def read_cells(path: Path, *, needed: str = "") -> Cells:
    """A CSV, TSV or the first sheet of an ``.xlsx`` as text.

    Args: needed: A column that its head should have, by which the separator is found; without one
        it is the separator that makes the most of the first line.
    Raises: ValueError: it cannot be read; one line with the remedy.
    """
    suffix = path.suffix.lower()
    if suffix in _OTHER_SPREADSHEETS:
        raise ValueError(f"{path}: spreadsheets of this kind are not read; save it as .xlsx or CSV")
    if suffix in _SPREADSHEETS:
        return Cells(_spreadsheet(path), "")
    text = _text(path)
    usual = "\t" if suffix in (".tsv", ".tab") else ","
    if said := _SEPARATOR_LINE.match(text):
        delimiter, skipped = said.group(1), 1
        text = text[said.end() :]
    else:
        delimiter, skipped = _delimiter(text, usual, needed), 0
    try:
        lines = csv_records(text, delimiter)
    except csv.Error as error:
        raise ValueError(
            f"{path}: cannot be read as CSV ({error}); save it as UTF-8 CSV, with cells that hold "
            f"a {_DELIMITERS.get(delimiter, 'separator')} or a quotation mark in quotes"
        ) from error
    return Cells([(number + skipped, cells) for number, cells in lines], delimiter)


def check_widths(
    path: Path, head: Sequence[str], lines: Sequence[tuple[int, Sequence[str]]]
) -> None:
    """Refuse cells without a column, of which nobody knows which cells they have pushed aside."""
    for number, line in lines:
        if any(line[len(head) :]):
            raise ValueError(
                f"{path} line {number}: {len(line)} cells under {len(head)} columns; quote cells "
                "that hold a separator"
            )


def _check_columns(
    path: Path, names: Sequence[str], needed: str, taken: Collection[str], where: str = ""
) -> None:
    """Refuse a table that lacks its column, or has a name twice or one of another's."""
    problems = []
    if needed not in names:
        near = next((name for name in names if did_you_mean(name.lower(), [needed])), None)
        found = ", ".join(" ".join(name.split())[:40] for name in names[:_SHOWN]) or "nothing"
        found += f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        problems.append(
            f"no column {needed!r} (found: {found}"
            + (f"; is it {near[:40]!r}?)" if near else f"; call the column of files {needed!r})")
        )
    for name in dict.fromkeys(names):
        if not name:
            problems.append("a column without a name; name it, or delete it")
        if names.count(name) > 1:
            problems.append(f"column {name!r} is there twice")
        if name in taken:
            problems.append(f"column {name!r} is a name of the index; rename it")
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"{path}{where}: {'; '.join(problems[:3])}{more}")


def _text(path: Path) -> str:
    """UTF-8, or UTF-16 that says so in its first bytes (Excel's Unicode text)."""
    data = path.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: is no UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    if "\0" in text:
        raise ValueError(f"{path}: is no text (it holds zero bytes); save it as UTF-8")
    return text


def _delimiter(text: str, usual: str, needed: str) -> str:
    """The separator by which the first line names the column, or that makes the most of it."""
    heads = {}
    for delimiter in (usual, *(other for other in _DELIMITERS if other not in (usual, " "))):
        lines = io.StringIO(text, newline="")
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        try:
            heads[delimiter] = next((cells for cells in reader if any(map(str.strip, cells))), [])
        except csv.Error:
            continue
    if not any(len(head) > 1 for head in heads.values()):  # nothing else separates
        heads[" "] = "".join(heads.get(usual, [])).split()
    if needed:
        named = (d for d, head in heads.items() if needed in [x.strip(" ").lower() for x in head])
        return next(named, usual)
    return max((d for d in heads if d != " "), key=lambda d: len(heads[d]), default=usual)


def _with_head(
    path: Path, cells: Cells, needed: str
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and the lines below them."""
    if not cells.lines:
        return [], []
    names = [" ".join(name.split()) for name in cells.lines[0][1]]
    if any(name.lower() == needed for name in names) or not cells.delimiter:
        return names, cells.lines[1:]
    # Lists of video networks have no head, and blanks between the cells.
    for delimiter in dict.fromkeys((cells.delimiter, " ", "\t", ";")):
        try:
            lines = csv_records(_text(path), delimiter)
        except csv.Error:
            continue
        if head := _head_of_list([line for _, line in lines], needed):
            return head, lines
    if any(_is_medium(word, _RECORDINGS) for word in " ".join(names).split()):
        line = ("," if len(names) > 1 else " ").join(names)[:60]
        raise ValueError(
            f"{path} line {cells.lines[0][0]}: {line!r} is a recording and no name of a column; "
            f"put the names of the columns above it, such as '{needed},label'"
        )
    return names, cells.lines[1:]


def _head_of_list(lines: Sequence[Sequence[str]], needed: str) -> list[str]:
    """Names for a list of recordings without a head; none if it is something else.

    Known are a recording, or a recording and its sound, and a whole number behind them, the label.
    """
    if not lines or len({len(line) for line in lines}) != 1:
        return []
    if not all(_is_medium(line[0], _RECORDINGS) for line in lines):
        return []
    if len(lines[0]) == 1:
        return [needed]
    if not all(_INTEGER.fullmatch(line[-1]) for line in lines):
        return []
    if len(lines[0]) == 2:
        return [needed, "label"]
    sounds = all(_is_medium(line[1], SOUND_SUFFIXES) for line in lines)
    return [needed, "audio", "label"] if len(lines[0]) == 3 and sounds else []


def _is_medium(name: str, suffixes: Collection[str]) -> bool:
    return Path(name).suffix.lower() in suffixes


def _named_columns(
    path: Path, head: Sequence[str], lines: Sequence[tuple[int, Sequence[str]]]
) -> list[int]:
    """Places of the columns to keep: not the index of pandas, and not what is empty throughout.

    Raises: ValueError: cells without a column, or a column with content and no name.
    """
    check_widths(path, head, lines)
    kept: list[int] = []
    for place, name in enumerate(head):
        if _PANDAS_INDEX.fullmatch(name):
            found = [(n, line[place]) for n, line in lines if place < len(line) and line[place]]
            if not found or (not kept and all(_INTEGER.fullmatch(cell) for _, cell in found)):
                continue
            if not name:
                raise ValueError(
                    f"{path}: column {place + 1} has no name, and {len(found)} cells (line "
                    f"{found[0][0]}: {found[0][1][:40]!r}); name it, or delete it"
                )
        kept.append(place)
    return kept


def _typed(
    path: Path, name: str, cells: Sequence[tuple[int, str]], *, text: bool, decimal_comma: bool
) -> list[Any]:
    """The values of a column: all whole numbers, all numbers or all text; None where empty."""
    given = [cell for _, cell in cells if cell and cell.lower() not in _NO_NUMBER]
    for number, cell in cells:
        if is_shortened(cell):
            raise ValueError(
                f"{path} line {number}: {name} is {cell}, a long number without its last digits; "
                "write the column as text where the table was made"
            )
    if text:
        return [cell or None for _, cell in cells]
    if decimal_comma and all(map(_DECIMAL_COMMA.fullmatch, given)):
        cells = [(number, cell.replace(",", ".")) for number, cell in cells]
        given = [cell.replace(",", ".") for cell in given]
    kind: Any = str
    if all(map(_INTEGER.fullmatch, given)):
        kind = int
    elif all(map(_NUMBER.fullmatch, given)) and all(abs(float(x)) <= _EXACT for x in given):
        kind = float
    if kind is int and any(len(cell) > 17 or abs(int(cell)) > _EXACT for cell in given):
        kind = str
    if kind is str:
        return [cell or None for _, cell in cells]
    return [kind(cell) if cell and cell.lower() not in _NO_NUMBER else None for _, cell in cells]


class Object(dict[str, Any]):
    """An object of JSON, which may have a name twice and then holds the last value."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.names = [name for name, _ in pairs]


def _json_rows(path: Path, needed: str, taken: Collection[str]) -> list[tuple[int, dict[str, Any]]]:
    """JSON lines, or one list of objects as pandas writes it; nulls are left out."""
    text = _text(path)
    rows: list[tuple[int, Any]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append((number, json.loads(line, object_pairs_hook=Object)))
        except (ValueError, RecursionError) as error:
            whole = _json_list(text)
            if whole is None:
                reason = " ".join(str(error).split())
                raise ValueError(
                    f"{path} line {number}: no JSON ({reason}); each line is one object"
                ) from error
            rows = whole
            break
    if len(rows) == 1 and isinstance(rows[0][1], list):
        rows = _json_list(text) or rows
    for number, row in rows:
        if not isinstance(row, Object):
            raise ValueError(f"{path} line {number}: {type(row).__name__}, not an object")
        _check_columns(path, row.names, needed, taken, f" line {number}")
    return _of_one_kind(rows)


def _json_list(text: str) -> list[tuple[int, Any]] | None:
    """The objects of a list, numbered; None if it is something else."""
    try:
        whole = json.loads(text, object_pairs_hook=Object)
    except (ValueError, RecursionError):
        return None
    if not isinstance(whole, list) or not all(isinstance(row, dict) for row in whole):
        return None
    return list(enumerate(whole, start=1))


def _of_one_kind(
    rows: Sequence[tuple[int, dict[str, Any]]],
) -> list[tuple[int, dict[str, Any]]]:
    """Rows without nulls, and with numbers of one kind a column."""
    kinds: dict[str, set[type]] = {}
    for _, row in rows:
        for name, value in row.items():
            long = type(value) is int and abs(value) > _EXACT
            kinds.setdefault(name, set()).add(str if long else type(value))

    def value_of(name: str, value: Any) -> Any:
        if type(value) is int and str in kinds[name]:
            return str(value)
        return float(value) if type(value) is int and float in kinds[name] else value

    return [
        (number, {name: value_of(name, x) for name, x in row.items() if x is not None})
        for number, row in rows
    ]


def _spreadsheet(path: Path) -> list[tuple[int, list[str]]]:
    import pandas  # which only a spreadsheet waits for

    try:
        table = pandas.read_excel(path, header=None, dtype=object, na_filter=False)
    # Of zip files, of XML and of openpyxl: there is no end to what may be wrong in one.
    except Exception as error:
        raise ValueError(
            f"{path}: no spreadsheet that can be read ({type(error).__name__}); save it as CSV"
        ) from error
    rows = enumerate(table.to_numpy().tolist(), start=1)
    lines = [(number, [_cell_text(path, number, cell) for cell in row]) for number, row in rows]
    return [(number, cells) for number, cells in lines if any(cells)]


def _cell_text(path: Path, number: int, value: Any) -> str:
    """A cell as text; a whole number has no decimal point."""
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, float) and not math.isfinite(value):
            return ""
        if abs(value) >= 1e15:
            raise ValueError(
                f"{path} line {number}: {str(value)[:20]} has more digits than the 15 that a "
                "spreadsheet keeps; enter it again in a column that is formatted as text"
            )
        return str(int(value)) if value == int(value) else repr(value)
    return str(value).strip()
