"""Parts of a build, and which build a folder belongs to.

For: building one collection on several machines (``--part 2/8``), and knowing that an unfinished
build, or the parts of one, are of the same recordings and settings. Not for: joining the finished
parts (``merge.py``).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from shards.manifest import ManifestRow, printable
from shards.receipts.versions import library_versions
from shards.schema import SCHEMA_VERSION
from shards.settings import BuildConfig

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the parts into which the list of recordings is cut; the parts follow one another.

    Args:
        number: Which, from 1.
        of: How many there are.

    Raises:
        ValueError: There is no such part.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(
                f"part = {self.number}/{self.of} (the parts of {self.of} are 1/{self.of} to "
                f"{self.of}/{self.of})"
            )

    def cut(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items of this part; sizes differ by one at most."""
        begin, end = (len(items) * place // self.of for place in (self.number - 1, self.number))
        return items[begin:end]

    def __str__(self) -> str:
        """As it is typed."""
        return f"{self.number}/{self.of}"


def parse_part(text: str) -> Part:
    """Read ``2/8``.

    Raises:
        ValueError: It is something else.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if not match:
        raise ValueError(f"part = {text!r} (must be NUMBER/HOW_MANY from 1, such as 2/8)")
    return Part(number=int(match[1]), of=int(match[2]))


def list_digest(rows: Sequence[ManifestRow]) -> str:
    """SHA-256 of a list of recordings: keys, names, spans, labels, and not where the files are."""
    digest = hashlib.sha256()
    for row in rows:
        values = {item.name: getattr(row, item.name) for item in fields(row)}
        said = {
            name: printable(value.name) if isinstance(value, Path) else value
            for name, value in values.items()
        }
        digest.update(json.dumps(said, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def build_identity(
    rows: Sequence[ManifestRow],
    config: BuildConfig,
    *,
    part: Part | None,
    listing: str,
    quarantined: Iterable[str],
) -> dict[str, Any]:
    """All that the bytes of a build follow from, as plain data that JSON gives back unchanged.

    Args:
        rows: The recordings of this build or part.
        config: Its settings.
        part: Which part it is.
        listing: Digest of the whole list.
        quarantined: Paths of the recordings that are not to be opened.
    """
    digest = hashlib.sha256()
    for row in rows:
        for path in (row.path, row.audio, row.boxes):
            digest.update(f"{printable(path or '')} {_num_bytes(path)}\n".encode())
    identity = {
        "settings": config.recorded(),
        "part": None if part is None else str(part),
        "list": listing,
        "files": digest.hexdigest(),
        "quarantined": sorted(quarantined),
        "programs": {
            "schema": SCHEMA_VERSION,
            **library_versions(),
        },
    }
    return dict(json.loads(json.dumps(identity)))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What two identities do not share, in words; empty if they are the same."""
    told = []
    for group in ("settings", "programs"):
        for name in sorted({*old[group], *new[group]}):
            before, now = old[group].get(name), new[group].get(name)
            if before != now:
                told.append(f"{name} was {before} and is {now}")
    if old["part"] != new["part"]:
        told.append(f"part was {old['part']} and is {new['part']}")
    if old["list"] != new["list"]:
        told.append("the sources list other recordings")
    elif old["files"] != new["files"] and old["part"] == new["part"]:
        told.append("the files are others, or of another size")
    if old["quarantined"] != new["quarantined"]:
        told.append("other recordings are in quarantine")
    return ", ".join(told)


def _num_bytes(path: Path | None) -> int:
    """Size of a file; -1 where there is none, and for a folder of images."""
    try:
        return path.stat().st_size if path is not None and path.is_file() else -1
    except OSError:
        return -1
