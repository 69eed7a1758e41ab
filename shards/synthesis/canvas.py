"""The sheet that a head is painted on, soft-edged shapes on it, and the scene around it.

A scene (light, background, shirt, camera) changes from clip to clip and says nothing of the class.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.random import Generator

# The sheet spans this many half heads in x, and the same in y.
EXTENT = 1.5
_SHIFT = 4


@dataclass(frozen=True)
class Canvas:
    """A square sheet, x and y from -EXTENT to EXTENT half heads."""

    size: int  # side, pixels

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
        edges = np.rint((np.array([left, top, right, bottom]) + EXTENT) * self.scale)
        return Window(self, *np.clip(edges, 0, self.size).astype(int).tolist())

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


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Light, place and camera of one clip."""

    light: tuple[float, float, float]  # to the key light: x right, y down, z to the camera
    light_colour: tuple[float, float, float]  # RGB factor
    ambient: float  # share of light from everywhere
    exposure: float  # factor on everything
    offset: tuple[float, float]  # shift of the head, half heads
    scale: float  # of the head, relative to the usual
    roll: float  # resting tilt, radians
    turn: tuple[float, float]  # resting yaw and nod, half heads of shift at the nose's depth
    noise: float  # standard deviation of the camera's, levels of 255
    blur: float  # standard deviation of the lens's, in 1/160 of the frame


def draw_scene(rng: Generator, camera_noise: float, variety: float = 1.0) -> Scene:
    """A scene at random.

    Args:
        rng: Draws it, the same numbers whatever the variety.
        camera_noise: Largest standard deviation of the noise, levels of 255.
        variety: How far scenes are from one another, 0..1; 0 is a studio, where light, camera and
            resting head are always the same.
    """

    def between(low: float, high: float) -> float:
        drawn = float(rng.uniform(low, high))
        return drawn if variety == 1 else (low + high) / 2 + variety * (drawn - (low + high) / 2)

    direction = np.array([between(-0.9, 0.9), between(-0.8, 0.15), 1.0])
    direction /= np.linalg.norm(direction)
    warmth = between(-0.12, 0.12)
    return Scene(
        light=(float(direction[0]), float(direction[1]), float(direction[2])),
        light_colour=(1 + warmth, 1.0, 1 - warmth),
        ambient=between(0.35, 0.6),
        exposure=between(0.75, 1.12),
        offset=(between(-0.08, 0.08), between(-0.06, 0.06)),
        scale=between(0.9, 1.08),
        roll=between(-0.09, 0.09),
        turn=(between(-0.10, 0.10), between(-0.05, 0.05)),
        noise=float(rng.uniform(0.25, 1.0)) * camera_noise,
        blur=between(0.0, 0.7),
    )


def paint_background(rng: Generator, size: int, scene: Scene) -> np.ndarray:
    """A wall, a shelf or a blurred room (size, size, 3), float32 in [0, 1]."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    first, second = rng.uniform(0.1, 0.95, (2, 3)).astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    slope = smoothstep(-0.6, 0.6, np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5))
    wall = mix(np.broadcast_to(first, (size, size, 3)), second, slope)
    kind = int(rng.integers(4))
    if kind == 1:  # stripes
        waves = np.sin((x * np.cos(angle) + y * np.sin(angle)) * rng.uniform(15, 60))
        wall = mix(wall, rng.uniform(0, 1, 3), 0.35 * smoothstep(-0.3, 0.3, waves))
    elif kind == 2:  # lights out of focus
        for _ in range(int(rng.integers(5, 14))):
            distance = np.hypot(x - rng.uniform(), y - rng.uniform())
            disc = smoothstep(0.02, -0.01, distance - rng.uniform(0.03, 0.14))
            wall = mix(wall, rng.uniform(0.2, 1, 3), 0.55 * disc)
    elif kind == 3:  # a shelf
        for edge in np.sort(rng.uniform(0, 1, int(rng.integers(2, 6)))):
            lower = smoothstep(edge - 0.01, edge + 0.01, x if rng.random() < 0.5 else y)
            wall = mix(wall, rng.uniform(0.1, 0.9, 3), 0.4 * lower)
    texture = sum(cloth(rng, size, grain) / grain**0.5 for grain in (3, 9, 27))
    wall = wall * (1 + rng.uniform(0.02, 0.12) * np.asarray(texture)[..., None])
    fall = 1 + 0.5 * scene.light[0] * (x - 0.5) + 0.4 * scene.light[1] * (y - 0.5)
    lit = wall * fall[..., None] * scene.exposure * 0.85
    return np.clip(lit, 0.0, 1.0).astype(np.float32)


def paint_shirt(
    rng: Generator, size: int, scene: Scene, colour: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Shoulders at the lower edge, lit: colours (size, size, 3) and coverage (size, size)."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    aside = np.abs(x - 0.5 - 0.4 * scene.offset[0])
    collar = rng.uniform(0.10, 0.15)
    # Shoulders slope away from the neck; the neckline between them is a parabola.
    top = 0.90 + 0.18 * smoothstep(0.1, 0.6, aside) + 0.05 * scene.offset[1]
    neckline = 0.985 - 0.09 * (aside / collar) ** 2
    edge = np.maximum(top, np.where(aside < collar * 1.2, neckline, 0.0))
    cover = np.clip((y - edge) * size + 0.5, 0.0, 1.0)
    folds = 1 + 0.08 * cloth(rng, size, 7)
    side = 1 + 0.6 * scene.light[0] * (x - 0.5) - 1.2 * np.clip(0.03 - (y - edge), 0, 0.03) * 10
    shade = scene.exposure * folds * side
    return (np.array(colour, np.float32) * shade[..., None]).clip(0, 1), cover
