"""OpenCV's frontal face cascade, bundled with ``opencv-python-headless`` 4.

For machines that do not have YuNet's file: it finds frontal faces, without their eyes, and misses
many others.

Source: P. Viola, M. Jones, "Rapid object detection using a boosted cascade of simple features",
2001; R. Lienhart's tree ``frontalface_alt2``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hicmae.media.faces import DETECTORS, Face, scaled
from hicmae.settings import outside, raise_all

_LONGEST_SIDE = 320
_SMALLEST_FACE = 24  # pixels of the scaled frame
# A cascade's square reaches from the brows' upper edge to the mouth; YuNet's box from the hair to
# the chin. The factor and the shift down (in sides) make crops of both alike.
_GROW, _SHIFT_DOWN = 1.05, 0.04


@dataclass(frozen=True, kw_only=True)
class CascadeSettings:
    """Settings of the cascade.

    Args:
        min_neighbours: Overlapping hits that make a face.
        smallest_face: Side below which faces are not looked for, pixels of the frame itself. By
            default the window that the cascade was trained on: enlarging adds no detail, and
            looking for less took four times as long (57 against 14 ms for a frame of 96 pixels).
    """

    min_neighbours: int = 4
    smallest_face: int = 20

    def __post_init__(self) -> None:
        raise_all("cascade", outside(self, {"1 or more": "min_neighbours smallest_face"}))


@DETECTORS.register("cascade", settings=CascadeSettings)
class CascadeDetector:
    """The bundled cascade on frames scaled to a longest side of 320 pixels.

    Raises: FileNotFoundError: this OpenCV does not bundle the cascade.
    """

    name, finds_eyes = "cascade", False

    def __init__(self, settings: CascadeSettings, *, offline: bool = False) -> None:
        import cv2
        import cv2.data

        file = Path(cv2.data.haarcascades) / "haarcascade_frontalface_alt2.xml"
        if not file.is_file():
            raise FileNotFoundError(
                f"{file}: OpenCV {cv2.__version__} does not bundle its cascades; "
                "install opencv-python-headless 4"
            )
        self._cascade = cv2.CascadeClassifier(str(file))
        self._settings = settings

    def detect(self, frame: np.ndarray) -> list[Face]:
        """Find frontal faces in (H, W, 3) uint8 RGB; the score counts overlapping hits."""
        import cv2

        small, back = scaled(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), _LONGEST_SIDE)
        smallest = max(_SMALLEST_FACE, round(self._settings.smallest_face / back.max()))
        boxes, hits = self._cascade.detectMultiScale2(
            cv2.equalizeHist(small),
            scaleFactor=1.1,
            minNeighbors=self._settings.min_neighbours,
            minSize=(smallest, smallest),
        )
        faces = []
        for (x, y, width, height), count in zip(boxes, hits, strict=True):
            half = np.array([width, height]) / 2
            centre = np.array([x, y]) + half + (0, _SHIFT_DOWN * height)
            box = np.concatenate([(centre - _GROW * half) * back, (centre + _GROW * half) * back])
            faces.append(Face(box=box.astype(np.float32), score=float(count)))
        return faces
