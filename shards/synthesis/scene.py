"""What a clip adds to a face: light, background, shirt, camera.

For: draws that change from clip to clip and say nothing of the class. Not for: the face.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from shards.synthesis.canvas import cloth, mix, smoothstep


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Light, place and camera of one clip.

    Args:
        light: Direction to the key light (x right, y down, z to the camera), unit length.
        light_colour: RGB factor of the key light.
        ambient: Share of light from everywhere.
        exposure: Factor on everything.
        offset: Shift of the head, half heads (x, y).
        scale: Size of the head relative to the usual.
        roll: Resting tilt of the head, radians.
        turn: Resting yaw and nod, in half heads of shift at the nose's depth.
        noise: Standard deviation of the camera's noise, levels of 255.
        blur: Standard deviation of the lens's blur, in 1/160 of the frame.
    """

    light: tuple[float, float, float]
    light_colour: tuple[float, float, float]
    ambient: float
    exposure: float
    offset: tuple[float, float]
    scale: float
    roll: float
    turn: tuple[float, float]
    noise: float
    blur: float


def draw_scene(rng: Generator, camera_noise: float) -> Scene:
    """A scene at random."""
    direction = np.array([rng.uniform(-0.9, 0.9), rng.uniform(-0.8, 0.15), 1.0])
    direction /= np.linalg.norm(direction)
    warmth = rng.uniform(-0.12, 0.12)
    return Scene(
        light=(float(direction[0]), float(direction[1]), float(direction[2])),
        light_colour=(1 + warmth, 1.0, 1 - warmth),
        ambient=float(rng.uniform(0.35, 0.6)),
        exposure=float(rng.uniform(0.75, 1.12)),
        offset=(float(rng.uniform(-0.08, 0.08)), float(rng.uniform(-0.06, 0.06))),
        scale=float(rng.uniform(0.9, 1.08)),
        roll=float(rng.uniform(-0.09, 0.09)),
        turn=(float(rng.uniform(-0.10, 0.10)), float(rng.uniform(-0.05, 0.05))),
        noise=float(rng.uniform(0.25, 1.0)) * camera_noise,
        blur=float(rng.uniform(0.0, 0.7)),
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
