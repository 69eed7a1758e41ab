"""One recording in, its samples out: what a worker process of the build does.

The recording itself (frames, faces, sound, all times) is ``hicmae/media/recording.py``; here it is
cut into samples, whose members are written into files of a staging folder, so that neither worker
nor build holds a long recording in memory.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np

from hicmae.bench import Stopwatch
from hicmae.media.boxes import boxes_of
from hicmae.media.errors import MediaError
from hicmae.media.faces import open_detector
from hicmae.media.identity import shared_embedder
from hicmae.media.images import ImageReader, StackReader, sound_beside
from hicmae.media.missing import problem_of
from hicmae.media.recording import (
    ROUNDING_SECONDS,
    Finder,
    Picture,
    Recording,
    has_no_sound,
    open_pictures,
    shared_detector,
    sound_file,
    span_words,
)
from hicmae.media.sound import Sound, read_sound, rms_db
from hicmae.media.sound_decoding import choose_track
from hicmae.media.speaking import Agreement, Speakers
from hicmae.media.tracking import FaceTrack, runs_of
from shards.building.writer import source_file, write_mjpg, write_wav
from shards.manifest import ManifestRow, face_key, printable, segment_key
from shards.schema import SAMPLE_RATE, Digests, FaceInfo, Label, SampleInfo, SourceFile
from shards.settings import BuildConfig
from shards.traces import moved

# Encoders end sound some milliseconds before the picture; from here on it is worth saying.
_SHORTER_SECONDS = 0.1

_Agree = Callable[[int, int], Agreement]  # of two frames of the recording


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A recording, or a segment of one, that did not become a sample.

    Args:
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
        refusals: Of all of it, or of segments.
        seconds: Length of the picture, or of sound alone, that was gone through.
    """

    samples: list[StagedSample] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    seconds: float = 0.0


def prepare_recording(row: ManifestRow, *, config: BuildConfig, staging: Path) -> Outcome:
    """Make the samples of one recording; whatever is wrong with it becomes a refusal.

    Their members are written into ``staging``, an existing folder.

    Raises: OSError: nothing can be written there, for which no recording is to blame.
    """
    path = printable(row.path)
    stem = hashlib.sha256(row.key.encode()).hexdigest()[:24]
    try:
        row = _with_sound_beside(row)
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
        stem: Of the names of the files that are written.
        watch: Counts processor time: ``decoding``, ``faces``, ``encoding``, ``sound``, ``digests``.

    Raises: MediaError, OSError: why it cannot be built.
    """
    row, watch = _with_sound_beside(row), watch or Stopwatch()
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
                    _check_rate(picture, row)
            maker = _SampleMaker(row, config, recording, sound, source, sound_source, watch)
            if config.faces == "boxes":
                remedy = "name one in the manifest's column boxes"
                finder: Finder = boxes_of(row.path, row.boxes, remedy=remedy)
            else:
                finder = shared_detector(config, offline=config.offline)
            embedder = shared_embedder(config.identity, offline=config.offline)
            tracks = recording.follow(finder, region=row.region, embedder=embedder)
            speakers = _speakers_of(recording, tracks, sound, config)
            faces = [(number, track, row.key) for number, track in enumerate(tracks)]
            if config.face_choice == "speaking":
                faces = _speaking_faces(recording, speakers, row, config)
            for number, track, key in faces:
                length = len(track.boxes) / config.fps
                if config.follows_all and length < min(config.min_seconds, recording.seconds):
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
        seen = f"{len(short)} of {len(short) + num_faces} faces are seen for less than"
        message = f"{seen} min_seconds = {config.min_seconds:g} ({listed})"
        outcome.refusals.append(refusal_of(row, "short-face", message))
    return outcome


def check_detector(config: BuildConfig) -> None:
    """Open the detector once, so that a missing file is fetched, or said, before any work is done.

    Raises:
        FileNotFoundError: Its file is missing; the line says how to get it and what else there is.
        ValueError: Its file is not the known one.
    """
    try:
        open_detector(config.faces, config.detector, offline=config.offline)
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
        face = _FoundFace(track, self.recording, self.config, agree)
        images = self.recording.crops(track)
        least, done = self.config.min_seconds * self.config.fps, 0
        runs = [run for run in track.seen if run[1] - run[0] >= least] or track.seen[:1]
        bounds = [
            (first + begin, first + end)
            for first, last in runs
            for begin, end in _segments(last - first, self.config)
        ]
        for number, (begin, end) in enumerate(bounds):
            for _ in itertools.islice(images, begin - done):  # another scene
                pass
            segment, done = itertools.islice(images, end - begin), end
            name = key if len(bounds) == 1 else segment_key(key, number)
            staged = stem.with_name(f"{stem.name}-{number}")
            made = self._segment(face, begin, end, segment, name, staged)
            if isinstance(made, StagedSample):
                outcome.samples.append(made)
                continue
            outcome.refusals.append(made)
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
    ) -> StagedSample | Refusal:
        """Write one sample: frames ``begin`` to ``end`` of those in which the face is."""
        row, config, recording, watch = self.row, self.config, self.recording, self.watch
        offset, seconds = (face.track.first + begin) / config.fps, (end - begin) / config.fps
        since = recording.offset + offset
        where = f"{since:.2f}..{since + seconds:.2f} s"
        coverage = face.coverage(begin, end)
        if coverage == 0 or coverage < config.min_coverage:
            found = f"{config.faces} finds a face in {coverage:.0%} of the frames"
            least = f"(min_coverage is {config.min_coverage:.0%})"
            return refusal_of(row, "no-face", f"{where}: {found} {least}")
        with watch.stage("sound"):
            at = recording.start + offset
            sound, told = _span_sound(self.sound, at, seconds, config.silence_db)
        if sound is None and config.sound == "required":
            return refusal_of(row, "no-sound", f"{where}: there is no sound in this span")
        mjpg, wav = stem.with_suffix(".mjpg"), stem.with_suffix(".wav")
        with watch.stage("encoding"):
            offsets, mjpg_digest = write_mjpg(mjpg, images, config)
        assert len(offsets) == end - begin + 1, "one image for every frame"
        with watch.stage("sound"):
            wav_digest = None if sound is None else write_wav(wav, sound)
        info = SampleInfo(
            key=key,
            source=self.source,
            start_seconds=round(since, 6),
            end_seconds=round(since + seconds, 6),
            fps=config.fps,
            num_frames=end - begin,
            frame_offsets=offsets,
            face_size=config.face_size,
            **told,
            sound_source=self.sound_source,
            split=row.split,
            speaker=row.speaker,
            labels=moved(row.labels, since - (row.start or 0.0)),
            faces=face.describe(begin, end),
            picture=recording.picture.changes,
            sync={} if told["sound"] in ("absent", "silent") else face.sync(begin, end),
            digests=Digests(mjpg=mjpg_digest, wav=wav_digest),
        )
        return StagedSample(info=info, mjpg=mjpg, wav=None if sound is None else wav)


def refusal_of(row: ManifestRow, cause: str, text: str) -> Refusal:
    """A recording that is refused, and why; the message begins with its path."""
    path = printable(row.path)
    return Refusal(path=path, cause=cause, message=f"{path}: {text}")


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
            found_by=runs_of(words),
            face_pixels=None if pixels is None else round(pixels, 2),
            align=self._config.align,
        )


def _with_sound_beside(row: ManifestRow) -> ManifestRow:
    """Name the sound file of a folder of images, if it lies there and the row names none."""
    if row.audio is not None or not has_no_sound(row.path):
        return row
    audio = sound_beside(row.path)
    if audio is None:
        return row
    inside = audio.parent == row.path
    folder = PurePath(row.name) if inside else PurePath(row.name).parent
    return dataclasses.replace(row, audio=audio, audio_name=printable(Path(folder / audio.name)))


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


def _speakers_of(
    recording: Recording, tracks: Sequence[FaceTrack], sound: Sound | None, config: BuildConfig
) -> Speakers | None:
    """The faces held against the sound, where that is asked for and there is any.

    Raises: MediaError: ``no-sound``, where it has to say who speaks.
    """
    if not config.needs_mouths:
        return None
    if sound is None or sound.rms_db < config.silence_db:
        if config.face_choice == "speaking":
            found = "no" if sound is None else "only silent"
            problem = (
                f"there is {found} sound to tell who speaks (--face_choice largest needs none)"
            )
            raise MediaError("no-sound", recording.path, problem)
        return None

    def cut(first: int, count: int) -> np.ndarray:
        return sound.span(recording.start + first / SAMPLE_RATE, count)[0]

    return Speakers(recording, tracks).hear(cut, SAMPLE_RATE)


def _speaking_faces(
    recording: Recording, speakers: Speakers | None, row: ManifestRow, config: BuildConfig
) -> list[tuple[int, FaceTrack, str]]:
    """The face that speaks in each segment, as long as it is seen: number, track and key."""
    assert speakers is not None, "without sound it was refused"
    bounds, found = _segments(len(recording.indices), config), []
    for number, (begin, end) in enumerate(bounds):
        speaker = speakers.speaker(begin, end)
        if speaker is not None:
            key = row.key if len(bounds) == 1 else segment_key(row.key, number)
            found.append((speaker, speakers.tracks[speaker].between(begin, end), key))
    return found


def _check_rate(stack: StackReader, row: ManifestRow) -> None:
    """Refuse a rate at which pictures, which say no times, and their sound differ by a tenth.

    Raises: MediaError: ``no-rate``.
    """
    lasts = read_sound(row.audio or row.path, sample_rate=SAMPLE_RATE).duration_seconds
    if abs(stack.duration_seconds - lasts) > max(0.5, 0.1 * lasts):
        raise MediaError(
            "no-rate",
            stack.path,
            f"{len(stack)} pictures at {stack.fps:g} a second last {stack.duration_seconds:.2f} s, "
            f"their sound {lasts:.2f} s: --image_fps {len(stack) / lasts:.3g} fits, if no picture "
            "is missing",
        )


def _segments(num_frames: int, config: BuildConfig) -> list[tuple[int, int]]:
    """Cut frames into the fewest equal parts (begin, end) that are short enough."""
    if config.max_seconds is None:
        return [(0, num_frames)]
    most = max(1, int(config.max_seconds * config.fps + 1e-6))
    count = -(-num_frames // most)
    bounds = [num_frames * part // count for part in range(count + 1)]
    return list(itertools.pairwise(bounds))


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
    if seconds + ROUNDING_SECONDS < config.min_seconds or not num_frames:
        raise MediaError(
            "too-short",
            row.path,
            f"{span_words(row.start, row.end) or 'it'} holds {seconds:.2f} s of sound "
            f"(min_seconds is {config.min_seconds:g})",
        )
    outcome = Outcome(seconds=num_frames / config.fps)
    bounds = _segments(num_frames, config)
    for number, (begin, end) in enumerate(bounds):
        since, length = start + begin / config.fps, (end - begin) / config.fps
        wav = stem.with_name(f"{stem.name}-{number}").with_suffix(".wav")
        with watch.stage("sound"):
            span, told = _span_sound(sound, since, length, config.silence_db)
            assert span is not None, "it lies within the sound"
            digest = write_wav(wav, span)
        info = SampleInfo(
            key=row.key if len(bounds) == 1 else segment_key(row.key, number),
            source=source,
            start_seconds=round(since, 6),
            end_seconds=round(since + length, 6),
            fps=config.fps,
            num_frames=end - begin,
            frame_offsets=(0,),
            face_size=0,
            **told,
            split=row.split,
            speaker=row.speaker,
            labels=moved(row.labels, since - (row.start or 0.0)),
            faces=FaceInfo(policy="none", detector="none", coverage=0.0, found_by=()),
            digests=Digests(mjpg=None, wav=digest),
            images="absent",
        )
        outcome.samples.append(StagedSample(info=info, mjpg=None, wav=wav))
    return outcome


def _sound_of(recording: Recording, row: ManifestRow, config: BuildConfig) -> Sound | None:
    """The sound of a recording; None where it has none and need not have any."""
    try:
        return recording.sound(row.audio, sample_rate=SAMPLE_RATE)
    except MediaError as error:
        if error.cause == "no-sound" and row.audio is None and config.sound == "optional":
            return None
        raise


def _span_sound(
    sound: Sound | None, start_seconds: float, seconds: float, silence_db: float
) -> tuple[np.ndarray | None, dict[str, Any]]:
    """Cut the sound of a span of the picture, which starts at ``start_seconds`` on the container's
    clock: (n,) int16 at ``SAMPLE_RATE``, exactly as long as the picture, None if there is none in
    it; and fields of ``SampleInfo``. ``silence_db``: below this level, decibels relative to full
    scale, what is not padding counts as silent.
    """
    told: dict[str, Any] = {"sound": "absent", "num_samples": 0, "padded_samples": 0}
    if sound is None:
        return None, told
    told["sound_damaged"] = sound.damaged
    num_samples = round(seconds * SAMPLE_RATE)
    samples, padded = sound.span(start_seconds, num_samples)
    if padded >= num_samples:
        return None, told
    level = rms_db(samples) + 10 * np.log10(num_samples / (num_samples - padded))
    state = "shorter" if padded > _SHORTER_SECONDS * SAMPLE_RATE else "present"
    if level < silence_db:
        state = "silent"
    else:
        told["loudness_db"] = round(float(level), 3)
    told |= {"sound": state, "num_samples": len(samples), "padded_samples": padded}
    return samples, told | {"sound_taken": sound.taken}


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
