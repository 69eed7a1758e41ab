"""Faces that are drawn, whose mouths move with a voice of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from tests.support.media_files import write_recording

FPS, RATE, SIDE, PANEL = 25, 16000, 80, (120, 140)  # of a box and of what surrounds it, pixels


def voice(seed: int, seconds: float) -> np.ndarray:
    """How loud somebody is, 0..1, at each frame: syllables of about a fifth of a second."""
    noise = np.random.default_rng(seed).normal(size=round(seconds * FPS))
    slow = gaussian_filter1d(noise, 1.5)
    return np.clip(slow / slow.std(), 0, 2) / 2


def write_faces(
    path: Path, mouths: Sequence[np.ndarray], heard: np.ndarray | None, *, late: float = 0.0
) -> Path:
    """Write faces side by side, all of which nod, and NAME.csv with their boxes.

    Args:
        path: The video.
        mouths: How far each mouth is open at each frame (T,), 0..1.
        heard: How loud the sound is at each frame (T,); None: no sound.
        late: Seconds by which the sound comes late.
    """
    rng, (height, width), num_frames = np.random.default_rng(9), PANEL, len(mouths[0])
    skins = [
        cv2.GaussianBlur(rng.uniform(120, 250, PANEL).astype(np.float32), (0, 0), 2) for _ in mouths
    ]
    frames, rows = np.zeros((num_frames, height, width * len(mouths), 3), np.uint8), []
    for number in range(num_frames):
        for place, mouth in enumerate(mouths):
            x, y = width // 2, height // 2 + round(3 * np.sin(number / 9 + place))
            face = np.roll(skins[place], y - height // 2, axis=0)
            for side in (-14, 14):
                cv2.circle(face, (x + side, y - 10), 4, 40.0, -1, cv2.LINE_AA)
            opening = 2 + round(7 * float(mouth[number]))
            cv2.ellipse(face, (x, y + 18), (12, opening), 0, 0, 360, 30.0, -1, cv2.LINE_AA)
            frames[number, :, place * width :][:, :width] = face[..., None]
            left, top = place * width + x - SIDE // 2, y - SIDE // 2
            rows.append(f"{number},{place},{left},{top},{left + SIDE},{top + SIDE}")
    sound = None
    if heard is not None:
        clock = np.arange(round(num_frames / FPS * RATE)) / RATE
        loud = np.interp(clock - late, (np.arange(num_frames) + 0.5) / FPS, heard)
        sound = 0.4 * loud * np.sin(2 * np.pi * 700 * clock)
    write_recording(path, frames, np.arange(num_frames) / FPS, sound=sound, sound_rate=RATE)
    path.with_suffix(".csv").write_text("\n".join(["frame,track,x0,y0,x1,y1", *rows]))
    return path
