"""A copy of a video with boxes, labels and bars drawn into it, and its sound.

Every frame at its own time, upright, in bounded memory; made in the decoding process. It is as long
as picture and sound together.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from hicmae.heads import real_text
from hicmae.media.container import ffmpeg_name, open_container, packets_of
from hicmae.media.errors import MediaError
from hicmae.media.sound import SoundSpans
from hicmae.media.sound_decoding import choose_track, sound_stream
from hicmae.media.video import HELD_SECONDS, VideoReader, open_video
from hicmae.prediction.messages import Finished, StageProgress

# Holds the frame times of all usual rates exactly, and is coarse enough for MPEG-4.
_TIME_BASE = Fraction(1, 60000)
# The first that this PyAV brings is taken. Without frames out of order: MP4 adds up the steps of
# decoding, which are unequal here, so that its last frames would be beyond its end.
_ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "veryfast", "crf": "22", "bf": "0"},
    "mpeg4": {"qscale": "3"},
}
# Sound that an MP4 file holds as it is; the rest is encoded again.
_COPIED = frozenset(("aac", "ac3", "alac", "eac3", "mp3"))
_SOUND_RATE, _AAC_SAMPLES = 48000, 1024
_PROGRESS_SECONDS = 0.25
_REDRAWN_SECONDS = 0.2
# Sound after the picture that is too short for a window; what lies further off is a broken stamp.
_UNTOLD_SECONDS = 10.0
# Colours of tracks, RGB, told apart also by those who see few colours. Source: M. Okabe, K. Ito,
# "Color Universal Design", 2008.
COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
)
_PAPER, _INK, _TROUGH = (24, 24, 28), (235, 235, 235), (62, 62, 70)
_LEAST_HEIGHT, _PANEL_SHARE, _LEAST_PANEL = 240, 0.42, 190
_MOST_SHOWN = 3
_LEAST_FONT = 0.33
_FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True, kw_only=True)
class DrawnTrack:
    """One track as it is drawn.

    Args:
        names: Of the outputs, C of them.
        start_seconds, end_seconds: Of it, after the recording's beginning.
        middles: (W,) seconds of the middle of each window, ascending.
        values: (W, C) of each window.
        boxes: (T, 4) x0, y0, x1, y1, pixels, one a frame at ``fps``; none for sound.
        angles: (T,) radians, clockwise.
        said: What is named at each window, with what it is called by; none: nothing is.
        scales: Places of the real values, those together that one range holds; all else lies in
            0..1.
    """

    name: str
    names: tuple[str, ...]
    start_seconds: float
    end_seconds: float
    middles: np.ndarray
    values: np.ndarray
    boxes: np.ndarray
    angles: np.ndarray
    fps: float
    said: tuple[str, ...] = ()
    scales: tuple[tuple[int, ...], ...] = ()

    @functools.cached_property
    def ranges(self) -> dict[int, tuple[float, float]]:
        """Of each real value, by its place, how far those of its scale reach from 0."""
        return {
            place: _range(self.values[:, list(places)])
            for places in self.scales
            for place in places
        }

    def place(self, seconds: float) -> int:
        """Row of its boxes at a time."""
        return min(round((seconds - self.start_seconds) * self.fps), len(self.boxes) - 1)

    def is_seen(self, seconds: float) -> bool:
        """Whether it is there at a time; a person is not in every scene."""
        there = self.start_seconds <= seconds < self.end_seconds
        return there and not (len(self.boxes) and np.isnan(self.boxes[self.place(seconds)]).any())


@dataclass(frozen=True, kw_only=True)
class AnnotateRequest:
    """What to draw: ``tracks``, faces or the sound, over the video ``path``, as the MP4 ``out``."""

    path: Path
    out: Path
    tracks: tuple[DrawnTrack, ...]


def annotate(request: AnnotateRequest, emit: Callable[[Any], None]) -> None:
    """Write the annotated video; ``emit`` takes progress and the end.

    Raises: MediaError, OSError: the video cannot be read, or the copy not be written.
    """
    with ExitStack() as stack:
        video = stack.enter_context(open_video(request.path))
        canvas = Canvas(request.tracks, video.height, video.width)
        name = stack.enter_context(ffmpeg_name(request.out, "wb"))
        out = stack.enter_context(av.open(name, "w", format="mp4"))
        picture = _picture(out, canvas, video)
        sound = _sound(request.path, video, out, stack)
        # As the timelines count: sound that is older (an encoder's delay, the rest of a cut) is
        # hidden in the copy too.
        base = video.origin_seconds
        last_pts, told = -1, 0.0
        for moment, pixels in _shown(video, sound, request.tracks):
            if sound is not None:
                for packet in sound.until(moment + _REDRAWN_SECONDS, base):
                    out.mux(packet)
            frame = av.VideoFrame.from_ndarray(canvas.draw(pixels, moment - base), format="rgb24")
            last_pts = max(round((moment - base) / _TIME_BASE), last_pts + 1)
            frame.pts, frame.time_base = last_pts, _TIME_BASE
            out.mux(picture.encode(frame))
            if time.monotonic() - told > _PROGRESS_SECONDS:
                told = time.monotonic()
                done = moment - video.start_seconds
                emit(StageProgress(stage="annotate", done=done, total=video.duration_seconds))
        out.mux(picture.encode(None))
        if sound is not None:
            for packet in sound.rest():
                out.mux(packet)
    emit(Finished(seconds={}))


class Canvas:
    """Draws the frames of one video: its picture, and a panel with bars at its right.

    Args:
        height, width: Of the video's frames, pixels.

    Attributes:
        height, width: Of what is drawn; even, as encoders want it.
    """

    def __init__(self, tracks: tuple[DrawnTrack, ...], height: int, width: int) -> None:
        self._tracks = tracks
        self._scale = max(1, math.ceil(_LEAST_HEIGHT / height))
        self._picture = (height * self._scale, width * self._scale)
        panel = max(_LEAST_PANEL, round(_PANEL_SHARE * self._picture[0]))
        self.height = self._picture[0] + self._picture[0] % 2
        self.width = self._picture[1] + panel
        self.width += self.width % 2
        names = max((len(track.names) for track in tracks), default=1)
        shown = min(_MOST_SHOWN, max(len(tracks), 1))
        self._row = int(np.clip(self.height // ((names + 2) * shown), 10, self.height // 14))
        self._thickness = max(1, self.height // 480)
        texts = (
            _row_text(track, place, 0.0) for track in tracks for place in range(len(track.names))
        )
        longest = max(texts, key=len, default="")
        (wide, _), _ = cv2.getTextSize(_ascii(longest), _FONT, 1.0, self._thickness)
        room = 0.5 * (self.width - self._picture[1]) - 14
        # A letter is 21 pixels high at scale 1; names are made to fit, down to what can be read.
        self._font_scale = max(min(0.6 * self._row / 21, room / max(wide, 1)), _LEAST_FONT)

    def draw(self, frame: np.ndarray, seconds: float) -> np.ndarray:
        """One frame (H, W, 3) uint8 RGB at a time after the first one: (height, width, 3)."""
        image = np.full((self.height, self.width, 3), _PAPER, dtype=np.uint8)
        height, width = self._picture
        if self._scale > 1:
            frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
        image[:height, :width] = frame
        present = [
            (number, track) for number, track in enumerate(self._tracks) if track.is_seen(seconds)
        ]
        for number, track in present:
            if len(track.boxes):
                self._box(image, track, COLOURS[number % len(COLOURS)], seconds)
        top = self._row // 2
        for place, (number, track) in enumerate(present):
            needed = (len(track.names) + 1) * self._row
            if place and top + needed > self.height:
                self._text(image, f"+{len(present) - place} more", top, _INK)
                break
            top = self._bars(image, track, COLOURS[number % len(COLOURS)], seconds, top)
        return image

    def _box(
        self, image: np.ndarray, track: DrawnTrack, colour: tuple[int, ...], seconds: float
    ) -> None:
        place = track.place(seconds)
        box, angle = track.boxes[place] * self._scale, float(track.angles[place])
        centre, half = (box[:2] + box[2:]) / 2, (box[2] - box[0]) / 2
        across = half * np.array([math.cos(angle), math.sin(angle)])
        down = half * np.array([-math.sin(angle), math.cos(angle)])
        corners = [
            centre - across - down,
            centre + across - down,
            centre + across + down,
            centre - across + down,
        ]
        width = self._picture[1]
        view = image[: self._picture[0], :width]
        picture = np.ascontiguousarray(view)
        points = np.round(corners).astype(np.int32)
        cv2.polylines(picture, [points], True, colour, self._thickness + 1, cv2.LINE_AA)
        label = f"{track.name} {self._headline(track, seconds)}".strip()
        size = self._font_scale
        (wide, high), below = cv2.getTextSize(_ascii(label), _FONT, size, self._thickness)
        left = int(np.clip(points[:, 0].min(), 0, max(width - wide - 4, 0)))
        bottom = int(np.clip(points[:, 1].min() - 2, high + below + 2, self._picture[0]))
        cv2.rectangle(
            picture, (left, bottom - high - below - 2), (left + wide + 4, bottom), colour, -1
        )
        cv2.putText(
            picture,
            _ascii(label),
            (left + 2, bottom - below),
            _FONT,
            size,
            (0, 0, 0),
            self._thickness,
            cv2.LINE_AA,
        )
        view[...] = picture

    def _bars(
        self,
        image: np.ndarray,
        track: DrawnTrack,
        colour: tuple[int, ...],
        seconds: float,
        top: int,
    ) -> int:
        """The outputs of one track below each other; returns where the next one may begin."""
        self._text(image, f"{track.name} {self._headline(track, seconds)}", top, colour)
        left, right = self._picture[1] + 8, self.width - 8
        middle = left + round(0.5 * (right - left))
        values = track.values[self._window(track, seconds)]
        for number in range(len(track.names)):
            y = top + (number + 1) * self._row
            inner = max(2, self._row // 6)
            cv2.rectangle(image, (middle, y + inner), (right, y + self._row - inner), _TROUGH, -1)
            low, high = track.ranges.get(number, (0.0, 1.0))
            share = float(np.clip((values[number] - low) / (high - low), 0, 1))
            zero = float(np.clip((0 - low) / (high - low), 0, 1))
            ends = sorted(middle + round(each * (right - middle)) for each in (zero, share))
            cv2.rectangle(
                image,
                (ends[0], y + inner),
                (max(ends[1], ends[0] + 1), y + self._row - inner),
                colour,
                -1,
            )
            text = _row_text(
                track, number, float(values[number]), middle - left - 4, self._font_scale
            )
            self._text(image, text, y, _INK)
        return top + (len(track.names) + 1) * self._row + self._row // 2

    def _text(self, image: np.ndarray, text: str, top: int, colour: tuple[int, ...]) -> None:
        size = self._font_scale
        place = (self._picture[1] + 8, top + round(0.75 * self._row))
        text = _fitting(text, self.width - self._picture[1] - 12, size)
        cv2.putText(image, text, place, _FONT, size, colour, self._thickness, cv2.LINE_AA)

    def _window(self, track: DrawnTrack, seconds: float) -> int:
        """Number of the window whose middle is nearest."""
        return int(np.searchsorted((track.middles[1:] + track.middles[:-1]) / 2, seconds))

    def _headline(self, track: DrawnTrack, seconds: float) -> str:
        return track.said[self._window(track, seconds)] if track.said else ""


def _picture(out: av.container.OutputContainer, canvas: Canvas, video: VideoReader) -> Any:
    """The picture stream, by the first encoder that there is."""
    # A rate says how long the last frame lasts.
    seconds = video.start_seconds + video.duration_seconds - float(video.timestamps[-1])
    seconds = _REDRAWN_SECONDS if seconds > HELD_SECONDS else max(seconds, 1e-3)
    rate = Fraction(1 / seconds).limit_denominator(1001)
    for name, options in _ENCODERS.items():
        try:
            stream = out.add_stream(name, rate=rate, options=dict(options))
        except (av.FFmpegError, ValueError):
            continue
        stream.height, stream.width = canvas.height, canvas.width
        stream.pix_fmt = "yuv420p"
        stream.time_base = _TIME_BASE
        stream.codec_context.time_base = _TIME_BASE
        return stream
    raise OSError(f"this PyAV encodes none of {', '.join(_ENCODERS)}")


def _shown(
    video: VideoReader, sound: _CopiedSound | _EncodedSound | None, tracks: tuple[DrawnTrack, ...]
) -> Iterator[tuple[float, np.ndarray]]:
    """Every frame at its time, on the recording's clock. One that stands is given again, for the
    bars go on; as does black before the first one, and the last one while there is sound.
    """
    frames = video.frames(range(len(video)))
    before, pixels = video.origin_seconds, np.zeros((video.height, video.width, 3), dtype=np.uint8)
    if video.start_seconds - before > HELD_SECONDS:
        yield before, pixels
    for moment, following in zip(video.timestamps.tolist(), frames, strict=True):
        if moment - before > HELD_SECONDS:
            steps = np.arange(before + _REDRAWN_SECONDS, moment - 1e-9, _REDRAWN_SECONDS)
            yield from ((again, pixels) for again in steps.tolist())
        before, pixels = moment, following
        yield before, pixels
    end = video.start_seconds + video.duration_seconds
    last = max(end, *(track.end_seconds + video.origin_seconds for track in tracks), 0)
    for number in itertools.count(1):
        again = before + number * _REDRAWN_SECONDS
        heard = sound is not None and not sound.ended and again < last + _UNTOLD_SECONDS
        if not (heard or (again < end and end - before > HELD_SECONDS)):
            return
        yield again, pixels


class _CopiedSound:
    def __init__(self, path: Path, out: av.container.OutputContainer, stack: ExitStack) -> None:
        container = stack.enter_context(open_container(path))
        source = sound_stream(container, path)
        self._packets = (
            packet for packet in packets_of(container, source) if packet.dts is not None
        )
        first = next(self._packets, None)
        if first is None:
            raise MediaError("no-sound", path, "its sound has no packets")
        self._waiting: av.Packet | None = first
        self._stream = out.add_stream_from_template(source)
        self._last = -1

    @property
    def ended(self) -> bool:
        """Whether all of it was given."""
        return self._waiting is None

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
        self._start = self._spans.start_seconds
        self._stream = out.add_stream("aac", rate=_SOUND_RATE, layout="mono")
        self._done, self.ended = 0, False

    def until(self, seconds: float, base: float) -> Iterator[Any]:
        """Packets up to a time on the source's clock."""
        while not self.ended and self._start + self._done / _SOUND_RATE < seconds:
            samples, there = self._spans.span(self._done, _AAC_SAMPLES)
            self.ended = self._spans.ended and there < _AAC_SAMPLES
            values = samples[None].astype(np.float32) / 32768
            frame = av.AudioFrame.from_ndarray(values, format="fltp", layout="mono")
            frame.sample_rate, frame.time_base = _SOUND_RATE, Fraction(1, _SOUND_RATE)
            frame.pts = self._done + round((self._start - base) * _SOUND_RATE)
            self._done += _AAC_SAMPLES
            yield from self._stream.encode(frame)

    def rest(self) -> Iterator[Any]:
        """What is left in the encoder."""
        yield from self._stream.encode(None)


def _sound(
    path: Path, video: VideoReader, out: av.container.OutputContainer, stack: ExitStack
) -> _CopiedSound | _EncodedSound | None:
    """The sound that a video is predicted by, copied if it is the whole of the best track and an
    MP4 file holds it; None if there is none.
    """
    try:
        with open_container(path) as container:
            codec = sound_stream(container, path).codec_context.name
        holds = codec.removesuffix("float") in _COPIED and "avi" not in video.stream.container
        if holds and not choose_track(path).taken:
            return _CopiedSound(path, out, stack)
        return _EncodedSound(path, out, stack)
    except MediaError as error:
        if error.cause in ("no-sound", "damaged"):
            return None
        raise


def _row_text(
    track: DrawnTrack, place: int, value: float, width: float = math.inf, size: float = 1.0
) -> str:
    """What stands beside a bar: real values are told, probabilities are seen. Where there is no
    room for both it is the name that is cut.
    """
    number = f" {real_text(value)}" if place in track.ranges else ""
    taken = cv2.getTextSize(number, _FONT, size, 1)[0][0]
    return _fitting(track.names[place], width - taken, size) + number


def _range(values: np.ndarray) -> tuple[float, float]:
    """How far real values (W, C) reach from 0, the same to both sides and never nothing."""
    reach = float(np.abs(values).max())
    reach = reach if reach > 1e-6 else 1.0
    return -reach, reach


def _fitting(text: str, width: float, size: float) -> str:
    text = _ascii(text)
    while len(text) > 1 and cv2.getTextSize(text, _FONT, size, 1)[0][0] > width:
        text = text[:-2] + "."
    return text


def _ascii(text: str) -> str:
    """OpenCV's letters are ASCII: accents go, other scripts become question marks."""
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return plain.encode("ascii", "replace").decode("ascii")
