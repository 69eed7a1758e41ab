"""Samples of an unfinished build, taken out of shards that were not finished.

For: going on without decoding again what lies half-way in a shard. Not for: finished shards, which
are kept as they are (``writer.py``).

A sample counts if its blocks have the checksum that the journal knows of it, so it does not
matter how much of the shard had reached the disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from shards.blocks import blocks_of, checksum
from shards.building.journal import Done, Row
from shards.building.outcome import Outcome, Prepared
from shards.building.writer import shard_name
from shards.sample_json import parse_sample_json
from shards.schema import ShardError


def salvage(
    shards: Path, recordings: dict[int, Done], finished: Iterable[str], into: Path
) -> dict[int, Outcome]:
    """Take out the samples of recordings that do not lie in finished shards.

    Args:
        shards: Folder of the build's tars, finished and unfinished.
        recordings: What the journal tells of them.
        finished: Names of finished shards.
        into: A folder for their members; made here.

    Returns: number of a recording → what became of it, without the samples in finished shards;
        only recordings of which every other sample is whole and in the shard that follows on the
        finished ones of its split. So no more than a shard a split is copied.
    """
    finished = set(finished)
    lengths = Counter(name.rpartition("-")[0] for name in finished)
    into.mkdir(exist_ok=True)
    found = {}
    for number, done in recordings.items():
        rows = [row for row in done.samples if row["shard"] not in finished]
        follows = (shard_name(str(row["split"]), lengths[str(row["split"])]) for row in rows)
        if any(row["shard"] != name for row, name in zip(rows, follows, strict=True)):
            continue
        samples = [_sample(shards, row, into / f"{number}-{n}") for n, row in enumerate(rows)]
        whole = [sample for sample in samples if sample is not None]
        if rows and len(whole) == len(rows):
            found[number] = Outcome(samples=whole, refusals=done.refusals)
        else:
            for sample in whole:
                sample.remove()
    return found


def _sample(shards: Path, row: Row, stem: Path) -> Prepared | None:
    """One sample, its members put beside each other; None if it is not whole."""
    places = {
        kind: (_number(row, f"{kind}_offset"), _number(row, f"{kind}_length"))
        for kind in ("mjpg", "wav", "json")
    }
    name = f"{row['key']}.mjpg"
    begin, end = blocks_of(name, places["mjpg"][0], sum(places["json"]))
    # It has this name from when its last byte was written to when the journal heard of it.
    for path in (shards / f"{row['shard']}.part", shards / str(row["shard"])):
        try:
            with path.open("rb") as file:
                file.seek(begin)
                blocks = file.read(end - begin)
        except OSError:
            continue
        if checksum(blocks) == row.get("blocks_xxh3"):
            break
    else:
        return None
    members = {
        kind: blocks[offset - begin : offset - begin + length]
        for kind, (offset, length) in places.items()
        if length > 0
    }
    try:
        info = parse_sample_json(members["json"], str(row["shard"]))
    except ShardError:
        return None
    mjpg, wav = stem.with_suffix(".mjpg"), stem.with_suffix(".wav")
    mjpg.write_bytes(members["mjpg"])
    if "wav" in members:
        wav.write_bytes(members["wav"])
    return Prepared(info=info, mjpg=mjpg, wav=wav if "wav" in members else None)


def _number(row: Row, name: str) -> int:
    value = row[name]
    assert isinstance(value, int), (name, value)
    return value
