"""Raw sound in: one channel of 16-bit samples on the clock of the pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import av
import numpy as np

from hicmae.media.container import decoded_frames, open_container
from hicmae.media.errors import MediaError

# Containers round the times of sound packets, some to milliseconds; only a jump beyond this is a
# gap (or an overlap) and not rounding. Below it the sample count is the better clock.
_JITTER_SECONDS = 0.05
# A jump beyond this is a broken stamp and not an hour of silence.
_LONGEST_GAP_SECONDS = 3600.0
# What digital silence reads, decibels relative to full scale.
_SILENCE_DB = -180.0


@dataclass(frozen=True, kw_only=True)
class Sound:
    """The sound of one recording.

    Args:
        samples: (n,) int16, one channel.
        sample_rate: Hz.
        start_seconds: Time of the first sample on the container's clock, which
            ``VideoReader.timestamps`` share. A sound file of its own starts at 0.
        damaged: Whether packets could not be decoded; what decoded is kept in its place.
    """

    samples: np.ndarray
    sample_rate: int
    start_seconds: float
    damaged: bool = False

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
    if not len(samples):
        return _SILENCE_DB
    level = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) / 32768
    return 20 * float(np.log10(max(level, 10 ** (_SILENCE_DB / 20))))


def read_sound(
    path: str | Path, *, sample_rate: int = 16000, end_seconds: float | None = None
) -> Sound:
    """Read the best sound stream of a recording, mixed to one channel and resampled.

    Silence is sound; gaps between packets become silence of their length.

    Args:
        path: A video or sound file.
        sample_rate: Wanted, Hz.
        end_seconds: Stop here, on the container's clock; none given: read to the end.

    Raises:
        FileNotFoundError: There is no such file.
        MediaError: ``empty-file``, ``lfs-pointer``, ``unreadable``, ``no-sound`` (no stream, or
            one without samples) or ``damaged`` (a stream of which nothing decodes).
    """
    errors: list[str] = []
    pieces: list[SoundPiece] = []
    with open_container(path) as container:
        stream = sound_stream(container, path)
        for piece in resampled_pieces(container, stream, errors, sample_rate, end_seconds):
            if not pieces or pieces[-1] is not piece:
                pieces.append(piece)
    pieces = [piece for piece in pieces if piece.num_samples]
    if not pieces:
        raise nothing_decoded(path, errors)
    start = min(piece.start for piece in pieces)
    samples = _assemble(pieces, start, sample_rate)
    if end_seconds is not None:
        samples = samples[: max(0, round((end_seconds - start) * sample_rate))]
    return Sound(
        samples=samples,
        sample_rate=sample_rate,
        start_seconds=start,
        damaged=bool(errors),
    )


def sound_stream(
    container: av.container.InputContainer, path: str | Path
) -> av.audio.stream.AudioStream:
    """The best sound stream of an open recording, decoded with one thread.

    Raises: MediaError: ``no-sound``.
    """
    stream = container.streams.best("audio")
    if stream is None or stream.codec_context is None:
        found = ", ".join(sorted({stream.type for stream in container.streams}))
        raise MediaError("no-sound", path, f"no sound stream (found {found or 'no streams'})")
    stream.codec_context.thread_count = 1
    return stream


def resampled_pieces(
    container: av.container.InputContainer,
    stream: av.audio.stream.AudioStream,
    errors: list[str],
    sample_rate: int,
    end_seconds: float | None = None,
) -> Iterator[SoundPiece]:
    """Decode and resample packet by packet.

    Args:
        container: The recording.
        stream: Of it.
        errors: Every packet that failed appends its message here.
        sample_rate: Wanted, Hz.
        end_seconds: Stop here, on the container's clock; none given: at the end.

    Returns: after every packet the piece it went into, which has grown; the same one again and
        again until there is a gap. A piece may be given once more when it is finished.
    """
    piece: SoundPiece | None = None
    for frame in decoded_frames(container, stream, errors):
        if end_seconds is not None and frame.time is not None and frame.time >= end_seconds:
            break
        if piece is None or not piece.takes(frame):
            start = _start_of(frame, piece, errors)
            if piece is not None:
                piece.finish()
                yield piece
            piece = SoundPiece(frame, start, sample_rate)
        piece.add(frame)
        yield piece
    if piece is not None:
        piece.finish()
        yield piece


def nothing_decoded(path: str | Path, errors: list[str]) -> MediaError:
    """The error of a sound stream that gave no sample."""
    cause, why = ("damaged", errors[0]) if errors else ("no-sound", "its sound has no samples")
    return MediaError(cause, path, f"no sound can be decoded ({why})")


@dataclass
class SoundPiece:
    """Packets of one format that follow each other without a gap, through one resampler.

    Args:
        first: Its first packet.
        start: Where it begins on the container's clock, seconds.
        sample_rate: Wanted, Hz.
        chunks: What came out and nobody has taken yet, int16 (n,) each.
        num_source: Samples that went in.
        num_samples: Samples that came out.
    """

    first: av.audio.frame.AudioFrame
    start: float
    sample_rate: int
    chunks: list[np.ndarray] = field(default_factory=list)
    num_source: int = 0
    num_samples: int = 0

    def __post_init__(self) -> None:
        self._resampler = av.AudioResampler(format="s16", layout="mono", rate=self.sample_rate)
        self._format = _format_of(self.first)

    @property
    def end(self) -> float:
        """Where the next packet should begin, seconds."""
        return self.start + self.num_source / self._format[0]

    def takes(self, frame: av.audio.frame.AudioFrame) -> bool:
        """Whether a packet continues this piece."""
        if _format_of(frame) != self._format:
            return False
        return frame.time is None or abs(frame.time - self.end) <= _JITTER_SECONDS

    def add(self, frame: av.audio.frame.AudioFrame) -> None:
        """Resample one packet."""
        self.num_source += frame.samples
        frame.pts = None  # The resampler would fill or squeeze by stamps; counting is exact.
        self._collect(frame)

    def finish(self) -> None:
        """Take what is left in the resampler."""
        self._collect(None)

    def _collect(self, frame: av.audio.frame.AudioFrame | None) -> None:
        for resampled in self._resampler.resample(frame):
            chunk = resampled.to_ndarray().reshape(-1)
            self.chunks.append(chunk)
            self.num_samples += len(chunk)


def _format_of(frame: av.audio.frame.AudioFrame) -> tuple[int, str, str]:
    return frame.sample_rate, frame.layout.name, frame.format.name


def _start_of(
    frame: av.audio.frame.AudioFrame, previous: SoundPiece | None, errors: list[str]
) -> float:
    """Place a new piece by its stamp, unless there is none or it cannot be true."""
    if previous is None:
        return frame.time or 0.0
    if frame.time is None:
        return previous.end
    if abs(frame.time - previous.end) > _LONGEST_GAP_SECONDS:
        errors.append(f"sound jumps from {previous.end:.1f} s to {frame.time:.1f} s")
        return previous.end
    return frame.time


def _assemble(pieces: list[SoundPiece], start: float, sample_rate: int) -> np.ndarray:
    """Put the pieces on one time line (n,), silence between them."""
    places = [round((piece.start - start) * sample_rate) for piece in pieces]
    ends = [place + piece.num_samples for place, piece in zip(places, pieces, strict=True)]
    samples = np.zeros(max(ends), dtype=np.int16)
    for place, end, piece in zip(places, ends, pieces, strict=True):
        samples[place:end] = np.concatenate(piece.chunks)
    return samples
