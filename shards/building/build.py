"""From recordings to a folder of shards with its index.

For: ``hicmae shards build``. What becomes of one recording is in ``prepare.py``, the way into the
tars in ``assembly.py``. The folder does not depend on the number of workers, nor on how often the
build was killed and begun again (``journal.py``), and two builds of the same files give the same
bytes. Not for: reading shards.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shards.building.assembly import Assembly, Progress, assemble
from shards.building.face import check_detector
from shards.building.journal import Done, Journal
from shards.building.outcome import Refusal
from shards.building.parts import Part, build_identity, list_digest
from shards.building.prepare import prepare_recording
from shards.building.resume import continue_journal, read_quarantine, retry_lost
from shards.building.workplace import REFUSED_NAME, Workplace, check_out
from shards.index import write_index
from shards.keys import unique_keys
from shards.manifest import ManifestRow, list_folder, read_manifest
from shards.settings import BuildConfig

__all__ = [
    "REFUSED_NAME",
    "BuildConfig",
    "BuildResult",
    "NothingBuiltError",
    "Part",
    "Progress",
    "Refusal",
    "TooManyRefusedError",
    "build_shards",
    "gather",
    "write_refusals",
]


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """What a build did.

    Args:
        folder: Where the shards are.
        num_recordings: Rows of the sources, or of this part of them.
        num_kept: How many of them an earlier, unfinished run had dealt with.
        num_samples: Samples written.
        seconds: Their length together.
        refusals: Recordings (or segments of some) that are not in the shards, in order.
        ignored: Files of source folders that are no videos by their suffix.
    """

    folder: Path
    num_recordings: int
    num_kept: int = 0
    num_samples: int = 0
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
    quarantine: Path | None = None,
    retry: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> BuildResult:
    """Build a folder of shards; it appears when it is whole.

    Killed at any moment and called again with the same arguments, it goes on from what is in
    ``OUT.partial``: finished shards are kept, whole samples of unfinished ones are written into
    new ones, and the recordings of both are not opened again.

    Args:
        sources: Folders, CSV or JSON-lines manifests, video files.
        out: The folder; new, empty, or (with ``overwrite``) the result of an earlier build.
        config: How.
        overwrite: Whether an earlier build, or an unfinished one of other settings, may go.
        part: Build only these recordings; ``merge.py`` joins the parts.
        quarantine: ``refused.jsonl`` of an earlier build: recordings that crashed or stalled a
            decoder then are refused unopened.
        retry: Open recordings again that crashed or stalled an earlier run of this build.
        on_progress: Called after each recording.

    Raises:
        FileNotFoundError: A source that does not exist.
        ValueError: A manifest, folder or setting that cannot be used, another process at work at
            the same folder, or an unfinished build of other recordings or settings.
        NothingBuiltError: No sample came out; ``refused.jsonl`` is written all the same, unless
            there is an earlier build, which is left as it was. A part may be empty.
        TooManyRefusedError: See ``BuildConfig.max_refused``.
    """
    config = config or BuildConfig()
    out = Path(out)
    listed, ignored = gather(sources)
    rows = listed if part is None else part.cut(listed)
    nothing = BuildResult(folder=out, num_recordings=len(rows), ignored=ignored)
    if not listed:
        raise NothingBuiltError(_nothing(nothing, check_out(out, overwrite)), nothing)
    quarantined = read_quarantine(quarantine, rows) if quarantine else {}
    listing = list_digest(listed)
    identity = build_identity(rows, config, part=part, listing=listing, quarantined=quarantined)
    check_detector(config)
    work = functools.partial(prepare_recording, config=config)
    with Workplace(out) as place:
        content = continue_journal(place, identity, overwrite=overwrite)
        if content and content.complete and not place.shards.exists():
            place.remove()  # killed after the last rename: all that was missing
            return _result(nothing, list(content.recordings.values()), num_kept=len(rows))
        replaces = check_out(out, overwrite)
        if content and retry:
            content = retry_lost(place, content, rows, work, config)
        place.shards.mkdir(exist_ok=True)
        with Journal(place.journal, identity, content) as journal:
            made = assemble(place, rows, work, config, journal, quarantined, on_progress)
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


def gather(sources: Sequence[Path | str]) -> tuple[list[ManifestRow], list[Path]]:
    """List the recordings of all sources under unique keys, and the files that were ignored."""
    rows: list[ManifestRow] = []
    ignored: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            found, others = list_folder(source)
            rows += found
            ignored += others
        else:
            rows += read_manifest(source)
    return unique_keys(rows), ignored


def write_refusals(path: Path, refusals: Sequence[Refusal]) -> None:
    """Write ``refused.jsonl``: one line a refusal, in the order of the recordings."""
    lines = (json.dumps(asdict(refusal), ensure_ascii=False) + "\n" for refusal in refusals)
    beside = path.with_name(f"{path.name}.part")
    beside.write_text("".join(lines), encoding="utf-8")
    beside.replace(path)


def _result(nothing: BuildResult, recordings: Sequence[Done], num_kept: int) -> BuildResult:
    """The result of a build, from what became of its recordings."""
    rows = [row for done in recordings for row in done.samples]
    return BuildResult(
        folder=nothing.folder,
        num_recordings=nothing.num_recordings,
        num_kept=num_kept,
        num_samples=len(rows),
        seconds=sum(float(row["seconds"] or 0) for row in rows),
        refusals=[refusal for done in recordings for refusal in done.refusals],
        ignored=nothing.ignored,
    )


def _about(made: Assembly, result: BuildResult, config: BuildConfig) -> dict[str, Any]:
    """What ``index.json`` says; nothing that differs from one run to the next."""
    suffixes = Counter(path.suffix.lower() or "(none)" for path in result.ignored)
    return {
        "counts": {"num_recordings": result.num_recordings},
        "config": config.recorded(),
        "refused": dict(sorted(Counter(item.cause for item in result.refusals).items())),
        "ignored": dict(sorted(suffixes.items())),
        "shards": made.shards,
    }


def _causes(refusals: Sequence[Refusal]) -> str:
    """Counts by cause, the most frequent first."""
    causes = Counter(refusal.cause for refusal in refusals).most_common()
    return ", ".join(f"{count} {cause}" for cause, count in causes)


def _too_many(result: BuildResult, made: Assembly, config: BuildConfig, place: Workplace) -> str:
    """The line for a build over its budget."""
    return (
        f"{made.num_lost} of {result.num_recordings} recordings are refused, more than "
        f"max_refused = {config.max_refused} allows ({_causes(result.refusals)}); each is named "
        f"in {place.folder / REFUSED_NAME}; the same command with a higher --max_refused goes on "
        "from here"
    )


def _nothing(result: BuildResult, replaces: bool) -> str:
    """The line for a build without samples."""
    if not result.num_recordings:
        suffixes = sorted({path.suffix.lower() or "(none)" for path in result.ignored})
        found = f" ({len(result.ignored)} other files: {', '.join(suffixes)})" * bool(suffixes)
        return f"nothing was built: there are no videos in the sources{found}"
    where = "" if replaces else f"; each is named in {result.folder / REFUSED_NAME}"
    kept = f"; {result.folder} is left as it was" if replaces else ""
    return (
        f"nothing was built: {result.num_recordings} recordings, all refused "
        f"({_causes(result.refusals)}){where}{kept}"
    )
