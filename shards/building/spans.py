"""Which frames and which sound of a recording a manifest row asks for.

For: the build; all times are aligned here. Not for: faces, or writing anything.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np

from hicmae.media.errors import MediaError
from hicmae.media.frame_times import constant_rate_indices
from hicmae.media.image_files import sound_beside
from hicmae.media.image_video import ImageReader, open_images
from hicmae.media.sound import Sound, read_sound
from hicmae.media.video import FrameReader, VideoReader, open_video
from shards.manifest import ManifestRow, printable
from shards.schema import SAMPLE_RATE, SourceFile
from shards.settings import BuildConfig


def open_recording(row: ManifestRow, config: BuildConfig) -> list[VideoReader | ImageReader]:
    """Open the picture of a row: a video, or the sequence of images that a folder holds.

    Returns: one reader; of a folder in which several faces were numbered apart, the one with the
        most images, or with ``face_choice: all`` one for each.

    Raises:
        MediaError: As ``open_video`` and ``open_images`` do.
        FileNotFoundError: There is neither.
    """
    if not row.path.is_dir():
        return [open_video(row.path)]
    readers = open_images(row.path, row.fps or config.image_fps)
    return list(readers) if config.face_choice == "all" else [readers[0]]


def with_sound_beside(row: ManifestRow) -> ManifestRow:
    """Name the sound file of a folder of images, if it lies there and the row names none."""
    if row.audio is not None or not row.path.is_dir():
        return row
    audio = sound_beside(row.path)
    if audio is None:
        return row
    inside = audio.parent == row.path
    folder = PurePath(row.name) if inside else PurePath(row.name).parent
    return dataclasses.replace(row, audio=audio, audio_name=printable(Path(folder / audio.name)))


def frames_of_span(
    row: ManifestRow, video: FrameReader, config: BuildConfig
) -> tuple[float, np.ndarray]:
    """Start of the span on the container's clock, and the frame (T,) for each i / fps after it."""
    first = video.start_seconds
    last = first + video.duration_seconds
    start = first + (row.start or 0.0)
    # A span may say more than there is: the recording ends where it ends.
    end = last if row.end is None else min(first + row.end, last)
    if start < end:
        indices = constant_rate_indices(video.timestamps, config.fps, start, end)
        if len(indices) / config.fps >= config.min_seconds:
            return start, indices
    span = f"its span {row.start or 0:g}..{row.end:g} s holds " if row.end is not None else ""
    raise MediaError(
        "too-short",
        row.path,
        f"{span}{max(end - start, 0):.2f} s of picture (min_seconds is {config.min_seconds:g})",
    )


def recording_sound(
    row: ManifestRow, video: FrameReader, end: float, config: BuildConfig
) -> Sound | None:
    """The sound on the container's clock up to ``end``; None if the video has none."""
    first = video.start_seconds
    if row.audio is not None:
        sound = read_sound(row.audio, sample_rate=SAMPLE_RATE, end_seconds=end - first)
        return sound.shifted(first)
    if row.path.is_dir():
        if config.sound == "optional":
            return None
        raise MediaError("no-sound", row.path, "a folder of images with no sound file beside it")
    try:
        return read_sound(row.path, sample_rate=SAMPLE_RATE, end_seconds=end)
    except MediaError as error:
        if error.cause == "no-sound" and config.sound == "optional":
            return None
        raise


def segments(num_frames: int, config: BuildConfig) -> list[tuple[int, int]]:
    """Cut frames into the fewest equal parts (begin, end) that are short enough."""
    if config.max_seconds is None:
        return [(0, num_frames)]
    most = max(1, int(config.max_seconds * config.fps + 1e-6))
    count = -(-num_frames // most)
    bounds = [num_frames * part // count for part in range(count + 1)]
    return list(itertools.pairwise(bounds))


def source_file(path: Path, name: str, images: Sequence[Path] | None = None) -> SourceFile:
    """Name, digest and length of a file; of a folder, those of its ``images`` one after another.

    The digest of images is over their names too (each ended by a zero byte, before its content).
    """
    digest, size = hashlib.sha256(), 0
    for file in [path] if images is None else images:
        if images is not None:
            digest.update(os.fsencode(file.name) + b"\0")
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
                size += len(block)
    return SourceFile(path=name, sha256=digest.hexdigest(), bytes=size)
