"""A copy of a video with boxes, labels and bars drawn into it, and its sound.

For: the decoding process; every frame at its own time, upright, in bounded memory. Not for: what
is drawn (``drawing.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from hicmae.media.container import open_container, packets_of
from hicmae.media.errors import MediaError
from hicmae.media.sound import sound_stream
from hicmae.media.sound_spans import SoundSpans
from hicmae.media.video import VideoReader, open_video
from hicmae.prediction.drawing import Canvas, DrawnTrack
from hicmae.prediction.messages import Finished, Progress

# Holds the frame times of all usual rates exactly, and is coarse enough for MPEG-4.
_TIME_BASE = Fraction(1, 60000)
# The first that this PyAV brings is taken.
_ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "veryfast", "crf": "22"},
    "mpeg4": {"qscale": "3"},
}
# Sound that an MP4 file holds as it is; the rest is encoded again.
_COPIED = frozenset(("aac", "ac3", "alac", "eac3", "mp3"))
_SOUND_RATE, _AAC_SAMPLES = 48000, 1024
_PRIMING_SECONDS = 0.15
_PROGRESS_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True)
class AnnotateRequest:
    """What to draw, and where.

    Args:
        path: The video.
        out: The MP4 file to write.
        tracks: What is known of each face, or of the sound.
    """

    path: Path
    out: Path
    tracks: tuple[DrawnTrack, ...]


def annotate(request: AnnotateRequest, emit: Callable[[Any], None]) -> None:
    """Write the annotated video.

    Args:
        request: Of it.
        emit: Takes progress and the end.

    Raises: MediaError, OSError: the video cannot be read, or the copy not be written.
    """
    with ExitStack() as stack:
        video = stack.enter_context(open_video(request.path))
        canvas = Canvas(request.tracks, video.height, video.width)
        out = stack.enter_context(av.open(str(request.out.absolute()), "w", format="mp4"))
        picture = _picture(out, canvas, video)
        sound = _sound(request.path, video, out, stack)
        # The copy begins with the picture, or with sound that begins much before it: encoders put
        # some milliseconds in front, which players know.
        base = video.start_seconds
        if sound is not None and sound.start < base - _PRIMING_SECONDS:
            base = sound.start
        last_pts, told = -1, 0.0
        for moment, pixels in zip(
            video.timestamps.tolist(), video.frames(range(len(video))), strict=True
        ):
            if sound is not None:
                for packet in sound.until(moment, base):
                    out.mux(packet)
            frame = av.VideoFrame.from_ndarray(
                canvas.draw(pixels, moment - video.start_seconds), format="rgb24"
            )
            last_pts = max(round((moment - base) / _TIME_BASE), last_pts + 1)
            frame.pts, frame.time_base = last_pts, _TIME_BASE
            out.mux(picture.encode(frame))
            if time.monotonic() - told > _PROGRESS_SECONDS:
                told = time.monotonic()
                done = moment - video.start_seconds
                emit(Progress(stage="annotate", done=done, total=video.duration_seconds))
        out.mux(picture.encode(None))
        if sound is not None:
            for packet in sound.until(video.start_seconds + video.duration_seconds, base):
                out.mux(packet)
            for packet in sound.rest():
                out.mux(packet)
    emit(Finished(seconds={}))


def _picture(out: av.container.OutputContainer, canvas: Canvas, video: VideoReader) -> Any:
    """The picture stream, by the first encoder that there is."""
    rate = Fraction(max(len(video), 1) / max(video.duration_seconds, 1e-3)).limit_denominator(1001)
    for name, options in _ENCODERS.items():
        try:
            stream = out.add_stream(name, rate=max(rate, Fraction(1)), options=dict(options))
        except (av.FFmpegError, ValueError):
            continue
        stream.height, stream.width = canvas.height, canvas.width
        stream.pix_fmt = "yuv420p"
        stream.time_base = _TIME_BASE
        stream.codec_context.time_base = _TIME_BASE
        return stream
    raise OSError(f"this PyAV encodes none of {', '.join(_ENCODERS)}")


class _CopiedSound:
    """The packets of a sound stream as they are."""

    def __init__(self, path: Path, out: av.container.OutputContainer, stack: ExitStack) -> None:
        container = stack.enter_context(open_container(path))
        source = sound_stream(container, path)
        self._packets = (
            packet for packet in packets_of(container, source) if packet.dts is not None
        )
        first = next(self._packets, None)
        if first is None:
            raise MediaError("no-sound", path, "its sound has no packets")
        self.start = float(first.dts * first.time_base)
        self._waiting: av.Packet | None = first
        self._stream = out.add_stream_from_template(source)
        self._last = -1

    def until(self, seconds: float, base: float) -> Iterator[Any]:
        """Packets that begin before a time on the source's clock."""
        while self._waiting is not None:
            packet = self._waiting
            if packet.dts * packet.time_base >= seconds:
                return
            shift = round(base / packet.time_base)
            packet.dts -= shift
            packet.pts = packet.dts if packet.pts is None else packet.pts - shift
            if packet.dts > self._last:  # a stamp that goes back cannot be written
                self._last = packet.dts
                packet.stream = self._stream
                yield packet
            self._waiting = next(self._packets, None)

    def rest(self) -> Iterator[Any]:
        """Nothing more is waiting."""
        return iter(())


class _EncodedSound:
    """Any sound, decoded and encoded as AAC in one channel."""

    def __init__(self, path: Path, out: av.container.OutputContainer, stack: ExitStack) -> None:
        self._spans = stack.enter_context(SoundSpans(path, sample_rate=_SOUND_RATE))
        self.start = self._spans.start_seconds
        self._stream = out.add_stream("aac", rate=_SOUND_RATE, layout="mono")
        self._done = 0

    def until(self, seconds: float, base: float) -> Iterator[Any]:
        """Packets up to a time on the source's clock."""
        while self.start + self._done / _SOUND_RATE < seconds:
            samples, _ = self._spans.span(self._done, _AAC_SAMPLES)
            values = samples[None].astype(np.float32) / 32768
            frame = av.AudioFrame.from_ndarray(values, format="fltp", layout="mono")
            frame.sample_rate, frame.time_base = _SOUND_RATE, Fraction(1, _SOUND_RATE)
            frame.pts = self._done + round((self.start - base) * _SOUND_RATE)
            self._done += _AAC_SAMPLES
            yield from self._stream.encode(frame)

    def rest(self) -> Iterator[Any]:
        """What is left in the encoder."""
        yield from self._stream.encode(None)


def _sound(
    path: Path, video: VideoReader, out: av.container.OutputContainer, stack: ExitStack
) -> _CopiedSound | _EncodedSound | None:
    """The sound of a video, copied if an MP4 file holds it; None if there is none."""
    try:
        with open_container(path) as container:
            codec = sound_stream(container, path).codec_context.name
        if codec.removesuffix("float") in _COPIED and "avi" not in video.stream.container:
            return _CopiedSound(path, out, stack)
        return _EncodedSound(path, out, stack)
    except MediaError as error:
        if error.cause in ("no-sound", "damaged"):
            return None
        raise
