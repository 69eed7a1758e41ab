"""Which frames and which sound of a recording a manifest row asks for.

For: the build; all times are aligned here. Not for: faces, or writing anything.
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np

from hicmae.media.errors import MediaError
from hicmae.media.frame_times import constant_rate_indices
from hicmae.media.sound import Sound, read_sound
from hicmae.media.video import VideoReader
from shards.manifest import ManifestRow
from shards.schema import SAMPLE_RATE, SourceFile
from shards.settings import BuildConfig


def frames_of_span(
    row: ManifestRow, video: VideoReader, config: BuildConfig
) -> tuple[float, np.ndarray]:
    """Start of the span on the container's clock, and the frame (T,) for each i / fps after it."""
    first = float(video.timestamps[0])
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
    row: ManifestRow, video: VideoReader, end: float, config: BuildConfig
) -> Sound | None:
    """The sound on the container's clock up to ``end``; None if the video has none."""
    first = float(video.timestamps[0])
    if row.audio is not None:
        sound = read_sound(row.audio, sample_rate=SAMPLE_RATE, end_seconds=end - first)
        return sound.shifted(first)
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


def source_file(path: Path, name: str) -> SourceFile:
    """Name, digest and length of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return SourceFile(path=name, sha256=digest.hexdigest(), bytes=size)
