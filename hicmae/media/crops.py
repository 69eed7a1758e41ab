"""Face crops of a recording at a constant size.

For: going through a recording in bounded memory, once if its frames fit and twice if not. Not
for: which frames (``frame_times.py``) or which face (``tracking.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from hicmae.media.boxes import BoxTable
from hicmae.media.detection import Face, FaceDetector
from hicmae.media.errors import MediaError
from hicmae.media.faces import FaceConfig
from hicmae.media.scenes import SceneCuts
from hicmae.media.square import crop_face, crop_reduction
from hicmae.media.tracking import FaceTrack, centre_track, face_track, face_tracks
from hicmae.media.video import FrameReader

# Frames up to this many bytes are kept between detecting and cutting; longer or larger recordings
# are decoded twice instead.
_KEPT_BYTES = 192 * 2**20

Region = tuple[float, float, float, float]


def crop_video(
    reader: FrameReader,
    indices: Sequence[int] | np.ndarray,
    finder: FaceDetector | BoxTable | None,
    config: FaceConfig,
    size: int,
    region: Region | None = None,
) -> tuple[FaceTrack, Iterator[np.ndarray]]:
    """Follow the face that the policy names and cut it out of each frame.

    Args:
        reader: The recording.
        indices: (T,) frames, ascending; repeats give the same crop.
        finder: From ``open_detector``, or boxes that are known; None: the middle square.
        config: How to follow and cut.
        size: Side of the crops, pixels.
        region: Part of the picture whose faces count: x0, y0, x1, y1 as shares of its width and
            height; a face lies where its middle does. None: all of it.

    Returns: the track (T boxes), and an iterator over T crops (size, size, 3) uint8 RGB.

    Raises:
        MediaError: ``no-face``, ``bad-boxes``, or ``damaged`` (then possibly from the iterator).
    """
    unique, repeats = np.unique(np.asarray(indices, dtype=np.int64), return_counts=True)
    kept: list[np.ndarray] | None = None
    if finder is None:
        track: FaceTrack | None = centre_track(len(unique), (reader.height, reader.width))
    else:
        detections, kept = _detect(reader, unique, finder, config, region)
        frame_size = reader.height, reader.width
        track = face_track(detections, reader.timestamps[unique], frame_size, config)
        if track is None:
            raise _no_face(reader, finder, len(detections))
    assert track is not None
    return _cut(reader, unique, repeats, track, kept, size)


def crop_every_face(
    reader: FrameReader,
    indices: Sequence[int] | np.ndarray,
    finder: FaceDetector | BoxTable,
    config: FaceConfig,
    size: int,
    region: Region | None = None,
) -> list[tuple[FaceTrack, Iterator[np.ndarray]]]:
    """Follow every face of a recording, each as long as it is seen, within a scene.

    Cuts are looked for where a detector looks for faces, not in lists of boxes.

    Args: as for ``crop_video``.

    Returns: for each face the track of the frames from its first to its last (``first`` counts
        in ``indices``), and an iterator over as many crops. The iterators do not depend on each
        other's progress.

    Raises:
        MediaError: As ``crop_video`` does.
    """
    unique, repeats = np.unique(np.asarray(indices, dtype=np.int64), return_counts=True)
    scenes = SceneCuts()
    detections, kept = _detect(reader, unique, finder, config, region, scenes)
    tracks = face_tracks(detections, reader.timestamps[unique], config, scenes.places)
    if not tracks:
        raise _no_face(reader, finder, len(detections))
    return [_cut(reader, unique, repeats, track, kept, size) for track in tracks]


def follow_faces(
    reader: FrameReader,
    indices: Sequence[int] | np.ndarray,
    finder: FaceDetector | BoxTable | None,
    config: FaceConfig,
    *,
    every: bool,
) -> list[FaceTrack]:
    """Follow faces as ``crop_video`` and ``crop_every_face`` do, without keeping a frame.

    Args:
        reader: The recording.
        indices: (T,) frames, ascending.
        finder: From ``open_detector``, or boxes that are known; None: the middle square.
        config: How to follow.
        every: Every face, each as long as it is seen; else the one that the policy names.

    Returns: tracks over ``indices``, repeats included; none where there is no face.

    Raises:
        MediaError: ``bad-boxes`` or ``damaged``.
    """
    unique, repeats = np.unique(np.asarray(indices, dtype=np.int64), return_counts=True)
    frame_size = reader.height, reader.width
    if finder is None:
        return [centre_track(len(indices), frame_size)]
    scenes = SceneCuts() if every else None
    detections, _ = _detect(reader, unique, finder, config, None, scenes, kept_bytes=0)
    times = reader.timestamps[unique]
    if scenes is not None:
        tracks = face_tracks(detections, times, config, scenes.places)
    else:
        track = face_track(detections, times, frame_size, config)
        tracks = [] if track is None else [track]
    return [_repeated(track, repeats) for track in tracks]


def crop_faces(
    frames: Iterable[np.ndarray], boxes: np.ndarray, size: int, angles: np.ndarray | None = None
) -> np.ndarray:
    """Cut a square out of every frame; what lies outside a frame repeats its border.

    Args:
        frames: T frames (H, W, 3) uint8.
        boxes: (T, 4) x0, y0, x1, y1, square, pixels.
        size: Side of the crops, pixels.
        angles: (T,) radians by which the squares are turned, clockwise; None: not at all.

    Returns: (T, size, size, 3) uint8.

    Raises:
        ValueError: As many frames as boxes are needed.
    """
    crops = list(_crops(frames, boxes, angles, size))
    return np.stack(crops) if crops else np.empty((0, size, size, 3), dtype=np.uint8)


def _detect(
    reader: FrameReader,
    unique: np.ndarray,
    finder: FaceDetector | BoxTable,
    config: FaceConfig,
    region: Region | None,
    scenes: SceneCuts | None = None,
    kept_bytes: int = _KEPT_BYTES,
) -> tuple[dict[int, list[Face]], list[np.ndarray] | None]:
    """Faces by place in ``unique``; the frames too, where they were decoded and fit.

    The frames that the detector saw are shown to ``scenes``.
    """
    kept: list[np.ndarray] | None = None
    if isinstance(finder, BoxTable):
        detections = finder.faces(reader, unique)
    else:
        sampled = sorted({*range(0, len(unique), config.detect_every), len(unique) - 1})
        if len(unique) * reader.height * reader.width * 3 <= kept_bytes:
            kept = list(reader.frames(unique))
            frames = iter([kept[place] for place in sampled])
        else:
            frames = reader.frames(unique[sampled])
        detections = {}
        for place, frame in zip(sampled, frames, strict=True):
            detections[place] = finder.detect(frame)
            if scenes is not None:
                scenes.see(place, frame)
    if region is not None:
        size = np.array([reader.width, reader.height])
        low, high = np.array(region[:2]) * size, np.array(region[2:]) * size
        detections = {
            place: [face for face in faces if _lies_in(face, low, high)]
            for place, faces in detections.items()
        }
    return detections, kept


def _lies_in(face: Face, low: np.ndarray, high: np.ndarray) -> bool:
    middle = (face.box[:2] + face.box[2:]) / 2
    return bool(np.all(middle >= low) and np.all(middle < high))


def _cut(
    reader: FrameReader,
    unique: np.ndarray,
    repeats: np.ndarray,
    track: FaceTrack,
    kept: list[np.ndarray] | None,
    size: int,
) -> tuple[FaceTrack, Iterator[np.ndarray]]:
    """The track and its crops with every repeat, where ``track`` counts distinct frames."""
    begin, end = track.first, track.first + len(track.boxes)
    counts = repeats[begin:end]
    frames = reader.frames(unique[begin:end]) if kept is None else iter(kept[begin:end])
    crops = _crops(frames, track.boxes, track.angles, size)
    return (
        _repeated(track, repeats),
        (crop for crop, count in zip(crops, counts, strict=True) for _ in range(count)),
    )


def _repeated(track: FaceTrack, repeats: np.ndarray) -> FaceTrack:
    """A track of distinct frames with each of them as often as it was asked for."""
    begin, end = track.first, track.first + len(track.boxes)
    repeated = track.take(np.repeat(np.arange(end - begin), repeats[begin:end]))
    return repeated.starting(int(repeats[:begin].sum()))


def _no_face(reader: FrameReader, finder: FaceDetector | BoxTable, num_frames: int) -> MediaError:
    return MediaError(
        "no-face",
        reader.path,
        f"{finder.name} found no face in {num_frames} of its frames; "
        "if these are face crops already, use --faces none",
    )


def _crops(
    frames: Iterable[np.ndarray], boxes: np.ndarray, angles: np.ndarray | None, size: int
) -> Iterator[np.ndarray]:
    boxes = np.asarray(boxes, dtype=np.float64)
    if angles is None:
        angles = np.zeros(len(boxes))
    reduction = crop_reduction(boxes, size)
    for frame, box, angle in zip(frames, boxes, np.asarray(angles, dtype=float), strict=True):
        yield crop_face(frame, box, float(angle), size, reduction)
