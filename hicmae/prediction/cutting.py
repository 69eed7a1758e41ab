"""Windows cut out of a recording in one pass over its frames, in bounded memory.

For: the decoding process. The recording is gone through twice: once for the faces (every few
frames are looked at, and boxes are all that is kept), once to cut out the images that windows
need. Never held are frames, sound or images beyond the windows that are open. Not for: finding
faces (``opening.py``) or the network.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from hicmae.media.preparation import Preparation
from hicmae.media.sound_spans import SoundSpans
from hicmae.media.tracking import FaceTrack
from hicmae.media.video import FrameReader, VideoReader
from hicmae.prediction.messages import Clip, Finished, Followed, Found, Progress, Window
from hicmae.prediction.opening import (
    Request,
    WatchedReader,
    constant_rate,
    find_tracks,
    no_face,
    open_picture,
    open_sound,
)
from hicmae.prediction.settings import WindowLayout
from hicmae.prediction.stretch import Stretch
from hicmae.stopwatch import Stopwatch
from hicmae.views import sound_span

Emit = Callable[[Progress | Found | Window | Finished], None]

SOUND = "sound"
_PROGRESS_SECONDS = 0.25


def cut_windows(request: Request, emit: Emit) -> None:
    """Go through a recording and hand out its windows.

    Args:
        request: What is wanted.
        emit: Takes what there is to say: progress, once what was found, the windows in the order
            in which they end, and the end.

    Raises: MediaError, ValueError, OSError: what is wrong with the recording.
    """
    watch = Stopwatch()
    layout = request.config.layout(request.input)
    with ExitStack() as stack:
        picture = open_picture(request)
        if isinstance(picture, VideoReader):
            stack.enter_context(picture)
        if picture is None:
            _hear(request, layout, watch, emit, stack)
            return
        seconds, start = picture.duration_seconds, picture.start_seconds
        teller = _Teller(emit, seconds)
        watched = WatchedReader(picture, watch, teller)
        indices = constant_rate(picture, request.input.fps)
        sound, why = open_sound(request, picture, start + len(indices) / request.input.fps)
        if sound is not None:
            stack.enter_context(sound)
        tracks: list[FaceTrack] = []
        notes: list[str] = []
        if request.see:
            with watch.stage("faces"):
                tracks, notes = find_tracks(request, watched, indices, watch)
            if not tracks and sound is None:
                raise no_face(request, why or "the network reads pictures alone")
            if not tracks:
                notes.append(
                    f"no face was found that lasts ({request.preparation.faces}): predicted from "
                    "the sound alone"
                )
        if tracks and request.hear and sound is None:
            notes.append(f"{why}: predicted from the picture alone")
        stretches = [
            Stretch(
                name=f"face{number}",
                num_frames=len(track.boxes),
                layout=layout,
                preparation=request.preparation,
                track=track,
                indices=indices,
            )
            for number, track in enumerate(tracks)
        ] or [Stretch(name=SOUND, num_frames=len(indices), layout=layout)]
        emit(_found(stretches, seconds, picture, start, sound, notes, layout))
        teller.stage = "windows"
        cutter = _Cutter(stretches, layout, sound, start, watch)
        if tracks:
            positions = np.flatnonzero(cutter.needed(len(indices)))
            frames = watched.frames(indices[positions])
            for position, frame in zip(positions.tolist(), frames, strict=True):
                for window in cutter.take(position, frame):
                    emit(window)
        else:
            for window in cutter.heard():
                teller(window.end_seconds)
                emit(window)
        emit(_finished(watch, sound, request.preparation))


def _hear(
    request: Request, layout: WindowLayout, watch: Stopwatch, emit: Emit, stack: ExitStack
) -> None:
    """The windows of a recording without a picture."""
    with watch.stage("sound"):
        measured, _ = open_sound(request, None, None)
        assert measured is not None
        with measured:
            num_samples = measured.measure(_Teller(emit, math.inf, stage="sound"))
        sound, _ = open_sound(request, None, None)
        assert sound is not None
        stack.enter_context(sound)
    seconds = num_samples / sound.sample_rate
    num_frames = max(1, math.floor(seconds * layout.input.fps + 0.5))
    stretch = Stretch(name=SOUND, num_frames=num_frames, layout=layout)
    notes = ["no picture: predicted from the sound alone"] if request.see else []
    start = sound.start_seconds
    emit(_found([stretch], seconds, None, start, sound, notes, layout))
    teller = _Teller(emit, seconds, stage="windows")
    for window in _Cutter([stretch], layout, sound, start, watch).heard():
        teller(window.end_seconds)
        emit(window)
    emit(_finished(watch, sound, request.preparation))


class _Teller:
    """Says how far it is, not too often."""

    def __init__(self, emit: Emit, total: float, *, stage: str = "faces") -> None:
        self.stage = stage
        self._emit, self._total, self._last = emit, total, -math.inf

    def __call__(self, seconds: float) -> None:
        now = time.monotonic()
        if now - self._last >= _PROGRESS_SECONDS:
            self._last = now
            self._emit(Progress(stage=self.stage, done=seconds, total=self._total))


class _Cutter:
    """The stretches of a recording while its frames go by.

    Args:
        stretches: In the order in which they begin.
        layout: Of the windows.
        sound: Of the recording, if there is any.
        start: Where the recording begins on the container's clock, seconds.
        watch: Counts the stages ``images`` and ``sound``.
    """

    def __init__(
        self,
        stretches: list[Stretch],
        layout: WindowLayout,
        sound: SoundSpans | None,
        start: float,
        watch: Stopwatch,
    ) -> None:
        self._all, self._layout, self._sound = stretches, layout, sound
        self._start, self._watch = start, watch
        self._coming = sorted(stretches, key=lambda stretch: stretch.first)
        self._open: list[Stretch] = []

    def needed(self, num_frames: int) -> np.ndarray:
        """(num_frames,) bool: which frames of the recording any window needs."""
        needed = np.zeros(num_frames, dtype=bool)
        for stretch in self._all:
            needed |= stretch.wanted(num_frames)
        return needed

    def take(self, position: int, frame: np.ndarray) -> Iterator[Window]:
        """Take the frame at a position; gives the windows that are complete with it."""
        while self._coming and self._coming[0].first <= position:
            self._open.append(self._coming.pop(0))
        for stretch in self._open:
            with self._watch.stage("images"):
                stretch.put(position, frame)
            while stretch.number < len(stretch.starts):
                views = stretch.views(stretch.starts[stretch.number])
                if views[-1][-1] + stretch.first > position:
                    break
                yield self._window(stretch, views)
        self._open = [stretch for stretch in self._open if stretch.number < len(stretch.starts)]

    def heard(self) -> Iterator[Window]:
        """The windows of sound alone."""
        for stretch in self._all:
            while stretch.number < len(stretch.starts):
                yield self._window(stretch, stretch.views(stretch.starts[stretch.number]))

    def _window(self, stretch: Stretch, views: list[np.ndarray]) -> Window:
        fps = self._layout.input.fps
        start = stretch.starts[stretch.number]
        begin = (stretch.first + start) / fps
        clips = tuple(self._clip(stretch, view) for view in views)
        window = Window(
            track=stretch.name,
            number=stretch.number,
            start_seconds=begin,
            end_seconds=begin + stretch.length(start) / fps,
            clips=clips,
            thumbnail=stretch.thumbnail(),
        )
        stretch.end_window()
        return window

    def _clip(self, stretch: Stretch, view: np.ndarray) -> Clip:
        """One clip, with the sound that belongs to it in a sample of this stretch."""
        frames = stretch.images(view)
        if self._sound is None:
            return Clip(frames=frames, waveform=None)
        input = self._layout.input
        with self._watch.stage("sound"):
            begin, end = sound_span(int(view[0]), input)
            origin = self._sound.number_at(self._start + stretch.first / input.fps)
            waveform, _ = self._sound.span(origin + begin, end - begin)
        # The sound of a sample is as long as its picture; beyond it there is none.
        valid = max(0, min(end, round(stretch.num_frames / input.fps * input.sample_rate)) - begin)
        waveform[valid:] = 0
        return Clip(frames=frames, waveform=waveform, num_samples=min(valid, end - begin))


def _found(
    stretches: list[Stretch],
    seconds: float,
    picture: FrameReader | None,
    start: float,
    sound: SoundSpans | None,
    notes: list[str],
    layout: WindowLayout,
) -> Found:
    fps = layout.input.fps
    clip = layout.input.clip_seconds
    if seconds < clip - 0.5 / fps:
        notes = [*notes, f"shorter than the network's clip ({seconds:.2f} of {clip:.2f} s)"]
    return Found(
        tracks=tuple(_followed(stretch, fps) for stretch in stretches),
        seconds=seconds,
        width=0 if picture is None else picture.width,
        height=0 if picture is None else picture.height,
        start_seconds=start,
        has_sound=sound is not None,
        notes=tuple(notes),
    )


def _followed(stretch: Stretch, fps: float) -> Followed:
    followed = Followed(
        name=stretch.name,
        start_seconds=stretch.first / fps,
        end_seconds=(stretch.first + stretch.num_frames) / fps,
        num_windows=len(stretch.starts),
        fps=fps,
    )
    if stretch.track is None:
        return followed
    return replace(
        followed,
        boxes=stretch.track.boxes,
        angles=stretch.track.angles,
        found_by=stretch.track.found_by,
        coverage=stretch.track.coverage,
    )


def _finished(watch: Stopwatch, sound: SoundSpans | None, preparation: Preparation) -> Finished:
    notes = []
    if sound is not None and sound.rms_db < preparation.silence_db:
        notes.append(f"its sound is silent (below {preparation.silence_db:g} dB)")
    if sound is not None and sound.damaged:
        notes.append("parts of its sound cannot be decoded and count as silence")
    return Finished(seconds=dict(watch.seconds), notes=tuple(notes))
