"""The recordings of a build, one after another, into its tars and its journal.

For: ``build.py``. What an earlier run dealt with is passed over, or was taken out of its
unfinished shards. Not for: what becomes of one recording (``prepare.py``), or the files around the
tars.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shards.building.journal import Done, Journal, Row
from shards.building.outcome import Outcome, Refusal
from shards.building.workers import Lost, run_in_order
from shards.building.workplace import Workplace
from shards.building.writer import ShardWriter
from shards.manifest import ManifestRow, printable
from shards.settings import BuildConfig


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a build is.

    Args:
        done: Recordings dealt with, those of earlier runs of the same build included.
        kept: How many of them an earlier run had dealt with.
        total: Recordings in all.
        num_samples: Samples there are.
        seconds: Length of those that this run wrote.
        refused: Refusals by cause.
    """

    done: int
    kept: int
    total: int
    num_samples: int
    seconds: float
    refused: Counter[str]


@dataclass(kw_only=True)
class Assembly:
    """What became of the recordings.

    Args:
        recordings: Of each, in order; ends early where the budget of refusals is exceeded.
        num_kept: Recordings that an earlier run had dealt with.
        num_lost: Recordings that gave no sample.
        rows: Of the index.
        shards: What ``index.json`` says of each shard.
    """

    recordings: list[Done] = field(default_factory=list)
    num_kept: int = 0
    num_lost: int = 0
    rows: list[Row] = field(default_factory=list)
    shards: list[dict[str, Any]] = field(default_factory=list)


# What makes the samples of a recording: called with it and ``staging=``, in a worker process.
Work = Callable[..., Outcome]


def assemble(
    place: Workplace,
    rows: Sequence[ManifestRow],
    work: Work,
    config: BuildConfig,
    journal: Journal,
    quarantined: Mapping[str, Refusal],
    on_progress: Callable[[Progress], None] | None = None,
) -> Assembly:
    """Write the samples of all recordings, in order.

    Args:
        place: Where.
        rows: The recordings.
        work: See ``Work``.
        config: Of the build.
        journal: What an earlier run did; what this one does is added.
        quarantined: By path, the refusals of recordings that are not to be opened.
        on_progress: Called after each recording.

    Returns: what became of them; it ends early once more are refused than ``config`` allows.
    """
    made, refused, seconds = Assembly(), Counter[str](), 0.0
    most = config.most_refused(len(rows))
    salvaged = journal.content.salvaged
    wanted = [
        row
        for number, row in enumerate(rows)
        if journal.kept(number) is None
        and number not in salvaged
        and printable(row.path) not in quarantined
    ]
    outcomes = outcomes_of(wanted, work, config, place)
    writer = ShardWriter(
        place.shards,
        samples_per_shard=config.samples_per_shard,
        finished=journal.content.shards,
        on_shard=journal.shard,
        keep_unfinished=True,
    )
    with writer:
        for number, row in enumerate(rows):
            done, path = journal.kept(number), printable(row.path)
            if done is not None:
                made.num_kept += 1
                for sample in done.samples:
                    writer.keep(sample)
            else:
                if number in salvaged:
                    outcome = salvaged.pop(number)
                    made.num_kept += 1
                elif path in quarantined:
                    outcome = Outcome(refusals=[quarantined[path]])
                else:
                    outcome = next(outcomes)
                begun = journal.begun(number)
                done = _write(outcome, writer, begun)
                seconds += sum(float(sample["seconds"] or 0) for sample in done.samples)
                journal.recording(number, done)
            made.recordings.append(done)
            made.num_lost += not done.samples
            refused.update(refusal.cause for refusal in done.refusals)
            if on_progress:
                on_progress(
                    Progress(
                        done=number + 1,
                        kept=made.num_kept,
                        total=len(rows),
                        num_samples=len(writer.rows),
                        seconds=seconds,
                        refused=refused,
                    )
                )
            if made.num_lost > most:
                outcomes.close()
                writer.drop()
                return made
    journal.flush_shards()
    made.rows, made.shards = writer.rows, writer.shards
    return made


def outcomes_of(
    rows: Sequence[ManifestRow], work: Work, config: BuildConfig, place: Workplace
) -> Generator[Outcome, None, None]:
    """What becomes of each recording, in order."""
    bounded = functools.partial(work, staging=place.staging())
    for row, outcome in run_in_order(
        bounded,
        rows,
        workers=config.workers,
        deadline_seconds=config.deadline_seconds,
        memory_bytes=None if config.worker_gib is None else int(config.worker_gib * 2**30),
    ):
        if isinstance(outcome, Lost):
            path = printable(row.path)
            refusal = Refusal(path=path, cause=outcome.cause, message=f"{path}: {outcome.message}")
            yield Outcome(refusals=[refusal])
        else:
            yield outcome


def _write(outcome: Outcome, writer: ShardWriter, begun: Sequence[Row]) -> Done:
    """Write the samples of a recording, except those that lie in finished shards already."""
    rows = list(begun)
    for row in begun:
        writer.keep(row)
    there = {row["key"] for row in begun}
    for sample in outcome.samples:
        if sample.info.key not in there:
            rows.append(writer.add(sample.info, sample.mjpg, sample.wav))
        sample.remove()
    return Done(samples=rows, refusals=outcome.refusals)
