"""Cuts from one scene to another, seen in frames a fraction of a second apart.

For: ending the track of a face where the picture is suddenly another one. Not for: fades, or
finding the frame of a cut.
"""

from __future__ import annotations

import cv2
import numpy as np

_SIDE = 32  # of a thumbnail, pixels
# What two frames of a scene have in common, correlation of brightness, and by how much they differ,
# 0..255. Of 1389 pairs of frames 0.2 s apart out of 60 real recordings, ten were on the far side
# of both, cuts and the wildest camera movements; of 1770 pairs out of two recordings 93 % were (the
# rest show one studio). Talking heads of one take stayed above a correlation of 0.47.
_ALIKE, _DIFFERENT = 0.4, 15.0


class SceneCuts:
    """Where scenes begin among frames that go by; of the frames the last is kept, and tiny.

    Attributes:
        places: Of the frames that show another scene than the one before.
    """

    def __init__(self) -> None:
        self.places: set[int] = set()
        self._before: np.ndarray | None = None

    def see(self, place: int, frame: np.ndarray) -> None:
        """Look at the next frame (H, W, 3) uint8; places ascend."""
        glance = thumbnail(frame)
        if self._before is not None and is_cut(self._before, glance):
            self.places.add(place)
        self._before = glance


def thumbnail(frame: np.ndarray) -> np.ndarray:
    """A frame (H, W, 3) uint8 at a glance: float32 (32, 32, 3)."""
    step = max(1, min(frame.shape[:2]) // (2 * _SIDE))  # most pixels need not be looked at
    few = np.ascontiguousarray(frame[::step, ::step])
    return cv2.resize(few, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)


def is_cut(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether two thumbnails show different scenes: other colours in another arrangement."""
    if np.abs(before - after).mean() < _DIFFERENT:
        return False
    one, other = (image.mean(axis=2) - image.mean() for image in (before, after))
    scale = np.sqrt((one**2).sum() * (other**2).sum())
    return bool(scale == 0 or (one * other).sum() < _ALIKE * scale)
