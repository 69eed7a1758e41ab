"""JPEG images of faces, encoded and decoded one way, wherever that is done.

For: shards, and prediction, whose crops go through the same codec as those the network was trained
on. Not for: Motion-JPEG streams (``shards``).

Encoded by OpenCV, decoded by libjpeg-turbo itself, as the readers of shards do.
"""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg

_CHROMA = {
    "420": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "444": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}


def encode_jpeg(image: np.ndarray, *, quality: int, chroma: str) -> bytes:
    """Encode one image.

    Args:
        image: (H, W, 3) uint8 RGB.
        quality: 1..100.
        chroma: ``420`` halves the resolution of colours in both directions, ``444`` keeps it.
    """
    options = [
        *(cv2.IMWRITE_JPEG_QUALITY, quality),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _CHROMA[chroma]),
        *(cv2.IMWRITE_JPEG_OPTIMIZE, 1),  # 3 to 5 % smaller, and no slower to decode
    ]
    done, jpeg = cv2.imencode(".jpg", image[:, :, ::-1], options)
    assert done, "cv2 encodes every uint8 image"
    return bytes(jpeg.tobytes())


def decode_jpeg(jpeg: bytes) -> np.ndarray:
    """Decode one image to (H, W, 3) uint8 RGB.

    Raises: ValueError: it is damaged.
    """
    return np.asarray(simplejpeg.decode_jpeg(jpeg, "RGB"))
