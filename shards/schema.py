"""What one sample of a shard is: the members of the tar and the content of ``<key>.json``.

For: the writer, and every reader, which checks what it reads against this file. Not for: the
bytes of the json (``sample_json.py``), the index beside the shards (``index.py``), or pictures
and sound (``sample.py``).

A sample is ``<key>.mjpg`` (JPEG images one after another), ``<key>.wav`` (16 kHz mono 16-bit PCM
of the same span; left out if and only if ``sound`` is ``absent``) and ``<key>.json``. Frame i is
at i / fps seconds and sound sample j at j / sample_rate seconds after ``start_seconds``.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, field
from typing import Literal, get_args

# Version 2 added faces.face_pixels, faces.align and loudness_db. Shards of version 1 are refused:
# what they lack cannot be known without the recordings, from which they are built again.
SCHEMA_VERSION = 2
SAMPLE_RATE = 16000

SoundState = Literal["present", "absent", "silent", "shorter"]
Label = str | int | float | bool

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*(/[A-Za-z0-9_][A-Za-z0-9_-]*)*")


class ShardError(ValueError):
    """A shard, its index or one of its samples is not what the schema says; one line."""


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file that a sample was made from.

    Args:
        path: Relative to the folder or manifest that named it, so that a rebuild elsewhere gives
            the same bytes.
        sha256: Digest of the whole file.
        bytes: Its length.
    """

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class FaceInfo:
    """How the face of a sample was found.

    Args:
        policy: Which of several faces was taken (``largest``, …), or ``none``.
        detector: Name of the detector, or ``none``.
        coverage: Share of frames in which the detector found it, 0..1. Frames that the source
            lacks (``missing`` in ``found_by``) count as not found, also without a detector.
        found_by: Run lengths over the frames: ``(("detected", 40), ("interpolated", 3), …)``.
        face_pixels: Median side of the detector's box, without the margin, pixels of the source;
            None without a detector.
        align: ``eyes`` where the images are turned and scaled by the eyes, else ``none``.
    """

    policy: str
    detector: str
    coverage: float
    found_by: tuple[tuple[str, int], ...]
    face_pixels: float | None = None
    align: str = "none"


@dataclass(frozen=True, kw_only=True)
class Digests:
    """SHA-256 of the members; ``wav`` is None where there is no sound."""

    mjpg: str
    wav: str | None


@dataclass(frozen=True, kw_only=True)
class SampleInfo:
    """The content of ``<key>.json``.

    Args:
        key: Name of the sample, unique in its collection, without dots.
        source: The video file.
        start_seconds: Start of the span in the source, seconds after its first frame.
        end_seconds: End of the span.
        fps: Constant frame rate of the mjpg, frames per second.
        num_frames: N images in the mjpg.
        frame_offsets: N + 1 byte offsets into the mjpg; the last is its length.
        face_size: Side of the square images, pixels.
        sound: ``present``; ``absent`` (no wav); ``silent`` (below the silence level); ``shorter``
            (ends, or begins, noticeably inside the picture's span). Silence outranks shortness.
        num_samples: Sound samples of the wav, 0 if absent.
        padded_samples: How many of them are zeros put where the source has no sound.
        sample_rate: Of the wav, Hz.
        sound_source: The sound's own file, where it is not the video's.
        loudness_db: Level of the sound (root mean square, padding left out), decibels relative to
            full scale; None where it is absent or silent.
        sound_damaged: Whether parts of the sound could not be decoded; they are silent here.
        split: ``train``, ``test``, … as in the name of the shard.
        speaker: Who speaks, if known.
        labels: Whatever else the manifest says: emotion, valence, fold, …
        faces: How the face was found.
        digests: Of the members.
        schema_version: Of this file.
    """

    key: str
    source: SourceFile
    start_seconds: float
    end_seconds: float
    fps: float
    num_frames: int
    frame_offsets: tuple[int, ...]
    face_size: int
    sound: SoundState
    num_samples: int
    padded_samples: int
    faces: FaceInfo
    digests: Digests
    sample_rate: int = SAMPLE_RATE
    sound_source: SourceFile | None = None
    loudness_db: float | None = None
    sound_damaged: bool = False
    split: str = "train"
    speaker: str | None = None
    labels: dict[str, Label] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def seconds(self) -> float:
        """Length of the picture, seconds."""
        return self.num_frames / self.fps

    @property
    def has_sound(self) -> bool:
        """Whether there is a wav member (possibly silent)."""
        return self.sound != "absent"

    @property
    def members(self) -> tuple[str, ...]:
        """Extensions of the members this sample must have, in the order of the tar."""
        return ("mjpg", "wav", "json") if self.has_sound else ("mjpg", "json")


def is_safe_key(key: str) -> bool:
    """Whether a key is a portable tar name that webdataset splits rightly (at the first dot)."""
    return len(key) <= 200 and _KEY.fullmatch(key) is not None


def sample_problems(info: SampleInfo) -> list[str]:
    """What contradicts itself in a sample's description; empty if nothing does."""
    problems = []
    offsets = info.frame_offsets
    if not is_safe_key(info.key):
        problems.append(f"key {info.key!r} is not made of letters, digits, '_', '-' and '/'")
    if info.num_frames < 1 or info.fps <= 0 or info.face_size < 1:
        problems.append(
            f"num_frames {info.num_frames}, fps {info.fps}, face_size {info.face_size} "
            "(each must be positive)"
        )
    # Every reader parses every sample; loops in Python over 200 offsets took a third of that.
    elif not set(map(type, offsets)) <= {int}:
        problems.append("frame_offsets are not all whole numbers")
    elif len(offsets) != info.num_frames + 1 or offsets[0] != 0:
        problems.append(
            f"{len(offsets)} frame_offsets starting at {offsets[:1]} for {info.num_frames} frames "
            "(must be one more than frames, and start at 0)"
        )
    elif not all(map(operator.lt, offsets, offsets[1:])):
        problems.append("frame_offsets do not ascend")
    if info.sound not in get_args(SoundState):
        problems.append(f"sound {info.sound!r} (allowed: {', '.join(get_args(SoundState))})")
    elif info.has_sound != (info.num_samples > 0) or info.has_sound != (
        info.digests.wav is not None
    ):
        problems.append(
            f"sound is {info.sound} but num_samples is {info.num_samples} and the wav digest is "
            f"{info.digests.wav}"
        )
    if not 0 <= info.padded_samples <= info.num_samples:
        problems.append(f"padded_samples {info.padded_samples} of {info.num_samples}")
    return problems
