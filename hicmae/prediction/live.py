"""Emotion while it happens: frames and sound go in as they arrive, a prediction comes out at times.

A window is prepared as one of a recording is (``hicmae/media/recording.py``), from the last seconds
in memory; nothing is written anywhere. ``EmotionPredictor.live`` is for programs, ``LiveNetwork``
is what the page uses too.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np

from hicmae.heads import said
from hicmae.media.crops import FaceCutter
from hicmae.media.errors import MediaError
from hicmae.media.recording import Recording
from hicmae.media.sound import Sound
from hicmae.media.sound_decoding import SoundPiece
from hicmae.prediction.messages import Clip, WindowConfig
from hicmae.prediction.network import EmotionEnsemble
from hicmae.prediction.windows import find_detector
from hicmae.settings import InputConfig
from hicmae.views import test_views

# A camera or a microphone from which nothing came for so long is no longer waited for.
_PATIENCE_SECONDS = 1.0
_ROUNDING = 1e-6
_SOURCE = Path("live")  # how messages name it


@dataclass(frozen=True, kw_only=True)
class LiveFrame:
    """One picture of a camera.

    Args:
        seconds: When it was taken, on a clock that the sound shares.
        pixels: (H, W, 3) uint8 RGB, upright.
    """

    seconds: float
    pixels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class LiveSound:
    """Some sound of a microphone.

    Args:
        seconds: When its first sample was taken, on the clock of the pictures.
        samples: (n,) int16, one channel.
        rate: Samples a second.
    """

    seconds: float
    samples: np.ndarray
    rate: int


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What the network says about the last seconds.

    Args:
        start_seconds, end_seconds: Where they begin and end, on the clock of the source.
        values: (C,) probabilities or real values in the order of the labels; None: neither a face
            nor sound that the network could go by.
        modality: What it went by: ``audio-video``, ``video``, ``audio``; "" without values.
        said: What the values of several heads say (``hicmae.heads.said``); "" of one.
        box: (4,) x0, y0, x1, y1 of the face in the last picture, pixels; None without one.
        angle: Radians by which the box is turned, clockwise.
        delay_seconds: From the arrival of the last picture or sound of the window to its values,
            measured; the time inside camera and driver is not in it.
        left_out: Windows before this one that nobody had time for.
    """

    start_seconds: float
    end_seconds: float
    values: np.ndarray | None
    modality: str
    said: str = ""
    box: np.ndarray | None = None
    angle: float = 0.0
    delay_seconds: float = 0.0
    left_out: int = 0


class LiveNetwork:
    """Networks that look at the last seconds of a camera and a microphone.

    Args:
        config: Detector and choice of the face; ``all`` is the largest here.

    Attributes:
        seconds: How long a window is: one clip of the network.

    Raises: ValueError: a detector that live pictures do not have.
    """

    def __init__(self, network: EmotionEnsemble, config: WindowConfig) -> None:
        prepared = config.prepared(network.preparation)
        if prepared.faces == "boxes":
            raise ValueError("live: faces = boxes (a camera brings no list of boxes; give yunet)")
        choice = "largest" if prepared.face_choice == "all" else prepared.face_choice
        self._network, self._config = network, replace(prepared, face_choice=choice)
        self._offline = config.offline
        self.input: InputConfig = network.config.input
        self.seconds = self.input.clip_seconds

    def look(self, frames: Sequence[LiveFrame], sound: Sound | None, end: float) -> Moment:
        """Predict the window that ends at a time.

        Args:
            frames: Of about that window, all of one size, in the order of their times.
            sound: At the network's rate; None: nothing is heard.
            end: Seconds, on the clock of both.
        """
        start, read = end - self.seconds, self._network.modalities.split("-")
        images, box, angle, waveform = None, None, 0.0, None
        if frames and frames[0].seconds < end and "video" in read:
            images, box, angle = self._face(frames, start, end)
        if sound is not None and "audio" in read:
            cut, padded = sound.span(start, self.input.clip_samples)
            waveform = cut if padded < len(cut) else None
        there = ["audio"] * (waveform is not None) + ["video"] * (images is not None)
        values, modality = None, "-".join(there)
        if modality:
            clip = Clip(frames=images, waveform=waveform, num_samples=self.input.clip_samples)
            values = self._network.run([clip], [modality])[modality][0, 0]
        return Moment(
            start_seconds=start,
            end_seconds=end,
            values=values,
            modality=modality,
            said="" if values is None else said(self._network.labels.heads, values),
            box=box,
            angle=angle,
        )

    def _face(
        self, frames: Sequence[LiveFrame], start: float, end: float
    ) -> tuple[np.ndarray | None, np.ndarray | None, float]:
        """The images (T, H, W, 3) of the face, and its last box and angle."""
        input = self.input
        recording = Recording(_SOURCE, _Pictures(frames, start, end), self._config, fps=input.fps)
        # Slow cameras are looked at more often: detections have their distance in time.
        distinct = len(np.unique(recording.indices)) / len(recording.indices)
        every = max(1, round(self._config.detect_every * distinct))
        recording.config = replace(self._config, detect_every=every)
        finder, _ = find_detector(self._config, self._offline)
        try:
            (track,) = recording.follow(finder)
        except MediaError as error:
            if error.cause != "no-face":
                raise
            return None, None, 0.0
        if track.coverage < self._config.min_coverage:
            return None, None, 0.0
        cutter = FaceCutter(track, recording.indices, self._config)
        (view,) = test_views(len(recording.indices), input.num_frames, input.frame_stride, 1)
        images = [
            cutter.cut_as_stored(frame, place)
            for place, frame in zip(view.tolist(), recording.frames(view), strict=True)
        ]
        angle = 0.0 if track.angles is None else float(track.angles[-1])
        return np.stack(images), track.boxes[-1], angle


@dataclass(frozen=True, kw_only=True)
class _Due:
    """A window that can be looked at."""

    frames: list[LiveFrame]
    sound: Sound | None
    end: float
    arrived: float  # when the last of it came, on the clock of ``LiveSource``
    left_out: int


class LiveSource:
    """The last seconds of what arrives, in bounded memory, and the windows that are due.

    Args:
        input: Of the network; its clip is a window.
        hop: Seconds from one window to the next.
        clock: Seconds; of the arrivals.
    """

    def __init__(
        self, input: InputConfig, *, hop: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if not hop > 0:
            raise ValueError(f"live: hop = {hop} (must be positive)")
        self._input, self._hop, self._clock = input, hop, clock
        self._frames: deque[LiveFrame] = deque()
        self._piece: SoundPiece | None = None
        self._samples, self._sound_start = np.zeros(0, dtype=np.int16), 0.0
        self._end, self._any_due = -math.inf, False  # of the next window; whether there was one
        self._arrivals: deque[tuple[float, float]] = deque()  # how far it reached, and when

    @property
    def reach(self) -> float:
        """Up to where all is here of what still arrives; ``-inf`` before anything came."""
        ends = []
        if self._frames:  # a window's last picture is a stride before its end
            stride = self._input.frame_stride / self._input.fps
            ends.append(self._frames[-1].seconds + stride)
        if self._piece is not None:
            ends.append(self._sound_end)
        latest = max(ends, default=-math.inf)
        return min((end for end in ends if end > latest - _PATIENCE_SECONDS), default=latest)

    @property
    def sound(self) -> Sound | None:
        """What was heard of late."""
        if self._piece is None:
            return None
        rate, start = self._input.sample_rate, self._sound_start
        return Sound(samples=self._samples, sample_rate=rate, start_seconds=start)

    @property
    def _sound_end(self) -> float:
        return self._sound_start + len(self._samples) / self._input.sample_rate

    def add(self, piece: LiveFrame | LiveSound) -> None:
        """Take what arrived.

        Raises: ValueError: it has another form, or a picture goes back in time.
        """
        before = self.reach
        if isinstance(piece, LiveFrame | LiveSound):
            piece = replace(piece, seconds=float(piece.seconds))  # others may round a hop away
            if not math.isfinite(piece.seconds):
                raise ValueError(f"live: {type(piece).__name__} of {piece.seconds} s")
        if isinstance(piece, LiveFrame):
            is_first = not self._frames
            self._add_frame(piece)
        elif isinstance(piece, LiveSound):
            is_first = self._piece is None
            self._add_sound(piece)
        else:
            raise ValueError(f"live: {type(piece).__name__} (give LiveFrame and LiveSound)")
        if is_first and not self._any_due:  # the first window has all that there is
            self._end = max(self._end, piece.seconds + self._input.clip_seconds)
        self._arrivals.append((self.reach, self._clock()))
        # Beyond a window, and a hop to choose among, nothing is asked for. What no longer waits for
        # a camera or a microphone goes on at once, over windows that nobody was given yet.
        reach = min(before, self.reach)
        if math.isfinite(reach):
            self._forget(reach - self._input.clip_seconds - self._hop)

    def frames(self, end: float) -> list[LiveFrame]:
        """The pictures of the window that ends there."""
        start = end - self._input.clip_seconds - 1 / self._input.fps
        return [frame for frame in self._frames if start <= frame.seconds <= end]

    def next_due(self, *, newest: bool) -> _Due | None:
        """The next window, or the newest where several are due; None: not yet."""
        behind = self.reach - self._end
        if not behind >= -_ROUNDING:
            return None
        left_out = math.floor(behind / self._hop + _ROUNDING) if newest else 0
        end = self._end + left_out * self._hop
        while len(self._arrivals) > 1 and self._arrivals[0][0] < end - _ROUNDING:
            self._arrivals.popleft()
        arrived = self._arrivals[0][1]
        self._end, self._any_due = end + self._hop, True
        return _Due(
            frames=self.frames(end), sound=self.sound, end=end, arrived=arrived, left_out=left_out
        )

    def _forget(self, before: float) -> None:
        """Drop what is older than a time."""
        while self._frames and self._frames[0].seconds < before - 1 / self._input.fps:
            self._frames.popleft()
        rate = self._input.sample_rate
        gone = math.floor((before - self._sound_start) * rate) if self._piece else 0
        if gone > 0:
            self._samples, self._sound_start = self._samples[gone:], self._sound_start + gone / rate

    def _add_frame(self, frame: LiveFrame) -> None:
        pixels = frame.pixels
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise ValueError(
                f"live: a picture of {pixels.dtype} {pixels.shape} (uint8 (H, W, 3) is needed)"
            )
        if self._frames:
            last = self._frames[-1]
            if not frame.seconds > last.seconds:
                raise ValueError(
                    f"live: a picture of {frame.seconds:.3f} s after one of {last.seconds:.3f} s"
                )
            if last.pixels.shape != pixels.shape:  # another camera
                self._frames.clear()
        self._frames.append(frame)

    def _add_sound(self, sound: LiveSound) -> None:
        if sound.samples.ndim != 1 or sound.samples.dtype != np.int16 or not sound.rate > 0:
            raise ValueError(
                f"live: sound of {sound.samples.dtype} {sound.samples.shape} at {sound.rate} Hz "
                "(int16 (n,) of one channel is needed)"
            )
        if not len(sound.samples):
            return
        samples = np.ascontiguousarray(sound.samples[None])  # one channel of several is not
        packet = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        packet.sample_rate = sound.rate
        rate = self._input.sample_rate
        if self._piece is None or not self._piece.takes(packet, sound.seconds):
            longest = max(self._input.clip_seconds, _PATIENCE_SECONDS)
            count = round((sound.seconds - self._sound_start) * rate)
            if self._piece is None or not 0 < count < len(self._samples) + longest * rate:
                self._samples, self._sound_start = np.zeros(0, dtype=np.int16), sound.seconds
            else:  # what was lost is silent; what comes twice, by a fast clock, counts once
                silence = np.zeros(max(0, count - len(self._samples)), dtype=np.int16)
                self._samples = np.concatenate([self._samples[:count], silence])
            self._piece = SoundPiece(packet, sound.seconds, rate)
        self._piece.add(packet)
        self._samples = np.concatenate([self._samples, *self._piece.chunks])
        self._piece.chunks.clear()


def predict_live(
    network: LiveNetwork,
    source: Iterable[LiveFrame | LiveSound],
    *,
    hop: float,
    keep_up: bool,
    clock: Callable[[], float],
) -> Iterator[Moment]:
    """See ``EmotionPredictor.live``."""
    held = LiveSource(network.input, hop=hop, clock=clock)

    def look(due: _Due) -> Moment:
        moment = network.look(due.frames, due.sound, due.end)
        return replace(moment, delay_seconds=clock() - due.arrived, left_out=due.left_out)

    if not keep_up:
        for piece in source:
            held.add(piece)
            while (due := held.next_due(newest=False)) is not None:
                yield look(due)
        return
    changed, ended, failures = threading.Condition(), threading.Event(), list[BaseException]()

    def pull() -> None:
        try:
            for piece in source:
                with changed:
                    if ended.is_set():
                        return
                    held.add(piece)
                    changed.notify()
        except BaseException as error:  # raised where the user can see it
            failures.append(error)
        finally:
            with changed:
                ended.set()
                changed.notify()

    threading.Thread(target=pull, name="hicmae-live", daemon=True).start()
    try:
        while True:
            with changed:
                while (due := held.next_due(newest=True)) is None and not ended.is_set():
                    changed.wait()
            if due is None:
                break
            yield look(due)
        if failures:
            raise failures[0]
    finally:
        ended.set()


class _Pictures:
    """Frames in memory as ``Recording`` reads them, see ``hicmae.media.video.FrameReader``."""

    def __init__(self, frames: Sequence[LiveFrame], start: float, end: float) -> None:
        self._frames, self.path = frames, _SOURCE
        self.timestamps = np.array([frame.seconds for frame in frames])
        self.frame_clock = self.timestamps
        self.origin_seconds = self.start_seconds = start
        self.duration_seconds = end - start
        self.height, self.width = frames[0].pixels.shape[:2]
        self.changes: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._frames)

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Frames by number."""
        return (self._frames[index].pixels for index in indices)

    def close(self) -> None:
        """Nothing is open."""
