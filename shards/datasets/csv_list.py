"""Any other collection: a table with a path a row, and whatever labels it has.

The table (CSV, TSV or JSON lines) has a column ``path``, relative to the root, and optionally
``audio``, ``key``, ``speaker``, ``start``, ``end``, ``region``, ``fps``, ``split`` and ``boxes``;
every other column is a label.

What this does beyond handing the table to ``hicmae shards build``: it names every file that is not
there, and with ``--folds N`` deals the speakers to N folds of nearly equal size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from shards.datasets.base import Dataset, Item, Listing, ReadOptions, speaker_folds
from shards.manifest import name_in, read_list, safe_key
from shards.schema import Label

_LAYOUT = "files named by the column path of --labels FILE"
_KNOWN = ("key", "path", "audio", "speaker", "start", "end", "region", "split")


def read(root: Path, options: ReadOptions) -> Listing:
    """List what a table names."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    if options.labels is None:
        raise ValueError(
            "csv: no table is given; name it with --labels FILE (columns path, and audio, speaker, "
            "label, fold, … as far as there are)"
        )
    table = options.labels
    listing = Listing()
    rows = read_list(table, root)
    taken, used = _given_keys(table, rows), Counter[str]()
    for line, row in rows:
        path = name_in(root, str(row.get("path", "")))
        if not path:
            raise ValueError(f"{table} line {line}: no path")
        if not (root / path).exists():
            listing.lack("no such file", path)
            continue
        audio = name_in(root, str(row["audio"])) if "audio" in row else None
        if audio is not None and not (root / audio).exists():
            listing.lack("no such sound file", audio)
            audio = None
        boxes = name_in(root, str(row["boxes"])) if "boxes" in row else None
        if boxes is not None and not (root / boxes).exists():
            listing.lack("no such file of face boxes", boxes)  # of which a build may have no need
        labels: dict[str, Label | None] = {
            name: value for name, value in row.items() if name not in _KNOWN
        }
        item = Item(
            key=_key(row, path, taken, used),
            path=path,
            audio=audio,
            speaker=str(row["speaker"]) if "speaker" in row else None,
            start=row.get("start"),
            end=row.get("end"),
            region=str(row["region"]) if "region" in row else None,
            split=str(row.get("split", "train")),
            labels=labels,
        )
        listing.items.append(item)
    if options.num_folds is not None and listing.items:  # of none the cause is told elsewhere
        _deal(listing, options.num_folds, table)
    return listing


def _given_keys(table: Path, rows: Sequence[tuple[int, Mapping[str, Any]]]) -> set[str]:
    """The keys that rows have.

    Raises: ValueError: two have the same.
    """
    lines: dict[str, int] = {}
    for line, row in rows:
        if "key" in row and (first := lines.setdefault(safe_key(str(row["key"])), line)) != line:
            raise ValueError(
                f"{table} line {line}: key {row['key']!r} is that of line {first}; give each row "
                "a key of its own, or leave the column out"
            )
    return set(lines)


def _key(row: Mapping[str, Any], path: str, taken: set[str], used: Counter[str]) -> str:
    """The key a row has, or its path without the suffix and, if that is taken, with a number.

    Args: used: How often paths were counted on, so that the spans of one are not counted anew.
    """
    if "key" in row:
        return str(row["key"])
    name = PurePosixPath(path)
    key = stem = str(name.with_suffix("") if name.name else name)
    while safe_key(key) in taken:
        used[stem] += 1
        key = f"{stem}_{used[stem] + 1}"
    taken.add(safe_key(key))
    return key


def _deal(listing: Listing, num_folds: int, table: Path) -> None:
    if any("fold" in item.labels for item in listing.items):
        raise ValueError(f"{table}: has a column fold already; leave out --folds, or the column")
    unnamed = [item for item in listing.items if item.speaker is None]
    if unnamed:
        raise ValueError(
            f"{table}: {len(unnamed)} rows have no speaker, the first is {unnamed[0].path}; folds "
            "are made by speaker"
        )
    speakers = {str(place): item.speaker or "" for place, item in enumerate(listing.items)}
    folds = speaker_folds(speakers, num_folds)
    for place, item in enumerate(listing.items):
        item.labels["fold"] = folds[str(place)]


DATASET = Dataset(
    title="any other collection",
    layout=_LAYOUT,
    access="your own",
    read=read,
    media=("auto",),
    columns=("fold",),
    takes_labels=True,
    seen="made-up tables",
)
