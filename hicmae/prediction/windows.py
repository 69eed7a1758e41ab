"""Windows cut out of a recording in one pass over its frames, in bounded memory.

The recording (``hicmae/media/recording.py``) is gone through twice: once for the faces (every few
frames are looked at, and boxes are all that is kept), once to cut out the images that windows
need. Never held are frames, sound or images beyond the windows that are open.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np

from hicmae.bench import Stopwatch
from hicmae.media.boxes import boxes_of
from hicmae.media.container import open_container, packets_of
from hicmae.media.errors import MediaError
from hicmae.media.faces import FaceConfig, FaceDetector, no_face_remedy
from hicmae.media.identity import shared_embedder
from hicmae.media.missing import cut_off
from hicmae.media.recording import Finder, Recording, open_pictures, shared_detector, sound_file
from hicmae.media.sound import SoundSpans
from hicmae.media.sound_decoding import sound_stream
from hicmae.media.speaking import Speakers
from hicmae.media.tracking import FaceTrack
from hicmae.prediction.messages import (
    Finished,
    Followed,
    Found,
    StageProgress,
    Window,
    WindowConfig,
    WindowLayout,
)
from hicmae.prediction.stretches import Cutter, Piece, Stretch
from hicmae.prediction.timelines import Span
from hicmae.settings import InputConfig

Emit = Callable[[StageProgress | Found | Window | Finished], None]

SOUND = "sound"
_PROGRESS_SECONDS = 0.25
# What is done, without and with spans, where nothing tells who speaks.
_LEFT = "every face is predicted", "a span is of the face that is seen for most of it"
_SEEN_SHARE = 0.5  # of a span; a face that is seen for less of it is not asked whether it speaks
_OUTSIDE_SECONDS = 1.0  # sound or picture without the other is worth a note from here on


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the decoding process is asked for, as ``process.read_windows`` is; ``see``, ``hear``:
    whether the network reads pictures, and sound.
    """

    path: Path
    input: InputConfig
    preparation: FaceConfig
    config: WindowConfig
    see: bool = True
    hear: bool = True
    spans: tuple[Span, ...] | None = None
    alone: bool = False


def cut_windows(request: Request, emit: Emit) -> None:
    """Go through a recording and hand out its windows.

    Args:
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
        outside = _outside(request, recording) if sound or request.alone else []
        if sound is not None:
            if request.alone and outside and outside[-1][1] > recording.end:
                sound.close()
                sound = _open_sound(request, None)
            stack.enter_context(sound)
        tracks: list[FaceTrack] = []
        notes: list[str] = []
        if request.see:
            tracks, notes = _find_tracks(request, recording)
            if (sizes := picture.changes.get("sizes", 1)) > 1:
                notes.append(
                    f"its pictures have {sizes} sizes, and each is fitted into the largest"
                )
            if not tracks and sound is None:
                why = why or "the network reads pictures alone"
                raise MediaError(
                    "no-face",
                    request.path,
                    f"{request.preparation.faces} found no face that lasts, and {why}; "
                    f"{no_face_remedy(request.preparation.faces)}",
                )
            if not tracks:
                notes.append(
                    f"no face was found that lasts ({request.preparation.faces}): predicted from "
                    "the sound alone"
                )
        if tracks and request.hear and sound is None:
            notes.append(f"{why}: predicted from the picture alone")
        heard = outside if request.alone and sound is not None else []
        if outside and (tracks or not heard):
            notes.append(_outside_note(outside, picture.origin_seconds, request, bool(heard)))
        whole = [(recording.start, recording.end), *heard]
        whole = [(min(first for first, _ in whole), max(last for _, last in whole))]
        seconds = max(seconds, whole[0][1] - picture.origin_seconds)
        parts = whole if request.spans is not None or not tracks else heard
        sounds = [] if sound is None else _sound_stretches(parts, recording, layout)
        starts = [
            [first + start for first, last in track.seen for start in layout.starts(last - first)]
            for track in tracks
        ]
        speakers: Speakers | None = None
        if len(tracks) > 1 and request.preparation.face_choice == "speaking":
            speakers = _speakers(request, recording, tracks)
            if speakers is None:
                notes.append(f"no sound tells who speaks: {_LEFT[request.spans is not None]}")
            elif request.spans is None:
                starts = _spoken(speakers, recording, layout)
        faces = [
            Stretch(
                name=f"face{number}",
                num_frames=len(track.boxes),
                layout=layout,
                offset=recording.offset,
                first=track.first,
                track=track,
                recording=recording,
                starts=starts[number],
            )
            for number, track in enumerate(tracks)
            if starts[number]
        ]
        stretches, missed = _spanned([*faces, *sounds], request, why, speakers)
        emit(_found(stretches, seconds, recording, recording.start, sound, notes, layout, missed))
        teller.stage = "windows"
        cutter = Cutter(stretches, layout, sound, recording.start, watch)
        positions = np.flatnonzero(cutter.needed(len(recording.indices)))
        frames = recording.frames(positions) if len(positions) else iter(())
        for position, frame in zip(positions.tolist(), frames, strict=True):
            for window in cutter.take(position, frame):
                emit(window)
        for window in cutter.rest():
            teller(window.end_seconds)
            emit(window)
        unheard = _unheard(recording, sound) if sound is not None and tracks else []
        emit(_finished(watch, sound, request, unheard))


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
    stretch = Stretch(name=SOUND, num_frames=num_frames, layout=layout)
    notes = ["no picture: predicted from the sound alone"] if request.see else []
    start = sound.start_seconds
    stretches, missed = _spanned([stretch], request, "")
    emit(_found(stretches, seconds, None, start, sound, notes, layout, missed))
    teller = _Teller(emit, seconds, stage="windows")
    for window in Cutter(stretches, layout, sound, start, watch).rest():
        teller(window.end_seconds)
        emit(window)
    emit(_finished(watch, sound, request))


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


def _speakers(request: Request, recording: Recording, tracks: list[FaceTrack]) -> Speakers | None:
    """The faces held against the sound; None where there is no sound."""
    try:
        sound = _open_sound(request, recording.end)
    except MediaError as error:
        if error.cause not in ("no-sound", "damaged"):
            raise
        return None
    origin = sound.number_at(recording.start)

    def cut(first: int, count: int) -> np.ndarray:
        return sound.span(origin + first, count)[0]

    with sound:
        return Speakers(recording, tracks).hear(cut, sound.sample_rate)


def _spoken(speakers: Speakers, recording: Recording, layout: WindowLayout) -> list[list[int]]:
    """First frames of the windows of each face in which no other goes better with the sound."""
    spoken = [
        [
            start
            for start in layout.starts(len(track.boxes))
            if number
            == speakers.speaker(track.first + start, track.first + start + layout.window_frames)
        ]
        for number, track in enumerate(speakers.tracks)
    ]
    if not any(spoken):  # faces by turns, none of which is seen for as long as a window
        best = speakers.speaker(0, len(recording.indices)) or 0
        spoken[best] = layout.starts(len(speakers.tracks[best].boxes))
    return spoken


def _outside(request: Request, recording: Recording) -> list[tuple[float, float]]:
    """The sound before and after the picture, seconds on the container's clock; mostly none.

    By what the container says, and where that is much, by the packets: decoding all of it only for
    this would take as long again.
    """
    try:
        file = sound_file(request.path)
        with open_container(file) as container:
            stream = sound_stream(container, file)
            begin = float((stream.start_time or 0) * stream.time_base)
            if stream.duration:
                end = begin + float(stream.duration * stream.time_base)
            elif container.duration:
                end = (max(container.start_time or 0, 0) + container.duration) / av.time_base
            else:
                return []
            own = file != request.path  # it begins with the picture, whatever its stamps
            shift = recording.start - begin if own else 0.0
            if end + shift - recording.end > _OUTSIDE_SECONDS:
                stamps = (
                    (packet.pts + (packet.duration or 0)) * packet.time_base
                    for packet in packets_of(container, stream)
                    if packet.pts is not None
                )
                end = float(max(stamps, default=begin))
    except MediaError:  # no sound that could be outside
        return []
    begin = max(begin + shift, recording.picture.origin_seconds)
    spans = (begin, recording.start), (recording.end, end + shift)
    return [(first, last) for first, last in spans if last - first > _OUTSIDE_SECONDS]


def _outside_note(
    outside: Sequence[tuple[float, float]], origin: float, request: Request, heard: bool
) -> str:
    said = f"its sound at {_times(outside, origin)} has no picture"
    if heard:
        return f"{said}: predicted from the sound alone"
    return f"{said} and is left out{'' if request.hear else ' (the network reads pictures alone)'}"


def _unheard(recording: Recording, sound: SoundSpans) -> list[str]:
    """What of the picture has no sound, as far as the windows have listened, as a note."""
    spans = [(recording.start, min(sound.start_seconds, recording.end))]
    if sound.ended:
        spans.append((max(sound.found_seconds, recording.start), recording.end))
    spans = [(first, last) for first, last in spans if last - first > _OUTSIDE_SECONDS]
    times = _times(spans, recording.picture.origin_seconds)
    return [f"its picture at {times} has no sound, which counts as silence"] if spans else []


def _times(spans: Sequence[tuple[float, float]], origin: float) -> str:
    return " and ".join(f"{first - origin:.2f}..{last - origin:.2f} s" for first, last in spans)


def _sound_stretches(
    parts: Sequence[tuple[float, float]], recording: Recording, layout: WindowLayout
) -> list[Stretch]:
    """A stretch of sound alone for each part, seconds on the container's clock."""
    fps = layout.input.fps
    return [
        Stretch(
            name=SOUND if len(parts) == 1 else f"{SOUND}{number}",
            num_frames=max(1, round((last - begin) * fps)),
            layout=layout,
            offset=recording.offset,
            first=round((begin - recording.start) * fps),
        )
        for number, (begin, last) in enumerate(parts)
    ]


def _spanned(
    stretches: list[Stretch], request: Request, why: str, speakers: Speakers | None = None
) -> tuple[list[Stretch], tuple[tuple[int, str], ...]]:
    """The stretches that spans are in, each with their windows; all, where none are asked for.

    A span goes to the face that speaks in it, if that is asked for; else to the one that is seen
    for most of it, of such the largest. Where none is for half of it, it goes to the sound alone if
    that is there.

    Args:
        why: Why there is no sound, if there is none.
        speakers: The faces, where the one that speaks is asked for.

    Returns: the stretches, and of each span that is in none its number and why.

    Raises: MediaError: ``no-span``: all are in none.
    """
    if request.spans is None:
        return stretches, ()
    missed: list[tuple[int, str]] = []
    windows: dict[str, list[Piece]] = {stretch.name: [] for stretch in stretches}
    fps, offset = request.input.fps, stretches[0].offset
    for number, span in enumerate(request.spans):
        begin = round((span.start - offset) * fps)
        end = max(begin + 1, round((span.end - offset) * fps))
        named = span.face
        if not named and speakers is not None:
            named = _speaks(speakers, stretches, begin, end)
        ranked = [
            (*stretch.share(begin, end), -place, stretch)
            for place, stretch in enumerate(stretches)
            if named in ("", stretch.name)
        ]
        seen, *_, chosen = max(ranked, default=(0.0, stretches[0]), key=lambda each: each[:-1])
        if not seen:
            low = offset + min(stretch.first for stretch in stretches) / fps
            high = offset + max(stretch.first + stretch.num_frames for stretch in stretches) / fps
            reason = f"there is no {span.face} in it"
            if not span.face and span.start < high and span.end > low:
                reason = f"no face is seen in it{f', and {why}' if why else ''}"
            elif not span.face:
                reason = f"it lies outside of what was seen and heard ({low:.2f}..{high:.2f} s)"
            missed.append((number, reason))
            continue
        start, stop = chosen.part(begin, end)
        windows[chosen.name].append(Piece(number, start, stop - start, stop))
    if len(missed) == len(request.spans):
        raise MediaError(
            "no-span", request.path, f"none of {len(missed)} spans has an answer: {missed[0][1]}"
        )
    used = [stretch for stretch in stretches if windows[stretch.name]]
    for stretch in used:
        stretch.ask(sorted(windows[stretch.name], key=lambda piece: piece.start + piece.end))
    return used, tuple(missed)


def _speaks(speakers: Speakers, stretches: Sequence[Stretch], begin: int, end: int) -> str:
    """Name of the face that speaks in a span of the recording's frames; "" where none is seen for
    half of it."""
    seen = [
        number
        for number, track in enumerate(speakers.tracks)
        for stretch in stretches
        if stretch.track is track and stretch.share(begin, end)[0] >= _SEEN_SHARE
    ]
    speaker = speakers.speaker(begin, end, among=seen)
    return "" if speaker is None else f"face{speaker}"


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
        finder, note = find_detector(config, request.config.offline)
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
def find_detector(config: FaceConfig, offline: bool) -> tuple[FaceDetector | None, str]:
    """The detector, or the bundled one and a note where YuNet's file is not to be had."""
    try:
        return shared_detector(config, offline=offline), ""
    except FileNotFoundError as error:
        if config.faces != "yunet" or config.align != "none":
            raise
        note = f"faces are found by the bundled cascade, which misses many: {error}"
        return shared_detector(replace(config, faces="cascade", detector={}), offline=offline), note


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


def _found(
    stretches: list[Stretch],
    seconds: float,
    recording: Recording | None,
    start: float,
    sound: SoundSpans | None,
    notes: list[str],
    layout: WindowLayout,
    missed: tuple[tuple[int, str], ...],
) -> Found:
    fps = layout.input.fps
    clip = layout.input.clip_seconds
    if seconds < clip - 0.5 / fps:
        notes = [*notes, f"shorter than the network's clip ({seconds:.2f} of {clip:.2f} s)"]
    if missed:
        number, why = missed[0]
        notes = [*notes, f"{len(missed)} of the spans have no answer, as the {number + 1}.: {why}"]
    return Found(
        tracks=tuple(_followed(stretch, fps) for stretch in stretches),
        seconds=seconds,
        width=0 if recording is None else recording.picture.width,
        height=0 if recording is None else recording.picture.height,
        start_seconds=start,
        has_sound=sound is not None,
        notes=tuple(notes),
        missed=missed,
    )


def _followed(stretch: Stretch, fps: float) -> Followed:
    followed = Followed(
        name=stretch.name,
        start_seconds=stretch.offset + stretch.first / fps,
        end_seconds=stretch.offset + (stretch.first + stretch.num_frames) / fps,
        num_windows=stretch.num_windows,
        fps=fps,
        spans=stretch.spans,
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


def _finished(
    watch: Stopwatch, sound: SoundSpans | None, request: Request, unheard: Sequence[str] = ()
) -> Finished:
    notes = [*(lacks for lacks in [cut_off(request.path)] if lacks), *unheard]
    if sound is not None and sound.taken:
        notes.append(f"its sound is {sound.taken}")
    if sound is not None and sound.rms_db < request.preparation.silence_db:
        notes.append(f"its sound is silent (below {request.preparation.silence_db:g} dB)")
    if sound is not None and sound.damaged:
        notes.append("parts of its sound cannot be decoded and count as silence")
    return Finished(seconds=dict(watch.seconds), notes=tuple(notes))
