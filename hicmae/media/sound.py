"""Raw sound in: one channel of 16-bit samples on the clock of the pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hicmae.media.sound_spans import SoundSpans, level_db


@dataclass(frozen=True, kw_only=True)
class Sound:
    """The sound of one recording.

    Args:
        samples: (n,) int16, one channel.
        sample_rate: Hz.
        start_seconds: Time of the first sample on the container's clock, which
            ``VideoReader.timestamps`` share.
        damaged: Whether packets could not be decoded; what decoded is kept in its place.
        taken: What was taken instead of the mix of the best track, for people; "" if nothing.
    """

    samples: np.ndarray
    sample_rate: int
    start_seconds: float
    damaged: bool = False
    taken: str = ""

    @property
    def duration_seconds(self) -> float:
        """Length of the samples."""
        return len(self.samples) / self.sample_rate

    @property
    def rms_db(self) -> float:
        """Level, decibels relative to full scale; -180 is digital silence."""
        return rms_db(self.samples)

    def span(self, start_seconds: float, num_samples: int) -> tuple[np.ndarray, int]:
        """Cut exactly these samples, padding with silence what the sound does not cover.

        Args:
            start_seconds: Time of the first sample wanted, on the container's clock.
            num_samples: How many.

        Returns: samples (num_samples,) int16, and how many of them are padding.
        """
        first = round((start_seconds - self.start_seconds) * self.sample_rate)
        begin, end = max(first, 0), min(first + num_samples, len(self.samples))
        cut = np.zeros(num_samples, dtype=np.int16)
        if end > begin:
            cut[begin - first : end - first] = self.samples[begin:end]
        return cut, num_samples - max(end - begin, 0)

    def shifted(self, seconds: float) -> Sound:
        """Move the sound in time: a separate sound file, onto the first frame of its video."""
        return replace(self, start_seconds=self.start_seconds + seconds)


def rms_db(samples: np.ndarray) -> float:
    """Root mean square of int16 samples (n,), decibels relative to full scale, at least -180."""
    return level_db(float(np.square(samples, dtype=np.float64).sum()), len(samples))


def read_sound(
    path: str | Path,
    *,
    sample_rate: int = 16000,
    end_seconds: float | None = None,
    from_beginning: bool = False,
) -> Sound:
    """Read the sound of a recording whole, in one channel and resampled; as ``SoundSpans``.

    Silence is sound; gaps between packets become silence of their length.

    Args and Raises, as ``SoundSpans``.
    """
    with SoundSpans(
        path, sample_rate=sample_rate, end_seconds=end_seconds, from_beginning=from_beginning
    ) as spans:
        samples = spans.whole()
        return Sound(
            samples=samples,
            sample_rate=sample_rate,
            start_seconds=spans.start_seconds,
            damaged=spans.damaged,
            taken=spans.taken,
        )
