"""One recording in, its samples out: what a worker process of the build does.

The recording itself (frames, faces, sound, all times) is ``hicmae/media/recording.py``; here it is
cut into samples, whose members are written into files of a staging folder, so that neither worker
nor build holds a long recording in memory.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hicmae.bench import Stopwatch
from hicmae.media.boxes import boxes_of
from hicmae.media.container import problem_of
from hicmae.media.errors import MediaError
from hicmae.media.faces import open_detector
from hicmae.media.identity import shared_embedder
from hicmae.media.images import SOUND_SUFFIXES, ImageReader, StackReader
from hicmae.media.recording import (
    Finder,
    Picture,
    Recording,
    open_pictures,
    shared_detector,
    sound_file,
)
from hicmae.media.sound import Sound, read_sound, rms_db
from hicmae.media.sound_decoding import choose_track
from hicmae.media.speaking import Agreement
from hicmae.media.tracking import FaceTrack
from shards.building.faces import (
    check_rate,
    segments,
    speakers_of,
    speaking_faces,
    with_sound_beside,
)
from shards.building.members import source_file, write_mjpg, write_wav
from shards.manifest import ManifestRow, face_key, printable, segment_key
from shards.schema import (
    SAMPLE_RATE,
    Digests,
    FaceInfo,
    Label,
    SampleInfo,
    SoundState,
    SourceFile,
)
from shards.settings import BuildConfig

# Encoders end sound some milliseconds before the picture; from here on it is worth saying.
_SHORTER_SECONDS = 0.1

_Agree = Callable[[int, int], Agreement]  # of two frames of the recording


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A recording, or a segment of one, that did not become a sample.

    Args:
        path: The file.
        cause: A word to count it under, such as ``no-face``.
        message: One line that names the file.
    """

    path: str
    cause: str
    message: str


@dataclass(frozen=True, kw_only=True)
class StagedSample:
    """A sample whose members lie in the staging folder."""

    info: SampleInfo
    mjpg: Path | None
    wav: Path | None

    def remove(self) -> None:
        """Delete the staged files."""
        for member in (self.mjpg, self.wav):
            if member is not None:
                member.unlink()


@dataclass(kw_only=True)
class Outcome:
    """What became of one recording.

    Args:
        samples: In order.
        refusals: Of all of it, or of segments.
        seconds: Length of the picture, or of sound alone, that was gone through.
    """

    samples: list[StagedSample] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    seconds: float = 0.0


def prepare_recording(row: ManifestRow, *, config: BuildConfig, staging: Path) -> Outcome:
    """Make the samples of one recording; whatever is wrong with it becomes a refusal.

    Args:
        row: The recording.
        config: How.
        staging: An existing folder for the members.

    Raises: OSError: nothing can be written into ``staging``, for which no recording is to blame.
    """
    path = printable(row.path)
    stem = hashlib.sha256(row.key.encode()).hexdigest()[:24]
    try:
        row = with_sound_beside(row)
        return make_samples(row, config, staging / stem)
    except MediaError as error:
        cause = error.cause
        message = f"{_named(error.path, row)}: {' '.join(problem_of(error).split())}"
    except FileNotFoundError:
        lost = row.audio if row.audio is not None and row.path.exists() else row.path
        cause, message = "missing-file", f"{printable(lost)}: no such file"
    except (OSError, MemoryError) as error:
        written = getattr(error, "filename", None)
        if written is not None and Path(os.fsdecode(written)).is_relative_to(staging):
            raise
        cause, message = "unreadable", f"{path}: {_one_line(error)}"
    except Exception as error:  # a decoder's surprise costs this recording and not the build
        cause, message = "error", f"{path}: {_one_line(error)}"
    for leftover in staging.glob(f"{stem}*"):
        leftover.unlink()
    return Outcome(refusals=[Refusal(path=path, cause=cause, message=message)])


def make_samples(
    row: ManifestRow, config: BuildConfig, stem: Path, watch: Stopwatch | None = None
) -> Outcome:
    """Decode the span of a row, find the face or the faces in it, and write their segments.

    Where there is no picture, or none is wanted, the segments are of the sound alone.

    Args:
        row: The recording.
        config: How.
        stem: Of the names of the files that are written.
        watch: Counts processor time: ``decoding``, ``faces``, ``encoding``, ``sound``, ``digests``.

    Raises: MediaError, OSError: why it cannot be built.
    """
    row, watch = with_sound_beside(row), watch or Stopwatch()
    outcome, short, num_faces = Outcome(), list[str](), 0
    several, sound_source = config.face_choice == "all", None
    with watch.stage("decoding"):
        pictures = _pictures_of(row, config)
    if not pictures:
        return _sound_alone(row, config, stem, watch)
    with watch.stage("digests"):
        if row.audio is not None:
            sound_source = source_file(row.audio, row.audio_name or row.audio.name)
    for picture in pictures if several else pictures[:1]:
        with picture, watch.stage("decoding"):
            recording = Recording(
                row.path,
                picture,
                config,
                fps=config.fps,
                start=row.start,
                end=row.end,
                min_seconds=config.min_seconds,
                watch=watch,
            )
            images = picture.images.paths if isinstance(picture, ImageReader) else None
            with watch.stage("digests"):
                source = source_file(row.path, row.name, images)
            with watch.stage("sound"):
                sound = _sound_of(recording, row, config)
                if isinstance(picture, StackReader) and sound is not None:
                    check_rate(picture, row)
            maker = _SampleMaker(row, config, recording, sound, source, sound_source, watch)
            if config.faces == "boxes":
                remedy = "name one in the manifest's column boxes"
                finder: Finder = boxes_of(row.path, row.boxes, remedy=remedy)
            else:
                finder = shared_detector(config.faces, offline=config.offline)
            embedder = shared_embedder(config.identity, offline=config.offline)
            tracks = recording.follow(finder, region=row.region, embedder=embedder)
            speakers = speakers_of(recording, tracks, sound, config)
            faces = [(number, track, row.key) for number, track in enumerate(tracks)]
            if config.face_choice == "speaking":
                faces = speaking_faces(recording, speakers, row, config)
            for number, track, key in faces:
                length = len(track.boxes) / config.fps
                if config.follows_all and length < config.min_seconds:
                    at = recording.offset + track.first / config.fps
                    short.append(f"{length:.2f} s at {at:.2f} s")
                    continue
                key = face_key(row.key, num_faces) if several else key
                agree = None if speakers is None else functools.partial(speakers.agreement, number)
                maker.add(outcome, track, key, stem.with_name(f"{stem.name}-{num_faces}"), agree)
                num_faces += 1
            outcome.seconds += recording.seconds
    if short:
        listed = f"{', '.join(short[:3])}{', …' if len(short) > 3 else ''}"
        outcome.refusals.append(
            Refusal(
                path=printable(row.path),
                cause="short-face",
                message=f"{printable(row.path)}: {len(short)} of {len(short) + num_faces} faces "
                f"are seen for less than min_seconds = {config.min_seconds:g} ({listed})",
            )
        )
    return outcome


def check_detector(config: BuildConfig) -> None:
    """Open the detector once, so that a missing file is fetched, or said, before any work is done.

    Raises:
        FileNotFoundError: Its file is missing; the line says how to get it and what else there is.
        ValueError: Its file is not the known one.
    """
    try:
        open_detector(config.faces, offline=config.offline)
        shared_embedder(config.identity, offline=config.offline)
    except FileNotFoundError as error:
        remedy = "; give the right file in HICMAE_YUNET, or use --faces cascade"
        known = config.faces != "yunet" or "--faces cascade" in str(error) or "SFace" in str(error)
        raise FileNotFoundError(f"{error}{'' if known else remedy}") from error


@dataclass(frozen=True)
class _SampleMaker:
    """Writes the samples of the faces of one recording; what they share."""

    row: ManifestRow
    config: BuildConfig
    recording: Recording
    sound: Sound | None
    source: SourceFile
    sound_source: SourceFile | None
    watch: Stopwatch

    def add(
        self, outcome: Outcome, track: FaceTrack, key: str, stem: Path, agree: _Agree | None
    ) -> None:
        """Write the frames of one face as one sample, or as segments of it."""
        path = printable(self.row.path)
        face = _FoundFace(track, self.recording, self.config, agree)
        images = self.recording.crops(track)
        least, done = self.config.min_seconds * self.config.fps, 0
        runs = [run for run in track.seen if run[1] - run[0] >= least] or track.seen[:1]
        bounds = [
            (first + begin, first + end)
            for first, last in runs
            for begin, end in segments(last - first, self.config)
        ]
        for number, (begin, end) in enumerate(bounds):
            for _ in itertools.islice(images, begin - done):  # another scene
                pass
            segment, done = itertools.islice(images, end - begin), end
            name = key if len(bounds) == 1 else segment_key(key, number)
            staged = stem.with_name(f"{stem.name}-{number}")
            try:
                outcome.samples.append(self._segment(face, begin, end, segment, name, staged))
            except _LeftOutError as error:
                outcome.refusals.append(
                    Refusal(path=path, cause=error.cause, message=f"{path}: {error}")
                )
                for _ in segment:  # the images of the next one come after these
                    pass

    def _segment(
        self,
        face: _FoundFace,
        begin: int,
        end: int,
        images: Iterator[np.ndarray],
        key: str,
        stem: Path,
    ) -> StagedSample:
        """Write one sample: frames ``begin`` to ``end`` of those in which the face is."""
        row, config, recording, watch = self.row, self.config, self.recording, self.watch
        offset, seconds = (face.track.first + begin) / config.fps, (end - begin) / config.fps
        since = recording.offset + offset
        where = f"{since:.2f}..{since + seconds:.2f} s"
        coverage = face.coverage(begin, end)
        if coverage == 0 or coverage < config.min_coverage:
            raise _LeftOutError(
                "no-face",
                f"{where}: {config.faces} finds a face in {coverage:.0%} of the frames "
                f"(min_coverage is {config.min_coverage:.0%})",
            )
        with watch.stage("sound"):
            sound = _span_sound(self.sound, recording.start + offset, seconds, config.silence_db)
        if sound is None and config.sound == "required":
            raise _LeftOutError("no-sound", f"{where}: there is no sound in this span")
        mjpg, wav = stem.with_suffix(".mjpg"), stem.with_suffix(".wav")
        with watch.stage("encoding"):
            offsets, mjpg_digest = write_mjpg(mjpg, images, config)
        assert len(offsets) == end - begin + 1, "one image for every frame"
        with watch.stage("sound"):
            wav_digest = None if sound is None else write_wav(wav, sound.samples)
        info = SampleInfo(
            key=key,
            source=self.source,
            start_seconds=round(since, 6),
            end_seconds=round(since + seconds, 6),
            fps=config.fps,
            num_frames=end - begin,
            frame_offsets=offsets,
            face_size=config.face_size,
            **_told_of(sound, self.sound),
            sound_source=self.sound_source,
            split=row.split,
            speaker=row.speaker,
            labels=row.labels,
            faces=face.describe(begin, end),
            picture=recording.picture.changes,
            sync={} if sound is None or sound.state == "silent" else face.sync(begin, end),
            digests=Digests(mjpg=mjpg_digest, wav=wav_digest),
        )
        return StagedSample(info=info, mjpg=mjpg, wav=None if sound is None else wav)


class _LeftOutError(Exception):
    """A segment that is not made into a sample, and the word under which it counts."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class _FoundFace:
    """How a face was found, in parts of its track."""

    def __init__(
        self, track: FaceTrack, recording: Recording, config: BuildConfig, agree: _Agree | None
    ) -> None:
        part = slice(track.first, track.first + len(track.boxes))
        self.track, self._config, self._agree = track, config, agree
        self._indices, self._own = recording.indices[part], recording.own[part]

    def coverage(self, begin: int, end: int) -> float:
        """Share of the frames handed to the detector in which it found the face, an estimate for a
        part of the track; frames that the recording lacks count as not found.
        """
        own = float(self._own[begin:end].mean())
        if self._config.faces == "none" or (begin, end) == (0, len(self._indices)):
            return self.track.coverage * own
        part, words = self._indices[begin:end], self.track.found_by[begin:end]
        asked = max(1.0, len(np.unique(part)) / self._config.detect_every)
        return min(1.0, len(np.unique(part[words == "detected"])) / asked) * own

    def sync(self, begin: int, end: int) -> dict[str, Label]:
        """How mouth and voice go together in frames ``begin`` to ``end``; none: not asked for."""
        if self._agree is None:
            return {}
        found = self._agree(self.track.first + begin, self.track.first + end)
        return {name: round(value, 3) for name, value in found._asdict().items()}

    def describe(self, begin: int, end: int) -> FaceInfo:
        """What a sample of frames ``begin`` to ``end`` says."""
        words = np.where(self._own, self.track.found_by, "missing")[begin:end]
        pixels, faces = self.track.face_pixels, self._config.faces
        return FaceInfo(
            policy="none" if faces == "none" else self._config.face_choice,
            detector=faces,
            coverage=round(self.coverage(begin, end), 6),
            found_by=tuple(
                (word, len(list(run))) for word, run in itertools.groupby(map(str, words))
            ),
            face_pixels=None if pixels is None else round(pixels, 2),
            align=self._config.align,
        )


def is_sound(path: Path) -> bool:
    """Whether a file is a sound file by its suffix, so that no face is looked for."""
    return path.suffix.lower() in SOUND_SUFFIXES


def _pictures_of(row: ManifestRow, config: BuildConfig) -> list[Picture]:
    """The picture of a recording, opened; none where its sound is to be used alone.

    A file without picture and sound is refused for its picture.
    """
    if config.picture == "none":
        return []
    try:
        rate = row.fps or config.image_fps
        return open_pictures(row.path, image_fps=rate, colours=config.stack_colours)
    except MediaError as error:
        if error.cause != "no-video" or config.picture == "required" or row.path.is_dir():
            raise
        if row.audio is None:
            try:
                choose_track(row.path)
            except MediaError as other:
                raise (error if other.cause == "no-sound" else other) from None
        return []


def _sound_alone(row: ManifestRow, config: BuildConfig, stem: Path, watch: Stopwatch) -> Outcome:
    """Write the segments of a recording's sound; times count from its beginning.

    Raises: MediaError: ``no-sound``, ``too-short``, or as ``read_sound``.
    """
    path = sound_file(row.path, row.audio)
    with watch.stage("digests"):
        source = source_file(path, row.name if row.audio is None else row.audio_name or path.name)
    with watch.stage("sound"):
        sound = read_sound(path, sample_rate=SAMPLE_RATE, end_seconds=row.end, from_beginning=True)
    start = max(row.start or 0.0, sound.start_seconds)
    seconds = max(sound.start_seconds + sound.duration_seconds - start, 0.0)
    num_frames = math.floor(seconds * config.fps + 0.5)  # as for predicting
    if seconds < config.min_seconds or not num_frames:
        raise MediaError(
            "too-short",
            row.path,
            f"it holds {seconds:.2f} s of sound (min_seconds is {config.min_seconds:g})",
        )
    outcome = Outcome(seconds=num_frames / config.fps)
    bounds = segments(num_frames, config)
    for number, (begin, end) in enumerate(bounds):
        since, length = start + begin / config.fps, (end - begin) / config.fps
        wav = stem.with_name(f"{stem.name}-{number}").with_suffix(".wav")
        with watch.stage("sound"):
            span = _span_sound(sound, since, length, config.silence_db)
            assert span is not None, "it lies within the sound"
            digest = write_wav(wav, span.samples)
        info = SampleInfo(
            key=row.key if len(bounds) == 1 else segment_key(row.key, number),
            source=source,
            start_seconds=round(since, 6),
            end_seconds=round(since + length, 6),
            fps=config.fps,
            num_frames=end - begin,
            frame_offsets=(0,),
            face_size=0,
            **_told_of(span, sound),
            split=row.split,
            speaker=row.speaker,
            labels=row.labels,
            faces=FaceInfo(policy="none", detector="none", coverage=0.0, found_by=()),
            digests=Digests(mjpg=None, wav=digest),
            images="absent",
        )
        outcome.samples.append(StagedSample(info=info, mjpg=None, wav=wav))
    return outcome


def _told_of(span: _SpanSound | None, sound: Sound | None) -> dict[str, Any]:
    """What a sample says of its sound, and of the recording's."""
    return {
        "sound": "absent" if span is None else span.state,
        "num_samples": 0 if span is None else len(span.samples),
        "padded_samples": 0 if span is None else span.padded,
        "loudness_db": None if span is None else span.loudness_db,
        "sound_damaged": sound is not None and sound.damaged,
        "sound_taken": "" if span is None or sound is None else sound.taken,
    }


def _sound_of(recording: Recording, row: ManifestRow, config: BuildConfig) -> Sound | None:
    """The sound of a recording; None where it has none and need not have any."""
    try:
        return recording.sound(row.audio, sample_rate=SAMPLE_RATE)
    except MediaError as error:
        if error.cause == "no-sound" and row.audio is None and config.sound == "optional":
            return None
        raise


@dataclass(frozen=True, kw_only=True)
class _SpanSound:
    """The sound of one sample.

    Args:
        samples: (n,) int16, exactly as long as the picture.
        padded: How many of them are zeros because the recording has no sound there.
        state: ``present``, ``silent`` or ``shorter``.
        loudness_db: Level of what is not padding, decibels relative to full scale; None if silent.
    """

    samples: np.ndarray
    padded: int
    state: SoundState
    loudness_db: float | None


def _span_sound(
    sound: Sound | None, start_seconds: float, seconds: float, silence_db: float
) -> _SpanSound | None:
    """Cut the sound of a span of the picture; None if there is none in it.

    Args:
        sound: Of the recording, at ``SAMPLE_RATE``; None if it has none.
        start_seconds: Of the span, on the container's clock.
        seconds: Its length.
        silence_db: What counts as silent, decibels relative to full scale; of the part that is
            not padding.
    """
    if sound is None:
        return None
    num_samples = round(seconds * SAMPLE_RATE)
    samples, padded = sound.span(start_seconds, num_samples)
    if padded >= num_samples:
        return None
    level = rms_db(samples) + 10 * np.log10(num_samples / (num_samples - padded))
    if level < silence_db:
        state: SoundState = "silent"
    else:
        state = "shorter" if padded > _SHORTER_SECONDS * SAMPLE_RATE else "present"
    return _SpanSound(
        samples=samples,
        padded=padded,
        state=state,
        loudness_db=None if state == "silent" else round(float(level), 3),
    )


def settle_worker() -> None:
    """Once in a worker process: one thread, and decoders' own chatter to nowhere.

    What matters of it is in the refusals; libraries write the rest past Python to stderr.
    """
    cv2.setNumThreads(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _named(path: str, row: ManifestRow) -> str:
    """A file as the user knows it: the decoders name files absolutely."""
    for known in (row.path, row.audio):
        if known is not None and Path(path).absolute() == known.absolute():
            return printable(known)
    return printable(path)


def _one_line(error: BaseException) -> str:
    """Kind and text of an unexpected error, as a reader can report it."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
