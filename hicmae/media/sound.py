"""Raw sound in: one channel of 16-bit samples on the clock of the pictures.

Whole (``read_sound``), or span after span while it is decoded (``SoundSpans``): so hours of sound
are gone through in bounded memory, forwards only.
"""

from __future__ import annotations

import math
import threading
from array import array
from collections import deque
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np

from hicmae.files import Closing, file_state
from hicmae.media.container import beginning_of, open_container
from hicmae.media.errors import MediaError
from hicmae.media.sound_decoding import SoundPiece, Track, choose_track, resampled_pieces

# What digital silence reads, decibels relative to full scale.
_SILENCE_DB = -180.0


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


def read_span_sound(
    path: str | Path, *, sample_rate: int, end_seconds: float, from_beginning: bool = False
) -> Sound:
    """As ``read_sound``, of the very same samples, for spans of one recording in ascending order.

    What was decoded for the span before is not decoded again: so many spans of a long recording
    cost what it is long, and not that for each of them.
    """
    name = Path(path).absolute()
    decoded, _newest.last = _newest.last, None
    try:
        origin = 0.0
        if from_beginning:
            with open_container(path) as container:
                origin = beginning_of(container)
        track = choose_track(path, origin + end_seconds)
        wanted = (*file_state(name), sample_rate, origin, track)
        if decoded is None or decoded.of != wanted:
            if decoded is not None:
                decoded.close()
            decoded = _Decoded(name, wanted, track, sample_rate, origin)
        found = decoded.until(end_seconds)
        _newest.last = decoded
    except (MediaError, OSError):
        found = None  # below it is said
    return found or read_sound(
        path, sample_rate=sample_rate, end_seconds=end_seconds, from_beginning=from_beginning
    )


class _Decoded(Closing):
    """The sound of one recording, as far as it was asked for.

    Attributes: of: Which one, and how it is decoded.
    """

    def __init__(
        self, path: Path, of: tuple[Any, ...], track: Track, sample_rate: int, origin: float
    ) -> None:
        self.of, self._track, self._rate = of, track, sample_rate
        self._errors: list[str] = []
        self._open = ExitStack()
        container = self._open.enter_context(open_container(path))
        self._pieces = resampled_pieces(container, track, self._errors, sample_rate, origin=origin)
        self._piece: SoundPiece | None = None  # the first
        self._gaps = self._ended = False
        self._samples, self._count = np.zeros(0, dtype=np.int16), 0
        # Of each packet its time, and how many samples and errors there were when it came.
        self._times, self._before = array("d"), list[tuple[int, int]]()

    def until(self, end_seconds: float) -> Sound | None:
        """The sound up to a time; None where that cannot be told from what is decoded: behind a
        gap, and where the last samples are those that the resampler still holds.
        """
        late = np.flatnonzero(np.frombuffer(self._times) >= end_seconds)
        number = int(late[0]) if len(late) else len(self._times)
        while number == len(self._times) and not (self._ended or self._gaps):
            self._read()
            if len(self._times) > number and self._times[number] < end_seconds:
                number += 1
        if number < len(self._times):
            count, errors = self._before[number]
        elif self._ended and not self._gaps:
            count, errors = self._count, len(self._errors)
        else:
            return None
        if self._piece is None or not count:
            return None
        limit = max(0, round((end_seconds - self._piece.start) * self._rate))
        if limit > count and not (self._ended and number == len(self._times)):
            return None
        samples = self._samples[: min(limit, count)]
        samples.flags.writeable = False
        return Sound(
            samples=samples,
            sample_rate=self._rate,
            start_seconds=self._piece.start,
            damaged=errors > 0,
            taken=self._track.taken,
        )

    def close(self) -> None:
        """Let go of the file."""
        self._open.close()

    def _read(self) -> None:
        """Decode one packet."""
        piece = next(self._pieces, None)
        if piece is None:
            self._ended = True
            return
        self._piece = self._piece or piece
        if piece is not self._piece:
            self._gaps = True
            return
        self._times.append(-math.inf if piece.newest is None else piece.newest)
        self._before.append((self._count, len(self._errors)))
        for chunk in piece.chunks:
            end = self._count + len(chunk)
            if end > len(self._samples):
                grown = np.zeros(2 * end, dtype=np.int16)
                grown[: self._count] = self._samples[: self._count]
                self._samples = grown
            self._samples[self._count : end] = chunk
            self._count = end
        piece.chunks.clear()


class _Newest(threading.local):
    """The recording of which a span was read last."""

    last: _Decoded | None = None


_newest = _Newest()


class SoundSpans(Closing):
    """The sound of one recording, in one channel, cut in ascending spans.

    Args:
        path: A video or sound file.
        sample_rate: Wanted, Hz.
        end_seconds: Nothing after this is sound, on the clock; none given: to the end.
        history: How far a span may begin before the one that was asked for before, samples.
        from_beginning: Whether the clock counts from the recording's beginning, whatever its own
            stamps are: of a sound file that begins with a picture that is elsewhere. Else it is
            the container's.

    Attributes:
        start_seconds: Time of the first sample on the clock.
        taken: What was taken instead of the mix of the best track, for people; "" if nothing.

    Raises:
        FileNotFoundError: There is no such file.
        MediaError: ``empty-file``, ``lfs-pointer``, ``unreadable``, ``stamps-restart``,
            ``no-sound`` (no stream, or one without samples) or ``damaged`` (nothing decodes).
    """

    def __init__(
        self,
        path: str | Path,
        *,
        sample_rate: int,
        end_seconds: float | None = None,
        history: int = 0,
        from_beginning: bool = False,
    ) -> None:
        self.sample_rate = sample_rate
        self._history = history
        self._errors: list[str] = []
        self._open = ExitStack()
        try:
            container = self._open.enter_context(open_container(path))
            origin = beginning_of(container) if from_beginning else 0.0
            track = choose_track(path, None if end_seconds is None else origin + end_seconds)
            self.taken = track.taken
            self._chunks = self._decode(container, track, origin, end_seconds)
            first = next(self._chunks, None)
            if first is None:
                cause = "damaged" if self._errors else "no-sound"
                why = [*self._errors, "its sound has no samples"][0]
                raise MediaError(cause, path, f"no sound can be decoded ({why})")
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
        self._found = 0  # number after the last one that was found
        self._square_sum, self._counted = 0.0, 0

    @property
    def damaged(self) -> bool:
        """Whether packets so far could not be decoded; they are silence."""
        return bool(self._errors)

    @property
    def ended(self) -> bool:
        """Whether nothing comes after what spans have found so far."""
        return self._ended and not self._pending

    @property
    def found_seconds(self) -> float:
        """Time on the clock up to which spans have found sound so far."""
        return self.start_seconds + self._found / self.sample_rate

    @property
    def rms_db(self) -> float:
        """Level of what was decoded so far, decibels relative to full scale; -180 is silence."""
        return _level_db(self._square_sum, self._counted)

    def number_at(self, seconds: float) -> int:
        """The sample at a time on the clock, counted from the first one."""
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

        Args: tell: Called with the seconds that were read, packet by packet.
        """
        last = 0
        while (chunk := self._next()) is not None:
            last = max(last, chunk[0] + len(chunk[1]))
            if tell is not None:
                tell(last / self.sample_rate)
        return last if self._limit is None else min(last, self._limit)

    def whole(self) -> np.ndarray:
        """Read to the end: every sample (n,) int16."""
        chunks = list(iter(self._next, None))
        end = max((place + len(samples) for place, samples in chunks), default=0)
        whole = np.zeros(end, dtype=np.int16)
        for place, samples in chunks:
            skipped = max(0, -place)  # before the first one
            whole[place + skipped : place + len(samples)] = samples[skipped:]
        return whole[: self._limit]

    def close(self) -> None:
        """Let go of the file."""
        self._chunks.close()
        self._open.close()

    def _decode(
        self,
        container: av.container.InputContainer,
        track: Track,
        origin: float,
        end_seconds: float | None,
    ) -> Generator[tuple[int, np.ndarray], None, None]:
        """Chunks (number of the first sample, samples); sets ``start_seconds`` at the first."""
        current, done = None, 0
        for piece in resampled_pieces(
            container,
            track,
            self._errors,
            self.sample_rate,
            origin=origin,
            end_seconds=end_seconds,
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
            self._found = max(self._found, place + len(samples))
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


def rms_db(samples: np.ndarray) -> float:
    """Root mean square of int16 samples (n,), decibels relative to full scale, at least -180."""
    return _level_db(float(np.square(samples, dtype=np.float64).sum()), len(samples))


def _level_db(square_sum: float, count: int) -> float:
    """The same of samples whose squares have this sum."""
    if not count:
        return _SILENCE_DB
    level = float(np.sqrt(square_sum / count)) / 32768
    return 20 * float(np.log10(max(level, 10 ** (_SILENCE_DB / 20))))
