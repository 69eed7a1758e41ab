"""Stored pictures made into those that a player shows: upright RGB of BT.709 with square pixels.

Here and nowhere else a decoded frame becomes RGB where more is to be done than a conversion of
colours and a plain rotation: pixels are squared, fields made into frames, high dynamic range mapped
to the standard one. Not for choosing frames: ``container.py`` and the decoders do that.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np

# Pixels further from square than this are nonsense in a header; real ones stay below 2.2.
_MOST_ASPECT = 4
# Transfer characteristics of high dynamic range, by their codes. Source: ISO/IEC 23091-2.
_TRANSFERS = {16: "pq", 18: "hlg"}
_LEAST_SIDE = 4  # of pictures that the filter for fields takes, pixels
_FIRST_INTERLACED = 2  # field orders of FFmpeg: 0 is unknown, 1 progressive

# Luminance of diffuse white, cd/m2. Source: ITU-R BT.2408-7, table 1 (75 % of an HLG signal too).
_WHITE = 203.0
_HLG_PEAK, _HLG_GAMMA = 1000.0, 1.2  # of the nominal display. Source: ITU-R BT.2100-2, table 5
# Weights of luminance in BT.2020, and linear RGB of BT.2020 to that of BT.709. Source: ITU-R
# BT.2020-2, table 4, and BT.2407-0, section 2.
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], dtype=np.float32)
_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    dtype=np.float32,
)
# Up to this share of diffuse white light is kept as it is; what is brighter comes nearer and
# nearer to white and never reaches it.
_KNEE = 0.8


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """How stored pixels become upright ones: first transposed, then mirrored.

    Source: the display matrix of ISO/IEC 14496-12 (``tkhd``), as FFmpeg hands it on.
    """

    transpose: bool = False
    flip_columns: bool = False
    flip_rows: bool = False

    @property
    def is_rotation(self) -> bool:
        """Whether it is a plain rotation: one that mirrors needs a decoder that knows mirrors."""
        return self.transpose == (self.flip_columns != self.flip_rows)

    def apply(self, frame: np.ndarray) -> np.ndarray:
        """Turn one frame (H, W, C) upright; contiguous."""
        if self.transpose:
            frame = frame.transpose(1, 0, 2)
        if self.flip_columns:
            frame = frame[:, ::-1]
        if self.flip_rows:
            frame = frame[::-1]
        return np.ascontiguousarray(frame)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What has to be done with the stored pictures of a stream.

    Args:
        stored_height: Pixels, as they are stored; of the largest where the size changes midway.
        stored_width: Likewise.
        num_sizes: How many sizes are stored.
        pixel_aspect: Width of a stored pixel, in heights of it.
        interlaced: Whether frames hold two fields, taken one after the other.
        transfer: ``pq`` or ``hlg`` of high dynamic range; ``sdr``: any other.
        orientation: From stored to upright pixels.
    """

    stored_height: int
    stored_width: int
    num_sizes: int
    pixel_aspect: Fraction
    interlaced: bool
    transfer: str
    orientation: Orientation

    @property
    def changes(self) -> dict[str, Any]:
        """What is done with it but for turning it upright, as a sample says it; mostly nothing.

        ``pixel_aspect``: width to height of the stored pixels, which were squared; ``deinterlaced``
        true; ``tone_mapped``: ``pq`` or ``hlg``, mapped to BT.709; ``sizes``: how many there were,
        each of which was fitted into the largest.
        """
        found: dict[str, Any] = {}
        if self._squared(self.stored_height, self.stored_width) != (
            self.stored_height,
            self.stored_width,
        ):
            found["pixel_aspect"] = f"{self.pixel_aspect.numerator}:{self.pixel_aspect.denominator}"
        if self.interlaced:
            found["deinterlaced"] = True
        if self.transfer != "sdr":
            found["tone_mapped"] = self.transfer
        if self.num_sizes > 1:
            found["sizes"] = self.num_sizes
        return found

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what is shown, pixels."""
        height, width = self._squared(self.stored_height, self.stored_width)
        return (width, height) if self.orientation.transpose else (height, width)

    def _squared(self, height: int, width: int) -> tuple[int, int]:
        """Height and width before turning: the longer side of a pixel is the one that is kept."""
        if self.pixel_aspect >= 1:
            return height, round(width * self.pixel_aspect)
        return round(height / self.pixel_aspect), width

    def rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """Convert one frame: (H, W, 3) uint8 RGB.

        A frame of another size (some streams change it midway) keeps its proportions, in the
        middle of black; one of an interlaced stream has gone through ``deinterlaced``.
        """
        shown = self._squared(self.stored_height, self.stored_width)
        if (frame.height, frame.width) == (self.stored_height, self.stored_width):
            return self.orientation.apply(self._pixels(frame, *shown))
        own = self._squared(frame.height, frame.width)
        scale = min(shown[0] / own[0], shown[1] / own[1])
        height, width = (max(1, round(side * scale)) for side in own)
        top, left = (shown[0] - height) // 2, (shown[1] - width) // 2
        pixels = np.zeros((*shown, 3), dtype=np.uint8)
        pixels[top : top + height, left : left + width] = self._pixels(frame, height, width)
        return self.orientation.apply(pixels)

    def _pixels(self, frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
        # By itself every frame would start, and keep, as many threads as there are processors:
        # slower (for 224 pixels 0.5 ms, not 0.1), and a forked process that frees them hangs.
        form = "rgb24" if self.transfer == "sdr" else "rgb48le"
        pixels = frame.to_ndarray(format=form, height=height, width=width, threads=1)
        return pixels if self.transfer == "sdr" else tone_mapped(pixels, self.transfer)


def picture_of(
    stream: av.video.stream.VideoStream,
    frames: list[av.VideoFrame],
    sizes: Collection[tuple[int, int]] = (),
) -> Picture:
    """Read from a stream and one frame of it or more what has to be done.

    Args:
        stream: Of an open recording.
        frames: Of it, the first one first.
        sizes: Heights and widths that pictures after the first have.

    Source: what players go by: the container's pixel aspect before the codec's, the flags of the
    frames for fields and transfer, the display matrix of the first one.
    """
    first, aspect = frames[0], stream.sample_aspect_ratio
    known = list(dict.fromkeys([(first.height, first.width), *sizes]))
    height, width = max(known, key=math.prod)
    if not aspect or not Fraction(1, _MOST_ASPECT) <= aspect <= _MOST_ASPECT:
        aspect = Fraction(1)
    return Picture(
        stored_height=height,
        stored_width=width,
        num_sizes=len(known),
        pixel_aspect=aspect,
        interlaced=min(first.height, first.width) >= _LEAST_SIDE
        and (
            stream.codec_context.field_order >= _FIRST_INTERLACED
            or any(frame.interlaced_frame for frame in frames)
        ),
        transfer=_TRANSFERS.get(first.color_trc, "sdr"),
        orientation=_orientation(first),
    )


def deinterlaced(
    frames: Iterable[tuple[int, av.VideoFrame]],
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Make whole frames of frames that hold two fields, as many as there are, at the first's times.

    What frames do not say to be interlaced stays as it is. A frame is made of the one before it
    and the one after it too: where the number matters, begin one frame earlier.

    Args: frames: Number and frame; numbers ascend.

    Source: FFmpeg's ``bwdif`` (the motion-adaptive filter of the BBC, R&D White Paper, with the
    interpolation of w3fdif), field order and fields by the flags of each frame.
    """
    for _, run in itertools.groupby(
        frames, key=lambda item: (item[1].width, item[1].height, item[1].format.name)
    ):
        first = next(run)
        graph = _field_filter(first[1])
        for number, frame in itertools.chain([first], run):
            frame.pts, frame.time_base = number, Fraction(1)
            graph.push(frame)
            yield from _pulled(graph, first[1])
        graph.push(None)
        yield from _pulled(graph, first[1])


def tone_mapped(pixels: np.ndarray, transfer: str) -> np.ndarray:
    """Map high dynamic range in BT.2020 to what a standard screen shows.

    Light is taken as the nominal display gives it, relative to diffuse white of 203 cd/m2; colours
    outside BT.709 lose what is negative; light above 0.8 of diffuse white is rolled off towards it
    (exponentially, by the largest of the three, so that hues stay); codes are those of sRGB, by
    which SDR video is looked at on screens of computers and phones.

    Args:
        pixels: (H, W, 3) uint16, the full range of R'G'B' codes.
        transfer: ``pq`` or ``hlg``.

    Returns: (H, W, 3) uint8.

    Source: ITU-R BT.2100-2 (tables 4 and 5: both transfers, and the OOTF of HLG), BT.2408-7
    (diffuse white), IEC 61966-2-1 (sRGB).
    """
    light = _light(transfer)[pixels]  # (H, W, 3), of diffuse white; of the scene in HLG
    if transfer == "hlg":
        luminance = cv2.transform(light, _LUMINANCE[None])
        light *= cv2.pow(luminance, _HLG_GAMMA - 1)[..., None] * (_HLG_PEAK / _WHITE)
    light = np.maximum(cv2.transform(light, _TO_BT709), 0)
    most = light.max(axis=2, keepdims=True)
    excess = np.maximum(most - _KNEE, 0)
    rolled = _KNEE + (1 - _KNEE) * -np.expm1(-excess / (1 - _KNEE))
    light *= np.where(excess > 0, rolled / np.maximum(most, _KNEE), np.float32(1))
    return _codes()[(light * 65535 + 0.5).astype(np.uint16)]


@functools.cache
def _light(transfer: str) -> np.ndarray:
    """Light of every code (65536,) float32: of the display by diffuse white, or of the scene."""
    code = np.linspace(0, 1, 65536)
    if transfer == "pq":
        power = code ** (1 / 78.84375)
        ratio = np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
        light = 10000 * ratio ** (1 / 0.1593017578125) / _WHITE
    else:
        above = (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12
        light = np.where(code <= 0.5, code**2 / 3, above)
    return light.astype(np.float32)


@functools.cache
def _codes() -> np.ndarray:
    """Codes of sRGB (65536,) uint8 of linear light 0..1."""
    light = np.linspace(0, 1, 65536)
    codes = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.round(codes * 255).astype(np.uint8)


def _field_filter(frame: av.VideoFrame) -> av.filter.Graph:
    """A filter that takes frames like this one; stamps are whole numbers."""
    graph = av.filter.Graph()
    graph.threads = 1
    graph.link_nodes(
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format.name, time_base=Fraction(1)
        ),
        graph.add("bwdif", mode="send_frame", parity="auto", deint="interlaced"),
        graph.add("buffersink"),
    ).configure()
    return graph


def _pulled(graph: av.filter.Graph, like: av.VideoFrame) -> Iterator[tuple[int, av.VideoFrame]]:
    """What a filter is done with, in the colours of a frame that went in."""
    while True:
        try:
            frame = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
        # Lost on the way where pixels had to be put in another order.
        frame.colorspace, frame.color_range = like.colorspace, like.color_range
        yield round(frame.pts * frame.time_base), frame


def _orientation(frame: av.VideoFrame) -> Orientation:
    """Read the display matrix of a frame; one that is missing or skewed changes nothing."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return Orientation()
    right_x, right_y, _, down_x, down_y = np.frombuffer(bytes(data), dtype=np.int32)[:5].tolist()
    if abs(right_y) + abs(down_x) > abs(right_x) + abs(down_y):
        return Orientation(transpose=True, flip_columns=down_x < 0, flip_rows=right_y < 0)
    return Orientation(flip_columns=right_x < 0, flip_rows=down_y < 0)
