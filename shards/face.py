"""The face of a recording as the build asks for it: images, and what to write about how it was
found.

For: joining the build's settings with the detectors, tracks and crops of ``hicmae/media``. Not
for: any of those.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hicmae.media.crops import crop_faces, crop_video
from hicmae.media.faces import FaceConfig, FaceDetector, open_detector
from hicmae.media.video import VideoReader
from shards.schema import FaceInfo
from shards.settings import BuildConfig


class RefusedError(Exception):
    """What was asked for cannot be cut out of a recording that is sound in itself.

    Args:
        cause: A word to count it under.
        message: What was found, without the name of the file.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


@dataclass(frozen=True, kw_only=True)
class FoundFace:
    """How the face was found in T frames of a constant rate.

    Args:
        found_by: (T,) words, see ``hicmae.media.tracking.FaceTrack``; ``box`` for a fixed one.
        indices: (T,) the frames of the recording, repeats included.
        total: Share of the frames handed to the detector in which it found the face, 0..1.
        config: Of the build.
    """

    found_by: np.ndarray
    indices: np.ndarray
    total: float
    config: BuildConfig

    def coverage(self, begin: int, end: int) -> float:
        """The same share for frames ``begin`` to ``end``; an estimate for a part of them."""
        if self.config.faces == "none" or (begin, end) == (0, len(self.indices)):
            return self.total
        part, words = self.indices[begin:end], self.found_by[begin:end]
        asked = max(1.0, len(np.unique(part)) / self.config.detect_every)
        return min(1.0, len(np.unique(part[words == "detected"])) / asked)

    def describe(self, begin: int, end: int) -> FaceInfo:
        """What a sample of frames ``begin`` to ``end`` says."""
        return FaceInfo(
            policy="none" if self.config.faces == "none" else self.config.face_choice,
            detector=self.config.faces,
            coverage=round(self.coverage(begin, end), 6),
            found_by=tuple(
                (word, len(list(run)))
                for word, run in itertools.groupby(map(str, self.found_by[begin:end]))
            ),
        )


def find_face(
    video: VideoReader, indices: np.ndarray, config: BuildConfig
) -> tuple[FoundFace, Iterator[np.ndarray]]:
    """Find the face in frames (T,) of a recording.

    Returns: how it was found, and an iterator over T images (face_size, face_size, 3) uint8 RGB.

    Raises:
        MediaError: ``no-face``, or ``damaged`` (then possibly from the iterator).
        RefusedError: ``frame-size``, where the fixed box does not fit.
    """
    if config.box is not None:
        return _fixed_box(video, indices, config.box, config)
    settings = _settings(config)
    track, images = crop_video(video, indices, _detector(settings), settings, config.face_size)
    found = FoundFace(found_by=track.found_by, indices=indices, total=track.coverage, config=config)
    return found, images


def check_detector(config: BuildConfig) -> None:
    """Open the detector once, so that a missing file is said before any work is done.

    Raises:
        FileNotFoundError: Its file is missing; the line says how to get it and what else there is.
        ValueError: Its file is not the known one.
    """
    try:
        open_detector(_settings(config))
    except FileNotFoundError as error:
        remedy = "; give the right file in HICMAE_YUNET, or use --faces cascade"
        known = config.faces != "yunet" or "--faces cascade" in str(error)
        raise FileNotFoundError(f"{error}{'' if known else remedy}") from error


def _fixed_box(
    video: VideoReader, indices: np.ndarray, box: tuple[int, int, int, int], config: BuildConfig
) -> tuple[FoundFace, Iterator[np.ndarray]]:
    """The same rectangle of every frame."""
    if box[2] > video.width or box[3] > video.height:
        raise RefusedError(
            "frame-size",
            f"its frames are {video.width}x{video.height} pixels, too small for "
            f"the box {list(box)}",
        )
    boxes = np.array([box], dtype=np.float32)
    found = FoundFace(
        found_by=np.full(len(indices), "box"), indices=indices, total=1.0, config=config
    )
    images = (crop_faces([frame], boxes, config.face_size)[0] for frame in video.frames(indices))
    return found, images


def _settings(config: BuildConfig) -> FaceConfig:
    return FaceConfig(
        detector=config.faces,
        policy=config.face_choice,
        margin=config.face_margin,
        detect_every=config.detect_every,
    )


@functools.cache
def _detector(settings: FaceConfig) -> FaceDetector | None:
    """One detector a process."""
    return open_detector(settings)
