"""What a build asks of a recording's faces and sound before samples are cut: who speaks, where
segments begin, and whether a stack of pictures and its sound are of one length.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np

from hicmae.media.errors import MediaError
from hicmae.media.images import StackReader, sound_beside
from hicmae.media.recording import Recording, has_no_sound
from hicmae.media.sound import Sound, read_sound
from hicmae.media.speaking import Speakers
from hicmae.media.tracking import FaceTrack
from shards.manifest import ManifestRow, printable, segment_key
from shards.schema import SAMPLE_RATE
from shards.settings import BuildConfig


def speakers_of(
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


def speaking_faces(
    recording: Recording, speakers: Speakers | None, row: ManifestRow, config: BuildConfig
) -> list[tuple[int, FaceTrack, str]]:
    """The face that speaks in each segment, as long as it is seen: number, track and key."""
    assert speakers is not None, "without sound it was refused"
    bounds, found = segments(len(recording.indices), config), []
    for number, (begin, end) in enumerate(bounds):
        speaker = speakers.speaker(begin, end)
        if speaker is not None:
            key = row.key if len(bounds) == 1 else segment_key(row.key, number)
            found.append((speaker, speakers.tracks[speaker].between(begin, end), key))
    return found


def check_rate(stack: StackReader, row: ManifestRow) -> None:
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


def segments(num_frames: int, config: BuildConfig) -> list[tuple[int, int]]:
    """Cut frames into the fewest equal parts (begin, end) that are short enough."""
    if config.max_seconds is None:
        return [(0, num_frames)]
    most = max(1, int(config.max_seconds * config.fps + 1e-6))
    count = -(-num_frames // most)
    bounds = [num_frames * part // count for part in range(count + 1)]
    return list(itertools.pairwise(bounds))


def with_sound_beside(row: ManifestRow) -> ManifestRow:
    """Name the sound file of a folder of images, if it lies there and the row names none."""
    if row.audio is not None or not has_no_sound(row.path):
        return row
    audio = sound_beside(row.path)
    if audio is None:
        return row
    inside = audio.parent == row.path
    folder = PurePath(row.name) if inside else PurePath(row.name).parent
    return dataclasses.replace(row, audio=audio, audio_name=printable(Path(folder / audio.name)))
