"""One recording in, its samples out: what a worker process of the build does.

For: decoding, alignment by time, and the order of things. Results are put into files of a staging
folder, so that neither worker nor build holds a long recording in memory. Not for: which
recordings there are (``manifest.py``), faces (``face.py``), JPEG and wav (``members.py``), or
tars (``writer.py``).
"""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import os
from pathlib import Path

import cv2
import numpy as np

from hicmae.media.errors import MediaError
from hicmae.media.image_video import ImageReader
from shards.building.face import RefusedError, find_faces
from shards.building.outcome import Outcome, Prepared, Refusal
from shards.building.segment import Recording, add_segments
from shards.building.spans import (
    frames_of_span,
    open_recording,
    recording_sound,
    source_file,
    with_sound_beside,
)
from shards.keys import face_key
from shards.manifest import ManifestRow, printable
from shards.settings import BuildConfig

__all__ = ["Outcome", "Prepared", "Refusal", "prepare_recording"]


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
        row = with_sound_beside(row)
        return _prepare(row, config, staging / stem)
    except MediaError as error:
        cause = error.cause
        message = f"{_named(error.path, row)}: {' '.join(error.problem.split())}"
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


def _prepare(row: ManifestRow, config: BuildConfig, stem: Path) -> Outcome:
    """Decode the span of a row, find the face or the faces in it, and write their segments."""
    outcome = Outcome()
    several, num_faces = config.face_choice == "all", 0
    short: list[str] = []
    sound_source = None
    if row.audio is not None:
        sound_source = source_file(row.audio, row.audio_name or row.audio.name)
    for video in open_recording(row, config):
        with video:
            start, indices = frames_of_span(row, video, config)
            images = video.images.paths if isinstance(video, ImageReader) else None
            recording = Recording(
                row=row,
                source=source_file(row.path, row.name, images),
                sound=recording_sound(row, video, start + len(indices) / config.fps, config),
                sound_source=sound_source,
                first=video.start_seconds,
                start=start,
            )
            wanted = start + np.arange(len(indices)) / config.fps
            for face, crops in find_faces(video, row, indices, wanted, config):
                if several and len(face) / config.fps < config.min_seconds:
                    at = wanted[face.first] - video.start_seconds
                    short.append(f"{len(face) / config.fps:.2f} s at {at:.2f} s")
                    continue
                key = face_key(row.key, num_faces) if several else row.key
                staged = stem.with_name(f"{stem.name}-{num_faces}")
                add_segments(outcome, recording, face, crops, key, config, staged)
                num_faces += 1
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
