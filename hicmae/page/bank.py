"""The filter bank of a whole recording, put together from those of its windows.

For: one picture of the sound under the timeline. Not for: making a filter bank (``ClipTransform``).
"""

from __future__ import annotations

import numpy as np

from hicmae.page.pictures import bank_range, bank_url
from hicmae.prediction.messages import Clip

_ROWS_PER_SECOND = 100  # frames of 10 ms, see ``hicmae.transforms.fbank``


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
        return clip.waveform is not None and start + self._seconds(clip) > self._end + 0.005

    def add(self, start: float, clip: Clip, bank: np.ndarray) -> None:
        """Take what is new in a filter bank (S, F) of a clip that ``wants`` was asked about."""
        if self._start is None:
            self._start = self._end = start
        gap = round((start - self._end) * _ROWS_PER_SECOND)
        if gap > 0:  # no window looked there
            self._rows.append(np.full((gap, bank.shape[1]), np.nan, dtype=np.float32))
        end = start + self._seconds(clip)
        first = max(0, -gap)
        self._rows.append(bank[first : round(self._seconds(clip) * _ROWS_PER_SECOND)])
        self._end = end

    def picture(self) -> dict[str, object] | None:
        """The picture with its span in seconds; None without sound."""
        bank = np.concatenate(self._rows) if self._rows else np.zeros((0, 1))
        if not len(bank) or np.isnan(bank).all():
            return None
        low, high = bank_range(bank)
        url = bank_url(bank, low=low, high=high)
        return {"picture": url, "start": self._start, "end": self._end}

    def _seconds(self, clip: Clip) -> float:
        """Length of the sound that is valid."""
        return clip.num_samples / self._sample_rate
