"""Small recordings for the tests of the build, written with PyAV.

For: videos whose brightness tells the time and whose sound is a known tone. Not for: tests
(nothing here is one).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

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
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=fps, options={"crf": "8", "g": "12"})
        picture.height, picture.width = size
        picture.pix_fmt = "yuv420p"
        voice = None
        if sound is not None:
            voice = container.add_stream("aac", rate=RATE, layout="mono")
        for number in range(round(seconds * fps)):
            if number in dropped:
                continue
            image = np.full((*size, 3), brightness(number / fps), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(picture.encode(frame))
        container.mux(picture.encode())
        if voice is not None and sound is not None:
            for start in range(0, len(sound), 1024):
                part = sound[None, start : start + 1024]
                chunk = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
                chunk.sample_rate, chunk.pts = RATE, start
                container.mux(voice.encode(chunk))
            container.mux(voice.encode())
    return path
