"""A clip's pictures: head, features and background put together, frame after frame.

For: ``render_frames``, all that a clip shows. It takes the script and the expression and no voice,
which is why the pictures cannot tell the voice. Not for: writing files (``render.py``).
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.random import Generator

from shards.synthesis.canvas import EXTENT, Canvas, smoothstep
from shards.synthesis.classes import Expression
from shards.synthesis.features import FeaturePainter
from shards.synthesis.head import paint_head
from shards.synthesis.motion import Motion, creases, draw_motion
from shards.synthesis.scene import Scene, draw_scene, paint_background, paint_shirt
from shards.synthesis.script import Script
from shards.synthesis.speakers import Looks

# The frame's height in half heads, and the height of its centre.
_VIEW = 2.22
_CENTRE = 0.0


def render_frames(
    looks: Looks,
    script: Script,
    expression: Expression,
    strength: float,
    rng: Generator,
    *,
    num_frames: int,
    fps: int,
    frame_size: int,
    camera_noise: float,
) -> Iterator[np.ndarray]:
    """Render one clip.

    Args:
        looks: Whose face.
        script: What is said; frame i shows the moment i / fps.
        expression: How the face looks while it is said.
        strength: Of the expression, 0..1.
        rng: Scene, motion and noise are drawn from it.
        num_frames: Frames.
        fps: Frames per second.
        frame_size: Side S of the frames, pixels.
        camera_noise: Largest standard deviation of the camera's noise, levels of 255.

    Yields: frames (S, S, 3) uint8 RGB.
    """
    scene = draw_scene(rng, camera_noise)
    motion = draw_motion(rng, script, expression, strength, num_frames=num_frames, fps=fps)
    background = _bytes(paint_background(rng, frame_size, scene))
    shirt, shirt_cover = paint_shirt(rng, frame_size, scene, looks.shirt)
    first_row = int(np.argmax(shirt_cover.max(axis=1) > 0))
    shirt_paint = _bytes(shirt * shirt_cover[..., None])[first_row:]
    shirt_clear = _bytes(np.repeat(1 - shirt_cover[..., None], 3, axis=2))[first_row:]

    # A little finer than the frame, so that moving it costs no sharpness.
    canvas = Canvas(round(frame_size * 1.15 * 2 * EXTENT / _VIEW))
    head = paint_head(canvas, looks, scene, creases(expression, strength))
    painter = FeaturePainter(canvas, looks, head)
    sheet = np.dstack([painter.still(), _bytes(head.cover)])
    pose = _Pose(canvas, scene, head.depth, looks, frame_size)
    grain_size = frame_size + 64
    grain = rng.standard_normal((grain_size, grain_size, 3)) * scene.noise
    grain = np.rint(grain).astype(np.int16)
    corners = rng.integers(0, 65, (num_frames, 2))
    blur = scene.blur * frame_size / 160

    for frame in range(num_frames):
        painter.paint(sheet, motion, frame)
        columns, rows = pose.source(motion, frame)
        moved = cv2.remap(sheet, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        clear = cv2.cvtColor(cv2.bitwise_not(moved[..., 3]), cv2.COLOR_GRAY2RGB)
        picture = cv2.add(
            cv2.multiply(background, clear, scale=1 / 255), cv2.cvtColor(moved, cv2.COLOR_RGBA2RGB)
        )
        lower = cv2.multiply(picture[first_row:], shirt_clear, scale=1 / 255)
        picture[first_row:] = cv2.add(lower, shirt_paint)
        if blur > 0.2:
            picture = cv2.GaussianBlur(picture, (0, 0), blur)
        top, left = corners[frame]
        noise = grain[top : top + frame_size, left : left + frame_size]
        yield cv2.add(picture, noise, dtype=cv2.CV_8U)


class _Pose:
    """Where on the canvas each pixel of a frame comes from."""

    def __init__(
        self, canvas: Canvas, scene: Scene, depth: np.ndarray, looks: Looks, frame_size: int
    ) -> None:
        self._canvas, self._scene, self._size = canvas, scene, frame_size
        self._pixels = np.arange(frame_size, dtype=np.float32) + 0.5
        # The two fields below are read where a resting head would be.
        columns, rows = self._affine(np.zeros(2), scene.roll)
        smooth = cv2.GaussianBlur(depth, (0, 0), 0.09 * canvas.scale)
        self._depth = cv2.remap(smooth, columns, rows, cv2.INTER_LINEAR) * (canvas.scale / 0.6)
        y = ((rows + 0.5) / canvas.scale - EXTENT).astype(np.float32)
        x = ((columns + 0.5) / canvas.scale - EXTENT).astype(np.float32)
        fall = smoothstep(looks.mouth_y + 0.02, looks.mouth_y + 0.22, y)
        fade = smoothstep(looks.chin + 0.35, looks.chin, y) * smoothstep(0.85, 0.45, np.abs(x))
        self._jaw = (0.62 * canvas.scale * fall * fade).astype(np.float32)

    def source(self, motion: Motion, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Columns and rows (S, S) float32 on the canvas for one frame."""
        columns, rows = self._affine(
            motion.shift[frame], self._scene.roll + float(motion.roll[frame])
        )
        turn = motion.turn[frame] + np.array(self._scene.turn)
        columns -= np.float32(turn[0]) * self._depth
        rows -= np.float32(turn[1]) * self._depth
        rows -= np.float32(motion.opening[frame]) * self._jaw
        return columns, rows

    def _affine(self, shift: np.ndarray, roll: float) -> tuple[np.ndarray, np.ndarray]:
        """The head's shift, size and tilt, undone; about the neck, as heads tilt."""
        unit = _VIEW / self._size / self._scene.scale
        offset = np.array(self._scene.offset) + shift
        x = (self._pixels - self._size / 2) * np.float32(unit) - np.float32(offset[0])
        y = (self._pixels - self._size / 2) * np.float32(unit) - np.float32(offset[1] - _CENTRE)
        cos, sin = np.float32(np.cos(roll)), np.float32(np.sin(roll))
        pivot = np.float32(0.7)
        scale, middle = (
            np.float32(self._canvas.scale),
            np.float32(EXTENT * self._canvas.scale - 0.5),
        )
        x, y = x[None, :], y[:, None] - pivot
        columns = (cos * scale) * x + ((sin * scale) * y + middle)
        rows = (-sin * scale) * x + ((cos * scale) * y + (pivot * scale + middle))
        return columns, rows


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
