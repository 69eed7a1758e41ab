"""By how much one preparation of a recording is later than another, in picture and in sound.

For: comparing shards, where a misalignment in time must show even if crops, sizes and rates are
others. Not for: mending it.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.signal import correlate, correlation_lags

_THUMBNAIL = 24  # pixels: movement is seen at this size, and coding is not
_NOISE = 0.3  # levels of 255 by which still pictures change through coding
_LEAST_FRAMES = 8
_QUIET = 8.0  # levels of 32768; less tells nothing
# On 26 clips of real and synthetic faces, each shifted by 0, 2 and -4 frames between preparations
# that differed in detector, margin, size and rate, the best shift was the right one every time,
# its correlation 0.54 or more, and 0.05 or more above that of no shift.
_LEAST_CORRELATION = 0.5
_LEAST_GAIN = 0.03


def picture_shift(
    first: np.ndarray,
    first_fps: float,
    second: np.ndarray,
    second_fps: float,
    *,
    max_seconds: float,
) -> int | None:
    """Find the shift by how much the pictures move from one frame to the next.

    The amount of movement is one number a frame, which other crops of the same face share.

    Args:
        first: uint8 (T, H, W, 3).
        first_fps: Its rate, frames per second.
        second: uint8 (T', H', W', 3).
        second_fps: Likewise.
        max_seconds: Shifts that are looked for, either way.

    Returns: frames of the faster rate by which the second is later; None where too little moves,
        or the movements have nothing in common.
    """
    fast, slow = max(first_fps, second_fps), min(first_fps, second_fps)
    a, b = _thumbnails(first), _thumbnails(second)
    # Both at the slower rate: frames that were repeated to reach the faster one do not move.
    times = np.arange(int((len(a) - 1) / first_fps * slow) + 1) / slow
    places_a = np.rint(times * first_fps).astype(int)
    scores: dict[int, float] = {}
    reach = round(max_seconds * fast)
    for shift in range(-reach, reach + 1):
        places_b = np.rint((times + shift / fast) * second_fps).astype(int)
        inside = (places_b >= 0) & (places_b < len(b))
        if inside.sum() < max(_LEAST_FRAMES, len(times) / 2):
            continue
        scores[shift] = _correlation(_movement(a[places_a[inside]]), _movement(b[places_b[inside]]))
    return _best(scores)


def sound_shift(
    first: np.ndarray, second: np.ndarray, sample_rate: int, *, max_seconds: float
) -> tuple[int | None, float | None]:
    """Find the shift of two sounds by their cross-correlation.

    Args:
        first: int16 (n,).
        second: int16 (n',).
        sample_rate: Of both, Hz.
        max_seconds: Shifts that are looked for, either way.

    Returns: samples by which the second is later (None: nothing in common), and the correlation
        of the two as they are, -1..1; both None where either is silent or absent.
    """
    length = min(len(first), len(second))
    if not length:
        return None, None
    x, y = (sound[:length] - sound[:length].mean() for sound in (first, second))
    if min(float(x.std()), float(y.std())) < _QUIET:
        return None, None
    products = correlate(y, x, method="fft") / np.sqrt((x**2).sum() * (y**2).sum())
    lags = correlation_lags(length, length)
    near = np.abs(lags) <= min(max_seconds * sample_rate, length / 2)
    scores = dict(zip(lags[near].tolist(), products[near].tolist(), strict=True))
    return _best(scores), float(scores[0])


def _best(scores: dict[int, float]) -> int | None:
    """The shift that fits best, or 0 if that is hardly better; None if nothing fits."""
    best = max(scores, key=lambda shift: (scores[shift], -abs(shift)), default=0)
    if scores.get(best, 0.0) < _LEAST_CORRELATION:
        return None
    return 0 if scores.get(0, -1.0) > scores[best] - _LEAST_GAIN else best


def _thumbnails(frames: np.ndarray) -> np.ndarray:
    """Small grey pictures, float64 (T, side, side)."""
    small = [
        cv2.resize(frame, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
        for frame in frames
    ]
    return np.asarray(np.stack(small).mean(axis=3, dtype=np.float64))


def _movement(pictures: np.ndarray) -> np.ndarray:
    """How much changes from each picture to the next, (T - 1,), in logarithms: a blink counts
    beside a turn of the head.
    """
    change = np.abs(np.diff(pictures, axis=0)).mean(axis=(1, 2))
    return np.asarray(np.log(_NOISE + change))


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum()) / scale if scale > 1e-9 else 0.0
