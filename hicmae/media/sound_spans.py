"""Spans of a recording's sound, one after another, while it is decoded.

So hours of sound are gone through in bounded memory, forwards only. The samples are those that
``read_sound`` and ``Sound.span`` give.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from hicmae.media.container import open_container
from hicmae.media.sound import nothing_decoded, resampled_pieces, sound_stream


class SoundSpans:
    """The sound of one recording, in one channel, cut in ascending spans.

    Args:
        path: A video or sound file.
        sample_rate: Wanted, Hz.
        end_seconds: Nothing after this is sound, on the container's clock; none given: to the end.
        history: How far a span may begin before the one that was asked for before, samples.

    Attributes:
        start_seconds: Time of the first sample on the container's clock.

    Raises: as ``hicmae.media.sound.read_sound``.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        sample_rate: int,
        end_seconds: float | None = None,
        history: int = 0,
    ) -> None:
        self.sample_rate = sample_rate
        self._history = history
        self._errors: list[str] = []
        self._open = ExitStack()
        try:
            self._chunks = self._decode(path, end_seconds)
            first = next(self._chunks, None)
            if first is None:
                raise nothing_decoded(path, self._errors)
        except BaseException:
            self._open.close()
            raise
        self._limit = (
            None
            if end_seconds is None
            else max(0, round((end_seconds - self.start_seconds) * sample_rate))
        )
        self._pending: deque[tuple[int, np.ndarray]] = deque([first])
        self._ended = False
        self._origin = 0  # sample number of the buffer's first
        self._buffer = np.zeros(0, dtype=np.int16)
        self._square_sum, self._counted = 0.0, 0

    def __enter__(self) -> SoundSpans:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def damaged(self) -> bool:
        """Whether packets so far could not be decoded; they are silence."""
        return bool(self._errors)

    @property
    def rms_db(self) -> float:
        """Level of what was decoded so far, decibels relative to full scale; -180 is silence."""
        mean = self._square_sum / max(self._counted, 1)
        return max(-180.0, 10 * float(np.log10(max(mean / 32768**2, 1e-18))))

    def number_at(self, seconds: float) -> int:
        """The sample at a time on the container's clock, counted from the first one."""
        return round((seconds - self.start_seconds) * self.sample_rate)

    def span(self, first: int, num_samples: int) -> tuple[np.ndarray, int]:
        """Cut samples, with silence where there is no sound.

        Args:
            first: Number of the first one; may be negative; not far below that of the span before.
            num_samples: How many.

        Returns: (num_samples,) int16, and how many of them are sound.
        """
        assert first >= self._origin or self._origin == 0, "spans ascend"
        self._fill(first, first + num_samples)
        have = self._origin + len(self._buffer)
        if self._limit is not None:
            have = min(have, self._limit)
        begin, end = max(first, 0), min(first + num_samples, have)
        cut = np.zeros(num_samples, dtype=np.int16)
        if end > begin:
            cut[begin - first : end - first] = self._buffer[
                begin - self._origin : end - self._origin
            ]
        return cut, max(end - begin, 0)

    def measure(self, tell: Callable[[float], None] | None = None) -> int:
        """Read to the end without keeping anything; returns the number of samples there are.

        Args:
            tell: Called with the seconds that were read, packet by packet.
        """
        last = 0
        while (chunk := self._next()) is not None:
            last = max(last, chunk[0] + len(chunk[1]))
            if tell is not None:
                tell(last / self.sample_rate)
        return last if self._limit is None else min(last, self._limit)

    def close(self) -> None:
        """Let go of the file."""
        self._chunks.close()
        self._open.close()

    def _decode(
        self, path: str | Path, end_seconds: float | None
    ) -> Generator[tuple[int, np.ndarray], None, None]:
        """Chunks (number of the first sample, samples); sets ``start_seconds`` at the first."""
        container = self._open.enter_context(open_container(path))
        stream = sound_stream(container, path)
        current, done = None, 0
        for piece in resampled_pieces(
            container, stream, self._errors, self.sample_rate, end_seconds
        ):
            for chunk in piece.chunks:
                if current is None:
                    self.start_seconds = piece.start
                if current is not piece:
                    current, done = piece, 0
                place = round((piece.start - self.start_seconds) * self.sample_rate)
                yield place + done, chunk
                done += len(chunk)
            piece.chunks.clear()

    def _next(self) -> tuple[int, np.ndarray] | None:
        if self._pending:
            return self._pending.popleft()
        if self._ended:
            return None
        chunk = next(self._chunks, None)
        if chunk is None:
            self._ended = True
        return chunk

    def _fill(self, first: int, wanted: int) -> None:
        """Decode until every sample from ``first`` to before ``wanted`` is known."""
        self._forget(first)
        while self._origin + len(self._buffer) < wanted:
            chunk = self._next()
            if chunk is None:
                return
            place, samples = chunk
            if place >= wanted:  # silence up to there, and nothing needs to hold it yet
                self._pending.appendleft(chunk)
                return
            self._square_sum += float(np.square(samples, dtype=np.float64).sum())
            self._counted += len(samples)
            self._put(place, samples)
            self._forget(first)

    def _put(self, place: int, samples: np.ndarray) -> None:
        """Lay samples over the buffer, which grows with silence up to them."""
        skipped = max(0, self._origin - place)
        place, samples = place + skipped, samples[skipped:]
        end = place + len(samples) - self._origin
        if end > len(self._buffer):
            self._buffer = np.concatenate(
                [self._buffer, np.zeros(end - len(self._buffer), dtype=np.int16)]
            )
        self._buffer[place - self._origin : end] = samples

    def _forget(self, first: int) -> None:
        """Drop what no later span asks for."""
        first -= self._history
        gone = min(max(0, first - self._origin), len(self._buffer))
        if gone:
            self._buffer = self._buffer[gone:].copy()
            self._origin += gone
        if not len(self._buffer):
            self._origin = max(self._origin, first)
