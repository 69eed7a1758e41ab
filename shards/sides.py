"""On which sides of a split recordings are listed, and whether one is on two.

Of a list alone nobody knows what a benchmark will divide it by: sides are values of ``split`` and
of every column called ``fold``, ``NAME_fold`` or ``fold_…``.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hicmae.files import file_sha256
from hicmae.media.images import IMAGE_SUFFIXES

_SIDE = re.compile(r"split|(.*_)?folds?(_.*)?")


class Listed(NamedTuple):
    """What a list says of a recording, as far as it tells which part of it is on which side."""

    where: str
    file: str  # its real path
    span: tuple[float | None, float | None]
    part: tuple[Any, Any]  # of the picture: the person
    columns: Mapping[str, Any]


def refuse_two_sides(rows: Iterable[Listed], list_name: str = "") -> None:
    """Refuse a recording, or half of a span of it, that is listed twice on different sides.

    Of people in different parts of one picture both may be.

    Raises: ValueError: it would be trained on and tested on; the first such.
    """
    for first, second, name in _on_two_sides(rows, lambda row: row.file):
        raise ValueError(
            f"{list_name}{second.where}: the same recording and time as {first.where}, with {name}"
            f" {first.columns[name]} there and {second.columns[name]} here; it would be trained on"
            " and tested on; name it once, with the side that tests it, or build each side into a"
            " folder of its own"
        )


def copies_on_two_sides(rows: Iterable[Listed]) -> str:
    """A warning of files with the same bytes that are listed on different sides; else nothing.

    Only files of one size are read. Copies are no mistake of the list alone: datasets that others
    have divided may have some.
    """
    rows = list(rows)
    names = filter(_SIDE.fullmatch, set().union(*(row.columns for row in rows)))
    if all(len({row.columns.get(name) for row in rows} - {None}) < 2 for name in names):
        return ""
    sizes, digest = (functools.cache(functools.partial(_told, of)) for of in (_sizes, _digest))
    alike = []
    for by_side in _grouped(rows, lambda row: sizes(row.file))[1].values():
        of_size = list(itertools.chain(*by_side.values()))
        if len(by_side) > 1 and len({row.file for row in of_size}) > 1:
            alike += of_size
    found = list(_on_two_sides(alike, lambda row: digest(row.file)))
    if not found:
        return ""
    first, second, name = found[0]
    return (
        f"{len(found)} recordings are listed under two names each, the same byte for byte, and on"
        f" different sides, such as {second.where} and {first.where}, with {name}"
        f" {second.columns[name]} and {first.columns[name]}; what is trained on would be tested on;"
        " take one of them out of the list"
    )


def _on_two_sides(
    rows: Iterable[Listed], same: Callable[[Listed], Any]
) -> Iterator[tuple[Listed, Listed, str]]:
    """Of each recording, by what is ``same``, the first two rows on different sides, and the name
    of the column.
    """
    names, groups = _grouped(rows, same)
    for by_side in groups.values():
        if len(by_side) > 1:
            listed = sorted(itertools.chain(*by_side.values()), key=_begin)
            yield from itertools.islice(_conflicts(listed, names), 1)


def _grouped(
    rows: Iterable[Listed], same: Callable[[Listed], Any]
) -> tuple[list[str], dict[Any, dict[tuple[Any, ...], list[Listed]]]]:
    """Names of the columns that say the side; and rows by recording and part, then by side."""
    groups: dict[Any, dict[tuple[Any, ...], list[Listed]]] = {}
    names: list[str] = []
    asked: set[str] = set()
    for row in rows:
        if new := row.columns.keys() - asked:
            asked |= new
            names += filter(_SIDE.fullmatch, sorted(new))
        side = tuple(row.columns.get(name) for name in names)
        groups.setdefault((same(row), row.part), {}).setdefault(side, []).append(row)
    return names, groups


def _conflicts(
    listed: Sequence[Listed], names: Sequence[str]
) -> Iterator[tuple[Listed, Listed, str]]:
    """Rows of one recording that share half of the shorter one's time and not their side, and the
    name of its column; turns of a dialogue overlap a little.
    """
    for place, first in enumerate(listed):
        for second in (listed[at] for at in range(place + 1, len(listed))):
            both = min(_end(first), _end(second)) - _begin(second)
            if both <= 0:  # nor does any that begins later
                break
            if 2 * both < min(_end(row) - _begin(row) for row in (first, second)):
                continue
            for name in names:
                one, other = (row.columns.get(name) for row in (first, second))
                if one != other and None not in (one, other):
                    yield first, second, name


def _begin(row: Listed) -> float:
    return row.span[0] or 0.0


def _end(row: Listed) -> float:
    return math.inf if row.span[1] is None else row.span[1]


def _told(of: Callable[[list[Path]], Any], path: str) -> Any:
    """Something of a file, or of the images of a folder; the path where nothing is to be had."""
    folder = Path(path)
    try:
        files = sorted(folder.iterdir()) if folder.is_dir() else [folder]
        return of(
            [file for file in files if file == folder or file.suffix.lower() in IMAGE_SUFFIXES]
        )
    except OSError:  # which is said when it is built
        return path


def _sizes(files: Sequence[Path]) -> tuple[int, ...]:
    """Raises: OSError: a pipe or an empty file, none of which is a recording."""
    if not all(found := tuple(file.stat().st_size for file in files)):
        raise OSError
    return found


def _digest(files: Sequence[Path]) -> str:
    return " ".join(map(file_sha256, files))
