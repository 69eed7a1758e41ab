"""Joining the parts of a build (``--part 2/8``) into one folder of shards.

The parts are left as they are; on one file system their shards are shared with the whole, not
copied.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet

from hicmae.files import DigestingFile
from shards.building.journal import SUFFIX, IndexRow, Workplace, check_out
from shards.building.writer import shard_name
from shards.index import COLUMNS, JOURNAL_NAME, TABLE_NAME, read_index, write_index
from shards.schema import Label, ShardError, parse_sample_json
from shards.settings import REFUSED_NAME, Part, in_full

# What has to be the same in all parts: key of index.json → how a message names it.
_SHARED = {"config": "settings", "ignored": "ignored files", "schema_version": "schema version"}


@dataclass(frozen=True, kw_only=True)
class _PartFolder:
    """A finished part: its folder, which part it is, and its ``index.json``."""

    folder: Path
    part: Part
    info: dict[str, Any]


def merge_shards(
    parts: Sequence[Path | str],
    out: Path | str,
    *,
    overwrite: bool = False,
    on_shard: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Join all parts of a build; the folder appears when it is whole.

    It has the samples of the build without parts, in its order, under the same keys; only which
    shard a sample lies in may differ, since every part ends with a shard of its own.

    Args:
        parts: Their folders, in any order.
        out: The folder; new, empty, or (with ``overwrite``) the result of an earlier build.
        on_shard: Called with (done, total) after each shard.

    Returns: the ``counts`` of its index.

    Raises:
        FileNotFoundError: A folder that does not exist.
        ValueError: A folder that is no finished part, parts of different builds, a missing part,
            a damaged shard, no sample in any part, or an ``out`` that cannot be used.
    """
    folders = _checked([_open_part(Path(part)) for part in parts])
    with Workplace(Path(out)) as place:
        if place.journal.exists():
            raise ValueError(
                f"{place.folder}: an unfinished build of that name; finish it, remove it, or give "
                "another folder"
            )
        check_out(Path(out), overwrite)
        place.clear()
        place.shards.mkdir()
        rows, shards = _join_shards(folders, place.shards, on_shard)
        if not rows:
            raise ValueError("nothing to merge: none of the parts has a sample")
        refused: Counter[str] = Counter()
        with (place.shards / REFUSED_NAME).open("w", encoding="utf-8") as file:
            for each in folders:
                refused.update(each.info["refused"])
                file.write((each.folder / REFUSED_NAME).read_text(encoding="utf-8"))
        about = {
            "counts": {"num_recordings": folders[0].info["part"]["num_recordings"]},
            "config": folders[0].info["config"],
            "refused": dict(sorted(refused.items())),
            "ignored": folders[0].info["ignored"],
            "schema_version": folders[0].info["schema_version"],
            "shards": sorted(shards, key=lambda shard: str(shard["name"])),
        }
        write_index(place.shards, rows, about)
        from shards.receipts.receipt import recorded_versions, write_receipt

        built_by = [recorded_versions(each.folder) for each in folders if each.info["shards"]]
        agreed = all(versions == built_by[0] for versions in built_by)
        write_receipt(place.shards, versions=built_by[0] if agreed else {})
        place.put_in_place()
    return dict(read_index(Path(out)).info["counts"])


def _open_part(folder: Path) -> _PartFolder:
    """Read what a folder says of itself."""
    if folder.name.endswith(SUFFIX) or (folder / JOURNAL_NAME).exists():
        raise ValueError(f"{folder}: an unfinished part; give its build's command again first")
    beside = folder.with_name(folder.name + SUFFIX)
    if not folder.exists() and beside.exists():
        raise ValueError(f"{beside}: an unfinished part; give its build's command again first")
    info = read_index(folder).info
    if "part" not in info:
        raise ValueError(f"{folder}: no part of a build (parts are built with --part 1/2)")
    part = Part(number=info["part"]["number"], of=info["part"]["of"])
    return _PartFolder(folder=folder, part=part, info=info)


def _checked(folders: Sequence[_PartFolder]) -> list[_PartFolder]:
    """All parts of one build, in order; or a ValueError that says what is wrong."""
    if not folders:
        raise ValueError("no parts to merge were given")
    first, problems = folders[0], []
    for each in folders[1:]:
        for key, name in _SHARED.items():
            mine, others = each.info.get(key), first.info.get(key)
            if mine != others:
                if key == "config":
                    mine, others = in_full(mine or {}), in_full(others or {})
                named = _differing(others, mine)
                problems.append(f"{each.folder} has other {name} than {first.folder}{named}")
        for key, told in (
            ("of", "is one of {} parts, {} one of {}"),
            ("listing", "was built from another list of recordings than {1}"),
        ):
            if each.info["part"][key] != first.info["part"][key]:
                said = told.format(each.part.of, first.folder, first.part.of)
                problems.append(f"{each.folder} {said}")
    if problems:
        raise ValueError(f"parts of different builds: {'; '.join(problems)}")
    given: dict[int, list[str]] = defaultdict(list)
    for each in folders:
        given[each.part.number].append(str(each.folder))
    problems = [
        f"part {number}/{first.part.of} is given twice: {' and '.join(twice)}"
        for number, twice in sorted(given.items())
        if len(twice) > 1
    ]
    missing = [number for number in range(1, first.part.of + 1) if number not in given]
    if missing:
        listed = ", ".join(map(str, missing[:20])) + (", …" if len(missing) > 20 else "")
        problems.append(
            f"{len(missing)} of {first.part.of} parts missing: {listed}; build each with --part "
            f"NUMBER/{first.part.of}"
        )
    if problems:
        raise ValueError("; ".join(problems))
    return sorted(folders, key=lambda each: each.part.number)


def _differing(one: Any, other: Any) -> str:
    """Which values of two mappings differ, in brackets."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return f" ({other} and {one})"
    names = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    return f" ({', '.join(f'{name} {other.get(name)} and {one.get(name)}' for name in names)})"


def _join_shards(
    folders: Sequence[_PartFolder], to: Path, on_shard: Callable[[int, int], None] | None
) -> tuple[list[IndexRow], list[dict[str, Any]]]:
    """Bring all tars into one folder under new numbers; the rows and descriptions of them."""
    rows: list[IndexRow] = []
    shards: list[dict[str, Any]] = []
    numbers: Counter[str] = Counter()
    total = sum(len(each.info["shards"]) for each in folders)
    mixed = _mixed_labels(folders)
    for each in folders:
        names: dict[str, str] = {}
        for shard in each.info["shards"]:
            split = str(shard["name"]).rpartition("-")[0]
            name = shard_name(split, numbers[split])
            numbers[split] += 1
            names[shard["name"]] = name
            _bring(each.folder / shard["name"], to / name, shard)
            shards.append({**shard, "name": name})
            if on_shard:
                on_shard(len(shards), total)
        for row in pyarrow.parquet.read_table(each.folder / TABLE_NAME).to_pylist():
            restored = _as_built(each.folder, row, mixed) if mixed else row
            rows.append(restored | {"shard": names[row["shard"]]})
    return rows, shards


def _bring(path: Path, to: Path, shard: dict[str, Any]) -> None:
    """Link a tar, or copy it where links are not possible, and see that it is whole."""
    if not path.is_file() or path.stat().st_size != shard["bytes"]:
        found = f"has {path.stat().st_size} bytes" if path.is_file() else "is missing"
        raise ShardError(
            f"{path}: {found}, its index says {shard['bytes']} bytes; build this part again"
        )
    try:
        os.link(path, to)
    except OSError:  # another file system, or one without links
        with path.open("rb") as source, to.open("wb") as file:
            copy = DigestingFile(file.write)
            shutil.copyfileobj(source, copy)
        if copy.sha256 != shard["sha256"]:
            raise ShardError(
                f"{path}: its bytes are not those that were built (sha256); build this part again"
            ) from None


def _mixed_labels(folders: Sequence[_PartFolder]) -> set[str]:
    """Labels that are numbers in one part and text in another: the whole build has them as text,
    made from what each recording said and not from what the column of its part became.
    """
    kinds: dict[str, set[str]] = defaultdict(set)
    for each in folders:
        for field in pyarrow.parquet.read_schema(each.folder / TABLE_NAME):
            if field.name not in COLUMNS:
                kinds[field.name].add(str(field.type))
    return {name for name, found in kinds.items() if {"string", "double"} <= found}


def _as_built(folder: Path, row: dict[str, Any], mixed: set[str]) -> IndexRow:
    """A row with the labels that its sample's json has."""
    with (folder / row["shard"]).open("rb") as file:
        file.seek(row["json_offset"])
        info = parse_sample_json(file.read(row["json_length"]), f"{row['shard']}: {row['key']!r}")
    labels: dict[str, Label | None] = {name: info.labels.get(name) for name in mixed}
    return row | labels
