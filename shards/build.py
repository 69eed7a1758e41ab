"""From recordings to a folder of shards with its index.

For: ``hicmae shards build``. What becomes of one recording is in ``prepare.py``, the tars in
``writer.py``. The folder does not depend on the number of workers, and two builds of the same
files give the same bytes. Not for: reading shards.
"""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shards.face import check_detector
from shards.index import INFO_NAME, TABLE_NAME, write_index
from shards.keys import unique_keys
from shards.manifest import ManifestRow, list_folder, printable, read_manifest
from shards.prepare import Outcome, Refusal, prepare_recording
from shards.settings import BuildConfig
from shards.workers import Lost, run_in_order
from shards.writer import ShardWriter

__all__ = [
    "BuildConfig",
    "BuildResult",
    "NothingBuiltError",
    "Progress",
    "Refusal",
    "build_shards",
    "gather",
]

REFUSED_NAME = "refused.jsonl"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a build is: recordings done out of all, samples written, recordings refused."""

    done: int
    total: int
    num_samples: int
    num_refused: int


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """What a build did.

    Args:
        folder: Where the shards are.
        num_recordings: Rows of the sources.
        num_samples: Samples written.
        seconds: Their length together.
        refusals: Recordings (or segments of some) that are not in the shards, in order.
        ignored: Files of source folders that are no videos by their suffix.
    """

    folder: Path
    num_recordings: int
    num_samples: int
    seconds: float
    refusals: list[Refusal]
    ignored: list[Path]


class NothingBuiltError(ValueError):
    """Every recording was refused, or there were none; ``result`` says which and why."""

    def __init__(self, message: str, result: BuildResult) -> None:
        super().__init__(message)
        self.result = result


def build_shards(
    sources: Sequence[Path | str],
    out: Path | str,
    config: BuildConfig | None = None,
    *,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> BuildResult:
    """Build a folder of shards; it appears when it is whole.

    Args:
        sources: Folders, CSV or JSON-lines manifests, video files.
        out: The folder; new, empty, or (with ``overwrite``) the result of an earlier build.
        config: How.
        overwrite: Whether an earlier build may be replaced.
        on_progress: Called after each recording.

    Raises:
        FileNotFoundError: A source that does not exist.
        ValueError: A manifest, folder or setting that cannot be used.
        NothingBuiltError: No sample came out; ``refused.jsonl`` is written all the same, unless
            there is an earlier build, which is left as it was.
    """
    config = config or BuildConfig()
    out = Path(out)
    replaces = _check_out(out, overwrite)
    rows, ignored = gather(sources)
    if not rows:
        nothing = BuildResult(
            folder=out, num_recordings=0, num_samples=0, seconds=0.0, refusals=[], ignored=ignored
        )
        raise NothingBuiltError(_nothing(nothing, replaces), nothing)
    check_detector(config)
    refusals: list[Refusal] = []
    with _workplace(out) as folder:
        staging = folder / "staging"
        staging.mkdir()
        outcomes = _outcomes(rows, config, staging)
        with ShardWriter(folder, samples_per_shard=config.samples_per_shard) as writer:
            for done, outcome in enumerate(outcomes, start=1):
                refusals += outcome.refusals
                for sample in outcome.samples:
                    writer.add(sample.info, sample.mjpg, sample.wav)
                    sample.remove()
                if on_progress:
                    on_progress(
                        Progress(
                            done=done,
                            total=len(rows),
                            num_samples=len(writer.rows),
                            num_refused=len(refusals),
                        )
                    )
        shutil.rmtree(staging)
        result = BuildResult(
            folder=out,
            num_recordings=len(rows),
            num_samples=len(writer.rows),
            seconds=sum(float(row["seconds"] or 0) for row in writer.rows),
            refusals=refusals,
            ignored=ignored,
        )
        _write_refusals(folder / REFUSED_NAME, refusals)
        if writer.rows:
            write_index(folder, writer.rows, _about(writer, result, config))
        if writer.rows or not replaces:
            _put_in_place(folder, out)
    if not writer.rows:
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


def _outcomes(rows: Sequence[ManifestRow], config: BuildConfig, staging: Path) -> Iterator[Outcome]:
    """What became of each recording, in order."""
    work = functools.partial(prepare_recording, config=config, staging=staging)
    for row, outcome in run_in_order(
        work, rows, workers=config.workers, deadline_seconds=config.deadline_seconds
    ):
        if isinstance(outcome, Lost):
            path = printable(row.path)
            refusal = Refusal(path=path, cause=outcome.cause, message=f"{path}: {outcome.message}")
            yield Outcome(refusals=[refusal])
        else:
            yield outcome


def _about(writer: ShardWriter, result: BuildResult, config: BuildConfig) -> dict[str, Any]:
    """What ``index.json`` says; nothing that differs from one run to the next."""
    suffixes = Counter(path.suffix.lower() or "(none)" for path in result.ignored)
    return {
        "counts": {"num_recordings": result.num_recordings},
        "config": config.recorded(),
        "refused": dict(sorted(Counter(item.cause for item in result.refusals).items())),
        "ignored": dict(sorted(suffixes.items())),
        "shards": writer.shards,
    }


def _write_refusals(path: Path, refusals: Sequence[Refusal]) -> None:
    lines = (json.dumps(asdict(refusal), ensure_ascii=False) + "\n" for refusal in refusals)
    path.write_text("".join(lines), encoding="utf-8")


def _nothing(result: BuildResult, replaces: bool) -> str:
    """The line for a build without samples."""
    if not result.num_recordings:
        suffixes = sorted({path.suffix.lower() or "(none)" for path in result.ignored})
        found = f" ({len(result.ignored)} other files: {', '.join(suffixes)})" * bool(suffixes)
        return f"nothing was built: there are no videos in the sources{found}"
    causes = Counter(refusal.cause for refusal in result.refusals).most_common()
    listed = ", ".join(f"{count} {cause}" for cause, count in causes)
    where = "" if replaces else f"; each is named in {result.folder / REFUSED_NAME}"
    kept = f"; {result.folder} is left as it was" if replaces else ""
    return (
        f"nothing was built: {result.num_recordings} recordings, all refused ({listed})"
        f"{where}{kept}"
    )


def _check_out(out: Path, overwrite: bool) -> bool:
    """Refuse a folder that holds something else; returns whether a build is to be replaced."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise ValueError(f"{out}: is a file; give a folder")
    names = sorted(path.name for path in out.iterdir())
    ours = {INFO_NAME, TABLE_NAME, REFUSED_NAME}
    others = [name for name in names if name not in ours and not name.endswith(".tar")]
    if others:
        raise ValueError(
            f"{out}: holds what no build writes ({', '.join(others[:3])}"
            f"{', …' if len(others) > 3 else ''}); give a new or empty folder"
        )
    built = any(name != REFUSED_NAME for name in names)
    if built and not overwrite:
        raise ValueError(f"{out}: holds shards already; pass --overwrite to replace them")
    return built


@contextmanager
def _workplace(out: Path) -> Iterator[Path]:
    """A folder beside the wanted one, on the same disk, gone afterwards."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.resolve().parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put_in_place(folder: Path, out: Path) -> None:
    """Rename a finished folder; what was there before goes once the new one stands."""
    folder.chmod(0o755)  # mkdtemp made it for its owner only
    if not out.exists():
        folder.rename(out)
        return
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.resolve().parent) as aside:
        out.rename(Path(aside) / "old")
        folder.rename(out)
