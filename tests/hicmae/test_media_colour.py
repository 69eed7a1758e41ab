"""Known colours come out as they are: matrices, ranges, depths, odd sizes, rotated pictures."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from hicmae.media.video import DECODERS, open_video

# fmt: off
COLOURS = np.array([
    [200, 40, 40], [40, 180, 60], [50, 60, 200], [220, 210, 60],
    [128, 128, 128], [20, 20, 20], [240, 240, 240], [190, 140, 120],
])
# fmt: on
# Weights of red and blue in luma. Source: ITU-R BT.601-7 and BT.709-6, section "signal format".
WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
# Codes of ISO/IEC 23091-2: matrices, and limited or full range as FFmpeg numbers them.
MATRIX, LIMITED, FULL = {"bt601": 6, "bt709": 1}, 1, 2


def ycbcr(matrix: str, full: bool, bits: int) -> np.ndarray:
    """The colours (8, 3) as a camera would store them."""
    red_weight, blue_weight = WEIGHTS[matrix]
    red, green, blue = (COLOURS / 255).T
    luma = red_weight * red + (1 - red_weight - blue_weight) * green + blue_weight * blue
    cb, cr = (blue - luma) / (2 - 2 * blue_weight), (red - luma) / (2 - 2 * red_weight)
    step, most = 2 ** (bits - 8), 2**bits - 1
    if full:
        return np.round(np.stack([luma * most, cb * most + 128 * step, cr * most + 128 * step], 1))
    return np.round(np.stack([16 + 219 * luma, 128 + 224 * cb, 128 + 224 * cr], axis=1) * step)


def write_bars(
    path: Path,
    *,
    matrix: str = "bt601",
    full: bool = False,
    bits: int = 8,
    size: tuple[int, int] = (64, 256),
    codec: str = "libx264",
    rotation: int | None = None,
) -> Path:
    """Eight upright bars of the colours, without loss, tagged as they are stored."""
    values = ycbcr(matrix, full, bits)
    pixels = {8: "yuv444p", 10: "yuv420p10le"}[bits] if codec == "libx264" else "yuvj420p"
    height, width = size
    with av.open(str(path), "w") as container:
        options = {"qp": "0"} if codec == "libx264" else {"q": "1"}
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, pixels
        stream.codec_context.color_range = FULL if full else LIMITED
        stream.codec_context.colorspace = MATRIX[matrix]
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for number in range(3):
            frame = av.VideoFrame(width, height, pixels)
            for plane, channel in zip(frame.planes, values.T, strict=True):
                kind = np.uint8 if bits == 8 else np.uint16
                bars = np.zeros((plane.height, plane.line_size // kind().itemsize), dtype=kind)
                place = np.minimum(np.arange(plane.width) * 8 // plane.width, 7)
                bars[:, : plane.width] = channel[place]
                plane.update(bars.tobytes())
            frame.color_range, frame.colorspace = (FULL if full else LIMITED), MATRIX[matrix]
            frame.pts, frame.time_base = number, Fraction(1, 25)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def bars_of(frame: np.ndarray) -> np.ndarray:
    """The colours in the middle of the bars (8, 3)."""
    height, width = frame.shape[:2]
    return frame[height // 2, (np.arange(8) * 2 + 1) * width // 16].astype(int)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", WEIGHTS)
def test_matrix_range_and_depth_are_heeded(
    tmp_path: Path, matrix: str, full: bool, bits: int, decoder: str
) -> None:
    path = write_bars(tmp_path / "bars.mp4", matrix=matrix, full=full, bits=bits)
    frame = open_video(path, decoders=[decoder]).read([1])[0]
    np.testing.assert_allclose(bars_of(frame), COLOURS, atol=4)


def test_the_full_range_of_motion_jpeg_is_heeded(tmp_path: Path) -> None:
    path = write_bars(tmp_path / "bars.avi", full=True, codec="mjpeg")
    np.testing.assert_allclose(bars_of(open_video(path).read([1])[0]), COLOURS, atol=8)


@pytest.mark.parametrize("size", [(61, 255), (33, 131), (63, 256)])
def test_odd_sizes_keep_their_colours_to_the_edge(tmp_path: Path, size: tuple[int, int]) -> None:
    frame = open_video(write_bars(tmp_path / "bars.mp4", size=size)).read([1])[0]
    assert frame.shape == (*size, 3)
    np.testing.assert_allclose(bars_of(frame), COLOURS, atol=4)
    np.testing.assert_allclose(frame[-1, -1], COLOURS[-1], atol=4)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_colours_are_upright_through_every_decoder(tmp_path: Path, degrees: int) -> None:
    path = write_bars(tmp_path / "bars.mp4", rotation=degrees)
    expected = {90: COLOURS[::-1], 180: COLOURS[::-1], 270: COLOURS}[degrees]
    for decoder in DECODERS:
        frame = open_video(path, decoders=[decoder]).read([1])[0]
        if degrees != 180:
            assert frame.shape == (256, 64, 3)
            frame = frame.transpose(1, 0, 2)
        np.testing.assert_allclose(bars_of(frame), expected, atol=4)
