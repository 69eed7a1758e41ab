"""From recordings to a folder of shards with its index: ``hicmae shards build``.

What becomes of one recording is in ``prepare.py``. The folder does not depend on the number of
workers, nor on how often the build was killed and begun again (``journal.py``), and two builds of
the same files give the same bytes.
"""

from __future__ import annotations

import functools
import json
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hicmae.files import write_text
from hicmae.media.images import SOUND_SUFFIXES
from hicmae.processes import end_if_begun_again
from shards.building.journal import (
    SUFFIX,
    Done,
    IndexRow,
    Journal,
    Workplace,
    build_identity,
    check_out,
    continue_journal,
    list_digest,
)
from shards.building.prepare import (
    Outcome,
    Refusal,
    check_detector,
    prepare_recording,
    refusal_of,
    settle_worker,
)
from shards.building.workers import Lost, run_in_order
from shards.building.writer import ShardWriter
from shards.index import INFO_NAME, JOURNAL_NAME, TABLE_NAME, write_index
from shards.manifest import ManifestRow, list_folder, printable, read_manifest, unique_keys
from shards.settings import REFUSED_NAME, BuildConfig, Part
from shards.sides import Listed, copies_on_two_sides, refuse_two_sides


@dataclass(frozen=True, kw_only=True)
class BuildProgress:
    """How far a build is.

    Args:
        done: Recordings dealt with, those of earlier runs of the same build included.
        kept: How many of them an earlier run had dealt with.
        seconds: Length of those that this run wrote.
    """

    done: int
    kept: int
    total: int
    num_samples: int
    seconds: float
    refused: Counter[str]


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """What a build did.

    Args:
        num_recordings: Rows of the sources, or of this part of them.
        num_kept: How many of them an earlier, unfinished run had dealt with.
        seconds: Their length together.
        refusals: Recordings (or segments of some) that are not in the shards, in order.
        ignored: Files of source folders that are no recordings by their suffix.
    """

    folder: Path
    num_recordings: int
    num_kept: int = 0
    num_samples: int = 0
    num_sound_alone: int = 0
    seconds: float = 0.0
    refusals: list[Refusal] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)


class NothingBuiltError(ValueError):
    """Every recording was refused, or there were none; ``result`` says which and why."""

    def __init__(self, message: str, result: BuildResult) -> None:
        super().__init__(message)
        self.result = result


class TooManyRefusedError(NothingBuiltError):
    """More recordings than ``max_refused`` were refused; what was built waits to go on."""


def build_shards(
    sources: Sequence[Path | str],
    out: Path | str,
    config: BuildConfig | None = None,
    *,
    overwrite: bool = False,
    part: Part | None = None,
    on_progress: Callable[[BuildProgress], None] | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> BuildResult:
    """Build a folder of shards; it appears when it is whole.

    Killed at any moment and called again with the same arguments, it goes on from what is in
    ``OUT.partial``: finished shards are kept, and recordings whose samples lie in them are not
    opened again.

    Args:
        sources: Folders, CSV or JSON-lines manifests, video or sound files.
        out: The folder; new, empty, or (with ``overwrite``) the result of an earlier build.
        overwrite: Whether an earlier build, or an unfinished one of other settings, may go.
        part: Build only these recordings; ``merge.py`` joins the parts.
        on_progress: Called after each recording.
        on_warning: Called with what is amiss with the list, before anything is built.

    Raises:
        FileNotFoundError: A source that does not exist.
        ValueError: A manifest, folder or setting that cannot be used, another process at work at
            the same folder, or an unfinished build of other recordings or settings.
        NothingBuiltError: No sample came out; ``refused.jsonl`` is written all the same, unless
            there is an earlier build, which is left as it was. A part may be empty.
        TooManyRefusedError: See ``BuildConfig.max_refused``.
    """
    end_if_begun_again()
    config = config or BuildConfig()
    out = Path(out)
    listed, ignored = gather(sources, sound_alone=config.picture != "required")
    rows = listed if part is None else part.cut(listed)
    nothing = BuildResult(folder=out, num_recordings=len(rows), ignored=ignored)
    if not listed:
        raise NothingBuiltError(_nothing(nothing, check_out(out, overwrite)), nothing)
    _check_regions(listed, config)
    if on_warning and (part is None or part.number == 1):
        for warning in filter(None, (copies_on_two_sides(_divided(listed)), _repeated(listed))):
            on_warning(warning)
    listing = list_digest(listed)
    identity = build_identity(rows, config, part=part, listing=listing)
    if config.picture != "none" and not all(
        row.path.suffix.lower() in SOUND_SUFFIXES for row in listed
    ):
        check_detector(config)
    with Workplace(out) as place:
        content = continue_journal(place, identity, overwrite=overwrite)
        if content and content.complete and not place.shards.exists():
            place.remove()  # killed after the last rename: all that was missing
            return _result(nothing, list(content.recordings.values()), num_kept=len(rows))
        replaces = check_out(out, overwrite)
        place.shards.mkdir(exist_ok=True)
        with Journal(place.journal, identity, content) as journal:
            made = _assemble(place, rows, config, journal, on_progress)
            result = _result(nothing, made.recordings, made.num_kept)
            if made.num_lost > config.most_refused(len(rows)):
                write_refusals(place.folder / REFUSED_NAME, result.refusals)
                raise TooManyRefusedError(_too_many(result, made, config, place), result)
            empty = not made.rows and part is None
            if not empty:
                about = _about(made, result, config)
                if part is not None:
                    about["part"] = {
                        **asdict(part),
                        "listing": listing,
                        "num_recordings": len(listed),
                    }
                write_index(place.shards, made.rows, about)
            write_refusals(place.shards / REFUSED_NAME, result.refusals)
            if made.rows:
                from shards.receipts.receipt import write_receipt

                write_receipt(place.shards)
            if not empty or not replaces:
                journal.complete()
        if empty and replaces:
            place.remove()
        else:
            place.put_in_place()
    if empty:
        raise NothingBuiltError(_nothing(result, replaces), result)
    return result


def gather(
    sources: Sequence[Path | str], *, sound_alone: bool = True
) -> tuple[list[ManifestRow], list[Path]]:
    """List the recordings of all sources under unique keys, and the files that were ignored.

    What builds write into a source folder is neither, so that a build whose folder lies there can
    be killed and go on.

    Args: sound_alone: Whether sound files in folders are recordings.
    Raises: ValueError: as ``read_manifest`` and ``refuse_two_sides``.
    """
    rows: list[ManifestRow] = []
    ignored: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            found, others = list_folder(source, sound_alone=sound_alone)
            unfinished, finished = _builds_among(others)
            if unfinished:
                found = [row for row in found if unfinished.isdisjoint(row.path.parents)]
            if builds := unfinished | finished:
                others = [path for path in others if builds.isdisjoint(path.parents)]
            rows += found
            ignored += others
        else:
            rows += read_manifest(source)
    # Of one list that was done where it was read.
    if len(sources) > 1 and any(row.labels or row.split != "train" for row in rows):
        refuse_two_sides(_divided(rows))
    return unique_keys(rows), ignored


def _divided(rows: Sequence[ManifestRow]) -> Iterator[Listed]:
    """What is said of the sides of recordings."""
    return (
        Listed(
            printable(row.path),
            os.path.realpath(row.path),
            (row.start, row.end),
            (row.region, row.boxes),
            {**row.labels, "split": row.split},
        )
        for row in rows
    )


def _repeated(rows: Sequence[ManifestRow]) -> str:
    """A warning of rows that differ in their names alone; else nothing."""
    files = Counter(row.path.absolute() for row in rows)
    said: dict[str, ManifestRow] = {}
    again = [
        row
        for row in rows
        if files[path := row.path.absolute()] > 1
        and said.setdefault(repr(replace(row, key="", name="", path=path)), row) is not row
    ]
    if not again:
        return ""
    return (
        f"{len(again)} recordings are listed again with the same times and labels, such as"
        f" {printable(again[0].path)}; each becomes one more sample; name them once"
    )


def _builds_among(files: Sequence[Path]) -> tuple[set[Path], set[Path]]:
    """Folders of unfinished and of finished builds, by the files that are in them."""
    unfinished = {
        path.parent
        for path in files
        if path.name == JOURNAL_NAME and path.parent.name.endswith(SUFFIX)
    }
    finished = {
        path.parent
        for path in files
        if path.name == INFO_NAME and (path.parent / TABLE_NAME).is_file()
    }
    return unfinished, finished


def write_refusals(path: Path, refusals: Sequence[Refusal]) -> None:
    """Write ``refused.jsonl``: one line a refusal, in the order of the recordings."""
    lines = (json.dumps(asdict(refusal), ensure_ascii=False) + "\n" for refusal in refusals)
    write_text(path, "".join(lines))


@dataclass(kw_only=True)
class _Assembly:
    """What became of the recordings, in order; what the index says of the samples and shards."""

    recordings: list[Done] = field(default_factory=list)
    num_kept: int = 0  # recordings that an earlier run had dealt with
    num_lost: int = 0  # that gave no sample
    rows: list[IndexRow] = field(default_factory=list)
    shards: list[dict[str, Any]] = field(default_factory=list)


def _assemble(
    place: Workplace,
    rows: Sequence[ManifestRow],
    config: BuildConfig,
    journal: Journal,
    on_progress: Callable[[BuildProgress], None] | None = None,
) -> _Assembly:
    """Write the samples of all recordings, in order; what is done is added to the journal.

    It ends early once more are refused than ``config`` allows.
    """
    made, refused, seconds = _Assembly(), Counter[str](), 0.0
    most = config.most_refused(len(rows))
    wanted = [row for number, row in enumerate(rows) if journal.kept(number) is None]
    outcomes = _outcomes_of(wanted, config, place)
    writer = ShardWriter(
        place.shards,
        samples_per_shard=config.samples_per_shard,
        finished=journal.content.shards,
        on_shard=journal.shard,
    )
    with writer:
        for number in range(len(rows)):
            done = journal.kept(number)
            if done is not None:
                made.num_kept += 1
                for sample in done.samples:
                    writer.keep(sample)
            else:
                done = _write(next(outcomes), writer, journal.begun(number))
                seconds += sum(float(sample["seconds"] or 0) for sample in done.samples)
                journal.recording(number, done)
            made.recordings.append(done)
            made.num_lost += not done.samples
            refused.update(refusal.cause for refusal in done.refusals)
            if on_progress:
                on_progress(
                    BuildProgress(
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


def _outcomes_of(
    rows: Sequence[ManifestRow], config: BuildConfig, place: Workplace
) -> Generator[Outcome, None, None]:
    """What becomes of each recording, in order."""
    work = functools.partial(prepare_recording, config=config, staging=place.staging())
    for row, outcome in run_in_order(
        work,
        rows,
        workers=config.workers,
        deadline_seconds=config.deadline_seconds,
        initializer=settle_worker,
        memory_bytes=None if config.worker_gib is None else int(config.worker_gib * 2**30),
    ):
        if isinstance(outcome, Lost):
            yield Outcome(refusals=[refusal_of(row, outcome.cause, outcome.message)])
        else:
            yield outcome


def _write(outcome: Outcome, writer: ShardWriter, begun: Sequence[IndexRow]) -> Done:
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


def _result(nothing: BuildResult, recordings: Sequence[Done], num_kept: int) -> BuildResult:
    rows = [row for done in recordings for row in done.samples]
    return replace(
        nothing,
        num_kept=num_kept,
        num_samples=len(rows),
        num_sound_alone=sum(row["mjpg_length"] == 0 for row in rows),
        seconds=sum(float(row["seconds"] or 0) for row in rows),
        refusals=[refusal for done in recordings for refusal in done.refusals],
    )


def _check_regions(rows: Sequence[ManifestRow], config: BuildConfig) -> None:
    """Refuse parts of pictures in which nobody would look for a face.

    Raises: ValueError: every part would become the same middle of the whole picture.
    """
    named = next((row for row in rows if row.region is not None), None)
    if named is not None and config.faces == "none" and config.picture != "none":
        raise ValueError(
            f"{named.name}: region is where faces are looked for, and faces = none looks for none; "
            "give a detector (--faces yunet), or leave the column region out"
        )


def _about(made: _Assembly, result: BuildResult, config: BuildConfig) -> dict[str, Any]:
    """What ``index.json`` says; nothing that differs from one run to the next."""
    suffixes = Counter(path.suffix.lower() or "(none)" for path in result.ignored)
    return {
        "counts": {"num_recordings": result.num_recordings},
        "config": config.recorded(),
        "refused": dict(sorted(Counter(item.cause for item in result.refusals).items())),
        "ignored": dict(sorted(suffixes.items())),
        "shards": made.shards,
    }


def counted(causes: Iterable[str]) -> str:
    """Counts by cause, the most frequent first."""
    return ", ".join(f"{count} {cause}" for cause, count in Counter(causes).most_common())


def _too_many(result: BuildResult, made: _Assembly, config: BuildConfig, place: Workplace) -> str:
    causes = counted(refusal.cause for refusal in result.refusals)
    return (
        f"{made.num_lost} of {result.num_recordings} recordings are refused, more than "
        f"max_refused = {config.max_refused} allows ({causes}); each is named "
        f"in {place.folder / REFUSED_NAME}; the same command with a higher --max_refused goes on "
        "from here"
    )


def _nothing(result: BuildResult, replaces: bool) -> str:
    """The line for a build without samples."""
    if not result.num_recordings:
        suffixes = sorted({path.suffix.lower() or "(none)" for path in result.ignored})
        found = f" ({len(result.ignored)} other files: {', '.join(suffixes)})" * bool(suffixes)
        return f"nothing was built: there are no recordings in the sources{found}"
    where = "" if replaces else f"; each is named in {result.folder / REFUSED_NAME}"
    kept = f"; {result.folder} is left as it was" if replaces else ""
    return (
        f"nothing was built: {result.num_recordings} recordings, all refused "
        f"({counted(refusal.cause for refusal in result.refusals)}){where}{kept}"
    )
