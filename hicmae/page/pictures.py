"""Arrays as pictures that a page can show without asking for another file: data: URLs.

Frames, thumbnails, filter banks, and the filter bank of a whole recording, put together from those
of its windows.
"""

from __future__ import annotations

import base64

import cv2
import numpy as np

from hicmae.prediction.messages import Clip

_JPEG_QUALITY = 85
# Beyond this many columns a filter bank is averaged over time: a screen has no more.
_MOST_COLUMNS = 6000
# Frames of 25 ms, 10 ms apart, see ``hicmae.transforms.fbank``.
_ROWS_PER_SECOND = 100
_ROW_SECONDS = 0.025


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


class WholeBank:
    """Grows to the right with each window that reaches further than those before.

    Args:
        sample_rate: Of the clips' sound, Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._rows: list[np.ndarray] = []
        self._start: float | None = None
        self._end = 0.0

    def wants(self, start: float, clip: Clip) -> bool:
        """Whether a clip that begins at a time, seconds, says something new."""
        num_rows = self._num_rows(clip)
        return num_rows > 0 and start + num_rows / _ROWS_PER_SECOND > self._end + 0.005

    def add(self, start: float, clip: Clip, bank: np.ndarray) -> None:
        """Take what is new in a filter bank (S, F) of a clip that ``wants`` was asked about."""
        if self._start is None:
            self._start = self._end = start
        gap = round((start - self._end) * _ROWS_PER_SECOND)
        if gap > 0:  # no window looked there
            self._rows.append(np.full((gap, bank.shape[1]), np.nan, dtype=np.float32))
        num_rows = self._num_rows(clip)
        self._rows.append(bank[max(0, -gap) : num_rows])
        self._end = start + num_rows / _ROWS_PER_SECOND

    def picture(self) -> dict[str, object] | None:
        """The picture with its span in seconds; None without sound."""
        bank = np.concatenate(self._rows) if self._rows else np.zeros((0, 1))
        if not len(bank) or np.isnan(bank).all():
            return None
        low, high = bank_range(bank)
        url = bank_url(bank, low=low, high=high)
        return {"picture": url, "start": self._start, "end": self._end}

    def _num_rows(self, clip: Clip) -> int:
        """Frames that are of sound; behind them are zeros that fill the network's input."""
        if clip.waveform is None:
            return 0
        seconds = clip.num_samples / self._sample_rate
        return max(0, int((seconds - _ROW_SECONDS) * _ROWS_PER_SECOND + 1e-6) + 1)


def _encoded(suffix: str, image: np.ndarray, options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, image, options)
    assert done, suffix
    return bytes(data.tobytes())
