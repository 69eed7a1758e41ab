"""A video for the bench: a drawn face that moves and speaks, 224 pixels at 25 frames a second.

For: measuring without anybody's recording. Not for: training (``shards`` renders corpora).
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

_SIDE, _FPS, _RATE, _AAC_SAMPLES = 224, 25, 16000, 1024
_SKIN, _HAIR, _DARK, _LIP = (214, 168, 142), (62, 44, 34), (40, 30, 28), (168, 82, 82)


def write_face_video(path: Path, seconds: float) -> None:
    """Write an MP4 (H.264 and AAC) of so many seconds.

    Raises: OSError: this PyAV cannot encode it.
    """
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 5, (8, _SIDE, _SIDE, 3)).astype(np.float32)
    with av.open(str(path), "w") as container:
        try:
            picture = container.add_stream("libx264", rate=_FPS, options={"preset": "veryfast"})
        except (av.FFmpegError, ValueError):
            raise OSError("this PyAV has no H.264 encoder; give a recording: --video") from None
        picture.height = picture.width = _SIDE
        picture.pix_fmt = "yuv420p"
        voice = container.add_stream("aac", rate=_RATE, layout="mono")
        done = 0
        for number in range(round(seconds * _FPS)):
            image = _draw(number / _FPS) + noise[number % len(noise)]
            frame = av.VideoFrame.from_ndarray(np.clip(image, 0, 255).astype(np.uint8), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, _FPS)
            container.mux(picture.encode(frame))
            while done < (number + 1) / _FPS * _RATE:
                container.mux(voice.encode(_sound(done, rng)))
                done += _AAC_SAMPLES
        container.mux(picture.encode())
        container.mux(voice.encode())


def _draw(time: float) -> np.ndarray:
    """The picture at a time: (224, 224, 3) float32 RGB."""
    shade = np.linspace(90, 150, _SIDE, dtype=np.float32)
    image = np.ascontiguousarray(np.broadcast_to(shade[:, None, None], (_SIDE, _SIDE, 3)))
    x, y = 112 + 18 * np.sin(0.7 * time), 118 + 8 * np.sin(1.1 * time)
    mouth = 4 + 5 * abs(np.sin(7.0 * time))

    def ellipse(dx: float, dy: float, wide: float, high: float, colour: tuple[int, ...]) -> None:
        centre = (round(x + dx), round(y + dy))
        axes = (max(1, round(wide)), max(1, round(high)))
        cv2.ellipse(image, centre, axes, 0, 0, 360, colour, -1, cv2.LINE_AA)

    ellipse(0, 95, 75, 50, (70, 90, 130))
    ellipse(0, 50, 22, 35, tuple(round(0.85 * part) for part in _SKIN))
    ellipse(0, -14, 56, 66, _HAIR)
    ellipse(0, 4, 46, 60, _SKIN)
    for side in (-1, 1):
        ellipse(side * 19, -9, 10, 6, (238, 236, 232))
        ellipse(side * 19, -9, 5, 5, _DARK)
        ellipse(side * 19, -23, 12, 2.5, _HAIR)
        ellipse(side * 5, 17, 2.5, 1.5, _DARK)
        ellipse(side * 26, 16, 9, 7, tuple(round(0.97 * part) for part in _SKIN))
    ellipse(0, 8, 4, 12, tuple(round(0.92 * part) for part in _SKIN))
    ellipse(0, 35, 17, mouth, _LIP)
    ellipse(0, 35, 12, mouth / 2, _DARK)
    return cv2.GaussianBlur(image, (0, 0), 1.2)


def _sound(first: int, rng: np.random.Generator) -> av.AudioFrame:
    """A voice-like hum that swells four times a second, from a sample on."""
    time = (first + np.arange(_AAC_SAMPLES)) / _RATE
    swell = 0.15 * (1 + np.sin(2 * np.pi * 4 * time))
    hum = sum(np.sin(2 * np.pi * 130 * part * time) / part for part in range(1, 9))
    values = swell * hum * 0.4 + rng.normal(0, 0.003, len(time))
    frame = av.AudioFrame.from_ndarray(
        values[None].astype(np.float32), format="fltp", layout="mono"
    )
    frame.sample_rate, frame.pts, frame.time_base = _RATE, first, Fraction(1, _RATE)
    return frame
