"""Going on with a build that was killed, and what is not worth another try.

For: ``build.py``. Not for: the journal itself (``journal.py``).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shards.building.assembly import Work, outcomes_of
from shards.building.journal import JournalContent, lost_recordings, read_journal, write_journal
from shards.building.outcome import Outcome, Refusal
from shards.building.parts import differences
from shards.building.salvage import salvage
from shards.building.workers import LOST_CAUSES
from shards.building.workplace import Workplace
from shards.building.writer import shard_name
from shards.manifest import ManifestRow, printable
from shards.settings import BuildConfig


def continue_journal(
    place: Workplace, identity: Mapping[str, Any], *, overwrite: bool
) -> JournalContent | None:
    """Find what an earlier run of this build did, and remove what it left unfinished.

    Args:
        place: Of the build, locked.
        identity: Of the build that is wanted, see ``build_identity``.
        overwrite: Whether the unfinished build of something else may go.

    Returns: what its journal tells, and what could be salvaged of unfinished shards; None where
        there is nothing to go on from.

    Raises:
        ValueError: There is an unfinished build of other recordings or settings.
    """
    content = read_journal(place.journal)
    if content is None:
        place.clear()
        return None
    told = differences(content.identity, identity)
    in_place = content.complete and not place.shards.exists()
    if told and not overwrite and not in_place:
        raise ValueError(
            f"{place.folder}: an unfinished build, but not this one ({told}); give what was given "
            "then to go on with it, --overwrite to begin anew, or another folder"
        )
    if told or (in_place and not place.place.exists()):
        place.clear()
        return None
    if in_place:
        return content
    shutil.rmtree(place.salvaged, ignore_errors=True)
    return _tidied(place, content, None)


def retry_lost(
    place: Workplace,
    content: JournalContent,
    rows: Sequence[ManifestRow],
    work: Work,
    config: BuildConfig,
) -> JournalContent:
    """Open recordings again that crashed or stalled an earlier run.

    Where one gives samples now, they belong between those of its neighbours: the shards of its
    split from there on are built again.

    Returns: the journal without what has to be done again; it is on the disk.
    """
    numbers = list(lost_recordings(content))
    if not numbers:
        return content
    outcomes = outcomes_of([rows[number] for number in numbers], work, config, place)
    for number, outcome in zip(numbers, outcomes, strict=True):
        for sample in outcome.samples:
            sample.remove()
        if outcome.samples:
            _forget_from(content, number, rows[number].split, config.samples_per_shard)
            content.salvaged.clear()  # the rest of a recording may be in a shard that goes
            del content.recordings[number]
    return _tidied(place, content, content.salvaged)


def read_quarantine(path: Path, rows: Sequence[ManifestRow]) -> dict[str, Refusal]:
    """Which recordings crashed or stalled a decoder in an earlier build.

    Args:
        path: Its ``refused.jsonl``.
        rows: Of this build; others are left out.

    Returns: path → refusal.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not what a build writes.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the refused.jsonl of a build")
    known = {printable(row.path) for row in rows}
    found: dict[str, Refusal] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            refusal = Refusal(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path} line {number}: no refusal ({error}); give the refused.jsonl of a build"
            ) from error
        if refusal.cause in LOST_CAUSES and refusal.path in known:
            found[refusal.path] = refusal
    return found


def _forget_from(content: JournalContent, number: int, split: str, samples_per_shard: int) -> None:
    """Forget the shards of a split that hold later samples, or that another would go into."""
    later = {
        str(row["shard"])
        for place, done in content.recordings.items()
        for row in done.samples
        if place > number and row["split"] == split
    }
    for name, described in list(content.shards.items()):
        of_split = _split_of(name) == split
        if name in later or (of_split and described["num_samples"] < samples_per_shard):
            del content.shards[name]


def _tidied(
    place: Workplace, content: JournalContent, salvaged: dict[int, Outcome] | None
) -> JournalContent:
    """Keep what is whole: shards without a gap before them, and the recordings in them.

    Args:
        place: Of the build.
        content: Of its journal.
        salvaged: What waits of the samples in other shards; None: it is taken out of them now.
    """
    whole: dict[str, dict[str, Any]] = {}
    gone: set[str] = set()
    for name, described in sorted(content.shards.items()):
        path, split = place.shards / name, _split_of(name)
        whole_file = path.is_file() and path.stat().st_size == described["bytes"]
        follows = name == shard_name(split, sum(_split_of(other) == split for other in whole))
        if whole_file and follows and split not in gone:
            whole[name] = described
        else:
            gone.add(split)
    content.shards = whole
    if salvaged is None:
        salvaged = salvage(place.shards, content.recordings, whole, place.salvaged)
    # A recording whose samples were in an unfinished shard only is as good as new: its line could
    # be taken for true once a shard of that name is finished again.
    content.recordings = {
        number: done
        for number, done in sorted(content.recordings.items())
        if not done.samples or any(row["shard"] in whole for row in done.samples)
    }
    write_journal(place.journal, content)  # before what it no longer knows goes
    if place.shards.exists():
        for path in place.shards.iterdir():
            if path.name in whole:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    tidied = read_journal(place.journal) or content
    tidied.salvaged = salvaged
    return tidied


def _split_of(shard: str) -> str:
    return shard.rpartition("-")[0]
