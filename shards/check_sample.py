"""Is one sample what its index row, its json and the schema say?

For: ``check.py``. Every image is decoded. Not for: reading samples to train on (``reader.py``).
"""

from __future__ import annotations

import hashlib
import io
import wave
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import pandas

from shards.blocks import blocks_of, checksum
from shards.sample_json import parse_sample_json
from shards.schema import SampleInfo, ShardError

MEMBERS = ("mjpg", "wav", "json")


def check_sample(
    file: io.BufferedReader,
    row: Mapping[str, Any],
    label_columns: Sequence[str],
    present: Sequence[str],
    found: dict[str, tuple[int, int]] | None,
) -> Iterator[str]:
    """Find what is wrong with one sample: members, offsets, json, images, sound.

    Args:
        file: Its shard.
        row: Of the index.
        label_columns: Columns of the index that are labels.
        present: Extensions of the members that the index tells of.
        found: Name → (offset, length) of the members of the tar; None if it cannot be listed,
            and then the index is believed.

    Returns: messages, without the names of shard and sample.
    """
    contents: dict[str, bytes] = {}
    for kind in present:
        offset, length = int(row[f"{kind}_offset"]), int(row[f"{kind}_length"])
        member = None if found is None else found.get(f"{row['key']}.{kind}")
        if found is not None and member is None:
            yield f"has no {kind} member"
            continue
        if member is not None and member != (offset, length):
            yield (
                f"its {kind} is at byte {member[0]} with {member[1]} bytes, the index says "
                f"{offset} with {length}"
            )
            offset, length = member
        file.seek(offset)
        contents[kind] = file.read(length)
        if len(contents[kind]) < length:
            yield f"its {kind} ends after {len(contents[kind])} of {length} bytes"
            del contents[kind]
    if "json" not in contents:
        if "json" not in present:
            yield "has no json member"
        return
    try:
        info = parse_sample_json(contents["json"], "its json")
    except ShardError as error:
        yield str(error)
        return
    missing = [kind for kind in info.members if kind not in present]
    if missing:
        yield f"its json tells of a {' and a '.join(missing)}, the index of none"
    if "wav" in present and not info.has_sound:
        yield "its json says that it has no sound, the index has a wav"
    yield from _check_row(label_columns, row, info)
    for kind, digest in (("mjpg", info.digests.mjpg), ("wav", info.digests.wav)):
        if kind in contents and digest and hashlib.sha256(contents[kind]).hexdigest() != digest:
            yield f"its {kind} is not the one that was built (sha256)"
    if "mjpg" in contents:
        yield from _check_images(contents["mjpg"], info)
    if "wav" in contents:
        yield from _check_sound(contents["wav"], info)


def has_its_checksum(file: io.BufferedReader, row: Mapping[str, Any]) -> bool:
    """Whether the blocks of a sample in its shard are those that the index tells of, if it does.

    Args:
        file: Its shard, in which its members are where the index says.
        row: Of the index.
    """
    end = int(row["json_offset"]) + int(row["json_length"])
    begin, end = blocks_of(f"{row['key']}.mjpg", int(row["mjpg_offset"]), end)
    file.seek(begin)
    return row["blocks_xxh3"] in (0, checksum(file.read(end - begin)))


def _check_row(
    label_columns: Sequence[str], row: Mapping[str, Any], info: SampleInfo
) -> Iterator[str]:
    """The json against the row."""
    said: dict[str, Any] = {
        "key": info.key,
        "num_frames": info.num_frames,
        "num_samples": info.num_samples,
        "fps": info.fps,
        "speaker": info.speaker,
        "split": info.split,
        "sound_state": info.sound,
        **{name: info.labels.get(name) for name in label_columns},
    }
    for name, value in said.items():
        in_index = None if pandas.isna(row[name]) else row[name]
        # A column of one kind may hold as text or as 1.0 what the json holds as 1.
        if value != in_index and str(value) != str(in_index):
            yield f"its json says {name} {value!r}, the index says {in_index!r}"


def _check_images(mjpg: bytes, info: SampleInfo) -> Iterator[str]:
    """Every image decodes to a square of the right size."""
    if len(mjpg) != info.frame_offsets[-1]:
        yield f"its mjpg has {len(mjpg)} bytes, its frame_offsets end at {info.frame_offsets[-1]}"
    side = info.face_size
    bad = []
    for number in range(info.num_frames):
        jpeg = mjpg[info.frame_offsets[number] : info.frame_offsets[number + 1]]
        # A decoder paints the lost part of a cut image grey and says nothing; the markers tell.
        whole = jpeg[:2] == b"\xff\xd8" and jpeg[-2:] == b"\xff\xd9"
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if whole else None
        if image is None or image.shape != (side, side, 3):
            bad.append(number)
    if bad:
        more = ", …" if len(bad) > 3 else ""
        yield (
            f"{len(bad)} of its {info.num_frames} images ({', '.join(map(str, bad[:3]))}{more}) "
            f"do not decode to {side}x{side} pixels"
        )


def _check_sound(wav: bytes, info: SampleInfo) -> Iterator[str]:
    """16-bit mono of the right rate, as long as the picture to within a frame."""
    try:
        with wave.open(io.BytesIO(wav)) as file:
            form = file.getnchannels(), 8 * file.getsampwidth(), file.getframerate()
            num_samples = len(file.readframes(file.getnframes())) // 2
    except (wave.Error, EOFError) as error:
        yield f"its wav cannot be read ({error})"
        return
    if form != (1, 16, info.sample_rate):
        yield (
            f"its wav has {form[0]} channels of {form[1]} bits at {form[2]} Hz, it should be 1 of "
            f"16 at {info.sample_rate}"
        )
        return
    if num_samples != info.num_samples:
        yield f"its wav has {num_samples} samples, its json says {info.num_samples}"
    if abs(num_samples / info.sample_rate - info.seconds) > 1 / info.fps:
        yield (
            f"its wav lasts {num_samples / info.sample_rate:.3f} s, its picture "
            f"{info.seconds:.3f} s"
        )
