"""The sheet a head is painted on, and soft-edged shapes on it.

For: coordinates and masks shared by the painters. Not for: what is painted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

# The sheet spans this many half heads in x, and the same in y.
EXTENT = 1.5
_SHIFT = 4


@dataclass(frozen=True)
class Canvas:
    """A square sheet, x and y from -EXTENT to EXTENT half heads.

    Args:
        size: Side, pixels.
    """

    size: int

    @property
    def scale(self) -> float:
        """Pixels per half head."""
        return self.size / (2 * EXTENT)

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """x (1, W) and y (H, 1) of the pixels' centres, half heads, float32."""
        line = ((np.arange(self.size) + 0.5) / self.scale - EXTENT).astype(np.float32)
        return line[None, :], line[:, None]

    def window(self, left: float, top: float, right: float, bottom: float) -> Window:
        """The part of the sheet between these half heads."""
        edges = np.clip(
            np.rint((np.array([left, top, right, bottom]) + EXTENT) * self.scale), 0, self.size
        ).astype(int)
        return Window(self, int(edges[0]), int(edges[1]), int(edges[2]), int(edges[3]))

    def soft(self, distance: np.ndarray) -> np.ndarray:
        """Coverage 0..1 of a shape whose edge is where ``distance`` (half heads) is 0."""
        return np.clip(distance * self.scale + 0.5, 0.0, 1.0)


@dataclass(frozen=True)
class Window:
    """A rectangle of the canvas, in whole pixels; draws with antialiased edges."""

    canvas: Canvas
    left: int
    top: int
    right: int
    bottom: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of this window in a canvas-sized array."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def fill(self, image: np.ndarray, points: np.ndarray, colour: tuple[float, ...]) -> None:
        """Fill the polygon (n, 2), half heads, on the window-sized ``image``."""
        cv2.fillPoly(image, [self._at(points)], colour, cv2.LINE_AA, _SHIFT)

    def line(
        self,
        image: np.ndarray,
        x: np.ndarray,
        y: np.ndarray,
        colour: tuple[float, ...],
        width: float,
    ) -> None:
        """Stroke the mostly level curve y (n,) over x (n,); ``width`` is measured upright."""
        self.fill(image, outline(x, y - width / 2, y + width / 2), colour)

    def dot(
        self,
        image: np.ndarray,
        centre: tuple[float, float],
        radius: float,
        colour: tuple[float, ...],
    ) -> None:
        """Fill a disc."""
        factor, offset = self._fixed
        x, y = centre[0] * factor + offset[0], centre[1] * factor + offset[1]
        size = max(1, round(radius * factor))
        cv2.circle(image, (round(x), round(y)), size, colour, -1, cv2.LINE_AA, _SHIFT)

    @cached_property
    def _fixed(self) -> tuple[float, np.ndarray]:
        """Factor and offset (2,) from half heads to OpenCV's fixed-point pixels here."""
        unit = 1 << _SHIFT
        corner = np.array([self.left, self.top])
        return self.canvas.scale * unit, (EXTENT * self.canvas.scale - 0.5 - corner) * unit

    def _at(self, points: np.ndarray) -> np.ndarray:
        factor, offset = self._fixed
        return np.rint(points * factor + offset).astype(np.int32)


def outline(x: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Polygon (2n, 2) between two curves over the same x (n,)."""
    num = len(x)
    points = np.empty((2 * num, 2))
    points[:num, 0], points[:num, 1] = x, top
    points[num:, 0], points[num:, 1] = x[::-1], bottom[::-1]
    return points


def smoothstep(low: float, high: float, values: np.ndarray) -> np.ndarray:
    """0 below ``low``, 1 above ``high``, smooth between."""
    place = np.clip((values - low) / (high - low), 0.0, 1.0)
    return place * place * (3 - 2 * place)


def bump(x: np.ndarray, y: np.ndarray, place: tuple[float, float, float, float]) -> np.ndarray:
    """Gaussian hill of height 1; ``place`` is its centre x, y and its widths along x, y."""
    centre_x, centre_y, width_x, width_y = place
    return np.exp(-(((x - centre_x) / width_x) ** 2) / 2) * np.exp(
        -(((y - centre_y) / width_y) ** 2) / 2
    )


def mix(under: np.ndarray, over: np.ndarray, share: np.ndarray | float) -> np.ndarray:
    """Paint ``over`` (…, 3) on ``under`` with coverage ``share`` (H, W)."""
    weight = np.asarray(share, np.float32)[..., None]
    return under + weight * (over - under)


def cloth(rng: np.random.Generator, size: int, grain: int) -> np.ndarray:
    """Smooth noise (size, size) with about ``grain`` blobs a side, standard normal."""
    coarse = rng.standard_normal((grain + 2, grain + 2)).astype(np.float32)
    fine = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return (fine - fine.mean()) / max(float(fine.std()), 1e-6)
