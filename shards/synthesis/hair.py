"""Hair and beards, painted unlit.

For: the styles that ``Looks.hair_style`` and ``Looks.beard`` name. Not for: brows and lashes,
which move (``features.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from shards.synthesis.canvas import Canvas, bump, cloth, mix, smoothstep
from shards.synthesis.speakers import Looks


@dataclass(frozen=True)
class Layer:
    """Colour (H, W, 3) and coverage (H, W) of one layer of paint."""

    colour: np.ndarray
    cover: np.ndarray


def paint_back_hair(
    canvas: Canvas, looks: Looks, x: np.ndarray, y: np.ndarray, rng: Generator
) -> Layer:
    """Hair behind head and neck: long hair, curls, a bun."""
    style = looks.hair_style
    none = np.full((canvas.size, canvas.size), -1.0, np.float32)
    shape = none
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
    return Layer(_strands(canvas, looks, x, y, rng) * 0.72, canvas.soft(shape))


def paint_front_hair(
    canvas: Canvas,
    looks: Looks,
    x: np.ndarray,
    y: np.ndarray,
    width: np.ndarray,
    rng: Generator,
) -> Layer:
    """Hair over the skull, down to the hairline and beside the face."""
    style, volume = looks.hair_style, looks.hair_volume
    if style == "bald":
        empty = np.zeros((canvas.size, canvas.size), np.float32)
        return Layer(np.zeros((*empty.shape, 3), np.float32), empty)
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
    return Layer(strands * (root * turn)[..., None], canvas.soft(shape * 0.5))


def paint_beard(
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
