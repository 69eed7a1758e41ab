"""A clip's pictures: how a face moves, its moving parts, and all put together frame after frame.

``render_frames`` takes the script and the expression and no voice, which is why the pictures cannot
tell the voice. Positions follow ``speakers.py``: half heads, y down.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from scipy.ndimage import gaussian_filter1d

from shards.synthesis.head import (
    EXTENT,
    Canvas,
    Head,
    Scene,
    Window,
    draw_scene,
    outline,
    paint_background,
    paint_head,
    paint_shirt,
    smoothstep,
)
from shards.synthesis.settings import Expression
from shards.synthesis.speakers import Colour, Looks, Script

_VIEW = 2.22  # the frame's height in half heads


def render_frames(
    looks: Looks,
    script: Script,
    expression: Expression,
    strength: float | np.ndarray,
    rng: Generator,
    *,
    num_frames: int,
    fps: int,
    frame_size: int,
    camera_noise: float,
    scene_variety: float = 1.0,
) -> Iterator[np.ndarray]:
    """Render one clip.

    Args:
        script: What is said; frame i shows the moment i / fps.
        expression: How the face looks while it is said.
        strength: Of the expression, 0..1; or that of each frame (T,).
        rng: Scene, motion and noise are drawn from it.
        frame_size: Their side S, pixels.
        camera_noise: Largest standard deviation of the camera's noise, levels of 255.
        scene_variety: As ``draw_scene`` takes it; the wall's colours come nearer to grey alike.

    Yields: frames (S, S, 3) uint8 RGB.
    """
    scene = draw_scene(rng, camera_noise, scene_variety)
    motion = _draw_motion(rng, script, expression, strength, num_frames=num_frames, fps=fps)
    wall = paint_background(rng, frame_size, scene)
    if scene_variety < 1:
        wall = 0.5 + scene_variety * (wall - 0.5)
    background = _bytes(wall)
    shirt, shirt_cover = paint_shirt(rng, frame_size, scene, looks.shirt)
    first_row = int(np.argmax(shirt_cover.max(axis=1) > 0))
    shirt_paint = _bytes(shirt * shirt_cover[..., None])[first_row:]
    shirt_clear = _bytes(np.repeat(1 - shirt_cover[..., None], 3, axis=2))[first_row:]

    # A little finer than the frame, so that moving it costs no sharpness.
    canvas = Canvas(round(frame_size * 1.15 * 2 * EXTENT / _VIEW))
    folds = {"smile": "cheeks", "frown": "furrow", "surprise": "forehead"}
    creases = dict.fromkeys(folds.values(), 0.0) | {folds[expression]: float(np.mean(strength))}
    head = paint_head(canvas, looks, scene, creases)
    painter = _FeaturePainter(canvas, looks, head)
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

    def source(self, motion: _Motion, frame: int) -> tuple[np.ndarray, np.ndarray]:
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
        y = (self._pixels - self._size / 2) * np.float32(unit) - np.float32(offset[1])
        cos, sin = np.float32(np.cos(roll)), np.float32(np.sin(roll))
        pivot = np.float32(0.7)
        scale = np.float32(self._canvas.scale)
        middle = np.float32(EXTENT * self._canvas.scale - 0.5)
        x, y = x[None, :], y[:, None] - pivot
        columns = (cos * scale) * x + ((sin * scale) * y + middle)
        rows = (-sin * scale) * x + ((cos * scale) * y + (pivot * scale + middle))
        return columns, rows


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class _Motion:
    """Time courses, one value a frame, each (T,) float64. Lengths in half heads."""

    opening: np.ndarray  # gap between the lips
    rounding: np.ndarray  # -1 spread lips, 1 round ones
    corners: np.ndarray  # lift of the mouth's corners
    stretch: np.ndarray  # added to half the mouth's width
    brows: np.ndarray  # lift of the whole brows
    pinch: np.ndarray  # lowering of the brows' inner ends, and their approach
    upper_lids: np.ndarray  # factor on their height: 1 at rest, 0 closed
    lower_lids: np.ndarray  # factor on their depth
    gaze: np.ndarray  # shift of the irises (T, 2), x and y
    shift: np.ndarray  # of the head (T, 2)
    turn: np.ndarray  # yaw and nod (T, 2), as the nose's shift
    roll: np.ndarray  # tilt of the head, radians


def _draw_motion(
    rng: Generator,
    script: Script,
    expression: Expression,
    strength: float | np.ndarray,
    *,
    num_frames: int,
    fps: int,
) -> _Motion:
    """Motion of one clip, frame i at i / fps seconds. Mouth and brows follow the script; blinks,
    gaze and sway are drawn from ``rng``, as is how this person's rest differs today, so that no
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
    return _Motion(
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
    """Closing (T,) of the lids, 0..1: blinks 0.18 s long, 0.7 to 4 s apart."""
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


_ALONG = np.linspace(-1, 1, 19)
_BOW = (1 - np.abs(_ALONG) ** 2.2) * (1 - 0.25 * np.exp(-((_ALONG / 0.13) ** 2)))
_ARC = np.sqrt(1 - _ALONG**2)
_UPPER_LID, _LOWER_LID = _ARC**1.15, _ARC**1.3
_FOLD = 0.018 * (1 - _ARC)
_GAP, _LOWER_LIP, _TEETH, _BEND = _ARC**0.8, _ARC**1.1, _ARC**0.5, np.abs(_ALONG) ** 1.9
_BROW = np.linspace(0, 1, 12)  # from the inner end outwards
_BROW_ARCH, _BROW_END = np.sin(np.pi * _BROW**1.25), 0.02 * _BROW**3
_BROW_SHAPE = (0.75 + 0.5 * _BROW) * (1 - _BROW**4)


class _FeaturePainter:
    """Paints eyes, brows and mouth of one head into a lit sheet."""

    def __init__(self, canvas: Canvas, looks: Looks, head: Head) -> None:
        self.looks = looks
        top, bottom = looks.eye_y - 0.46, looks.eye_y + 0.20
        self._upper = canvas.window(-0.68, top, 0.68, bottom)
        self._lower = canvas.window(-0.45, looks.mouth_y - 0.20, 0.45, looks.mouth_y + 0.36)
        self._eyes = {
            side: canvas.window(
                side * looks.eye_x - 0.21,
                looks.eye_y - 0.19,
                side * looks.eye_x + 0.21,
                looks.eye_y + 0.15,
            )
            for side in (-1, 1)
        }
        self._colour = np.rint(head.colour * 255).astype(np.uint8)
        self._shade = np.rint(np.clip(head.shade * 128, 0, 255)).astype(np.uint8)
        self._gloss = np.rint(np.clip(head.gloss * 255, 0, 255)).astype(np.uint8)
        self._spectacles = _spectacles(self._upper, looks)
        skin = np.array(looks.skin)
        self._dark_skin = _colour_bytes(skin * (0.58, 0.48, 0.46))
        self._crease = _colour_bytes(skin * (0.74, 0.64, 0.62))
        self._lash = _colour_bytes(0.35 * np.array(looks.hair) + 0.02)
        lip, iris = np.array(looks.lip), np.array(looks.iris)
        self._upper_lip, self._lip = _colour_bytes(lip * 0.84), _colour_bytes(lip)
        self._lip_shine, self._seam = _colour_bytes(lip * 1.18 + 0.05), _colour_bytes(lip * 0.45)
        self._limbus, self._iris = _colour_bytes(iris * 0.45), _colour_bytes(iris)
        self._iris_light = _colour_bytes(iris * 1.35)
        self._brow = _colour_bytes(0.72 * np.array(looks.hair) + 0.18 * skin * 0.6)

    def still(self) -> np.ndarray:
        """The lit head without features (H, W, 3) uint8."""
        lit = cv2.multiply(self._colour, self._shade, scale=1 / 128)
        return cv2.add(lit, self._gloss)

    def paint(self, sheet: np.ndarray, motion: _Motion, frame: int) -> None:
        """Paint the features of one frame over the last one's on ``sheet`` (H, W, 3 or 4)."""
        upper = self._colour[self._upper.slices].copy()
        for side in (-1, 1):
            self._paint_eye(upper, side, motion, frame)
            self._paint_brow(upper, side, motion, frame)
        lit = self._lit(upper, self._upper)
        if self._spectacles is not None:
            paint, cover = self._spectacles
            lit = _blend(lit, paint, cover)
        sheet[self._upper.slices][..., :3] = lit
        lower = self._colour[self._lower.slices].copy()
        self._paint_mouth(lower, motion, frame)
        sheet[self._lower.slices][..., :3] = self._lit(lower, self._lower)

    def _lit(self, colour: np.ndarray, window: Window) -> np.ndarray:
        lit = cv2.multiply(colour, self._shade[window.slices], scale=1 / 128)
        return cv2.add(lit, self._gloss[window.slices])

    def _paint_eye(self, upper: np.ndarray, side: int, motion: _Motion, frame: int) -> None:
        looks, window = self.looks, self._eyes[side]
        rows = slice(window.top - self._upper.top, window.bottom - self._upper.top)
        columns = slice(window.left - self._upper.left, window.right - self._upper.left)
        skin = upper[rows, columns]
        x = side * looks.eye_x + looks.eye_width * _ALONG
        slant = looks.eye_y - looks.eye_tilt * side * _ALONG
        low = 0.62 * looks.eye_height * max(0.1, float(motion.lower_lids[frame]))
        high = looks.eye_height * 1.15 * float(motion.upper_lids[frame])
        high = max(high, 0.02 - low)  # a closed lid rests on the lower one
        lower = slant + low * _LOWER_LID
        lid = slant - high * _UPPER_LID
        ball = np.empty_like(skin)
        ball[:] = (232, 229, 226)
        centre = (
            side * looks.eye_x + float(motion.gaze[frame, 0]),
            looks.eye_y - 0.012 + float(motion.gaze[frame, 1]),
        )
        window.dot(ball, centre, 0.080, self._limbus)
        window.dot(ball, centre, 0.068, self._iris)
        window.dot(ball, (centre[0], centre[1] + 0.015), 0.048, self._iris_light)
        window.dot(ball, centre, 0.034, (12, 10, 10))
        window.dot(ball, (centre[0] + 0.026, centre[1] - 0.028), 0.016, (255, 255, 255))
        # The upper lid throws a shadow on the eyeball.
        window.line(ball, x, lid + 0.012, (120, 112, 112), 0.028)
        cover = np.zeros(skin.shape[:2], np.uint8)
        window.fill(cover, outline(x, lid, lower), (255,))
        eye = _blend(skin, ball, cover)
        inner = x[2:-2]
        window.line(eye, inner, lid[2:-2] - 0.042 + _FOLD[2:-2], self._crease, 0.014)
        window.line(eye, inner, lower[2:-2] + 0.004, self._crease, 0.012)
        window.line(eye, x, lid, self._lash, 0.012 + 0.010 * looks.lashes)
        upper[rows, columns] = eye

    def _paint_brow(self, upper: np.ndarray, side: int, motion: _Motion, frame: int) -> None:
        looks = self.looks
        pinch = float(motion.pinch[frame])
        x = side * (looks.eye_x - 0.165 + 0.37 * _BROW - 0.30 * pinch * (1 - _BROW))
        lift = looks.brow_height + float(motion.brows[frame]) + looks.brow_arch * _BROW_ARCH
        tilt = looks.brow_tilt * (2 * _BROW - 1)
        y = looks.eye_y - lift - tilt + pinch * (1 - _BROW) ** 1.5 + _BROW_END
        thick = looks.brow_thickness * _BROW_SHAPE + 0.004
        self._upper.fill(upper, outline(x, y - thick, y + thick), self._brow)

    def _paint_mouth(self, lower: np.ndarray, motion: _Motion, frame: int) -> None:
        looks, window = self.looks, self._lower
        gap, rounding = float(motion.opening[frame]), float(motion.rounding[frame])
        lift, stretch = float(motion.corners[frame]), float(motion.stretch[frame])
        half = (looks.mouth_width + stretch) * (1 - 0.17 * min(max(rounding, -0.6), 1.3))
        x = half * _ALONG
        middle = looks.mouth_y + 0.25 * lift - (lift + looks.corner) * _BEND
        fuller = 1 + 0.25 * min(max(rounding, -0.6), 1.0) - 1.5 * max(0.0, stretch)
        inner_up = middle - 0.22 * gap * _GAP
        inner_low = middle + 0.62 * gap * _GAP
        outer_up = inner_up - looks.lip_upper * fuller * _BOW
        outer_low = inner_low + looks.lip_lower * fuller * _LOWER_LIP

        def band(top: np.ndarray, bottom: np.ndarray, colour: tuple[int, ...]) -> None:
            window.fill(lower, outline(x, top, bottom), colour)

        band(outer_up, middle, self._upper_lip)
        band(middle, outer_low, self._lip)
        thickness = outer_low - inner_low
        band(inner_low + 0.30 * thickness, inner_low + 0.62 * thickness, self._lip_shine)
        if gap > 0.012:
            band(inner_up, inner_low, (58, 20, 24))
            tongue = np.maximum(inner_low - 0.26 * gap, inner_up)
            band(tongue + 0.10 * gap * _ALONG**2, inner_low, (176, 84, 84))
            teeth = np.minimum(inner_up + 0.045 * _TEETH, inner_low)
            band(inner_up, teeth, (226, 220, 208))
        else:
            window.line(lower, x, middle, self._seam, 0.014)
        for end in (0, -1):
            corner = (float(x[end]), float(middle[end]))
            window.dot(lower, corner, 0.012, self._dark_skin)


def _spectacles(window: Window, looks: Looks) -> tuple[np.ndarray, np.ndarray] | None:
    """Paint (h, w, 3) and coverage (h, w) of the glasses over the upper window."""
    if looks.glasses == "none":
        return None
    shape = (window.bottom - window.top, window.right - window.left)
    paint = np.zeros((*shape, 3), np.uint8)
    paint[:] = (225, 235, 245)
    cover = np.zeros(shape, np.uint8)
    angle = np.linspace(0, 2 * np.pi, 33)
    power = 1.0 if looks.glasses == "round" else 0.45
    ring = np.stack(
        [
            0.205 * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** power,
            0.165 * np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power,
        ],
        axis=1,
    )
    rims = np.zeros(shape, np.uint8)
    for side in (-1, 1):
        centre = np.array([side * (looks.eye_x + 0.01), looks.eye_y + 0.015])
        window.fill(cover, centre + ring, (16,))
        window.fill(rims, centre + ring, (255,))
        window.fill(rims, centre + ring * 0.90, (0,))
        arm = np.array([side * 0.50, side * 0.70])
        window.line(rims, arm, looks.eye_y - np.array([0.02, 0.05]), (255,), 0.03)
    bridge = np.linspace(-0.09, 0.09, 7)
    window.line(rims, bridge, looks.eye_y - 0.02 + 2.5 * bridge**2, (255,), 0.026)
    share = rims[..., None] / 255
    paint = np.rint(paint * (1 - share) + np.array(_colour_bytes(np.array(looks.frame))) * share)
    return paint.astype(np.uint8), np.maximum(cover, rims)


def _blend(under: np.ndarray, over: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """``over`` on ``under``, both (h, w, 3) uint8, with coverage (h, w) uint8."""
    weight = cv2.cvtColor(cover, cv2.COLOR_GRAY2RGB)
    below = cv2.multiply(under, cv2.bitwise_not(weight), scale=1 / 255)
    return cv2.add(below, cv2.multiply(over, weight, scale=1 / 255))


def _colour_bytes(colour: np.ndarray | Colour) -> tuple[int, int, int]:
    red, green, blue = np.rint(np.clip(np.asarray(colour), 0, 1) * 255).astype(int).tolist()
    return red, green, blue
