"""The samples of one face of a recording: images, sound and description of each segment.

For: ``prepare.py``, which has found the face and decoded the sound. Not for: JPEG and wav
themselves (``members.py``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hicmae.media.sound import Sound
from shards.building.face import FoundFace, RefusedError
from shards.building.members import span_sound, write_mjpg, write_wav
from shards.building.outcome import Outcome, Prepared, Refusal
from shards.building.spans import segments
from shards.keys import segment_key
from shards.manifest import ManifestRow, printable
from shards.schema import Digests, SampleInfo, SourceFile
from shards.settings import BuildConfig


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What the samples of a recording share.

    Args:
        first: Where its picture begins, on its own clock, seconds.
        start: Time of the span's first frame, likewise.
    """

    row: ManifestRow
    source: SourceFile
    sound: Sound | None
    sound_source: SourceFile | None
    first: float
    start: float


def add_segments(
    outcome: Outcome,
    recording: Recording,
    face: FoundFace,
    images: Iterator[np.ndarray],
    key: str,
    config: BuildConfig,
    stem: Path,
) -> None:
    """Write the frames of one face as one sample, or as segments; append what became of them."""
    path = printable(recording.row.path)
    bounds = segments(len(face), config)
    for number, (begin, end) in enumerate(bounds):
        segment = itertools.islice(images, end - begin)
        name = key if len(bounds) == 1 else segment_key(key, number)
        staged = stem.with_name(f"{stem.name}-{number}")
        try:
            outcome.samples.append(
                _segment(recording, face, begin, end, segment, name, config, staged)
            )
        except RefusedError as error:
            outcome.refusals.append(
                Refusal(path=path, cause=error.cause, message=f"{path}: {error}")
            )
            for _ in segment:  # the images of the next one come after these
                pass


def _segment(
    recording: Recording,
    face: FoundFace,
    begin: int,
    end: int,
    images: Iterator[np.ndarray],
    key: str,
    config: BuildConfig,
    stem: Path,
) -> Prepared:
    """Write one sample: frames ``begin`` to ``end`` of those in which the face is."""
    row = recording.row
    offset, seconds = (face.first + begin) / config.fps, (end - begin) / config.fps
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
        loudness_db=None if sound is None else sound.loudness_db,
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
