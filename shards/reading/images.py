"""JPEG images, out of a Motion-JPEG stream into uint8 arrays.

For: everything that knows JPEG. Not for: which images a clip has (``sample.py``), or writing them
(``members.py``).

Images are decoded by libjpeg-turbo straight into the place they have in their batch. Through
OpenCV, which uses the same library and cannot be given a place, the same pixels took 1.4 times as
long, and their copies came on top.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import simplejpeg

from shards.errors import ClipError

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


def decode_frames(
    mjpg: bytes, frame_offsets: Sequence[int], indices: np.ndarray, where: str = "mjpg"
) -> np.ndarray:
    """Decode chosen images of a Motion-JPEG stream.

    Args:
        mjpg: JPEG images one after another.
        frame_offsets: N + 1 byte offsets into it.
        indices: (T,) images to decode; one asked for twice is decoded once.
        where: How an error names the stream.

    Returns: uint8 (T, H, W, 3), RGB.

    Raises:
        ClipError: An image cannot be decoded, or they differ in size.
    """
    distinct, repeats = np.unique(indices, return_inverse=True)
    jpegs = cut_images(mjpg, frame_offsets, distinct)
    height, width = _size(jpegs[0], where, int(distinct[0]))
    frames = np.empty((len(jpegs), height, width, 3), dtype=np.uint8)
    for frame, jpeg, number in zip(frames, jpegs, distinct.tolist(), strict=True):
        decode_image(frame, jpeg, where, number)
    return frames if len(jpegs) == len(indices) else frames[repeats]


def cut_images(
    mjpg: bytes | memoryview, frame_offsets: Sequence[int], images: np.ndarray, start: int = 0
) -> tuple[bytes | memoryview, ...]:
    """The bytes of chosen images of a Motion-JPEG stream.

    Args:
        mjpg: The stream, or a part of it.
        frame_offsets: N + 1 byte offsets into the whole.
        images: (K,) their numbers.
        start: Where in the whole the part begins, bytes.
    """
    spans = [(frame_offsets[i] - start, frame_offsets[i + 1] - start) for i in images.tolist()]
    return tuple(mjpg[first:last] for first, last in spans)


def decode_image(out: np.ndarray, jpeg: bytes | memoryview, where: str, number: int) -> None:
    """Decode one image, RGB, into its place.

    Args:
        out: uint8 (H, W, 3), overwritten.
        jpeg: Of that size.
        where: How an error names the stream.
        number: Of the image in it.

    Raises:
        ClipError: It is damaged, or of another size.
    """
    try:
        shape = simplejpeg.decode_jpeg(jpeg, "RGB", buffer=out).shape
    except ValueError as error:  # damaged, or larger
        require_image_size(jpeg, (out.shape[0], out.shape[1]), where, number)
        raise _undecodable(jpeg, where, number) from error
    if shape != out.shape or not _is_whole(jpeg):
        require_image_size(jpeg, (out.shape[0], out.shape[1]), where, number)


def require_image_size(
    jpeg: bytes | memoryview, size: tuple[int, int], where: str, number: int
) -> None:
    """Refuse an image of another (height, width), by its header alone.

    Raises:
        ClipError: It is, or has no header.
    """
    found = _size(jpeg, where, number)
    if found != size:
        raise ClipError(
            f"{where}: image {number} is {found[0]}x{found[1]} pixels, not {size[0]}x{size[1]}; "
            "rebuild it",
            "bad-image",
        )


def _size(jpeg: bytes | memoryview, where: str, number: int) -> tuple[int, int]:
    """Height and width that an image says it has."""
    if _is_whole(jpeg):
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
            return height, width
        except ValueError:
            pass
    raise _undecodable(jpeg, where, number)


def _is_whole(jpeg: bytes | memoryview) -> bool:
    """Whether it begins and ends as an image does."""
    # A decoder fills the rest of a cut-off image with grey and says nothing; the end marker tells.
    return jpeg[:2] == _JPEG_START and jpeg[-2:] == _JPEG_END


def _undecodable(jpeg: bytes | memoryview, where: str, number: int) -> ClipError:
    return ClipError(
        f"{where}: image {number} cannot be decoded ({len(jpeg)} bytes); rebuild it", "bad-image"
    )
