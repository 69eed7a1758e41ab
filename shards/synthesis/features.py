"""The moving part of a face: eyes, brows and mouth, painted on the head for every frame.

For: turning one moment of a motion into paint. Not for: deciding the motion (``motion.py``).
Positions follow ``speakers.py``: half heads, y down.
"""

from __future__ import annotations

import cv2
import numpy as np

from shards.synthesis.canvas import Canvas, Window, outline
from shards.synthesis.head import Head
from shards.synthesis.motion import Motion
from shards.synthesis.speakers import Colour, Looks

_ALONG = np.linspace(-1, 1, 19)
_BOW = (1 - np.abs(_ALONG) ** 2.2) * (1 - 0.25 * np.exp(-((_ALONG / 0.13) ** 2)))
_ARC = np.sqrt(1 - _ALONG**2)
_UPPER_LID, _LOWER_LID = _ARC**1.15, _ARC**1.3
_FOLD = 0.018 * (1 - _ARC)
_GAP, _LOWER_LIP, _TEETH, _BEND = _ARC**0.8, _ARC**1.1, _ARC**0.5, np.abs(_ALONG) ** 1.9
_BROW = np.linspace(0, 1, 12)  # from the inner end outwards
_BROW_ARCH, _BROW_END = np.sin(np.pi * _BROW**1.25), 0.02 * _BROW**3
_BROW_SHAPE = (0.75 + 0.5 * _BROW) * (1 - _BROW**4)


class FeaturePainter:
    """Paints eyes, brows and mouth of one head into a lit sheet.

    Args:
        canvas: The head's canvas.
        looks: Whose features.
        head: The painted head below them.
    """

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
        self._dark_skin = _bytes(skin * (0.58, 0.48, 0.46))
        self._crease = _bytes(skin * (0.74, 0.64, 0.62))
        self._lash = _bytes(0.35 * np.array(looks.hair) + 0.02)
        lip, iris = np.array(looks.lip), np.array(looks.iris)
        self._upper_lip, self._lip = _bytes(lip * 0.84), _bytes(lip)
        self._lip_shine, self._seam = _bytes(lip * 1.18 + 0.05), _bytes(lip * 0.45)
        self._limbus, self._iris = _bytes(iris * 0.45), _bytes(iris)
        self._iris_light = _bytes(iris * 1.35)
        self._brow = _bytes(0.72 * np.array(looks.hair) + 0.18 * skin * 0.6)

    def still(self) -> np.ndarray:
        """The lit head without features (H, W, 3) uint8."""
        lit = cv2.multiply(self._colour, self._shade, scale=1 / 128)
        return cv2.add(lit, self._gloss)

    def paint(self, sheet: np.ndarray, motion: Motion, frame: int) -> None:
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

    def _paint_eye(self, upper: np.ndarray, side: int, motion: Motion, frame: int) -> None:
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

    def _paint_brow(self, upper: np.ndarray, side: int, motion: Motion, frame: int) -> None:
        looks = self.looks
        pinch = float(motion.pinch[frame])
        x = side * (looks.eye_x - 0.165 + 0.37 * _BROW - 0.30 * pinch * (1 - _BROW))
        lift = looks.brow_height + float(motion.brows[frame]) + looks.brow_arch * _BROW_ARCH
        tilt = looks.brow_tilt * (2 * _BROW - 1)
        y = looks.eye_y - lift - tilt + pinch * (1 - _BROW) ** 1.5 + _BROW_END
        thick = looks.brow_thickness * _BROW_SHAPE + 0.004
        self._upper.fill(upper, outline(x, y - thick, y + thick), self._brow)

    def _paint_mouth(self, lower: np.ndarray, motion: Motion, frame: int) -> None:
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
    paint = np.rint(paint * (1 - share) + np.array(_bytes(np.array(looks.frame))) * share)
    return paint.astype(np.uint8), np.maximum(cover, rims)


def _blend(under: np.ndarray, over: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """``over`` on ``under``, both (h, w, 3) uint8, with coverage (h, w) uint8."""
    weight = cv2.cvtColor(cover, cv2.COLOR_GRAY2RGB)
    below = cv2.multiply(under, cv2.bitwise_not(weight), scale=1 / 255)
    return cv2.add(below, cv2.multiply(over, weight, scale=1 / 255))


def _bytes(colour: np.ndarray | Colour) -> tuple[int, int, int]:
    red, green, blue = np.rint(np.clip(np.asarray(colour), 0, 1) * 255).astype(int).tolist()
    return red, green, blue
