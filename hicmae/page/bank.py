"""The filter bank of a whole recording, put together from those of its windows.

For: one picture of the sound under the timeline. Not for: making a filter bank (``ClipTransform``).
"""

from __future__ import annotations

import numpy as np

from hicmae.page.pictures import bank_range, bank_url
from hicmae.prediction.messages import Clip

# Frames of 25 ms, 10 ms apart, see ``hicmae.transforms.fbank``.
_ROWS_PER_SECOND = 100
_ROW_SECONDS = 0.025


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
