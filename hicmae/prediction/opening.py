"""What a recording holds for a network: its picture, its sound, its faces.

For: the decoding process, before the first window. Not for: cutting windows (``cutting.py``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hicmae.media.boxes import BoxTable, read_boxes
from hicmae.media.crops import follow_faces
from hicmae.media.errors import MediaError
from hicmae.media.faces import FaceConfig, FaceDetector, open_detector
from hicmae.media.frame_times import constant_rate_indices
from hicmae.media.image_files import sound_beside
from hicmae.media.image_video import open_images
from hicmae.media.preparation import Preparation
from hicmae.media.sound_spans import SoundSpans
from hicmae.media.tracking import FaceTrack, fixed_track
from hicmae.media.video import FrameReader, open_video
from hicmae.prediction.settings import WindowConfig
from hicmae.settings import InputConfig
from hicmae.stopwatch import Stopwatch


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the decoding process is asked for.

    Args:
        path: The recording: a file, or a folder of images.
        input: The network's.
        preparation: How its images are made.
        config: Where the windows are.
        see: Whether the network reads pictures.
        hear: Whether it reads sound.
    """

    path: Path
    input: InputConfig
    preparation: Preparation
    config: WindowConfig
    see: bool = True
    hear: bool = True


class WatchedReader:
    """A recording whose decoding is counted and told; in everything else it is the recording.

    Args:
        reader: The recording.
        watch: What counts.
        tell: Called with the time of each frame, seconds after the first one.
    """

    def __init__(
        self, reader: FrameReader, watch: Stopwatch, tell: Callable[[float], None]
    ) -> None:
        self._reader, self._watch, self._tell = reader, watch, tell

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """As those of the recording."""
        indices = list(indices)
        with self._watch.stage("decoding"):
            frames = self._reader.frames(indices)
        watched = self._watch.iterate("decoding", frames)
        for index, frame in zip(indices, watched, strict=True):
            self._tell(float(self._reader.timestamps[index]) - self._reader.start_seconds)
            yield frame

    def __len__(self) -> int:
        return len(self._reader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


class WatchedDetector:
    """A detector whose time is counted; in everything else it is the detector."""

    def __init__(self, detector: FaceDetector, watch: Stopwatch) -> None:
        self.name = detector.name
        self._detector, self._watch = detector, watch

    def detect(self, frame: np.ndarray) -> list[Any]:
        """As the detector does."""
        with self._watch.stage("faces"):
            return self._detector.detect(frame)


def open_picture(request: Request) -> FrameReader | None:
    """The picture of a recording; None where there is none and the sound alone will do.

    Raises: MediaError: there is none, or it cannot be read.
    """
    try:
        if request.path.is_dir():
            return open_images(request.path, request.preparation.image_fps)[0]
        return open_video(request.path)
    except MediaError as error:
        if request.hear and error.cause == "no-video" and not request.path.is_dir():
            return None
        raise


def open_sound(
    request: Request, picture: FrameReader | None, end_seconds: float | None
) -> tuple[SoundSpans | None, str]:
    """The sound of a recording, or None and why there is none."""
    path: Path | None = request.path
    if not request.hear:
        return None, ""
    if request.path.is_dir():
        path = sound_beside(request.path)
        if path is None:
            return None, "a folder of images with no sound file beside it"
    assert path is not None
    rate = request.input.sample_rate
    window = request.config.layout(request.input).window_frames / request.input.fps
    try:
        spans = SoundSpans(
            path, sample_rate=rate, end_seconds=end_seconds, history=2 * round(window * rate)
        )
    except MediaError as error:
        if picture is None or not request.see or error.cause not in ("no-sound", "damaged"):
            raise
        return None, "it has no sound" if error.cause == "no-sound" else error.problem
    return spans, ""


def constant_rate(picture: FrameReader, fps: float) -> np.ndarray:
    """(T,) frames of a recording at a constant rate, from its first to its last moment."""
    start = picture.start_seconds
    return constant_rate_indices(picture.timestamps, fps, start, start + picture.duration_seconds)


def find_tracks(
    request: Request, picture: FrameReader, indices: np.ndarray, watch: Stopwatch
) -> tuple[list[FaceTrack], list[str]]:
    """Every face of a recording, or the one that the settings choose, each over ``indices``.

    Returns: the tracks, and what the user should know.

    Raises: MediaError: ``bad-boxes``, ``no-boxes``, ``damaged``, or ``no-face`` (a fixed box
        beyond the picture).
    """
    preparation = request.preparation
    notes: list[str] = []
    if preparation.box is not None:
        if preparation.box[2] > picture.width or preparation.box[3] > picture.height:
            raise MediaError(
                "no-face",
                request.path,
                f"its picture of {picture.width}x{picture.height} pixels does not hold the box "
                f"{list(preparation.box)} that the network was trained on; pass --faces yunet",
            )
        return [fixed_track(len(indices), preparation.box)], notes
    settings = preparation.face_config(offline=request.config.offline)
    finder: FaceDetector | BoxTable | None
    if preparation.faces == "boxes":
        finder = _boxes(request)
    else:
        detector, settings, note = _detector(settings)
        notes += [note] if note else []
        finder = None if detector is None else WatchedDetector(detector, watch)
    every = preparation.face_choice == "all"
    tracks = follow_faces(picture, indices, finder, settings, every=every)
    if not every:
        tracks = [track for track in tracks if track.coverage >= preparation.min_coverage]
    fps = request.input.fps
    kept = [
        track
        for track in tracks
        if len(track.boxes) / fps >= request.config.min_seconds or len(track.boxes) == len(indices)
    ]
    if len(kept) < len(tracks):
        notes.append(
            f"{len(tracks) - len(kept)} of {len(tracks)} faces are seen for less than "
            f"{request.config.min_seconds:g} s and left out"
        )
    return kept, notes


def no_face(request: Request, why: str) -> MediaError:
    """The error of a recording in which nothing is left to look at.

    Args:
        request: Of it.
        why: What else is missing.
    """
    return MediaError(
        "no-face",
        request.path,
        f"{request.preparation.faces} found no face that lasts, and {why}; if these are face crops "
        "already, pass --faces none",
    )


def _boxes(request: Request) -> BoxTable:
    path = request.config.boxes
    if path is None:
        stem = request.path.name if request.path.is_dir() else request.path.stem
        path = request.path.with_name(f"{stem}.csv")
    if not path.is_file():
        raise MediaError("no-boxes", path, "no such file of face boxes; name it with --boxes")
    return read_boxes(path)


@functools.cache
def _detector(settings: FaceConfig) -> tuple[FaceDetector | None, FaceConfig, str]:
    """One detector a process; the bundled one where YuNet's file is not to be had."""
    try:
        return open_detector(settings), settings, ""
    except FileNotFoundError as error:
        if settings.detector != "yunet" or settings.align != "none":
            raise
        bundled = replace(settings, detector="cascade")
        note = f"faces are found by the bundled cascade, which misses many: {error}"
        return open_detector(bundled), bundled, note
