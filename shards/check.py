"""Are shards whole, and are they what their index and the schema say?

For: ``hicmae shards check``. Everything is read and every image decoded. Not for: mending.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas

from shards.building.journal import read_journal
from shards.building.workplace import SUFFIX
from shards.check_sample import MEMBERS, check_sample, has_its_checksum
from shards.index import JOURNAL_NAME, Index, read_index


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong.

    Args:
        shard: File name of the shard, or of an index file.
        key: Of the sample; None if it concerns the shard.
        message: What was found and what should be.
    """

    shard: str
    key: str | None
    message: str

    def __str__(self) -> str:
        """One line."""
        sample = f"sample '{self.key}': " if self.key is not None else ""
        return f"{self.shard}: {sample}{self.message}"


def check_shards(
    folder: Path | str, *, on_shard: Callable[[int, int], None] | None = None
) -> list[Problem]:
    """Check a folder of shards.

    Args:
        folder: With its index; or that of an unfinished build (``OUT.partial``, or the ``OUT`` it
            is to become), of which the finished shards are compared with its journal.
        on_shard: Called with (done, total) after each shard.

    Returns: every problem, in the order of the shards; empty if all is well.

    Raises:
        FileNotFoundError: There is no such folder.
        ShardError: It has no index that can be read.
    """
    folder = Path(folder)
    beside = folder.with_name(folder.name + SUFFIX)
    for place in (folder, *(() if folder.exists() else (beside,))):
        if (place / JOURNAL_NAME).is_file():
            return _check_unfinished(place)
    index = read_index(folder)
    problems = list(_check_index(index))
    rows = dict(iter(index.table.groupby("shard", sort=False)))
    described = index.info["shards"]

    def check(shard: dict[str, Any]) -> list[Problem]:
        return list(_check_shard(index, shard, rows.get(shard["name"], index.table[:0])))

    # Threads: reading, hashing and decoding all let go of the interpreter.
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
        for done, found in enumerate(pool.map(check, described), start=1):
            problems += found
            if on_shard:
                on_shard(done, len(described))
    return problems


def _check_unfinished(folder: Path) -> list[Problem]:
    """The finished shards of an unfinished build; that it is unfinished is the first problem."""
    content = read_journal(folder / JOURNAL_NAME)
    shards = content.shards.values() if content else ()
    num_recordings = len(content.recordings) if content else 0
    told = (
        f"an unfinished build ({num_recordings} recordings are dealt with, {len(shards)} shards "
        "are finished); give the command that began it again to finish it"
    )
    problems = [Problem(shard=folder.name, key=None, message=told)]
    for shard in shards:
        path = folder / "shards" / shard["name"]
        if path.is_file():
            problems += _check_bytes(path, shard)
        else:
            problems.append(Problem(shard=path.name, key=None, message="is missing"))
    return problems


def _check_index(index: Index) -> Iterator[Problem]:
    """The index against itself and against the folder."""
    table = index.table
    for key in table["key"][table["key"].duplicated()].unique():
        yield Problem(shard="index.parquet", key=str(key), message="is there more than once")
    listed = set(index.shards)
    for name in sorted(set(table["shard"]) - listed):
        yield Problem(shard=name, key=None, message="has rows in the index, and is not in its list")
    for path in sorted(index.folder.rglob("*.part")):
        yield Problem(shard=path.name, key=None, message="is half-written; remove it")
    for path in sorted(index.folder.glob("*.tar")):
        if path.name not in listed:
            yield Problem(shard=path.name, key=None, message="is not in the index")
    counts = index.info["counts"]
    for name, found in (
        ("num_samples", len(table)),
        ("num_frames", int(table["num_frames"].sum())),
    ):
        if counts.get(name) != found:
            yield Problem(
                shard="index.json",
                key=None,
                message=f"counts {name} {counts.get(name)}, its table has {found}",
            )


def _check_shard(index: Index, shard: dict[str, Any], rows: pandas.DataFrame) -> Iterator[Problem]:
    """One tar against its description and its rows."""
    name, path = shard["name"], index.folder / shard["name"]
    if not path.is_file():
        yield Problem(shard=name, key=None, message="is missing; rebuild the folder")
        return
    yield from _check_bytes(path, shard)
    if len(rows) != shard["num_samples"]:
        yield Problem(
            shard=name,
            key=None,
            message=f"index.json says {shard['num_samples']} samples, the table has {len(rows)}",
        )
    try:
        found = _tar_members(path)
    except (tarfile.TarError, OSError) as error:
        yield Problem(shard=name, key=None, message=f"cannot be read as a tar ({error})")
        found = None
    expected: set[str] = set()
    with path.open("rb") as file:
        for record in rows.to_dict("records"):
            row = {str(name): value for name, value in record.items()}
            key = str(row["key"])
            present = [kind for kind in MEMBERS if row[f"{kind}_length"] > 0]
            expected |= {f"{key}.{kind}" for kind in present}
            messages = list(check_sample(file, row, index.label_columns, present, found))
            if not messages and not has_its_checksum(file, row):
                messages = ["its blocks in the tar are not those of its checksum in the index"]
            yield from (Problem(shard=name, key=key, message=message) for message in messages)
    for extra in sorted(found.keys() - expected) if found is not None else ():
        yield Problem(
            shard=name, key=extra.split(".")[0], message=f"its member {extra} is not in the index"
        )


def _check_bytes(path: Path, shard: dict[str, Any]) -> Iterator[Problem]:
    """Length and digest of a tar against its description."""
    size = path.stat().st_size
    if size != shard["bytes"]:
        yield Problem(
            shard=path.name,
            key=None,
            message=f"has {size} bytes, the index says {shard['bytes']}; "
            + ("it is truncated" if size < shard["bytes"] else "it has grown"),
        )
    elif _sha256(path) != shard["sha256"]:
        yield Problem(
            shard=path.name, key=None, message="its bytes are not those that were built (sha256)"
        )


def _tar_members(path: Path) -> dict[str, tuple[int, int]]:
    """Name → (offset of the data, length), of all members."""
    with tarfile.open(path, "r:") as tar:
        return {member.name: (member.offset_data, member.size) for member in tar}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
