"""Small recordings for the tests of the build, written with PyAV.

Their brightness tells the time, and their sound is a known tone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.support.media_files import write_recording

RATE = 16000


def brightness(seconds: np.ndarray | float) -> np.ndarray:
    """The grey level shown at a time: 40 at first, and 50 more every second."""
    return np.asarray(40 + 50 * np.asarray(seconds))


def tone(seconds: float, level: float = 0.3) -> np.ndarray:
    """A 440 Hz tone, int16 (n,)."""
    times = np.arange(round(seconds * RATE)) / RATE
    return (32767 * level * np.sin(2 * np.pi * 440 * times)).astype(np.int16)


def write_video(
    path: Path,
    *,
    seconds: float = 1.0,
    fps: int = 25,
    size: tuple[int, int] = (48, 64),
    sound: np.ndarray | None = None,
    dropped: Sequence[int] = (),
) -> Path:
    """Write a video of grey pictures.

    Args:
        path: The suffix names the container.
        seconds: Length of the picture.
        fps: Frames per second.
        size: Height and width, even.
        sound: int16 (n,) at 16 kHz; None: no sound stream.
        dropped: Frames that are left out, so that the rate varies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.array([n for n in range(round(seconds * fps)) if n not in dropped]) / fps
    levels = brightness(times).astype(np.uint8)[:, None, None, None]
    frames = np.broadcast_to(levels, (len(times), *size, 3))
    heard = None if sound is None else sound / 32767
    return write_recording(path, frames, times, sound=heard, sound_rate=RATE, options={"crf": "8"})
