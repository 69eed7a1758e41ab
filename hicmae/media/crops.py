"""Face images: squares cut out of frames to a fraction of a pixel, and their JPEG.

Images are encoded by OpenCV and decoded by libjpeg-turbo itself, as the readers of shards do; those
of prediction go through the same codec as those the network was trained on.
"""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg

from hicmae.media.faces import FaceConfig
from hicmae.media.tracking import FaceTrack


class FaceCutter:
    """Cuts one face out of the frames in which it is.

    Args:
        track: The face, at a constant rate.
        indices: (T,) frames of the recording at that rate, ascending, with repeats.
        config: Side of the images, and their JPEG.
    """

    def __init__(self, track: FaceTrack, indices: np.ndarray, config: FaceConfig) -> None:
        self._track, self._config = track, config
        # Over the frames that the recording has: repeats are not seen twice.
        part = indices[track.first : track.first + len(track.boxes)]
        distinct = np.unique(part, return_index=True)[1]
        self._reduction = crop_reduction(track.boxes[distinct], config.face_size)

    def cut(self, frame: np.ndarray, place: int) -> np.ndarray:
        """The image (size, size, 3) of the frame (H, W, 3) at a place of the track."""
        angle = 0.0 if self._track.angles is None else float(self._track.angles[place])
        box = self._track.boxes[place].astype(np.float64)
        return crop_face(frame, box, angle, self._config.face_size, self._reduction)

    def cut_as_stored(self, frame: np.ndarray, place: int) -> np.ndarray:
        """The same image as the readers of shards give it: through its JPEG."""
        quality, chroma = self._config.jpeg_quality, self._config.chroma
        return decode_jpeg(encode_jpeg(self.cut(frame, place), quality=quality, chroma=chroma))


def crop_reduction(boxes: np.ndarray, size: int) -> float:
    """How many source pixels, across, become one of a crop before it is cut: 1 or more.

    One number for the whole of a track (T, 4), so that sharpness does not flicker.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    reduction = float(np.median(boxes[:, 2] - boxes[:, 0])) / size if len(boxes) else 1.0
    return max(reduction, 1.0)


def crop_face(
    frame: np.ndarray, box: np.ndarray, angle: float, size: int, reduction: float
) -> np.ndarray:
    """Cut one square (4,), turned by an angle (radians), to a fraction of a pixel.

    Source pixels smaller than those of the crop are averaged first (``reduction`` of them become
    one), then the rest is a turn, a shift and a scale near 1. Were the square rounded to whole
    pixels instead, crops would tremble.
    """
    centre, scale = (box[:2] + box[2:]) / 2, (box[2] - box[0]) / size
    # Pixel centres: crop pixel i covers i .. i + 1 in units of the crop.
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = centre - turn @ np.full(2, size / 2)
    if reduction > 1:
        frame, offset, factor = _reduced(frame, box, angle, reduction)
        turn, shift = turn / factor[:, None], (shift - offset) / factor
    to_source = np.column_stack([turn, shift + turn @ np.full(2, 0.5) - 0.5])
    return cv2.warpAffine(
        frame,
        to_source,
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def encode_jpeg(image: np.ndarray, *, quality: int, chroma: str) -> bytes:
    """Encode one image (H, W, 3) uint8 RGB.

    Args:
        quality: 1..100.
        chroma: ``420`` halves the resolution of colours in both directions, ``444`` keeps it.
    """
    sampling = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{chroma}")
    options = [
        *(cv2.IMWRITE_JPEG_QUALITY, quality),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling),
        *(cv2.IMWRITE_JPEG_OPTIMIZE, 1),  # 3 to 5 % smaller, and no slower to decode
    ]
    _, jpeg = cv2.imencode(".jpg", image[:, :, ::-1], options)  # it encodes every uint8 image
    return bytes(jpeg.tobytes())


def decode_jpeg(jpeg: bytes) -> np.ndarray:
    """Decode one image to (H, W, 3) uint8 RGB.

    Raises: ValueError: it is damaged.
    """
    return np.asarray(simplejpeg.decode_jpeg(jpeg, "RGB"))


def _reduced(
    frame: np.ndarray, box: np.ndarray, angle: float, reduction: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The part of a frame around a square with ``reduction`` source pixels averaged to one.

    The part begins at the square's own corner where that is a whole pixel: an upright square of
    whole pixels is averaged exactly.

    Returns: the part; (2,) x and y where it begins in the frame; (2,) source pixels of each of
        its pixels, x and y.
    """
    height, width = frame.shape[:2]
    centre = (box[:2] + box[2:]) / 2
    reach = (box[2] - box[0]) / 2 * (abs(np.cos(angle)) + abs(np.sin(angle)))
    # Clip so that a square wholly outside still sees the border it lies beyond.
    low = np.clip(np.floor(centre - reach + 1e-6), 0, (width - 1, height - 1)).astype(int)
    high = np.clip(np.ceil(centre + reach - 1e-6), 1, (width, height)).astype(int)
    high = np.maximum(high, low + 1)
    part = frame[low[1] : high[1], low[0] : high[0]]
    target = np.maximum(np.round((high - low) / reduction), 1).astype(int)
    small = cv2.resize(part, (int(target[0]), int(target[1])), interpolation=cv2.INTER_AREA)
    return small, low.astype(float), (high - low) / target
