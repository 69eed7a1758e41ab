"""One square cut out of one frame, to a fraction of a pixel.

For: the images of a face. Not for: which square (``tracking.py``) or which frames (``crops.py``).
"""

from __future__ import annotations

import cv2
import numpy as np


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
    centre, half = (box[:2] + box[2:]) / 2, (box[2] - box[0]) / 2
    reach = half * (abs(np.cos(angle)) + abs(np.sin(angle)))
    # Clip so that a square wholly outside still sees the border it lies beyond.
    low = np.clip(np.floor(centre - reach + 1e-6), 0, (width - 1, height - 1)).astype(int)
    high = np.clip(np.ceil(centre + reach - 1e-6), 1, (width, height)).astype(int)
    high = np.maximum(high, low + 1)
    part = frame[low[1] : high[1], low[0] : high[0]]
    target = np.maximum(np.round((high - low) / reduction), 1).astype(int)
    small = cv2.resize(part, (int(target[0]), int(target[1])), interpolation=cv2.INTER_AREA)
    return small, low.astype(float), (high - low) / target
