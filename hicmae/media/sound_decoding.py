"""The sound of a recording, decoded: which track, how its channels become one, where pieces lie.

The channels of a track are mixed; FFmpeg's best track is taken. What that loses is looked for
first: opposed channels cancel in a mix, and a camera's first track may not be plugged in.

Encoders put a block of silence before the sound (AAC 1024 samples, mp2 481, mp3 1105, WMA 2048 of
48 kHz). MP4, Matroska and mp3's own header say so, and stamps begin where the sound does. ASF, FLV,
AVI and MPEG streams do not: there sound is late by that much, 10 to 46 ms, by the stamps that
FFmpeg gives. It is left so: how much it is depends on the encoder, which the file does not name.
Of WMA FFmpeg's decoder drops two blocks (its skip samples) and stamps what follows as the third,
though one of them was sound: so its stamps are one block late.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from av.audio.frame import format_dtypes

from hicmae.media.container import decoded_frames, open_container
from hicmae.media.errors import MediaError

# Containers round the times of sound packets, some to milliseconds; only a jump beyond this is a
# gap (or an overlap) and not rounding. Below it the sample count is the better clock.
_JITTER_SECONDS = 0.05
# Below it a jump forwards is a gap too, where packets were lost, if it is larger than this and what
# follows, so many packets, keeps it within the rounding of stamps. Jitter comes and goes.
_STEP_SECONDS, _STEP_PACKETS, _ROUNDING_SECONDS = 0.005, 8, 0.002
# Raw AAC has no stamps. FFmpeg makes them up by its first rate, also where that changes midway.
_OF_ONE_RATE = {"aac", "loas"}
# A jump beyond this is a broken stamp and not an hour of silence.
_LONGEST_GAP_SECONDS = 3600.0
# A packet whose loudest channel is below this (mean square of -60 dB) has nothing to hear.
_HEARD_POWER = 1e-6
# A track is silent if less than this is heard of it, and a mix is judged by this much.
_LEAST_HEARD_SECONDS = 0.1
_ENOUGH_HEARD_SECONDS = 5.0
# A mix that is more than 12 dB below its loudest channel has lost it. Channels that have nothing
# in common lose 3 dB, and one that is alone beside a silent one 6 dB.
_LOST_POWER = 10**-1.2
# What each loudspeaker gives to one channel; others, such as LFE, nothing. The centre stays as
# loud as it is. Source: ITU-R BS.775-4, annex 4, downmix to 1/0.
_LOUDSPEAKERS = {
    "FC": 1.0,
    **dict.fromkeys(("FL", "FR"), 0.5**0.5),
    **dict.fromkeys(("BL", "BR", "SL", "SR", "BC", "FLC", "FRC"), 0.5),
}


@dataclass(frozen=True, kw_only=True)
class Track:
    """The sound that is taken of a recording.

    Args:
        index: Of its stream in the container.
        channel: The one that is taken alone, from 0; None: all are mixed.
        taken: What was taken instead of the mix of the best track, for people; "" if nothing.
    """

    index: int
    channel: int | None = None
    taken: str = ""


def choose_track(path: str | Path, end_seconds: float | None = None) -> Track:
    """Choose the best track whose sound can be heard, and its loudest channel if a mix loses it.

    Args:
        path: A video or sound file.
        end_seconds: Nothing after this counts, on the container's clock; None: all does.

    Raises: MediaError: as ``open_container``; ``no-sound``.
    """
    with open_container(path) as container:
        best = sound_stream(container, path)
        tracks = [stream.index for stream in container.streams.audio if stream.codec_context]
        first, plain = best.index, best.codec_context.layout.nb_channels == 1
    if plain and len(tracks) == 1:
        return Track(index=first)
    for index in sorted(tracks, key=lambda index: index != first):
        heard = _listen(path, index, end_seconds)
        if heard is None:
            continue
        powers, mixed = heard
        said, channel = [], None
        if index != first:
            said.append(
                f"track {tracks.index(index) + 1} of {len(tracks)}, "
                f"as track {tracks.index(first) + 1} is silent"
            )
        if mixed < _LOST_POWER * powers.max():
            channel = int(powers.argmax())
            said.append(f"channel {channel + 1} of {len(powers)}, as the mix loses it")
        return Track(index=index, channel=channel, taken="; ".join(said))
    return Track(index=first)


def sound_stream(
    container: av.container.InputContainer, path: str | Path
) -> av.audio.stream.AudioStream:
    """The best sound stream of an open recording, of the programme whose picture is the best one.

    Raises: MediaError: ``no-sound``.
    """
    stream = container.streams.best("audio", related=container.streams.best("video"))
    if stream is None or stream.codec_context is None:
        found = ", ".join(sorted({stream.type for stream in container.streams}))
        wanted = "no sound stream that can be decoded" if "audio" in found else "no sound stream"
        raise MediaError("no-sound", path, f"{wanted} (found {found or 'no streams'})")
    return stream


def resampled_pieces(
    container: av.container.InputContainer,
    track: Track,
    errors: list[str],
    sample_rate: int,
    *,
    origin: float = 0.0,
    end_seconds: float | None = None,
) -> Iterator[SoundPiece]:
    """Decode and resample packet by packet.

    Args:
        container: The recording.
        track: Of it.
        errors: Every packet that failed appends its message here.
        sample_rate: Wanted, Hz.
        origin: What is 0 in the pieces, seconds on the container's clock.
        end_seconds: Stop here, counted from ``origin``; None: at the end.

    Returns: after every packet the piece it went into, which has grown; the same one again and
        again until there is a gap. A piece may be given once more when it is finished.
    """
    stream = container.streams[track.index]
    piece: SoundPiece | None = None
    by_count = False
    frames, ahead = decoded_frames(container, stream, errors), deque[av.audio.frame.AudioFrame]()
    while frame := ahead.popleft() if ahead else next(frames, None):
        time = None if frame.time is None else frame.time - origin
        if piece is not None and container.format.name in _OF_ONE_RATE:
            by_count |= frame.sample_rate != piece.first.sample_rate
            time = piece.end if by_count else time
        if end_seconds is not None and time is not None and time >= end_seconds:
            break
        late = piece is not None and time is not None and time - piece.end > _STEP_SECONDS
        if late:
            ahead.extend(itertools.islice(frames, _STEP_PACKETS - len(ahead)))
        if (
            piece is None
            or not piece.takes(frame, time)
            or (late and _is_step(piece, frame, ahead, origin))
        ):
            start = _start_of(time, piece, errors)
            if piece is not None:
                piece.finish()
                yield piece
            piece = SoundPiece(frame, start, sample_rate, track.channel)
        piece.late = 0.0 if time is None else time - piece.end
        piece.add(frame)
        piece.newest = time
        yield piece
    if piece is not None:
        piece.finish()
        yield piece


@dataclass
class SoundPiece:
    """Packets of one format that follow each other without a gap, through one resampler.

    Args:
        first: Its first packet.
        start: Where it begins, seconds.
        sample_rate: Wanted, Hz.
        channel: The one that is taken alone; None: all are mixed.
        chunks: What came out and nobody has taken yet, int16 (n,) each.
        num_source: Samples that went in.
        newest: Time of the last packet, seconds; None if it has none.
        late: How far behind the packets before it that was, seconds.
    """

    first: av.audio.frame.AudioFrame
    start: float
    sample_rate: int
    channel: int | None = None
    chunks: list[np.ndarray] = field(default_factory=list)
    num_source: int = 0
    newest: float | None = None
    late: float = 0.0

    def __post_init__(self) -> None:
        self._resampler = av.AudioResampler(format="s16", layout="mono", rate=self.sample_rate)
        self._format = _format_of(self.first)
        layout = self.first.layout
        self._weights: np.ndarray | None = _weights(layout)
        if self.channel is not None and self.channel < layout.nb_channels:
            self._weights = np.eye(layout.nb_channels, dtype=np.float32)[self.channel]
        elif layout.nb_channels <= 2:
            self._weights = None  # FFmpeg's resampler mixes these rightly itself.

    @property
    def end(self) -> float:
        """Where the next packet should begin, seconds."""
        return self.start + self.num_source / self._format[0]

    def takes(self, frame: av.audio.frame.AudioFrame, time: float | None) -> bool:
        """Whether a packet of a time (seconds; None: unknown) continues this piece."""
        if _format_of(frame) != self._format:
            return False
        return time is None or abs(time - self.end) <= _JITTER_SECONDS

    def add(self, frame: av.audio.frame.AudioFrame) -> None:
        """Resample one packet."""
        self.num_source += frame.samples
        if self._weights is not None:
            # In float: FFmpeg turns mixes of whole numbers down, 5.1 by 10.7 dB. Too loud is cut.
            mixed = self._weights @ _values(frame)
            rate = frame.sample_rate
            frame = av.AudioFrame.from_ndarray(mixed[None], format="fltp", layout="mono")
            frame.sample_rate = rate
        frame.pts = None  # The resampler would fill or squeeze by stamps; counting is exact.
        self._collect(frame)

    def finish(self) -> None:
        """Take what is left in the resampler."""
        self._collect(None)

    def _collect(self, frame: av.audio.frame.AudioFrame | None) -> None:
        for resampled in self._resampler.resample(frame):
            self.chunks.append(resampled.to_ndarray().reshape(-1))


def _format_of(frame: av.audio.frame.AudioFrame) -> tuple[int, str, str]:
    return frame.sample_rate, frame.layout.name, frame.format.name


def _is_step(
    piece: SoundPiece,
    frame: av.audio.frame.AudioFrame,
    ahead: Collection[av.audio.frame.AudioFrame],
    origin: float,
) -> bool:
    """Whether a packet is late all of a sudden, and those behind it are late by as much."""
    end, late = piece.end + origin, list[float]()
    for following in (frame, *ahead):
        if following.time is None:
            return False
        late.append(following.time - end)
        end += following.samples / following.sample_rate
    steady = max(late) - min(late) <= _ROUNDING_SECONDS and len(ahead) == _STEP_PACKETS
    return steady and min(late) > _STEP_SECONDS and late[0] - piece.late > _STEP_SECONDS


def _start_of(time: float | None, previous: SoundPiece | None, errors: list[str]) -> float:
    """Place a new piece by its stamp, unless there is none or it cannot be true."""
    if previous is None:
        return time or 0.0
    if time is None:
        return previous.end
    if abs(time - previous.end) > _LONGEST_GAP_SECONDS:
        errors.append(f"sound jumps from {previous.end:.1f} s to {time:.1f} s")
        return previous.end
    return time


def _listen(
    path: str | Path, index: int, end_seconds: float | None
) -> tuple[np.ndarray, float] | None:
    """How loud a track is where it is heard; read until that is plain, else to the end.

    Returns: mean squares of its channels (C,) and of their mix, full scale being 1, times the same
            number; None if it is silent.
    """
    powers, mixed, seconds = np.zeros(0), 0.0, 0.0
    with open_container(path) as container:
        stream = container.streams[index]
        for frame in decoded_frames(container, stream, []):
            if end_seconds is not None and frame.time is not None and frame.time >= end_seconds:
                break
            values = _values(frame).astype(np.float64)  # (C, n)
            squares = np.square(values).sum(axis=1)
            if not frame.samples or squares.max() < _HEARD_POWER * frame.samples:
                continue
            if len(squares) != len(powers):  # the first, or channels that change midway
                powers, mixed, seconds = np.zeros(len(squares)), 0.0, 0.0
            powers += squares
            mixed += float(np.square(_weights(frame.layout) @ values).sum())
            seconds += frame.samples / frame.sample_rate
            if seconds >= _ENOUGH_HEARD_SECONDS and mixed >= _LOST_POWER * powers.max():
                break
    return (powers, mixed) if seconds >= _LEAST_HEARD_SECONDS else None


def _weights(layout: av.AudioLayout) -> np.ndarray:
    """(C,) float32, what each channel gives to the mix; the same of each without loudspeakers."""
    count = layout.nb_channels
    weights = np.array([_LOUDSPEAKERS.get(channel.name, 0.0) for channel in layout.channels])
    if count <= 2 or len(weights) != count or not weights.any():
        weights = np.full(count, 1 / count)
    return weights.astype(np.float32)


def _values(frame: av.audio.frame.AudioFrame) -> np.ndarray:
    """The samples of a packet, (C, n) float32 of full scale 1."""
    count = frame.layout.nb_channels
    if frame.format.is_planar:
        # PyAV looks for the end of its planes behind them, where of eight channels and more none
        # is: ``to_ndarray`` reads what is no sound, or ends the process.
        kind, planes = format_dtypes[frame.format.name], frame.planes[:count]
        values = np.stack([np.frombuffer(plane, kind, frame.samples) for plane in planes])
    else:
        values = frame.to_ndarray().reshape(-1, count).T
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    scale = -np.iinfo(values.dtype).min if values.dtype.kind == "i" else 1
    return values.astype(np.float32) / np.float32(scale)
