"""How a face moves during a clip: what the script makes it do, what the expression does, and rest.

For: the time courses that ``features.py`` and ``face.py`` draw. Not for: the sound; a motion is
made without knowing the voice, so the pictures cannot show it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy.ndimage import gaussian_filter1d

from shards.synthesis.classes import Expression
from shards.synthesis.script import Script


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Time courses, one value a frame, each (T,) float64. Lengths in half heads.

    Args:
        opening: Gap between the lips.
        rounding: -1 spread lips, 1 round ones.
        corners: Lift of the mouth's corners.
        stretch: Added to half the mouth's width.
        brows: Lift of the whole brows.
        pinch: Lowering of the brows' inner ends and their approach.
        upper_lids: Factor on the height of the upper lids (1 at rest, 0 closed).
        lower_lids: Factor on the depth of the lower lids.
        gaze: Shift of the irises (T, 2), x and y.
        shift: Shift of the head (T, 2).
        turn: Yaw and nod (T, 2), as the nose's shift.
        roll: Tilt of the head, radians.
    """

    opening: np.ndarray
    rounding: np.ndarray
    corners: np.ndarray
    stretch: np.ndarray
    brows: np.ndarray
    pinch: np.ndarray
    upper_lids: np.ndarray
    lower_lids: np.ndarray
    gaze: np.ndarray
    shift: np.ndarray
    turn: np.ndarray
    roll: np.ndarray


def creases(expression: Expression, strength: float) -> dict[str, float]:
    """Folds of the skin, 0..1, that an expression makes; see ``paint_head``."""
    return {
        "cheeks": strength if expression == "smile" else 0.0,
        "furrow": strength if expression == "frown" else 0.0,
        "forehead": strength if expression == "surprise" else 0.0,
    }


def draw_motion(
    rng: Generator,
    script: Script,
    expression: Expression,
    strength: float,
    *,
    num_frames: int,
    fps: int,
) -> Motion:
    """Motion of one clip, frame i at i / fps seconds.

    Mouth and brows follow the script (brows rise on stressed syllables); blinks, gaze and the
    head's sway are drawn from ``rng``, as is how this person's rest differs today, so that no
    single measure gives the expression away.
    """
    times = np.arange(num_frames) / fps

    def wander(amount: float, seconds: float) -> np.ndarray:
        """Slow noise (T,) with this standard deviation."""
        pad = round(3 * seconds * fps)
        noise = gaussian_filter1d(rng.standard_normal(num_frames + 2 * pad), seconds * fps)
        return amount * noise[pad : pad + num_frames] * np.sqrt(2 * np.sqrt(np.pi) * seconds * fps)

    # An expression waxes and wanes a little, and comes with its own habits of today.
    felt = strength * np.clip(1 + wander(0.12, 0.5), 0.5, 1.4)
    smile = felt * (expression == "smile")
    frown = felt * (expression == "frown")
    surprise = felt * (expression == "surprise")
    speech, stress = script.opening(times), script.stress(times)
    mouth_size = rng.uniform(0.8, 1.2)
    emphasis = rng.uniform(0.5, 1.2)
    rest_corners, rest_brows, rest_pinch = rng.normal(0, (0.010, 0.012, 0.008))
    rest_lids = rng.normal(1.0, 0.07)
    blinks = _blinks(rng, times)
    return Motion(
        opening=np.maximum(0.0, 0.17 * mouth_size * speech + 0.03 * smile + 0.07 * surprise),
        rounding=script.rounding(times) + 0.55 * surprise,
        corners=rest_corners + 0.105 * smile - 0.075 * frown + wander(0.004, 0.3),
        stretch=0.055 * smile - 0.015 * frown,
        brows=rest_brows
        + 0.035 * emphasis * stress
        + 0.015 * smile
        - 0.035 * frown
        + 0.11 * surprise
        + wander(0.005, 0.4),
        pinch=rest_pinch + 0.085 * frown - 0.01 * surprise,
        upper_lids=(rest_lids - 0.12 * smile - 0.22 * frown + 0.42 * surprise) * (1 - blinks),
        lower_lids=1 - 0.45 * smile - 0.2 * frown + 0.25 * surprise,
        gaze=_gaze(rng, num_frames, fps),
        shift=np.stack([wander(0.012, 0.5), wander(0.008, 0.4) + 0.008 * stress], axis=1),
        turn=np.stack([wander(0.035, 0.6), wander(0.018, 0.4) + 0.02 * emphasis * stress], axis=1),
        roll=wander(0.02, 0.6),
    )


def _blinks(rng: Generator, times: np.ndarray) -> np.ndarray:
    """Closing (T,) of the lids, 0..1: blinks 0.15 s long, 0.7 to 4 s apart."""
    closing = np.zeros(len(times))
    now = rng.uniform(0.0, 2.0)
    while now < times[-1] + 0.2:
        closing = np.maximum(closing, np.clip(1.6 - np.abs(times - now) / 0.055, 0, 1))
        now += rng.uniform(0.7, 4.0)
    return closing


def _gaze(rng: Generator, num_frames: int, fps: int) -> np.ndarray:
    """Shift of the irises (T, 2): fixations with jumps between them."""
    gaze = np.zeros((num_frames, 2))
    frame = 0
    while frame < num_frames:
        last = frame + max(1, int(rng.uniform(0.3, 1.5) * fps))
        gaze[frame:last] = rng.normal(0, (0.016, 0.008))
        frame = last
    return gaze
