"""Arrays as pictures that a page can show without asking for another file.

For: filter banks, frames and thumbnails as data: URLs. Not for: figures of runs.
"""

from __future__ import annotations

import base64

import cv2
import numpy as np

_JPEG_QUALITY = 85
# Beyond this many columns a filter bank is averaged over time: a screen has no more.
_MOST_COLUMNS = 6000


def jpeg_url(jpeg: bytes) -> str:
    """A JPEG as a data: URL; nothing for none."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" if jpeg else ""


def frame_url(frame: np.ndarray) -> str:
    """A frame (H, W, 3), RGB in 0..1, as a data: URL."""
    image = (255 * np.clip(frame, 0, 1)).round().astype(np.uint8)
    jpeg = _encoded(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return jpeg_url(jpeg)


def bank_url(bank: np.ndarray, *, low: float, high: float) -> str:
    """A filter bank (S, F) as a data: URL of a PNG, low notes below; NaN is grey.

    Args:
        bank: The values.
        low: Shown darkest.
        high: Shown brightest.
    """
    step = -(-len(bank) // _MOST_COLUMNS)
    if step > 1:
        whole = len(bank) // step * step
        bank = bank[:whole].reshape(-1, step, bank.shape[1]).mean(axis=1)
    hidden = np.isnan(bank)
    shares = np.clip((np.nan_to_num(bank) - low) / max(high - low, 1e-6), 0, 1)
    image = cv2.applyColorMap((255 * shares).astype(np.uint8), cv2.COLORMAP_MAGMA)
    image[hidden] = 128
    png = _encoded(".png", np.ascontiguousarray(image.transpose(1, 0, 2)[::-1]), [])
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def bank_range(bank: np.ndarray) -> tuple[float, float]:
    """What to show darkest and brightest: nearly all of the values lie between them."""
    low, high = np.nanpercentile(bank, (1, 99.5))
    return float(low), float(high)


def _encoded(suffix: str, image: np.ndarray, options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, image, options)
    assert done, suffix
    return bytes(data.tobytes())
