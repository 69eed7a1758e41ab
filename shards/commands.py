"""The functions behind ``hicmae shards build | merge | check | info | synthesize``.

For: the command line, and what is printed there. Not for: the work itself, which is in
``build.py``, ``merge.py``, ``check.py``, ``info.py`` and ``synthesis/``.
"""

from __future__ import annotations

import json as json_format
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shards.building.build import NothingBuiltError, build_shards
from shards.building.merge import merge_shards
from shards.building.parts import parse_part
from shards.check import check_shards
from shards.info import describe, shards_info
from shards.options import with_options_of
from shards.printing import BuildDisplay, print_left_out, print_line, progress_bar
from shards.settings import BuildConfig


@with_options_of(BuildConfig)
def build(
    *,
    sources: list[Path],
    out: Path,
    overwrite: bool = False,
    part: str | None = None,
    retry: bool = False,
    quarantine: Path | None = None,
    config: BuildConfig,
) -> None:
    """Build shards from videos.

    Every recording becomes a sample of face images at a constant frame rate with its sound, or is
    refused by name and cause (also in OUT/refused.jsonl). A build that was interrupted or killed
    goes on where it was when the same command is given again; until it is done, it is in
    OUT.partial. The exit status is 0 if anything was built, and 2 if nothing was or if more was
    refused than max_refused allows.

    Args:
        sources: Folders (every video in them), CSV or JSON-lines manifests, or videos.
        out: The folder of shards; new, or the result of an earlier build with --overwrite.
        overwrite: Replace an earlier build, and drop an unfinished one of other settings.
        part: Build one part of the recordings only, such as 2/8 for the second of eight, into a
            folder of its own; `hicmae shards merge` joins the parts.
        retry: Going on with an interrupted build, open recordings again that crashed a worker or
            took too long.
        quarantine: The refused.jsonl of an earlier build: recordings that crashed a worker or took
            too long then are refused unopened.
        config: How; one option for each of its fields.

    Raises:
        ValueError: Nothing was built, or a source, folder or setting cannot be used.
    """
    console, began = Console(), time.monotonic()
    try:
        with BuildDisplay(console) as display:
            result = build_shards(
                sources,
                out,
                config,
                overwrite=overwrite,
                part=None if part is None else parse_part(part),
                quarantine=quarantine,
                retry=retry,
                on_progress=display.update,
            )
    except NothingBuiltError as error:
        print_left_out(console, error.result)
        raise
    except KeyboardInterrupt:
        print_line(console, f"{out}: unfinished; the same command goes on from here")
        raise
    print_left_out(console, result)
    took = time.monotonic() - began
    num_new = result.num_recordings - result.num_kept
    kept = f", {result.num_kept} of them by an earlier run" if result.num_kept else ""
    print_line(
        console,
        f"{result.num_samples} samples ({result.seconds / 3600:.2f} hours) from "
        f"{result.num_recordings} recordings{kept}, {len(result.refusals)} refused, in "
        f"{took:.0f} s ({num_new / took:.1f}/s): {result.folder}",
    )


def merge(*, parts: list[Path], out: Path, overwrite: bool = False) -> None:
    """Join the parts of a build (--part 1/8, …) into one folder of shards.

    All parts must be there, finished, and of the same recordings and settings. They are left as
    they are; on one file system their shards take no room twice.

    Args:
        parts: Folders of all parts, in any order.
        out: The folder of shards; new, or the result of an earlier build with --overwrite.
        overwrite: Replace an earlier build.
    """
    console = Console()
    with progress_bar(console) as bar:
        task = bar.add_task("merging", total=None, note="shards")
        counts = merge_shards(
            parts,
            out,
            overwrite=overwrite,
            on_shard=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print_line(
        console,
        f"{counts['num_samples']} samples ({counts['seconds'] / 3600:.2f} hours) from "
        f"{counts['num_recordings']} recordings in {len(parts)} parts: {out}",
    )


def check(*, folder: Path) -> int:
    """Check that shards are whole and are what their index and the schema say.

    Prints one line a problem, naming shard and sample. The exit status is 2 if there is any.

    Args:
        folder: Of the shards.
    """
    console = Console()
    with progress_bar(console) as bar:
        task = bar.add_task("checking", total=None, note="shards")
        problems = check_shards(
            folder, on_shard=lambda done, total: bar.update(task, completed=done, total=total)
        )
    for problem in problems:
        print(problem)
    if problems:
        print(f"{folder}: {len(problems)} problems")
        return 2
    about = shards_info(folder)
    print(
        f"OK: {folder}: {about['num_shards']} shards, {about['num_samples']} samples, "
        f"{about['num_frames']} images, {about['hours']:.2f} hours"
    )
    return 0


def info(*, folder: Path, json: Path | None = None) -> None:
    """Say what a folder of shards holds.

    Args:
        folder: Of the shards.
        json: Also write it into this file.
    """
    about = shards_info(folder)
    if json is not None:
        _write_json(json, about)
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, text in describe(about):
        table.add_row(name, escape(text))
    Console().print(table)


def synthesize(
    *,
    out: Path,
    speakers: int = 12,
    first_speaker: int = 0,
    takes: int = 2,
    folds: int = 4,
    labelled: bool = True,
    seed: int = 0,
    min_seconds: float = 3.0,
    max_seconds: float = 5.0,
    frame_size: int = 160,
    fps: int = 25,
    sample_rate: int = 16000,
    expression_strength: tuple[float, float] = (0.35, 1.0),
    voice_strength: tuple[float, float] = (0.35, 1.0),
    snr_db: tuple[float, float] = (12.0, 30.0),
    camera_noise: float = 6.0,
    label_noise: float = 0.0,
    workers: int | None = None,
) -> None:
    """Render a corpus of synthetic talking faces: mp4 files and a manifest.csv.

    Args:
        out: The folder; new, empty, or this very corpus.
        speakers: People; every one says something in each of six classes.
        first_speaker: Number of the first of them; another range of numbers is other people.
        takes: Clips of each speaker and class.
        folds: Speaker-disjoint folds, dealt round-robin over the speakers.
        labelled: Whether the manifest says what the clips show.
        seed: Same seed, same people and clips, whatever the number of workers.
        min_seconds: Shortest clip.
        max_seconds: Longest clip.
        frame_size: Side of the square picture, pixels (even).
        fps: Frames per second.
        sample_rate: Sound, Hz.
        expression_strength: Range from which a clip's strength of expression is drawn, 0..1.
        voice_strength: Range from which a clip's strength of voice is drawn, 0..1.
        snr_db: Range from which the distance of voice and background noise is drawn, decibels.
        camera_noise: Largest standard deviation of the camera's noise, levels of 255.
        label_noise: Share of the clips whose labels are those of other, random causes.
        workers: Processes; 0 works in this one, none given means one a core.

    Raises:
        ValueError: A setting out of its range, or a folder that holds another corpus.
    """
    from shards.synthesis import CorpusConfig
    from shards.synthesis import synthesize as render

    config = CorpusConfig(
        speakers=speakers,
        first_speaker=first_speaker,
        takes=takes,
        folds=folds,
        labelled=labelled,
        seed=seed,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        frame_size=frame_size,
        fps=fps,
        sample_rate=sample_rate,
        expression_strength=expression_strength,
        voice_strength=voice_strength,
        snr_db=snr_db,
        camera_noise=camera_noise,
        label_noise=label_noise,
        workers=workers,
    )
    manifest = render(config, out)
    num_clips = len(manifest.read_text(encoding="utf-8").splitlines()) - 1
    print(f"{num_clips} clips of {speakers} speakers: {manifest}")


def _write_json(path: Path, data: Any) -> None:
    """Write beside and rename."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(
        json_format.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    beside.replace(path)
