"""Windows cut out of a recording in one pass over its frames, in bounded memory.

The recording (``hicmae/media/recording.py``) is gone through twice: once for the faces (every few
frames are looked at, and boxes are all that is kept), once to cut out the images that windows
need. Never held are frames, sound or images beyond the windows that are open.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import av
import cv2
import numpy as np

from hicmae.bench import Stopwatch
from hicmae.media.boxes import boxes_of
from hicmae.media.container import open_container
from hicmae.media.crops import FaceCutter, decode_jpeg, encode_jpeg
from hicmae.media.errors import MediaError
from hicmae.media.faces import FaceConfig, FaceDetector
from hicmae.media.identity import shared_embedder
from hicmae.media.recording import Finder, Recording, open_pictures, shared_detector, sound_file
from hicmae.media.sound_decoding import sound_stream
from hicmae.media.sound_spans import SoundSpans
from hicmae.media.speaking import Speakers
from hicmae.media.tracking import FaceTrack
from hicmae.prediction.messages import (
    Clip,
    Finished,
    Followed,
    Found,
    StageProgress,
    Window,
    WindowConfig,
    WindowLayout,
)
from hicmae.settings import InputConfig
from hicmae.views import sound_span, test_views

Emit = Callable[[StageProgress | Found | Window | Finished], None]

SOUND = "sound"
_PROGRESS_SECONDS = 0.25
_OUTSIDE_SECONDS = 1.0  # sound without a picture is worth a note from here on
_THUMBNAIL_PIXELS, _MOST_THUMBNAILS = 96, 12


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the decoding process is asked for.

    Args:
        path: The recording: a file, or a folder of images.
        input: The network's.
        preparation: How its images are made.
        config: Where the windows are.
        see: Whether the network reads pictures.
        hear: Whether it reads sound.
    """

    path: Path
    input: InputConfig
    preparation: FaceConfig
    config: WindowConfig
    see: bool = True
    hear: bool = True


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
        try:
            rate, colours = request.preparation.image_fps, request.preparation.stack_colours
            pictures = open_pictures(request.path, image_fps=rate, colours=colours)
        except MediaError as error:
            if not request.hear or error.cause != "no-video" or request.path.is_dir():
                raise
            _hear(request, layout, watch, emit, stack)
            return
        picture = pictures[0]
        seconds = picture.start_seconds - picture.origin_seconds + picture.duration_seconds
        teller = _Teller(emit, seconds)
        recording = stack.enter_context(
            Recording(
                request.path,
                picture,
                request.preparation,
                fps=request.input.fps,
                watch=watch,
                tell=teller,
            )
        )
        sound, why = _sound_of(request, recording)
        if sound is not None:
            stack.enter_context(sound)
        tracks: list[FaceTrack] = []
        notes: list[str] = []
        if request.see:
            tracks, notes = _find_tracks(request, recording)
            if not tracks and sound is None:
                why = why or "the network reads pictures alone"
                raise MediaError(
                    "no-face",
                    request.path,
                    f"{request.preparation.faces} found no face that lasts, and {why}; if these "
                    "are face crops already, pass --faces none",
                )
            if not tracks:
                notes.append(
                    f"no face was found that lasts ({request.preparation.faces}): predicted from "
                    "the sound alone"
                )
        if tracks and request.hear and sound is None:
            notes.append(f"{why}: predicted from the picture alone")
        if sound is not None:
            notes += _outside(request.path, recording)
        num_frames = len(recording.indices)
        starts = [
            [first + start for first, last in track.seen for start in layout.starts(last - first)]
            for track in tracks
        ]
        if len(tracks) > 1 and request.preparation.face_choice == "speaking":
            spoken = _spoken(request, recording, tracks, layout)
            if not spoken:
                notes.append("no sound tells who speaks: every face is predicted")
            starts = spoken or starts
        stretches = [
            _Stretch(
                name=f"face{number}",
                num_frames=len(track.boxes),
                layout=layout,
                offset=recording.offset,
                track=track,
                recording=recording,
                starts=starts[number],
            )
            for number, track in enumerate(tracks)
            if starts[number]
        ] or [_Stretch(name=SOUND, num_frames=num_frames, layout=layout, offset=recording.offset)]
        emit(_found(stretches, seconds, recording, recording.start, sound, notes, layout))
        teller.stage = "windows"
        cutter = _Cutter(stretches, layout, sound, recording.start, watch)
        if tracks:
            positions = np.flatnonzero(cutter.needed(num_frames))
            frames = recording.frames(positions)
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
        with _open_sound(request, None) as measured:
            num_samples = measured.measure(_Teller(emit, math.inf, stage="sound"))
        sound = stack.enter_context(_open_sound(request, None))
    seconds = num_samples / sound.sample_rate
    num_frames = max(1, math.floor(seconds * layout.input.fps + 0.5))
    stretch = _Stretch(name=SOUND, num_frames=num_frames, layout=layout)
    notes = ["no picture: predicted from the sound alone"] if request.see else []
    start = sound.start_seconds
    emit(_found([stretch], seconds, None, start, sound, notes, layout))
    teller = _Teller(emit, seconds, stage="windows")
    for window in _Cutter([stretch], layout, sound, start, watch).heard():
        teller(window.end_seconds)
        emit(window)
    emit(_finished(watch, sound, request.preparation))


def _sound_of(request: Request, recording: Recording) -> tuple[SoundSpans | None, str]:
    """The sound of a recording with a picture, or None and why there is none."""
    if not request.hear:
        return None, ""
    try:
        return _open_sound(request, recording.end), ""
    except MediaError as error:
        if request.path.is_dir() and error.cause == "no-sound" and error.path == str(request.path):
            return None, error.problem
        if not request.see or error.cause not in ("no-sound", "damaged"):
            raise
        return None, "it has no sound" if error.cause == "no-sound" else error.problem


def _open_sound(request: Request, end_seconds: float | None) -> SoundSpans:
    rate = request.input.sample_rate
    window = request.config.layout(request.input).window_frames / request.input.fps
    path = sound_file(request.path)
    return SoundSpans(
        path,
        from_beginning=path != request.path,
        sample_rate=rate,
        end_seconds=end_seconds,
        history=2 * round(window * rate),
    )


def _spoken(
    request: Request, recording: Recording, tracks: list[FaceTrack], layout: WindowLayout
) -> list[list[int]]:
    """First frames of the windows of each face in which no other goes better with the sound.

    Returns: of each track; nothing where there is no sound.
    """
    try:
        sound = _open_sound(request, recording.end)
    except MediaError as error:
        if error.cause not in ("no-sound", "damaged"):
            raise
        return []
    origin = sound.number_at(recording.start)

    def cut(first: int, count: int) -> np.ndarray:
        return sound.span(origin + first, count)[0]

    with sound:
        speakers = Speakers(recording, tracks).hear(cut, sound.sample_rate)
    spoken = [
        [
            start
            for start in layout.starts(len(track.boxes))
            if number
            == speakers.speaker(track.first + start, track.first + start + layout.window_frames)
        ]
        for number, track in enumerate(tracks)
    ]
    if not any(spoken):  # faces by turns, none of which is seen for as long as a window
        best = speakers.speaker(0, len(recording.indices)) or 0
        spoken[best] = layout.starts(len(tracks[best].boxes))
    return spoken


def _outside(path: Path, recording: Recording) -> list[str]:
    """A note of the sound before and after the picture, which no window covers; mostly none.

    By what the container says: decoding all of it only for this would take as long again.
    """
    file = sound_file(path)
    with open_container(file) as container:
        stream = sound_stream(container, file)
        begin = float((stream.start_time or 0) * stream.time_base)
        if stream.duration:
            end = begin + float(stream.duration * stream.time_base)
        elif container.duration:
            end = (max(container.start_time or 0, 0) + container.duration) / av.time_base
        else:
            return []
    if file != path:  # a file of its own begins with the picture, whatever its stamps
        begin, end = recording.start, recording.start + end - begin
    origin = recording.picture.origin_seconds
    spans = (begin, recording.start), (recording.end, end)
    parts = [
        f"{max(first - origin, 0):.2f}..{last - origin:.2f} s"
        for first, last in spans
        if last - first > _OUTSIDE_SECONDS
    ]
    if not parts:
        return []
    return [f"its sound at {' and '.join(parts)} has no picture and is left out"]


def _find_tracks(request: Request, recording: Recording) -> tuple[list[FaceTrack], list[str]]:
    """Every face of a recording, or the one that the settings choose.

    Returns: the tracks, and what the user should know.

    Raises: MediaError: ``bad-boxes``, ``no-boxes``, ``damaged``, or ``no-face`` (a fixed box
        beyond the picture).
    """
    config, notes = request.preparation, list[str]()
    if config.faces == "boxes":
        finder: Finder = boxes_of(request.path, request.config.boxes, remedy="name it with --boxes")
    else:
        finder, note = _detector(config.faces, config.align, request.config.offline)
        notes += [note] if note else []
    try:
        embedder = shared_embedder(config.identity, offline=request.config.offline)
        tracks = recording.follow(finder, keep=False, embedder=embedder)
    except MediaError as error:
        picture = recording.picture
        if error.cause == "frame-size":
            raise MediaError(
                "no-face",
                request.path,
                f"its picture of {picture.width}x{picture.height} pixels does not hold the box "
                f"{list(config.box or ())} that the network was trained on; pass --faces yunet",
            ) from None
        if error.cause != "no-face":
            raise
        tracks = []
    if config.box is not None:
        return tracks, notes
    if not config.follows_all:
        tracks = [track for track in tracks if track.coverage >= config.min_coverage]
    fps, least = request.input.fps, request.config.min_seconds
    kept = [
        track
        for track in tracks
        if len(track.boxes) / fps >= least or len(track.boxes) == len(recording.indices)
    ]
    if len(kept) < len(tracks):
        notes.append(
            f"{len(tracks) - len(kept)} of {len(tracks)} faces are seen for less than "
            f"{least:g} s and left out"
        )
    return kept, notes


@functools.cache
def _detector(faces: str, align: str, offline: bool) -> tuple[FaceDetector | None, str]:
    """The detector, or the bundled one and a note where YuNet's file is not to be had."""
    try:
        return shared_detector(faces, offline=offline), ""
    except FileNotFoundError as error:
        if faces != "yunet" or align != "none":
            raise
        note = f"faces are found by the bundled cascade, which misses many: {error}"
        return shared_detector("cascade", offline=offline), note


class _Teller:
    """Says how far it is, not too often."""

    def __init__(self, emit: Emit, total: float, *, stage: str = "faces") -> None:
        self.stage = stage
        self._emit, self._total, self._last = emit, total, -math.inf

    def __call__(self, seconds: float) -> None:
        now = time.monotonic()
        if now - self._last >= _PROGRESS_SECONDS:
            self._last = now
            self._emit(StageProgress(stage=self.stage, done=seconds, total=self._total))


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
        stretches: list[_Stretch],
        layout: WindowLayout,
        sound: SoundSpans | None,
        start: float,
        watch: Stopwatch,
    ) -> None:
        self._all, self._layout, self._sound = stretches, layout, sound
        self._start, self._watch = start, watch
        self._coming = sorted(stretches, key=lambda stretch: stretch.first)
        self._open: list[_Stretch] = []

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

    def _window(self, stretch: _Stretch, views: list[np.ndarray]) -> Window:
        fps = self._layout.input.fps
        start = stretch.starts[stretch.number]
        begin = stretch.offset + (stretch.first + start) / fps
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

    def _clip(self, stretch: _Stretch, view: np.ndarray) -> Clip:
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


class _Stretch:
    """One face from its first to its last frame, or the sound, and the windows open in it.

    The images that windows need are cut out once and dropped with the last window. They go through
    the JPEG codec as those of shards do: the network sees what it was trained on.

    Args:
        name: Of the track.
        num_frames: Of it, at the network's rate.
        layout: Of the windows.
        offset: Where its recording's frames begin, seconds after the recording's beginning.
        track: The face; None for sound.
        recording: It is in; None for sound.
        starts: First frames of its windows; None: all that the layout gives.
    """

    def __init__(
        self,
        *,
        name: str,
        num_frames: int,
        layout: WindowLayout,
        offset: float = 0.0,
        track: FaceTrack | None = None,
        recording: Recording | None = None,
        starts: list[int] | None = None,
    ) -> None:
        self.name, self.num_frames, self.offset, self.track = name, num_frames, offset, track
        self.first = 0 if track is None else track.first
        self._seen = [] if track is None else track.seen
        self.starts = layout.starts(num_frames) if starts is None else starts
        self.number = 0
        self._layout = layout
        self._images: dict[int, np.ndarray] = {}
        count = min(_MOST_THUMBNAILS, len(self.starts))
        self._pictured = set(np.linspace(0, len(self.starts) - 1, count).round().astype(int))
        self._wanted = np.zeros(num_frames, dtype=bool)
        if track is not None and recording is not None:
            self._config = recording.config
            self._cutter = FaceCutter(track, recording.indices, self._config.face_size)
            for start in self.starts:
                for view in self.views(start):
                    self._wanted[view] = True

    def length(self, start: int) -> int:
        """Frames of the window that starts there."""
        last = self.num_frames
        if self.track is not None:  # a window does not reach into another scene
            last = next(end for begin, end in self._seen if begin <= start < end)
        return min(self._layout.window_frames, last - start)

    def views(self, start: int) -> list[np.ndarray]:
        """(T,) frames, counted in this stretch, of each clip of the window that starts there."""
        clip, length = self._layout.input, self.length(start)
        clip_frames = clip.num_frames * clip.frame_stride
        count = min(self._layout.num_clips, math.ceil(length / clip_frames))
        return [
            start + view for view in test_views(length, clip.num_frames, clip.frame_stride, count)
        ]

    def wanted(self, num_frames: int) -> np.ndarray:
        """(num_frames,) bool, of the recording: which frames its windows need."""
        whole = np.zeros(num_frames, dtype=bool)
        whole[self.first : self.first + self.num_frames] = self._wanted
        return whole

    def put(self, position: int, frame: np.ndarray) -> None:
        """Cut this face out of a frame of the recording, if a window needs it."""
        place = position - self.first
        if not (0 <= place < self.num_frames and self._wanted[place]):
            return
        image = self._cutter.cut(frame, place)
        quality, chroma = self._config.jpeg_quality, self._config.chroma
        self._images[place] = decode_jpeg(encode_jpeg(image, quality=quality, chroma=chroma))

    def images(self, view: np.ndarray) -> np.ndarray | None:
        """(T, H, W, 3) of a clip; None for sound."""
        if self.track is None:
            return None
        return np.stack([self._images[place] for place in view.tolist()])

    def thumbnail(self) -> bytes:
        """The middle image of the present window, small, if it is one to be shown."""
        if self.track is None or self.number not in self._pictured:
            return b""
        start = self.starts[self.number]
        middle = start + self.length(start) / 2
        place = min(self._images, key=lambda place: abs(place - middle))
        side = (_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS)
        small = cv2.resize(self._images[place], side, interpolation=cv2.INTER_AREA)
        return encode_jpeg(small, quality=85, chroma="420")

    def end_window(self) -> None:
        """Go on to the next window and drop what it does not need."""
        self.number += 1
        keep = self.starts[self.number] if self.number < len(self.starts) else math.inf
        self._images = {place: image for place, image in self._images.items() if place >= keep}


def _found(
    stretches: list[_Stretch],
    seconds: float,
    recording: Recording | None,
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
        width=0 if recording is None else recording.picture.width,
        height=0 if recording is None else recording.picture.height,
        start_seconds=start,
        has_sound=sound is not None,
        notes=tuple(notes),
    )


def _followed(stretch: _Stretch, fps: float) -> Followed:
    followed = Followed(
        name=stretch.name,
        start_seconds=stretch.offset + stretch.first / fps,
        end_seconds=stretch.offset + (stretch.first + stretch.num_frames) / fps,
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


def _finished(watch: Stopwatch, sound: SoundSpans | None, preparation: FaceConfig) -> Finished:
    notes = []
    if sound is not None and sound.taken:
        notes.append(f"its sound is {sound.taken}")
    if sound is not None and sound.rms_db < preparation.silence_db:
        notes.append(f"its sound is silent (below {preparation.silence_db:g} dB)")
    if sound is not None and sound.damaged:
        notes.append("parts of its sound cannot be decoded and count as silence")
    return Finished(seconds=dict(watch.seconds), notes=tuple(notes))
