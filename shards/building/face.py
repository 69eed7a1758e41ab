"""The faces of a recording as the build asks for them: images, and what to write about how each
was found.

For: joining the build's settings with the detectors, tracks and crops of ``hicmae/media``. Not
for: any of those.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hicmae.media.boxes import BoxTable, read_boxes
from hicmae.media.crops import crop_every_face, crop_faces, crop_video
from hicmae.media.errors import MediaError
from hicmae.media.faces import FaceConfig, FaceDetector, open_detector
from hicmae.media.frame_times import has_own_frame
from hicmae.media.tracking import FaceTrack, fixed_track
from hicmae.media.video import FrameReader
from shards.manifest import ManifestRow
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
    """How a face was found in T frames of a constant rate.

    Args:
        found_by: (T,) words, see ``hicmae.media.tracking.FaceTrack``; ``box`` for a fixed one.
        indices: (T,) the frames of the recording, repeats included.
        own: (T,) bool, whether the recording has a frame at that time; where it has none, the
            nearest one stands in.
        total: Share of the frames handed to the detector in which it found the face, 0..1.
        config: Of the build.
        first: Which of the frames that were asked for is the first of these.
        face_pixels: See ``FaceInfo``.
    """

    found_by: np.ndarray
    indices: np.ndarray
    own: np.ndarray
    total: float
    config: BuildConfig
    first: int = 0
    face_pixels: float | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def coverage(self, begin: int, end: int) -> float:
        """The same share for frames ``begin`` to ``end``, an estimate for a part of them; frames
        that the recording lacks count as not found."""
        own = float(self.own[begin:end].mean())
        if self.config.faces == "none" or (begin, end) == (0, len(self)):
            return self.total * own
        part, words = self.indices[begin:end], self.found_by[begin:end]
        asked = max(1.0, len(np.unique(part)) / self.config.detect_every)
        return min(1.0, len(np.unique(part[words == "detected"])) / asked) * own

    def describe(self, begin: int, end: int) -> FaceInfo:
        """What a sample of frames ``begin`` to ``end`` says."""
        words = np.where(self.own, self.found_by, "missing")[begin:end]
        return FaceInfo(
            policy="none" if self.config.faces == "none" else self.config.face_choice,
            detector=self.config.faces,
            coverage=round(self.coverage(begin, end), 6),
            found_by=tuple(
                (word, len(list(run))) for word, run in itertools.groupby(map(str, words))
            ),
            face_pixels=None if self.face_pixels is None else round(self.face_pixels, 2),
            align=self.config.align,
        )


def find_faces(
    video: FrameReader,
    row: ManifestRow,
    indices: np.ndarray,
    wanted: np.ndarray,
    config: BuildConfig,
) -> list[tuple[FoundFace, Iterator[np.ndarray]]]:
    """Find the face, or with ``face_choice: all`` every face, in frames of a recording.

    Args:
        video: The recording.
        row: Its row, for boxes and the region.
        indices: (T,) frames for a constant rate, ascending, with repeats.
        wanted: (T,) the times they stand for, on the recording's clock, seconds.
        config: How.

    Returns: for each face how it was found, and an iterator over its images (face_size,
        face_size, 3) uint8 RGB. The iterators do not depend on each other's progress.

    Raises:
        MediaError: ``no-face``, ``no-boxes``, ``bad-boxes``, or ``damaged`` (then possibly from
            an iterator).
        RefusedError: ``frame-size``, where the fixed box does not fit.
    """
    own = has_own_frame(video.timestamps, indices, wanted)
    if config.box is not None:
        track, images = _fixed_box(video, indices, config.box, config)
        return [(_found(track, indices, own, config), images)]
    settings = config.face_config(offline=config.offline)
    finder = _boxes_of(row) if config.faces == "boxes" else _detector(settings)
    size = config.face_size
    if config.face_choice == "all" and finder is not None:
        faces = crop_every_face(video, indices, finder, settings, size, row.region)
    else:
        faces = [crop_video(video, indices, finder, settings, size, row.region)]
    return [(_found(track, indices, own, config), images) for track, images in faces]


def check_detector(config: BuildConfig) -> None:
    """Open the detector once, so that a missing file is fetched, or said, before any work is done.

    Raises:
        FileNotFoundError: Its file is missing; the line says how to get it and what else there is.
        ValueError: Its file is not the known one.
    """
    try:
        open_detector(config.face_config(offline=config.offline))
    except FileNotFoundError as error:
        remedy = "; give the right file in HICMAE_YUNET, or use --faces cascade"
        known = config.faces != "yunet" or "--faces cascade" in str(error)
        raise FileNotFoundError(f"{error}{'' if known else remedy}") from error


def _found(
    track: FaceTrack, indices: np.ndarray, own: np.ndarray, config: BuildConfig
) -> FoundFace:
    part = slice(track.first, track.first + len(track.boxes))
    return FoundFace(
        found_by=track.found_by,
        indices=indices[part],
        own=own[part],
        total=track.coverage,
        config=config,
        first=track.first,
        face_pixels=track.face_pixels,
    )


def _fixed_box(
    video: FrameReader, indices: np.ndarray, box: tuple[int, int, int, int], config: BuildConfig
) -> tuple[FaceTrack, Iterator[np.ndarray]]:
    """The same rectangle of every frame."""
    if box[2] > video.width or box[3] > video.height:
        raise RefusedError(
            "frame-size",
            f"its frames are {video.width}x{video.height} pixels, too small for "
            f"the box {list(box)}",
        )
    track = fixed_track(len(indices), box)
    boxes = track.boxes[:1]
    images = (crop_faces([frame], boxes, config.face_size)[0] for frame in video.frames(indices))
    return track, images


def _boxes_of(row: ManifestRow) -> BoxTable:
    """The boxes that the manifest names, or that lie beside the recording under its name."""
    path = row.boxes
    if path is None:
        stem = row.path.name if row.path.is_dir() else row.path.stem
        path = row.path.with_name(f"{stem}.csv")
    if not path.is_file():
        raise MediaError(
            "no-boxes", path, "no such file of face boxes; name one in the manifest's column boxes"
        )
    return read_boxes(path)


@functools.cache
def _detector(settings: FaceConfig) -> FaceDetector | None:
    """One detector a process."""
    return open_detector(settings)
