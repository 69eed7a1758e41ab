"""Face crops of a recording at a constant size.

For: going through a recording in bounded memory, once if its frames fit and twice if not. Not
for: which frames (``frame_times.py``) or which face (``tracking.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np

from hicmae.media.detection import FaceDetector
from hicmae.media.errors import MediaError
from hicmae.media.faces import FaceConfig
from hicmae.media.tracking import FaceTrack, centre_track, face_track
from hicmae.media.video import VideoReader

# Frames up to this many bytes are kept between detecting and cutting; longer or larger recordings
# are decoded twice instead.
_KEPT_BYTES = 192 * 2**20


def crop_video(
    reader: VideoReader,
    indices: Sequence[int] | np.ndarray,
    detector: FaceDetector | None,
    config: FaceConfig,
    size: int,
) -> tuple[FaceTrack, Iterator[np.ndarray]]:
    """Follow the face through frames of a recording and cut it out of each.

    Args:
        reader: The recording.
        indices: (T,) frames, ascending; repeats give the same crop.
        detector: From ``open_detector``; None: the middle square.
        config: How to follow and cut.
        size: Side of the crops, pixels.

    Returns: the track (T boxes), and an iterator over T crops (size, size, 3) uint8 RGB.

    Raises:
        MediaError: ``no-face``, or ``damaged`` (then possibly from the iterator).
    """
    unique, repeats = np.unique(np.asarray(indices, dtype=np.int64), return_counts=True)
    kept: list[np.ndarray] | None = None
    if detector is None:
        track = centre_track(len(unique), (reader.height, reader.width))
    else:
        track, kept = _follow(reader, unique, detector, config)
    frames = reader.frames(unique) if kept is None else iter(kept)
    crops = _crops(frames, track.boxes, size)
    return (
        track.take(np.repeat(np.arange(len(unique)), repeats)),
        (crop for crop, count in zip(crops, repeats, strict=True) for _ in range(count)),
    )


def crop_faces(frames: Iterable[np.ndarray], boxes: np.ndarray, size: int) -> np.ndarray:
    """Cut a square out of every frame; what lies outside a frame repeats its border.

    Args:
        frames: T frames (H, W, 3) uint8.
        boxes: (T, 4) x0, y0, x1, y1, square, pixels.
        size: Side of the crops, pixels.

    Returns: (T, size, size, 3) uint8.

    Raises:
        ValueError: As many frames as boxes are needed.
    """
    crops = list(_crops(frames, boxes, size))
    return np.stack(crops) if crops else np.empty((0, size, size, 3), dtype=np.uint8)


def _follow(
    reader: VideoReader, unique: np.ndarray, detector: FaceDetector, config: FaceConfig
) -> tuple[FaceTrack, list[np.ndarray] | None]:
    """Detect in every so many frames and follow; frames are kept where they fit."""
    sampled = sorted({*range(0, len(unique), config.detect_every), len(unique) - 1})
    keep = len(unique) * reader.height * reader.width * 3 <= _KEPT_BYTES
    if keep:
        kept = list(reader.frames(unique))
        detections = {place: detector.detect(kept[place]) for place in sampled}
    else:
        kept = None
        seen = zip(sampled, reader.frames(unique[sampled]), strict=True)
        detections = {place: detector.detect(frame) for place, frame in seen}
    times = reader.timestamps[unique]
    track = face_track(detections, times, (reader.height, reader.width), config)
    if track is None:
        raise MediaError(
            "no-face",
            reader.path,
            f"{detector.name} found no face in {len(sampled)} of its frames; "
            "if these are face crops already, use --faces none",
        )
    return track, kept


def _crops(frames: Iterable[np.ndarray], boxes: np.ndarray, size: int) -> Iterator[np.ndarray]:
    # One method for the whole recording, so that sharpness does not flicker.
    shrink = bool(len(boxes)) and float(np.median(boxes[:, 2] - boxes[:, 0])) > size
    cut = _shrunk if shrink else _enlarged
    for frame, box in zip(frames, np.asarray(boxes, dtype=np.float64), strict=True):
        yield cut(frame, box, size)


def _shrunk(frame: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """Average over whole source pixels, which are smaller than those of the crop."""
    height, width = frame.shape[:2]
    side = max(1, round(box[2] - box[0]))
    x0, y0 = round((box[0] + box[2] - side) / 2), round((box[1] + box[3] - side) / 2)
    # Clip so that a box wholly outside still sees the border it lies beyond.
    left, right = np.clip([x0, x0 + side], (0, 1), (width - 1, width))
    top, bottom = np.clip([y0, y0 + side], (0, 1), (height - 1, height))
    part = frame[top:bottom, left:right]
    above, below = max(0, top - y0), max(0, y0 + side - bottom)
    before, after = max(0, left - x0), max(0, x0 + side - right)
    if above or below or before or after:
        part = cv2.copyMakeBorder(part, above, below, before, after, cv2.BORDER_REPLICATE)
    return cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA)


def _enlarged(frame: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """Interpolate at fractions of a source pixel."""
    scale = (box[2] - box[0]) / size
    # Pixel centres: crop pixel i covers source x0 + i * scale .. x0 + (i + 1) * scale.
    to_source = np.array(
        [[scale, 0, box[0] + scale / 2 - 0.5], [0, scale, box[1] + scale / 2 - 0.5]]
    )
    return cv2.warpAffine(
        frame,
        to_source,
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
