"""What the jsons of all samples of a folder say together: digests by aspect, and how faces fared.

For: the receipt, and comparing two folders. Only the jsons are read, by the offsets of the index;
no image is decoded. Not for: whether the members are what their digests say (``check.py``).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shards.index import Index
from shards.reading.files import ShardFiles
from shards.sample_json import parse_sample_json
from shards.schema import SampleInfo

# What is compared by itself, and what it is made of.
ASPECTS = {
    "picture": "the bytes of the images",
    "sound": "the bytes of the sound, its state and padding",
    "time": "frame rate, numbers of frames and sound samples, span",
    "labels": "split, speaker and labels",
    "faces": "how the face was found: policy, detector, coverage, size, runs of frames",
    "source": "the bytes of the recording and of its sound file",
}
CONTENT = ("picture", "sound", "time", "labels")

_DIGEST_BYTES = 16  # of one aspect of one sample: 128 bits never collide by chance


@dataclass(frozen=True, kw_only=True)
class SampleFacts:
    """What the jsons say; the arrays have one row a sample, in the order of the index.

    Args:
        digests: Aspect → uint8 (N, 16).
        record_digests: uint8 (N, 16), of the whole json.
        keys: Of the samples.
        sources: Paths of their recordings, as their jsons name them.
        found_by: How the boxes of frames were found → number of frames.
        detectors: ``detector/policy/align`` → number of samples.
        face_sizes: Side of the images, pixels → number of samples.
        padded: Samples whose sound was padded, and the seconds put there.
        num_damaged_sounds: Samples parts of whose sound could not be decoded.
    """

    digests: dict[str, np.ndarray]
    record_digests: np.ndarray
    keys: list[str]
    sources: list[str]
    found_by: dict[str, int]
    detectors: dict[str, int]
    face_sizes: dict[str, int]
    padded: tuple[int, float]
    num_damaged_sounds: int

    def digest(self, *aspects: str) -> str:
        """SHA-256 over some aspects of all samples by key, however they lie in shards; hex."""
        digest = hashlib.sha256()
        for number in sorted(range(len(self.keys)), key=self.keys.__getitem__):
            digest.update(self.keys[number].encode() + b"\0")
            for aspect in aspects:
                digest.update(self.digests[aspect][number].tobytes())
        return digest.hexdigest()

    def ordered_digest(self) -> str:
        """SHA-256 over the whole jsons, which hold the digests of their members, in order; hex."""
        return hashlib.sha256(self.record_digests.tobytes()).hexdigest()


def read_facts(index: Index) -> SampleFacts:
    """Read the json of every sample; each costs time, and a few hundred bytes of memory.

    Raises:
        ShardError: A shard is missing or cut off, or a json cannot be read; names the sample.
    """
    table = index.table
    digests = {aspect: np.zeros((len(table), _DIGEST_BYTES), dtype=np.uint8) for aspect in ASPECTS}
    records = np.zeros((len(table), _DIGEST_BYTES), dtype=np.uint8)
    found_by: Counter[str] = Counter()
    detectors: Counter[str] = Counter()
    face_sizes: Counter[int] = Counter()
    num_padded, padded_seconds, num_damaged = 0, 0.0, 0
    sources: list[str] = []
    for number, (data, info) in enumerate(sample_infos(index)):
        records[number] = np.frombuffer(_digest(data), dtype=np.uint8)
        for aspect, value in _aspects(info).items():
            digests[aspect][number] = np.frombuffer(_digest(_canonical(value)), dtype=np.uint8)
        sources.append(info.source.path)
        for word, count in info.faces.found_by:
            found_by[word] += count
        detectors[f"{info.faces.detector}/{info.faces.policy}/{info.faces.align}"] += 1
        face_sizes[info.face_size] += 1
        num_padded += info.padded_samples > 0
        padded_seconds += info.padded_samples / info.sample_rate
        num_damaged += info.sound_damaged
    return SampleFacts(
        digests=digests,
        record_digests=records,
        keys=[str(key) for key in table["key"]],
        sources=sources,
        found_by=dict(sorted(found_by.items())),
        detectors=dict(sorted(detectors.items())),
        face_sizes={str(side): count for side, count in sorted(face_sizes.items())},
        padded=(num_padded, padded_seconds),
        num_damaged_sounds=num_damaged,
    )


def sample_infos(
    index: Index, numbers: Sequence[int] | None = None
) -> Iterator[tuple[bytes, SampleInfo]]:
    """The jsons of samples, one after another.

    Args:
        index: Of the folder.
        numbers: Rows of the index, in the order wanted; none given: all.

    Returns: iterator over (bytes of the json, what they say).
    """
    columns = ["key", "shard", "json_offset", "json_length"]
    table = index.table[columns]
    if numbers is not None:
        table = table.iloc[list(numbers)]
    files = ShardFiles(index.folder)
    for key, shard, offset, length in table.itertuples(index=False, name=None):
        where = f"{index.folder / shard}: sample {key!r}"
        data = files.read(shard, int(offset), int(length), where)
        yield data, parse_sample_json(data, where)


def _aspects(info: SampleInfo) -> dict[str, Any]:
    """The aspects of a sample as plain values, in the order of ``ASPECTS``."""
    return {
        "picture": info.digests.mjpg,
        "sound": [info.digests.wav, info.sound, info.padded_samples],
        "time": [
            info.fps,
            info.num_frames,
            info.num_samples,
            info.sample_rate,
            round(info.start_seconds, 6),
            round(info.end_seconds, 6),
        ],
        "labels": [info.split, info.speaker, info.labels],
        "faces": dataclasses.asdict(info.faces),
        "source": [
            info.source.sha256,
            None if info.sound_source is None else info.sound_source.sha256,
        ],
    }


def _canonical(value: Any) -> bytes:
    """The same bytes for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()
