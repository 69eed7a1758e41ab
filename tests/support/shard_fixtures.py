"""Small shards, written with the project's own writer: every pixel and sound value of a sample says
which sample and which time it is from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hicmae.settings import InputConfig
from shards.building.writer import ShardWriter
from shards.index import write_index
from shards.schema import Digests, FaceInfo, Label, SampleInfo, SourceFile

Sample = tuple[SampleInfo, bytes | None, bytes | None]

SIDE = 32
INPUT = InputConfig(
    image_size=SIDE, num_frames=4, frame_stride=2, fbank_frames=32, mel_bins=32
)  # 0.32 s, 5120 sound samples


def frame_value(sample: int, frame: int) -> tuple[int, int, int]:
    """The colour (RGB) of a whole frame: red tells the sample, green the frame."""
    return 20 + 10 * (sample % 20), 20 + 4 * (frame % 50), 60


def sound_values(sample: int, num_samples: int) -> np.ndarray:
    """Sound whose values tell the sample and the time, int16."""
    return ((np.arange(num_samples) + 101 * sample) % 30000 + 1).astype(np.int16)


def jpeg(colour: tuple[int, int, int], side: int = SIDE) -> bytes:
    """An image of one colour (RGB)."""
    image = np.empty((side, side, 3), dtype=np.uint8)
    image[...] = colour[::-1]
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def wav_bytes(samples: np.ndarray, sample_rate: int = 16000) -> bytes:
    """A wav file, by the standard library."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sample_rate)
        writer.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()


def make_sample(
    number: int,
    *,
    num_frames: int = 25,
    sound: bool = True,
    picture: bool = True,
    fps: float = 25.0,
    side: int = SIDE,
    split: str = "train",
    labels: dict[str, Label] | None = None,
    comment: str = "",
) -> Sample:
    """A sample whose frames and sound are ``frame_value`` and ``sound_values``; one may lack.

    ``comment`` stands in its first picture, of which no pixel is another.
    """
    jpegs = [jpeg(frame_value(number, frame), side) for frame in range(num_frames)]
    words = comment.encode()
    segment = b"\xff\xfe" + (len(words) + 2).to_bytes(2, "big") + words if comment else b""
    jpegs[0] = jpegs[0][:2] + segment + jpegs[0][2:]
    values = sound_values(number, round(num_frames / fps * 16000))
    sample = describe(
        f"id{number % 5:02d}/{number:05d}",
        jpegs,
        wav_bytes(values) if sound else None,
        fps=fps,
        face_size=side,
        split=split,
        labels=labels or {},
    )
    return sample if picture else without_picture(sample)


def without_picture(sample: Sample) -> Sample:
    """The sound of a sample alone."""
    info, _, wav = sample
    faces = FaceInfo(policy="none", detector="none", coverage=0.0, found_by=())
    digests = dataclasses.replace(info.digests, mjpg=None)
    told: dict[str, Any] = {"frame_offsets": (0,), "face_size": 0, "images": "absent"}
    return dataclasses.replace(info, faces=faces, digests=digests, **told), None, wav


def describe(key: str, jpegs: Sequence[bytes], wav: bytes | None, **values: Any) -> Sample:
    """A sample of these members; ``values`` are what the members do not tell, or tell otherwise."""
    mjpg = b"".join(jpegs)
    num_frames = len(jpegs)
    told: dict[str, Any] = {
        "source": SourceFile(path=f"{key}.mp4", sha256="0" * 64, bytes=1),
        "start_seconds": 0.0,
        "end_seconds": num_frames / values.setdefault("fps", 25.0),
        "num_frames": num_frames,
        "frame_offsets": tuple(np.cumsum([0, *map(len, jpegs)]).tolist()),
        "face_size": SIDE,
        "sound": "absent" if wav is None else "present",
        "num_samples": 0 if wav is None else (len(wav) - 44) // 2,  # behind the header
        "padded_samples": 0,
        "faces": FaceInfo(
            policy="none", detector="none", coverage=1.0, found_by=(("given", num_frames),)
        ),
        "digests": Digests(
            mjpg=hashlib.sha256(mjpg).hexdigest(),
            wav=None if wav is None else hashlib.sha256(wav).hexdigest(),
        ),
        "speaker": key.partition("/")[0],
    }
    return SampleInfo(key=key, **told | values), mjpg, wav


def write_shards(
    folder: Path,
    samples: Sequence[Sample],
    samples_per_shard: int = 4,
    **build: Any,
) -> Path:
    """Write shards and their index, which says ``build`` too; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with ShardWriter(folder, samples_per_shard=samples_per_shard) as writer:
        for sample in samples:
            writer.add(*sample)
    write_index(folder, writer.rows, {"config": {}, "shards": writer.shards, **build})
    return folder


def rewrite_shard(path: Path, change: dict[str, bytes | None]) -> None:
    """Replace members of a tar by name, or leave them out (None); the index stays as it was."""
    with tarfile.open(path) as old:
        members = {member.name: old.extractfile(member).read() for member in old}  # type: ignore[union-attr]
    assert change.keys() <= members.keys(), (change.keys(), members.keys())
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as new:
        for name, data in (members | change).items():
            if data is not None:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                new.addfile(member, io.BytesIO(data))
