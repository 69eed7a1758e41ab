"""What one sample of a shard is: the members of the tar, the bytes of ``<key>.json``, the blocks.

A sample is ``<key>.mjpg`` (JPEG images one after another; left out if and only if ``images`` is
``absent``), ``<key>.wav`` (16 kHz mono 16-bit PCM of the same span; left out if and only if
``sound`` is ``absent``; one of the two is there) and ``<key>.json``. Frame i is at i / fps seconds
and sound sample j at j / sample_rate seconds after ``start_seconds``; sound alone is counted in
frames of the same clock.

``load_dataset("webdataset")`` of Hugging Face's ``datasets`` takes the types of all samples from
the first five of the first shard: these must have images and sound, and a field that is null in
all five has to stay null, unless it reads them as a stream.

The run of tar blocks that a sample takes (headers, images, sound, json and padding together) has a
checksum in the index, XXH3 with 64 bits, which ``reading/whole_sample.py`` compares. Damage that
nobody intends escapes it once in 2^64 cases; against an adversary there are the SHA-256 digests of
the json and of ``index.json``.

What is wrong with shards is told in one line; what is with samples can be counted by cause.

Source of XXH3: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
"""

from __future__ import annotations

import dataclasses
import json
import operator
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args

import xxhash

# Version 2 added faces.face_pixels, faces.align and loudness_db. Shards of version 1 are refused:
# what they lack cannot be known without the recordings, from which they are built again.
# Version 3 writes the runs of faces.found_by as objects, {"count":40,"how":"detected"}. Version 2
# had pairs, ["detected",40]: a list of two kinds is no type of Arrow, and `datasets` of Hugging
# Face, which types the first five samples by it, refused the shards. Both are read.
SCHEMA_VERSION = 3
READABLE_VERSIONS = (2, 3)
SAMPLE_RATE = 16000

SoundState = Literal["present", "absent", "silent", "shorter"]
ImageState = Literal["present", "absent"]
Label = str | int | float | bool

BLOCK = tarfile.BLOCKSIZE
_NAME_BYTES = 100  # of a tar header; a longer name goes before it, in blocks of its own (GNU)

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*(/[A-Za-z0-9_][A-Za-z0-9_-]*)*")


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file that a sample was made from.

    Args:
        path: Relative to the folder or manifest that named it, so that a rebuild elsewhere gives
            the same bytes.
        sha256: Digest of the whole file.
        cut_off: What it lacks of what its header announces (``hicmae.media.missing``), for
            people; left out of the file where that is nothing.
    """

    path: str
    sha256: str
    bytes: int
    cut_off: str = ""


@dataclass(frozen=True, kw_only=True)
class FaceInfo:
    """How the face of a sample was found.

    Args:
        policy: Which of several faces was taken (``largest``, …), or ``none``.
        detector: Name of the detector, or ``none``.
        coverage: Share of frames in which the detector found it, 0..1. Frames that the source
            lacks (``missing`` in ``found_by``) count as not found, also without a detector.
        found_by: Run lengths over the frames: ``(("detected", 40), ("interpolated", 3), …)``; in
            the json a list of objects with ``how`` and ``count``.
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
    """SHA-256 of the members; None of one that is not there."""

    mjpg: str | None
    wav: str | None


@dataclass(frozen=True, kw_only=True)
class SampleInfo:
    """The content of ``<key>.json``.

    Args:
        key: Name of the sample, unique in its collection, without dots.
        source: The video file; of sound alone, the file that was heard.
        start_seconds: Start of the span in the source, seconds after its beginning, as players
            count: its first picture or sound.
        fps: Constant frame rate of the mjpg, frames per second.
        num_frames: N images in the mjpg; of sound alone, frames at ``fps`` in its length.
        frame_offsets: N + 1 byte offsets into the mjpg; the last is its length. Without images: 0.
        face_size: Side of the square images, pixels; 0 without.
        sound: ``present``; ``absent`` (no wav); ``silent`` (below the silence level); ``shorter``
            (ends, or begins, noticeably inside the picture's span). Silence outranks shortness.
        num_samples: Sound samples of the wav, 0 if absent.
        padded_samples: How many of them are zeros put where the source has no sound.
        sample_rate: Of the wav, Hz.
        sound_source: The sound's own file, where it is not the video's.
        loudness_db: Level of the sound (root mean square, padding left out), decibels relative to
            full scale; None where it is absent or silent.
        sound_damaged: Whether parts of the sound could not be decoded; they are silent here.
        sound_taken: What was taken instead of the mix of the best track, where that loses the
            sound (``hicmae.media.sound_decoding.Track``); left out of the file where it is "".
        split: ``train``, ``test``, … as in the name of the shard.
        labels: Whatever else the manifest says: emotion, valence, fold, …
        picture: What was done with the stored pictures so that they are as players show them, by
            the names of ``hicmae.media.picture.Picture.changes``; left out of the file where that
            is nothing.
        sync: How mouth and voice go together (``hicmae.media.speaking.Agreement``); left out of
            the file where nobody asked.
        images: ``present``, or ``absent`` (no mjpg); left out of the file where present.
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
    sound_taken: str = ""
    split: str = "train"
    speaker: str | None = None
    labels: dict[str, Label] = field(default_factory=dict)
    picture: dict[str, Label] = field(default_factory=dict)
    sync: dict[str, Label] = field(default_factory=dict)
    images: ImageState = "present"
    schema_version: int = SCHEMA_VERSION

    @property
    def seconds(self) -> float:
        """Length of the picture, or of sound alone, seconds."""
        return self.num_frames / self.fps

    @property
    def has_sound(self) -> bool:
        """Whether there is a wav member (possibly silent)."""
        return self.sound != "absent"

    @property
    def has_images(self) -> bool:
        """Whether there is an mjpg member."""
        return self.images != "absent"

    @property
    def members(self) -> tuple[str, ...]:
        """Extensions of the members this sample must have, in the order of the tar."""
        there = {"mjpg": self.has_images, "wav": self.has_sound, "json": True}
        return tuple(name for name, is_there in there.items() if is_there)


def is_safe_key(key: str) -> bool:
    """Whether a key is a portable tar name that webdataset splits rightly (at the first dot)."""
    return len(key) <= 200 and _KEY.fullmatch(key) is not None


def sample_problems(info: SampleInfo) -> list[str]:
    """What contradicts itself in a sample's description; empty if nothing does."""
    problems = []
    offsets = info.frame_offsets
    if not is_safe_key(info.key):
        problems.append(f"key {info.key!r} is not made of letters, digits, '_', '-' and '/'")
    if info.images not in get_args(ImageState):
        problems.append(f"images {info.images!r} (allowed: {', '.join(get_args(ImageState))})")
    elif info.has_images != (info.digests.mjpg is not None) or not (
        info.has_images or (info.has_sound and offsets == (0,) and info.face_size == 0)
    ):
        problems.append(
            f"images are {info.images} but the mjpg digest is {info.digests.mjpg}, frame_offsets "
            f"begin {offsets[:2]}, face_size is {info.face_size} and sound is {info.sound}"
        )
    if info.num_frames < 1 or info.fps <= 0 or info.face_size < info.has_images:
        problems.append(
            f"num_frames {info.num_frames}, fps {info.fps}, face_size {info.face_size} "
            "(each must be positive)"
        )
    elif not info.has_images:
        pass
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


def sample_json(info: SampleInfo) -> bytes:
    """The bytes of ``<key>.json``: canonical, so that the same sample gives the same bytes."""
    values = dataclasses.asdict(info)
    if info.schema_version > 2:
        values["faces"]["found_by"] = [{"how": how, "count": n} for how, n in info.faces.found_by]
    for part in (values, values["source"], values["sound_source"] or {}):
        for name in [name for name in part if name in _LEFT_OUT and part[name] == _LEFT_OUT[name]]:
            del part[name]
    return (
        json.dumps(
            values,
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        ).encode()
        + b"\n"
    )


def reread_sample_json(data: bytes, where: str) -> SampleInfo:
    """Read a ``<key>.json`` whose bytes are proven to be those that were written.

    Who wrote it checked it; doing so again took 0.24 of the 3.5 ms of a clip, under a profiler.

    Args and Raises, as in ``parse_sample_json``, which sees what is not of this version.
    """
    try:
        raw = json.loads(data)
        if raw["schema_version"] in READABLE_VERSIONS:
            raw["source"] = SourceFile(**raw["source"])
            if raw["sound_source"] is not None:
                raw["sound_source"] = SourceFile(**raw["sound_source"])
            faces = raw["faces"]
            faces["found_by"] = _runs(faces["found_by"], raw["schema_version"])
            raw["faces"], raw["digests"] = FaceInfo(**faces), Digests(**raw["digests"])
            raw["frame_offsets"] = tuple(raw["frame_offsets"])
            return SampleInfo(**raw)
    except (ValueError, TypeError, KeyError):
        pass
    return parse_sample_json(data, where)


def parse_sample_json(data: bytes, where: str) -> SampleInfo:
    """Read and check ``<key>.json``.

    Args: where: How to name it in an error, such as ``train-000000.tar: sample 'a'``.
    Raises: ShardError: every problem found, in one line.
    """
    try:
        raw = json.loads(data)
    except ValueError as error:  # undecodable text is a ValueError too
        raise ShardError(f"{where}: its json cannot be read ({error}); rebuild it") from error
    if not isinstance(raw, dict):
        raise ShardError(f"{where}: its json holds {type(raw).__name__}, not an object")
    version = raw.get("schema_version")
    if version not in READABLE_VERSIONS:
        raise ShardError(f"{where}: {unreadable(version)}")
    problems: list[str] = []
    values = _checked(SampleInfo, raw, "", problems)
    for name, kind in (("source", SourceFile), ("faces", FaceInfo), ("digests", Digests)):
        if isinstance(values.get(name), dict):
            values[name] = _nested(kind, values[name], name, problems)
    if isinstance(values.get("faces"), FaceInfo):
        try:
            runs = _runs(values["faces"].found_by, version)
            values["faces"] = dataclasses.replace(values["faces"], found_by=runs)
        except (ValueError, TypeError, KeyError):
            form = "[how, count]" if version == 2 else '{"how": …, "count": …}'
            problems.append(f"faces.found_by is no list of {form}")
    if values.get("sound_source") is not None:
        values["sound_source"] = _nested(
            SourceFile, values["sound_source"], "sound_source", problems
        )
    if not problems:
        values["frame_offsets"] = tuple(values["frame_offsets"])
        info = SampleInfo(**values)
        problems = sample_problems(info)
        if not problems:
            return info
    raise ShardError(f"{where}: {'; '.join(problems)}")


def unreadable(version: object) -> str:
    """What to say of shards of a version that is not one of ``READABLE_VERSIONS``."""
    known = " and ".join(map(str, READABLE_VERSIONS))
    if isinstance(version, int) and version > SCHEMA_VERSION:
        remedy = "install a newer hicmae"
    else:
        remedy = "build these shards again from their recordings"
    return f"schema version {version!r}, this program reads {known}; {remedy}"


def blocks_of(first_name: str, first_offset: int, last_end: int) -> tuple[int, int]:
    """Where the blocks of a sample begin and end in its tar, bytes.

    Args:
        first_offset: Of that member's data, bytes.
        last_end: Where the data of its last member ends, bytes.
    """
    head = BLOCK
    length = len(first_name.encode())
    if length > _NAME_BYTES:  # a header that says so, and the name with a zero behind it
        head += BLOCK + _padded(length + 1)
    return first_offset - head, _padded(last_end)


def checksum(blocks: bytes) -> int:
    """XXH3 (64 bits, seed 0) of the blocks of a sample; never 0, which stands for none."""
    return xxhash.xxh3_64_intdigest(blocks) or 1


class ShardError(ValueError):
    """A shard, its index or one of its samples is not what the schema says; one line."""


class ClipError(ShardError):
    """A sample, or a whole shard, that cannot be read; one line, and a cause to count it by.

    A DataLoader re-raises the error of a worker process with that process's traceback as the
    message; the one line is taken out of it again.

    Args: cause: A slug: ``no-sound``, ``no-picture``, ``bad-digest``, ``bad-image``, ``bad-sound``,
        ``bad-json``, ``missing-member``, ``missing-shard``, ``truncated``, ``unreadable``,
        ``wrong-rate``.
    """

    def __init__(self, message: str, cause: str = "unreadable") -> None:
        if message.startswith(f"Caught {type(self).__name__} in DataLoader worker"):
            line = re.compile(rf"^[\w.]*{type(self).__name__}: (.*)$", re.MULTILINE)
            message = line.findall(message)[-1]
        super().__init__(" ".join(message.split()))
        self.cause = cause


@dataclass(frozen=True)
class Skipped:
    """Stands for a sample that was left out; ``collate`` counts it."""

    cause: str


# What a sample may lack: a member, and the setting that allows it.
LACKED = {"mjpg": "picture", "wav": "sound"}
_READ_AS = {"mjpg": "video", "wav": "audio"}


def needed_members(modalities: str, *, picture: bool, sound: bool) -> dict[str, str]:
    """The members without which a sample is bad, each with the setting that lets others in.

    Args:
        modalities: ``audio-video``, ``video`` or ``audio``: one that is read alone is needed.
        picture: Whether the picture is needed where both are read.
        sound: Whether the sound is.
    """
    if modalities != "audio-video":  # nothing stands in for what is read alone
        return {name: "on_bad: skip" for name, what in _READ_AS.items() if what == modalities}
    asked = {"mjpg": picture, "wav": sound}
    return {name: f"{LACKED[name]}: optional" for name, needed in asked.items() if needed}


def lacks(member: str, where: str, found: str, remedy: str = "") -> ClipError:
    """The error of a sample without a member of ``LACKED``; it has those that were ``found``.

    Args: remedy: The setting that lets it in; none where its json says that the member is there.
    """
    return ClipError(
        f"{where} has no {member} member (found {found}); "
        f"rebuild it{f' or pass {remedy}' if remedy else ''}",
        f"no-{LACKED[member]}" if remedy else "missing-member",
    )


def named_counts(counts: Mapping[str, int]) -> str:
    """Counts by cause, for a message: ``bad-image: 2, no-sound: 1``."""
    return ", ".join(f"{cause}: {count}" for cause, count in sorted(counts.items()))


_RUN = operator.itemgetter("how", "count")
# Fields that came later, and what they are of most samples: old shards stay as they were.
_LEFT_OUT: dict[str, Any] = {
    "picture": {},
    "sound_taken": "",
    "images": "present",
    "sync": {},
    "cut_off": "",
}
_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "bool": (bool,),
    "str | None": (str, type(None)),
    "SoundState": (str,),
    "ImageState": (str,),
    "SourceFile": (dict,),
    "FaceInfo": (dict,),
    "Digests": (dict,),
    "SourceFile | None": (dict, type(None)),
    "dict[str, Label]": (dict,),
    "tuple[int, ...]": (list,),
    "tuple[tuple[str, int], ...]": (list,),
}


def _checked(cls: type, raw: dict[str, Any], prefix: str, problems: list[str]) -> dict[str, Any]:
    """The fields of a dataclass in a parsed json; complains of missing, unknown, wrong types."""
    fields = _fields(cls)
    problems += [f"unknown field {prefix}{name}" for name in sorted(raw.keys() - fields.keys())]
    for name, (kinds, said) in fields.items():
        if name not in raw and name in _LEFT_OUT:
            continue
        if name not in raw:
            problems.append(f"no field {prefix}{name}")
            continue
        value = raw[name]
        if not isinstance(value, kinds) or (value.__class__ is bool and bool not in kinds):
            problems.append(f"{prefix}{name} is {json.dumps(value)[:40]} (must be {said})")
    return {name: raw[name] for name in fields if name in raw}


@cache
def _fields(cls: type) -> dict[str, tuple[tuple[type, ...], str]]:
    """Name → types a field may have in a parsed json, and how they are called."""
    return {item.name: (_KINDS[str(item.type)], str(item.type)) for item in dataclasses.fields(cls)}


def _nested(cls: type, raw: dict[str, Any], name: str, problems: list[str]) -> Any:
    """A part of the sample, or None with its problems noted."""
    found = len(problems)
    values = _checked(cls, raw, f"{name}.", problems)
    if len(problems) > found:
        return None
    return cls(**values)


def _runs(raw: Any, version: int) -> tuple[tuple[str, int], ...]:
    """``found_by`` as the json of a version has it.

    Raises: ValueError, TypeError, KeyError: it is something else.
    """
    runs = tuple((how, n) for how, n in raw) if version == 2 else tuple(map(_RUN, raw))
    if set(map(len, raw)) - {2} or any((type(how), type(n)) != (str, int) for how, n in runs):
        raise ValueError("a run that is not a word and a whole number")
    return runs


def _padded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK
