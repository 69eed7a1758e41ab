"""What a face detector gives and offers.

For: detectors (one file each) and those who use them. Not for: choosing one (``faces.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np


@dataclass(frozen=True, kw_only=True)
class Face:
    """One face in one frame.

    Args:
        box: (4,) float32 x0, y0, x1, y1, pixels of the frame; may reach outside of it.
        score: The detector's confidence; comparable within one detector only.
        eyes: (2, 2) float32 x, y of the eye on the picture's left and of the one on its right, or
            None where the detector does not tell.
        track: Whose face it is, where a list of boxes says so; detectors do not know.
    """

    box: np.ndarray
    score: float
    eyes: np.ndarray | None = None
    track: str | None = None


class FaceDetector(Protocol):
    """Finds the faces of one frame."""

    name: str

    def detect(self, frame: np.ndarray) -> list[Face]:
        """Find faces in (H, W, 3) uint8 RGB, in no particular order."""
        ...


def scaled(frame: np.ndarray, longest_side: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale a frame (H, W, C) so that its longest side has this many pixels.

    Returns: the scaled frame, and (2,) what its x and y are multiplied with to get the frame's.
    """
    height, width = frame.shape[:2]
    scale = longest_side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(frame, size, interpolation=method), np.array([width, height]) / size
