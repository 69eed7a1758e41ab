"""What an unfinished build has done, so that it can be killed at any moment and go on.

For: ``build.py``. One line of JSON for each recording and each finished shard, behind a first line
that says which build it is. A line that names a shard is written once the shard itself is on the
disk, behind the lines of its recordings; what follows the first damaged line is forgotten. Not
for: finished folders, which keep no journal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shards.building.outcome import Outcome, Refusal
from shards.building.workers import LOST_CAUSES
from shards.schema import Label

_VERSION = 2  # 2: index rows have a checksum

Row = dict[str, Label | None]


@dataclass(frozen=True, kw_only=True)
class Done:
    """A recording that was dealt with: the index rows of its samples, and what was refused."""

    samples: list[Row] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


@dataclass(kw_only=True)
class JournalContent:
    """What a journal tells.

    Args:
        identity: Which build it is, see ``shards/building/parts.py``.
        recordings: Place in the list of recordings → what became of it.
        shards: The finished shards by name, as ``index.json`` describes them.
        complete: Whether the folder was ready to be put in place.
        num_bytes: Length of the part that can be read.
        salvaged: Place in the list → what became of a recording, of which some samples were in
            unfinished shards and wait in files again; not part of the file.
    """

    identity: dict[str, Any]
    recordings: dict[int, Done] = field(default_factory=dict)
    shards: dict[str, dict[str, Any]] = field(default_factory=dict)
    complete: bool = False
    num_bytes: int = 0
    salvaged: dict[int, Outcome] = field(default_factory=dict)


def read_journal(path: Path) -> JournalContent | None:
    """Read as far as it is whole; None if there is none, or not even its first line."""
    content: JournalContent | None = None
    if not path.is_file():
        return None
    with path.open("rb") as file:
        for line in file:
            entry = _entry(line)
            if content is None:
                if entry is None or entry.get("journal") != _VERSION:
                    return None
                content = JournalContent(identity=entry["identity"])
            elif entry is None:
                break
            elif "recording" in entry:
                content.recordings[entry["recording"]] = Done(
                    samples=entry["samples"],
                    refusals=[Refusal(**refusal) for refusal in entry["refusals"]],
                )
            elif "shard" in entry:
                content.shards[entry["shard"]["name"]] = entry["shard"]
            else:
                content.complete = bool(entry["complete"])
            content.num_bytes += len(line)
    return content


class Journal:
    """Appends to a journal, beginning it if there is none. Use it as a context manager.

    Args:
        path: The file.
        identity: Which build it is; equal to the one in the file, if there is one.
        content: What ``read_journal`` gave for the file.
    """

    def __init__(
        self, path: Path, identity: Mapping[str, Any], content: JournalContent | None
    ) -> None:
        self.content = content or JournalContent(identity=dict(identity))
        self._file = path.open("r+b" if content else "wb")
        self._file.truncate(self.content.num_bytes)
        self._file.seek(self.content.num_bytes)
        self._waiting: list[dict[str, Any]] = []
        if content is None:
            self._write({"journal": _VERSION, "identity": dict(identity)}, sync=True)

    def kept(self, number: int) -> Done | None:
        """What became of a recording, if nothing of it is lost with an unfinished shard."""
        done = self.content.recordings.get(number)
        return done if done and len(self.begun(number)) == len(done.samples) else None

    def begun(self, number: int) -> list[Row]:
        """Those samples of a recording that lie in finished shards."""
        done = self.content.recordings.get(number) or Done()
        return [row for row in done.samples if row["shard"] in self.content.shards]

    def recording(self, number: int, done: Done) -> None:
        """Note what became of a recording, and then the shards that were finished meanwhile."""
        entry = {
            "recording": number,
            "samples": done.samples,
            "refusals": [asdict(refusal) for refusal in done.refusals],
        }
        self._write(entry)
        self.flush_shards()

    def shard(self, described: Mapping[str, Any]) -> None:
        """Remember a finished shard; noted by ``flush_shards``, behind its last recording."""
        self._waiting.append(dict(described))

    def flush_shards(self) -> None:
        """Note the finished shards, and wait until the disk has all that was noted."""
        for described in self._waiting:
            self._write({"shard": described}, sync=True)
        self._waiting.clear()

    def complete(self) -> None:
        """Note that the folder is ready to be put in place."""
        self._write({"complete": True}, sync=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def _write(self, entry: Mapping[str, Any], *, sync: bool = False) -> None:
        self._file.write(json.dumps(entry, allow_nan=False).encode() + b"\n")
        self._file.flush()
        if sync:
            os.fsync(self._file.fileno())


def write_journal(path: Path, content: JournalContent) -> None:
    """Write a journal anew: beside its name, and then renamed."""
    beside = path.with_name(f"{path.name}.part")
    with Journal(beside, content.identity, None) as journal:
        for number, done in content.recordings.items():
            journal.recording(number, done)
        for described in content.shards.values():
            journal.shard(described)
        journal.flush_shards()
        os.fsync(journal._file.fileno())
    beside.replace(path)


def lost_recordings(content: JournalContent) -> Iterator[int]:
    """Places of the recordings whose worker died or was killed at its deadline."""
    for number, done in sorted(content.recordings.items()):
        if any(refusal.cause in LOST_CAUSES for refusal in done.refusals):
            yield number


def _entry(line: bytes) -> dict[str, Any] | None:
    """One whole line, or None."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
