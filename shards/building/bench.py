"""``hicmae bench build``: how fast recordings become samples, by stage.

It counts the processor's time, of this process and its threads: other work on the machine does not
count, and a second of it is a second of one core.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
from rich.console import Console

from hicmae.bench import Stopwatch, figures_table, write_figures
from hicmae.config import with_options_of
from hicmae.media.errors import MediaError
from hicmae.terminal import print_line
from shards.bench import raw_files
from shards.building.build import gather
from shards.building.prepare import check_detector, make_samples
from shards.manifest import ManifestRow, printable
from shards.settings import BuildConfig

STAGES = ("decoding", "faces", "encoding", "sound", "digests")


@with_options_of(BuildConfig)
def bench_build(
    *,
    media: Path | None = None,
    most: int = 8,
    json: Path | None = None,
    config: BuildConfig,
) -> dict[str, Any]:
    """Measure what building costs a core, and print what for.

    Recordings are prepared in this process on one thread, as a worker of a build does it, and the
    processor's time is counted, not the clock's. Options of the build apply.

    Args:
        media: A source of a build: a folder, a manifest or a video; none given:
            $HICMAE_CLIPS_DIR/talking/vox_*.mp4 (by default ../shared/clips) if it exists, else
            synthetic talking faces.
        most: How many recordings of it to take, from the first on.
        json: File for the figures.
        config: Of the build.

    Returns: The figures. ``video_seconds_per_core_second``: with the settings given; ``shares``:
        of each stage in it; ``times_without_faces``: the cost, over that of the same recordings
        with ``faces: none`` (the middle of every picture); ``lines``: everything in the table.

    Raises:
        ValueError: No recording can be built, or ``most`` is not positive.
    """
    if most < 1:
        raise ValueError(f"most = {most} (must be 1 or more)")
    check_detector(config)
    with tempfile.TemporaryDirectory(prefix="hicmae-bench-") as scratch, ExitStack() as stack:
        stack.callback(cv2.setNumThreads, cv2.getNumThreads())
        cv2.setNumThreads(1)  # as in a worker of a build
        rows = _build_rows(media, Path(scratch))[:most]
        first = measure(rows, config, Path(scratch))  # also warms caches; the next one counts
        as_set = measure(rows, config, Path(scratch))
        lines = [{"what": f"detecting in 1 of {config.detect_every}"} | as_set]
        if config.faces in ("yunet", "cascade"):
            every = measure(rows, replace(config, detect_every=1), Path(scratch))
            lines.append({"what": "detecting in all"} | every)
        else:
            lines[0]["what"] = f"faces: {config.faces}"
        without = replace(config, faces="none", detector={}, align="none", face_choice="largest")
        bare = as_set if config.faces == "none" else measure(rows, without, Path(scratch))
        for line in lines:
            line["times_without_faces"] = line["core_seconds"] / bare["core_seconds"]
    figures: dict[str, Any] = {
        "video_seconds_per_core_second": as_set["video_seconds_per_core_second"],
        "shares": as_set["shares"],
        "times_without_faces": lines[0]["times_without_faces"],
        "lines": lines,
        "num_recordings": len(rows),
        "refused": first["refused"],
        "config": config.recorded(),
    }
    _print_build(figures)
    write_figures(figures, json)
    return figures


def measure(rows: Sequence[ManifestRow], config: BuildConfig, scratch: Path) -> dict[str, Any]:
    """Prepare recordings stage by stage, and count the processor's time for each.

    Returns: ``seconds`` (by stage), ``shares`` (of them, together 1), ``video_seconds``,
        ``core_seconds``, ``video_seconds_per_core_second``, ``refused`` (how many recordings;
        they do not count).
    Raises: ValueError: none of the recordings can be built.
    """
    total: dict[str, float] = dict.fromkeys(STAGES, 0.0)
    video_seconds, problems = 0.0, []
    for row in rows:
        watch = Stopwatch()
        try:
            outcome = make_samples(row, config, scratch / "sample", watch)
        except (MediaError, OSError) as error:
            problems.append(f"{printable(row.path)}: {error}")
            continue
        for sample in outcome.samples:
            sample.remove()
        video_seconds += outcome.seconds
        for name, spent in watch.seconds.items():
            total[name] += spent
    if not video_seconds:
        raise ValueError(f"nothing to measure: {'; '.join(problems[:3]) or 'no recordings'}")
    core_seconds = sum(total.values())
    return {
        "seconds": total,
        "shares": {name: spent / core_seconds for name, spent in total.items()},
        "video_seconds": video_seconds,
        "core_seconds": core_seconds,
        "video_seconds_per_core_second": video_seconds / core_seconds,
        "refused": len(problems),
    }


def _build_rows(media: Path | None, scratch: Path) -> list[ManifestRow]:
    if media is not None:
        return gather([media])[0]
    files = raw_files(None)
    if files:
        return gather(files)[0]
    from shards.synthesis.corpus import synthesize
    from shards.synthesis.settings import CorpusConfig

    corpus = CorpusConfig(
        speakers=1, takes=1, folds=1, frame_size=224, min_seconds=2, max_seconds=2, workers=0
    )
    return gather([synthesize(corpus, scratch / "corpus")])[0]


def _print_build(figures: dict[str, Any]) -> None:
    heads, rows = ("settings", "s of video/s", *STAGES, "x without faces"), []
    for line in figures["lines"]:
        rate = f"{line['video_seconds_per_core_second']:.1f}"
        shares = (f"{line['shares'][name]:.0%}" for name in STAGES)
        rows.append((line["what"], rate, *shares, f"{line['times_without_faces']:.2f}"))
    console = Console()
    console.print(figures_table("Building shards, one core", heads, rows))
    line = figures["lines"][0]
    print_line(
        console,
        f"{line['video_seconds']:.0f} s of video in {figures['num_recordings']} recordings "
        f"({figures['refused']} refused). Faces: finding, following and cutting them out. "
        "Digests: SHA-256 of the sources.",
    )
