"""The still part of a face: skull, skin, nose, ears, hair and beard, painted and lit.

For: one head per clip, as two sheets: what colour each point is and how it is lit, so that eyes,
brows and mouth, painted later, can be lit the same way. Not for: anything that moves
(``features.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import default_rng

from shards.synthesis.canvas import Canvas, bump, cloth, mix, smoothstep
from shards.synthesis.hair import paint_back_hair, paint_beard, paint_front_hair
from shards.synthesis.scene import Scene
from shards.synthesis.speakers import Looks

# Where the skull is widest, and its crown, half heads.
_WIDEST = -0.16
_CROWN = -1.0


@dataclass(frozen=True, kw_only=True)
class Head:
    """A painted head on a canvas of side H = W.

    Args:
        colour: (H, W, 3) float32, 0..1, unlit, multiplied by cover.
        cover: (H, W) float32, 0..1.
        shade: (H, W, 3) float32, light arriving at each point.
        gloss: (H, W, 3) float32, reflected highlight to be added.
        depth: (H, W) float32, towards the camera, half heads.
    """

    colour: np.ndarray
    cover: np.ndarray
    shade: np.ndarray
    gloss: np.ndarray
    depth: np.ndarray


def half_width(looks: Looks, y: np.ndarray) -> np.ndarray:
    """Half the width of the face at height y, half heads; 0 above the crown, below the chin."""
    up = np.clip((_WIDEST - y) / (_WIDEST - _CROWN), 0, 1)
    down = np.clip((y - _WIDEST) / (looks.chin - _WIDEST), 0, 1)
    return looks.face_width * np.where(
        y < _WIDEST, np.sqrt(1 - up**2), np.sqrt(1 - down**looks.jaw) * (1 - 0.15 * down)
    )


def paint_head(canvas: Canvas, looks: Looks, scene: Scene, creases: dict[str, float]) -> Head:
    """Paint and light one head.

    Args:
        canvas: Where.
        looks: Whose.
        scene: Under which light.
        creases: Strength 0..1 of the folds that an expression makes in the skin: ``cheeks`` (from
            the nose to the mouth's corners), ``furrow`` (between the brows), ``forehead``.
    """
    x, y = canvas.grid()
    rng = default_rng(looks.texture_seed)
    width = half_width(looks, y)
    # Distance to the outline: horizontal at the sides, vertical at crown and chin.
    inside = np.minimum((width - np.abs(x)) * 0.9, np.minimum(y - _CROWN, looks.chin - y))
    face = canvas.soft(inside)
    depth = _relief(looks, x, y, width, creases)

    skin = _skin(canvas, looks, x, y, rng)
    skin = paint_beard(canvas, looks, skin, inside, rng)
    neck = canvas.soft(np.minimum(_neck_half(looks, y) - np.abs(x), y - 0.3))
    ears, ear_shade = _ears(canvas, looks, x, y)
    back = paint_back_hair(canvas, looks, x, y, rng)
    front = paint_front_hair(canvas, looks, x, y, width, rng)

    # Back to front: hair behind, neck, ears, face, hair before it.
    tone = np.broadcast_to(np.array(looks.skin, np.float32), skin.shape)
    under_chin = 0.62 + 0.25 * smoothstep(looks.chin, looks.chin + 0.4, y)
    colour = mix(np.zeros_like(skin), back.colour, back.cover)
    colour = mix(colour, tone * (under_chin + 0 * x)[..., None], neck)
    colour = mix(colour, tone * ear_shade[..., None], ears)
    colour = mix(colour, skin, face)
    colour = mix(colour, front.colour, front.cover)
    cover = 1 - (1 - back.cover) * (1 - neck) * (1 - ears) * (1 - face) * (1 - front.cover)

    shade, gloss = _light(canvas, scene, depth, face * (1 - front.cover))
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
