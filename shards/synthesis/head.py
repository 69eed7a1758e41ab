"""The still part of a face: skull, skin, nose, ears, hair and beard, painted and lit.

One head per clip, as two sheets: what colour each point is and how it is lit, so that eyes, brows
and mouth, painted later, can be lit the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, default_rng

from shards.synthesis.canvas import Canvas, Scene, bump, cloth, mix, smoothstep
from shards.synthesis.speakers import Looks

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
    back = _back_hair(canvas, looks, x, y, rng)
    front = _front_hair(canvas, looks, x, y, width, rng)

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


@dataclass(frozen=True)
class _Layer:
    """One layer of paint."""

    colour: np.ndarray  # (H, W, 3)
    cover: np.ndarray  # (H, W)


def _back_hair(
    canvas: Canvas, looks: Looks, x: np.ndarray, y: np.ndarray, rng: Generator
) -> _Layer:
    """Hair behind head and neck: long hair, curls, a bun."""
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
    return _Layer(_strands(canvas, looks, x, y, rng) * 0.72, canvas.soft(shape))


def _front_hair(
    canvas: Canvas,
    looks: Looks,
    x: np.ndarray,
    y: np.ndarray,
    width: np.ndarray,
    rng: Generator,
) -> _Layer:
    """Hair over the skull, down to the hairline and beside the face."""
    style, volume = looks.hair_style, looks.hair_volume
    if style == "bald":
        empty = np.zeros((canvas.size, canvas.size), np.float32)
        return _Layer(np.zeros((*empty.shape, 3), np.float32), empty)
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
    return _Layer(strands * (root * turn)[..., None], canvas.soft(shape * 0.5))


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
