"""One recording in, its samples out: what a worker process of the build does.

For: decoding, alignment by time, and the order of things. Results are put into files of a staging
folder, so that neither worker nor build holds a long recording in memory. Not for: which
recordings there are (``manifest.py``), faces (``face.py``), JPEG and wav (``members.py``), or
tars (``writer.py``).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from hicmae.media.errors import MediaError
from hicmae.media.sound import Sound
from hicmae.media.video import open_video
from shards.face import FoundFace, RefusedError, find_face
from shards.keys import segment_key
from shards.manifest import ManifestRow, printable
from shards.members import span_sound, write_mjpg, write_wav
from shards.schema import Digests, SampleInfo, SourceFile
from shards.settings import BuildConfig
from shards.spans import frames_of_span, recording_sound, segments, source_file


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
class Prepared:
    """A sample whose members lie in the staging folder."""

    info: SampleInfo
    mjpg: Path
    wav: Path | None

    def remove(self) -> None:
        """Delete the staged files."""
        self.mjpg.unlink()
        if self.wav is not None:
            self.wav.unlink()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one recording."""

    samples: list[Prepared] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


def prepare_recording(row: ManifestRow, *, config: BuildConfig, staging: Path) -> Outcome:
    """Make the samples of one recording; whatever is wrong with it becomes a refusal.

    Args:
        row: The recording.
        config: How.
        staging: An existing folder for the members.
    """
    _settle_worker()
    path = printable(row.path)
    stem = hashlib.sha256(row.key.encode()).hexdigest()[:24]
    try:
        return _prepare(row, config, staging / stem)
    except MediaError as error:
        # The decoders name files absolutely; the user knows them as the sources do.
        of_audio = row.audio is not None and Path(error.path).absolute() == row.audio.absolute()
        name = printable(row.audio) if row.audio is not None and of_audio else path
        cause, message = error.cause, f"{name}: {' '.join(error.problem.split())}"
    except RefusedError as error:
        cause, message = error.cause, f"{path}: {error}"
    except FileNotFoundError:
        lost = row.audio if row.audio is not None and row.path.exists() else row.path
        cause, message = "missing-file", f"{printable(lost)}: no such file"
    except (OSError, MemoryError) as error:
        cause, message = "unreadable", f"{path}: {_one_line(error)}"
    except Exception as error:  # a decoder's surprise costs this recording and not the build
        cause, message = "error", f"{path}: {_one_line(error)}"
    for leftover in staging.glob(f"{stem}*"):
        leftover.unlink()
    return Outcome(refusals=[Refusal(path=path, cause=cause, message=message)])


@dataclass(frozen=True, kw_only=True)
class _Recording:
    """What the segments of a recording share.

    Args:
        first: Time of its very first frame, on the container's clock, seconds.
        start: Time of the span's first frame, likewise.
    """

    row: ManifestRow
    source: SourceFile
    sound: Sound | None
    sound_source: SourceFile | None
    face: FoundFace
    first: float
    start: float


def _prepare(row: ManifestRow, config: BuildConfig, stem: Path) -> Outcome:
    """Decode the span of a row, find the face in it, and write its segments."""
    outcome = Outcome()
    source = source_file(row.path, row.name)
    with open_video(row.path) as video:
        start, indices = frames_of_span(row, video, config)
        sound = recording_sound(row, video, start + len(indices) / config.fps, config)
        face, images = find_face(video, indices, config)  # images are made when asked for
        recording = _Recording(
            row=row,
            source=source,
            sound=sound,
            sound_source=source_file(row.audio, row.audio_name or row.audio.name)
            if row.audio is not None
            else None,
            face=face,
            first=float(video.timestamps[0]),
            start=start,
        )
        bounds = segments(len(indices), config)
        for number, (begin, end) in enumerate(bounds):
            segment = itertools.islice(images, end - begin)
            key = row.key if len(bounds) == 1 else segment_key(row.key, number)
            try:
                outcome.samples.append(
                    _segment(
                        recording,
                        begin,
                        end,
                        segment,
                        key,
                        config,
                        stem.with_name(f"{stem.name}-{number}"),
                    )
                )
            except RefusedError as error:
                outcome.refusals.append(
                    Refusal(
                        path=printable(row.path),
                        cause=error.cause,
                        message=f"{printable(row.path)}: {error}",
                    )
                )
                for _ in segment:  # the images of the next one come after these
                    pass
    return outcome


def _segment(
    recording: _Recording,
    begin: int,
    end: int,
    images: Iterator[np.ndarray],
    key: str,
    config: BuildConfig,
    stem: Path,
) -> Prepared:
    """Write one sample: frames ``begin`` to ``end`` of the span."""
    row, face = recording.row, recording.face
    offset, seconds = begin / config.fps, (end - begin) / config.fps
    since_first = recording.start - recording.first + offset
    where = f"{since_first:.2f}..{since_first + seconds:.2f} s"
    coverage = face.coverage(begin, end)
    if coverage == 0 or coverage < config.min_coverage:
        raise RefusedError(
            "no-face",
            f"{where}: {config.faces} finds a face in {coverage:.0%} of the frames "
            f"(min_coverage is {config.min_coverage:.0%})",
        )
    sound = span_sound(recording.sound, recording.start + offset, seconds, config.silence_db)
    if sound is None and config.sound == "required":
        raise RefusedError("no-sound", f"{where}: there is no sound in this span")
    mjpg, wav = stem.with_suffix(".mjpg"), stem.with_suffix(".wav")
    offsets, mjpg_digest = write_mjpg(
        mjpg, images, quality=config.jpeg_quality, chroma=config.chroma
    )
    assert len(offsets) == end - begin + 1, "one image for every frame"
    info = SampleInfo(
        key=key,
        source=recording.source,
        start_seconds=round(since_first, 6),
        end_seconds=round(since_first + seconds, 6),
        fps=config.fps,
        num_frames=end - begin,
        frame_offsets=offsets,
        face_size=config.face_size,
        sound="absent" if sound is None else sound.state,
        num_samples=0 if sound is None else len(sound.samples),
        padded_samples=0 if sound is None else sound.padded,
        sound_source=recording.sound_source,
        sound_damaged=recording.sound is not None and recording.sound.damaged,
        split=row.split,
        speaker=row.speaker,
        labels=row.labels,
        faces=face.describe(begin, end),
        digests=Digests(
            mjpg=mjpg_digest, wav=None if sound is None else write_wav(wav, sound.samples)
        ),
    )
    return Prepared(info=info, mjpg=mjpg, wav=None if sound is None else wav)


@functools.cache
def _settle_worker() -> None:
    """Once in a worker process: one thread, and decoders' own chatter to nowhere.

    What matters of it is in the refusals; libraries write the rest past Python to stderr.
    """
    if multiprocessing.parent_process() is None:
        return
    cv2.setNumThreads(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _one_line(error: BaseException) -> str:
    """Kind and text of an unexpected error, as a reader can report it."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
