"""What stands still in a clip: the scene, and a head's skull, skin, nose, ears, hair and beard.

A scene (light, background, shirt, camera) changes from clip to clip and says nothing of the class.
A head is painted once per clip, as two sheets with soft-edged shapes: what colour each point is and
how it is lit, so that eyes, brows and mouth, painted later, can be lit the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.random import Generator, default_rng

from shards.synthesis.speakers import Looks

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


# Where the skull is widest, and its crown, half heads.
_WIDEST = -0.16
_CROWN = -1.0


@dataclass(frozen=True, kw_only=True)
class Head:
    """A painted head on a canvas of side H = W, float32."""

    colour: np.ndarray  # (H, W, 3), 0..1, unlit, multiplied by cover
    cover: np.ndarray  # (H, W), 0..1
    shade: np.ndarray  # (H, W, 3), light arriving at each point
    gloss: np.ndarray  # (H, W, 3), reflected highlight to be added
    depth: np.ndarray  # (H, W), towards the camera, half heads


def _half_width(looks: Looks, y: np.ndarray) -> np.ndarray:
    """Half the width of the face at height y, half heads; 0 above the crown, below the chin."""
    up = np.clip((_WIDEST - y) / (_WIDEST - _CROWN), 0, 1)
    down = np.clip((y - _WIDEST) / (looks.chin - _WIDEST), 0, 1)
    return looks.face_width * np.where(
        y < _WIDEST, np.sqrt(1 - up**2), np.sqrt(1 - down**looks.jaw) * (1 - 0.15 * down)
    )


def paint_head(canvas: Canvas, looks: Looks, scene: Scene, creases: dict[str, float]) -> Head:
    """Paint and light one head.

    ``creases`` are strengths 0..1 of the folds that an expression makes in the skin: ``cheeks``
    (from the nose to the mouth's corners), ``furrow`` (between the brows), ``forehead``.
    """
    x, y = canvas.grid()
    rng = default_rng(looks.texture_seed)
    width = _half_width(looks, y)
    # Distance to the outline: horizontal at the sides, vertical at crown and chin.
    inside = np.minimum((width - np.abs(x)) * 0.9, np.minimum(y - _CROWN, looks.chin - y))
    face = canvas.soft(inside)
    depth = _relief(looks, x, y, width, creases)

    skin = _skin(canvas, looks, x, y, rng)
    skin = _beard(canvas, looks, skin, inside, rng)
    neck = canvas.soft(np.minimum(_neck_half(looks, y) - np.abs(x), y - 0.3))
    ears, ear_shade = _ears(canvas, looks, x, y)
    back, back_cover = _back_hair(canvas, looks, x, y, rng)
    front, front_cover = _front_hair(canvas, looks, x, y, width, rng)

    # Back to front: hair behind, neck, ears, face, hair before it.
    tone = np.broadcast_to(np.array(looks.skin, np.float32), skin.shape)
    under_chin = 0.62 + 0.25 * smoothstep(looks.chin, looks.chin + 0.4, y)
    colour = mix(np.zeros_like(skin), back, back_cover)
    colour = mix(colour, tone * (under_chin + 0 * x)[..., None], neck)
    colour = mix(colour, tone * ear_shade[..., None], ears)
    colour = mix(colour, skin, face)
    colour = mix(colour, front, front_cover)
    cover = 1 - (1 - back_cover) * (1 - neck) * (1 - ears) * (1 - face) * (1 - front_cover)

    shade, gloss = _light(canvas, scene, depth, face * (1 - front_cover))
    return Head(
        colour=np.clip(colour, 0, 1).astype(np.float32),
        cover=cover.astype(np.float32),
        shade=shade.astype(np.float32),
        gloss=gloss.astype(np.float32),
        depth=depth.astype(np.float32),
    )


def _relief(
    looks: Looks, x: np.ndarray, y: np.ndarray, width: np.ndarray, creases: dict[str, float]
) -> np.ndarray:
    """Height of the face towards the camera (H, W), half heads."""
    roundness = np.clip(1 - (x / np.maximum(width, 0.05)) ** 2, 0, 1)
    depth = 0.9 * np.maximum(width, 0.05) * np.sqrt(roundness)
    side = np.abs(x)
    tip = looks.eye_y + looks.nose_length + 0.1
    wide = looks.nose_width
    ridge = smoothstep(looks.eye_y - 0.12, tip, y) * smoothstep(tip + 0.09, tip - 0.01, y)
    depth = depth + 0.20 * ridge * np.exp(-((x / (0.055 * wide + 0.03 * ridge)) ** 2) / 2)
    depth += 0.05 * bump(side, y, (0.085 * wide, tip, 0.035, 0.04))  # wings of the nose
    depth -= 0.075 * bump(side, y, (looks.eye_x, looks.eye_y, 0.16, 0.09))
    depth += 0.040 * bump(side, y, (0.26, looks.eye_y - 0.20, 0.22, 0.06))  # brow ridge
    depth += 0.045 * bump(side, y, (0.36, 0.18, 0.13, 0.12))  # cheekbones
    depth += 0.05 * bump(x, y, (0.0, looks.mouth_y, 0.22, 0.13))
    depth -= 0.035 * bump(x, y, (0.0, looks.mouth_y + 0.16, 0.14, 0.035))
    depth += 0.05 * bump(x, y, (0.0, looks.chin - 0.12, 0.12, 0.08))
    depth -= 0.012 * bump(x, y, (0.0, looks.mouth_y - 0.12, 0.025, 0.05))
    # Folds of the skin: narrow valleys.
    fold = 0.14 + 0.22 * smoothstep(tip - 0.02, looks.mouth_y + 0.06, y)
    along = smoothstep(tip - 0.08, tip + 0.05, y) * smoothstep(
        looks.mouth_y + 0.12, looks.mouth_y, y
    )
    depth -= (
        (0.008 + 0.035 * creases["cheeks"])
        * along
        * bump(side, y, (0, 0, 1, 9))
        * np.exp(-(((side - fold) / 0.03) ** 2))
    )
    depth += 0.05 * creases["cheeks"] * bump(side, y, (0.33, 0.16, 0.10, 0.07))
    depth -= 0.03 * creases["furrow"] * bump(side, y, (0.045, looks.eye_y - 0.2, 0.014, 0.07))
    lines = np.sin((y + 0.35 * x**2) * 60) * bump(x, y, (0, looks.eye_y - 0.38, 0.28, 0.07))
    depth += 0.007 * creases["forehead"] * lines
    # The neck, a cylinder further back, takes over below the chin.
    neck_half = _neck_half(looks, y)
    neck = 0.9 * neck_half * np.sqrt(np.clip(1 - (x / neck_half) ** 2, 0, 1)) - 0.1
    return np.where((y > looks.mouth_y) & (neck > depth), neck, depth)


def _neck_half(looks: Looks, y: np.ndarray) -> np.ndarray:
    """Half the width of the neck at height y, half heads."""
    return looks.face_width * (0.66 + 0.16 * smoothstep(1.0, 1.5, y))


def _skin(
    canvas: Canvas, looks: Looks, x: np.ndarray, y: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Unlit skin (H, W, 3) with blush, freckles, nostrils and shadowed eye sockets."""
    side = np.abs(x)
    skin = np.broadcast_to(np.array(looks.skin, np.float32), (canvas.size, canvas.size, 3))
    tip = looks.eye_y + looks.nose_length + 0.1
    red = np.array(looks.skin, np.float32) * np.array([1.0, 0.72, 0.70], np.float32)
    blush = 0.45 * bump(side, y, (0.38, 0.22, 0.12, 0.10)) + 0.3 * bump(x, y, (0, tip, 0.1, 0.07))
    skin = mix(skin, red, blush)
    dark = np.array(looks.skin, np.float32) * np.array([0.62, 0.52, 0.52], np.float32)
    skin = mix(skin, dark, 0.35 * bump(side, y, (looks.eye_x, looks.eye_y + 0.01, 0.15, 0.07)))
    spots = smoothstep(1.6, 2.4, cloth(rng, canvas.size, 70)) * bump(side, y, (0.2, 0.1, 0.2, 0.1))
    skin = mix(skin, dark, 0.5 * looks.freckles * spots)
    nostril = ((side - 0.065 * looks.nose_width) / 0.036) ** 2 + ((y - tip - 0.035) / 0.018) ** 2
    skin = mix(skin, dark * 0.55, 0.85 * smoothstep(1.6, 0.5, nostril))
    under = bump(x, y, (0, tip + 0.055, 0.1 * looks.nose_width, 0.018))
    skin = mix(skin, dark, 0.45 * under)
    mottle = 1 + 0.012 * cloth(rng, canvas.size, 24) + 0.012 * cloth(rng, canvas.size, 80)
    return skin * mottle[..., None]


def _ears(
    canvas: Canvas, looks: Looks, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and shading (H, W) of both ears."""
    size = looks.ear
    across = (np.abs(x) - looks.face_width * 0.99) / (0.10 * size)
    down = (y - looks.eye_y - 0.10) / (0.20 * size)
    radius = np.sqrt(across**2 + (down + 0.15 * across) ** 2)
    return canvas.soft((1 - radius) * 0.1), 0.62 + 0.3 * smoothstep(0.3, 0.85, radius)


def _light(
    canvas: Canvas, scene: Scene, depth: np.ndarray, skin: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Light arriving (H, W, 3) and the skin's highlight (H, W, 3): Lambert and Blinn-Phong."""
    rows, columns = np.gradient(depth, 1 / canvas.scale)
    steep = 2.2  # below which the rim of the head would turn black
    columns, rows = np.clip(columns, -steep, steep), np.clip(rows, -steep, steep)
    norm = np.sqrt(columns**2 + rows**2 + 1)
    light = np.array(scene.light)
    facing = (-columns * light[0] - rows * light[1] + light[2]) / norm
    half = light + np.array([0.0, 0.0, 1.0])
    half /= np.linalg.norm(half)
    mirror = (-columns * half[0] - rows * half[1] + half[2]) / norm
    key = np.clip(0.25 + 0.75 * facing, 0, None)[..., None] * np.array(scene.light_colour)
    shade = scene.exposure * (scene.ambient + (1.12 - scene.ambient) * key)
    gloss = 0.16 * scene.exposure * (np.clip(mirror, 0, 1) ** 28 * skin)[..., None]
    return shade, gloss * np.array(scene.light_colour)


def _back_hair(
    canvas: Canvas, looks: Looks, x: np.ndarray, y: np.ndarray, rng: Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Hair behind head and neck (long hair, curls, a bun): colour (H, W, 3) and cover (H, W)."""
    style = looks.hair_style
    shape = np.full((canvas.size, canvas.size), -1.0, np.float32)
    if style in ("long", "fringe"):
        wide = looks.face_width + 0.10 + looks.hair_volume + 0.10 * smoothstep(0.0, 1.0, y)
        waves = 0.02 * np.sin(9 * y + looks.texture_seed % 7)
        dome = np.sqrt(np.clip(1 - (np.clip(-0.2 - y, 0, None) / 0.9) ** 2, 0, 1))
        shape = np.minimum(wide * dome + waves - np.abs(x), np.minimum(1.35 - y, y + 1.08))
    elif style == "curly":
        angle = np.arctan2(y + 0.35, x)
        curls = 0.035 * np.sin(13 * angle) + 0.03 * np.sin(29 * angle + 1)
        shape = 0.82 + 1.6 * looks.hair_volume + curls - np.hypot(x * 1.02, (y + 0.35) * 0.98)
    elif style == "bun":
        shape = 0.28 - np.hypot(x, (y + 1.12) * 1.1)
    return _strands(canvas, looks, x, y, rng) * 0.72, canvas.soft(shape)


def _front_hair(
    canvas: Canvas,
    looks: Looks,
    x: np.ndarray,
    y: np.ndarray,
    width: np.ndarray,
    rng: Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Hair over the skull, down to the hairline and beside the face: colour and cover."""
    style, volume = looks.hair_style, looks.hair_volume
    if style == "bald":
        empty = np.zeros((canvas.size, canvas.size), np.float32)
        return np.zeros((*empty.shape, 3), np.float32), empty
    side = np.abs(x)
    line = looks.hairline + 0.55 * (x / looks.face_width) ** 4
    low = looks.eye_y + 0.10  # how far down the hair at the temples goes
    if style == "parted":
        line = looks.hairline + 0.04 + 0.30 * np.abs(x / looks.face_width + 0.35) ** 2.2
    elif style == "fringe":
        line = looks.hairline + 0.16 + 0.02 * np.sin(38 * x) + 0.05 * (x / 0.6) ** 2
        low = 0.75
    elif style == "long":
        line = looks.hairline - 0.06 + 0.75 * np.abs(x / looks.face_width) ** 1.6
        low = 1.0
    elif style == "bun":
        line = looks.hairline + 0.02 + 0.5 * np.abs(x / looks.face_width) ** 2.5
    elif style == "curly":
        line = looks.hairline + 0.5 * (x / looks.face_width) ** 4 + 0.02 * np.sin(31 * x)
        volume += 0.08
    skull = np.sqrt(np.clip(1 - (np.clip(-0.16 - y, 0, None) / (0.84 + volume)) ** 2, 0, 1))
    # Below the temples hair hangs down; it does not follow the jaw.
    fall = np.maximum(width, 0.86 * looks.face_width)
    outer = np.where(y < -0.16, (looks.face_width + volume * 0.7) * skull, fall + volume * 0.6)
    above = line - y
    beside = np.minimum(side - 0.87 * np.where(y < -0.16, width, fall) - 0.02, low - y)
    shape = np.minimum(np.maximum(above, beside), np.minimum(outer - side, y + 1.0 + volume))
    strands = _strands(canvas, looks, x, y, rng)
    # Hair is darker at its root and where it turns away.
    root = 0.75 + 0.25 * smoothstep(0.0, 0.2, above)
    turn = 0.7 + 0.3 * smoothstep(0.0, 0.25, outer - side)
    return strands * (root * turn)[..., None], canvas.soft(shape * 0.5)


def _beard(
    canvas: Canvas, looks: Looks, skin: np.ndarray, inside: np.ndarray, rng: Generator
) -> np.ndarray:
    """Skin (H, W, 3) with the beard that ``looks`` names."""
    if looks.beard == "none":
        return skin
    x, y = canvas.grid()
    side = np.abs(x)
    jaw = smoothstep(0.12, 0.42, y + 0.25 * smoothstep(0.35, 0.6, side))
    bare = bump(x, y, (0, 0.26, 0.34, 0.13))
    lip = bump(x, y, (0, looks.mouth_y - 0.11, 0.17, 0.028))
    area = np.clip(jaw * (1 - 1.2 * bare), 0, 1) * smoothstep(0.0, 0.03, inside)
    grain = 0.9 + 0.12 * cloth(rng, canvas.size, canvas.size // 3)
    hair = np.array(looks.hair, np.float32) * 0.8
    if looks.beard == "moustache":
        return mix(skin, hair, np.clip(1.1 * lip * grain, 0, 0.9))
    amount = {"stubble": 0.35, "full": 0.88}[looks.beard]
    return mix(skin, hair, np.clip(amount * np.maximum(area, lip) * grain, 0, 0.92))


def _strands(
    canvas: Canvas, looks: Looks, x: np.ndarray, y: np.ndarray, rng: Generator
) -> np.ndarray:
    """Hair's colour (H, W, 3): streaks that run down from the crown, and a band of shine."""
    if looks.hair_style == "curly":
        streaks = cloth(rng, canvas.size, 34) + 0.7 * cloth(rng, canvas.size, 60)
        shine = np.zeros_like(streaks)
    else:
        profile = rng.standard_normal(96)
        profile = np.convolve(profile, np.ones(2) / 2, mode="same")
        position = (np.arctan2(x, y + 1.35) / np.pi * 2 + 1) * 47  # angle about the crown
        streaks = np.interp(position.ravel(), np.arange(96), profile).reshape(position.shape)
        radius = np.hypot(x, y + 0.2)
        shine = np.exp(-(((radius - 0.72) / 0.07) ** 2)) * smoothstep(0.1, -0.5, y)
    tone = 1 + 0.16 * streaks + 0.35 * shine
    hair = np.array(looks.hair, np.float32) * np.clip(tone, 0.45, 1.8)[..., None]
    return np.clip(hair + 0.05 * shine[..., None], 0, 1).astype(np.float32)
