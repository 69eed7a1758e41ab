"""The functions behind ``hicmae shards build | check | info | synthesize``, and what they print.

For: the command line. Not for: the work itself, which is in ``build.py``, ``check.py``,
``info.py`` and ``synthesis/``.
"""

from __future__ import annotations

import json as json_format
import time
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shards.build import NothingBuiltError, Progress, build_shards
from shards.check import check_shards
from shards.info import describe, shards_info
from shards.printing import print_left_out, print_line, progress_bar
from shards.settings import BuildConfig


def build(
    *,
    sources: list[Path],
    out: Path,
    overwrite: bool = False,
    face_size: int = 160,
    fps: float = 25.0,
    jpeg_quality: int = 90,
    chroma: Literal["420", "444"] = "420",
    faces: Literal["yunet", "cascade", "none"] = "yunet",
    face_choice: Literal["largest", "central"] = "largest",
    face_margin: float = 0.3,
    detect_every: int = 5,
    min_coverage: float = 0.1,
    box: tuple[int, int, int, int] | None = None,
    sound: Literal["optional", "required"] = "optional",
    silence_db: float = -70.0,
    min_seconds: float = 0.5,
    max_seconds: float | None = None,
    samples_per_shard: int = 256,
    workers: int | None = None,
    deadline_seconds: float = 300.0,
) -> None:
    """Build shards from videos.

    Every recording becomes a sample of face images at a constant frame rate with its sound, or is
    refused by name and cause (also in OUT/refused.jsonl). The exit status is 0 if anything was
    built, and 2 if nothing was.

    Args:
        sources: Folders (every video in them), CSV or JSON-lines manifests, or videos.
        out: The folder of shards; new, or the result of an earlier build with --overwrite.
        overwrite: Replace an earlier build.
        face_size: Side of the square face images, pixels.
        fps: Constant frame rate of the samples, frames per second.
        jpeg_quality: Of the face images, 1..100.
        chroma: Colour resolution of the images: 420 is half in both directions, 444 full.
        faces: Detector: yunet, cascade (bundled, finds fewer), or none for pictures that are
            faces already.
        face_choice: Which of several faces: the largest or the most central.
        face_margin: How much of the face box's side is added around it.
        detect_every: Frames from one detection to the next; the box is interpolated in between.
        min_coverage: Least share of the frames shown to the detector in which it finds the face.
        box: With --faces none: cut x0, y0, x1, y1 out of every frame, pixels; none given: the
            largest square in its middle.
        sound: required refuses recordings without sound, optional keeps them.
        silence_db: Sound below this level counts as silent, decibels relative to full scale.
        min_seconds: Shorter recordings are refused.
        max_seconds: Longer ones are cut into equal segments of at most this; none: never.
        samples_per_shard: A shard is closed when it has so many.
        workers: Processes; none: one a core.
        deadline_seconds: A recording that takes longer is refused and its worker replaced.

    Raises:
        ValueError: Nothing was built, or a source, folder or setting cannot be used.
    """
    config = BuildConfig(
        face_size=face_size,
        fps=fps,
        jpeg_quality=jpeg_quality,
        chroma=chroma,
        faces=faces,
        face_choice=face_choice,
        face_margin=face_margin,
        detect_every=detect_every,
        min_coverage=min_coverage,
        box=box,
        sound=sound,
        silence_db=silence_db,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        samples_per_shard=samples_per_shard,
        workers=workers,
        deadline_seconds=deadline_seconds,
    )
    console, began = Console(), time.monotonic()
    try:
        with progress_bar(console) as bar:
            task = bar.add_task("building", total=None, note="")

            def show(now: Progress) -> None:
                rate = now.done / (time.monotonic() - began)
                text = f"{rate:.1f}/s  {now.num_samples} samples, {now.num_refused} refused"
                bar.update(task, completed=now.done, total=now.total, note=text)

            result = build_shards(sources, out, config, overwrite=overwrite, on_progress=show)
    except NothingBuiltError as error:
        print_left_out(console, error.result)
        raise
    print_left_out(console, result)
    took = time.monotonic() - began
    print_line(
        console,
        f"{result.num_samples} samples ({result.seconds / 3600:.2f} hours) from "
        f"{result.num_recordings} recordings, {len(result.refusals)} refused, in {took:.0f} s "
        f"({result.num_recordings / took:.1f}/s): {result.folder}",
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
