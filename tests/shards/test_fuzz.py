"""Thousands of damaged shards: none crashes the process, none yields a damaged sample silently.

Each is a whole shard with damage drawn from a seed: bits flipped, bytes overwritten, blocks
cleared, moved, left out or put twice, the end cut off, members renamed or left out, digits of the
json changed. What comes out of it must be the very clip that was put in, or be counted as skipped.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.index import INFO_NAME, TABLE_NAME, read_index
from shards.reading.random_access import ShardDataset
from shards.reading.streaming import Reader
from shards.schema import Skipped
from tests.support.shard_fixtures import INPUT, make_sample, write_shards
from tests.support.stream_fixtures import first_batches, stream_of, tar

NUM_SAMPLES = 3
NUM_SHARDS = 2000


def flip_bits(data: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(len(data), size=rng.integers(1, 9)).tolist():
        data[place] ^= 1 << int(rng.integers(8))


def overwrite(data: bytearray, rng: np.random.Generator) -> None:
    place, length = int(rng.integers(len(data))), int(rng.integers(1, 2000))
    part = rng.bytes(len(data[place : place + length]))
    data[place : place + length] = part if rng.integers(2) else bytes(len(part))


def cut_off(data: bytearray, rng: np.random.Generator) -> None:
    del data[int(rng.integers(len(data))) :]


def clear_block(data: bytearray, rng: np.random.Generator) -> None:
    place = 512 * int(rng.integers(len(data) // 512))
    data[place : place + 512] = bytes(512)


def drop_block(data: bytearray, rng: np.random.Generator) -> None:
    place = 512 * int(rng.integers(len(data) // 512))
    del data[place : place + 512 * int(rng.integers(1, 5))]


def repeat_block(data: bytearray, rng: np.random.Generator) -> None:
    place = 512 * int(rng.integers(len(data) // 512))
    data[place:place] = data[place : place + 512 * int(rng.integers(1, 5))]


def swap_blocks(data: bytearray, rng: np.random.Generator) -> None:
    a, b = (512 * rng.choice(len(data) // 512, 2, replace=False)).tolist()
    data[a : a + 512], data[b : b + 512] = data[b : b + 512], data[a : a + 512]


def change_digits(data: bytearray, rng: np.random.Generator) -> None:
    """Numbers of a json, which stays a json: what syntax does not tell."""
    digits = [m.start() for m in re.finditer(rb"(?<=[:,\[0-9])[0-9]", bytes(data))]
    for place in rng.choice(digits, size=rng.integers(1, 4)).tolist():
        data[place] = ord("0") + int(rng.integers(10))


def flip_in_header(data: bytearray, rng: np.random.Generator) -> None:
    starts = [m.start() - 257 for m in re.finditer(rb"ustar", bytes(data))]
    place = int(rng.choice(starts)) + int(rng.integers(512))
    data[place] = int(rng.integers(256))


def leave_out_members(data: bytearray, rng: np.random.Generator) -> None:
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as old:
        members = [(member, old.extractfile(member)) for member in old]
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as new:
            for member, content in members:
                chance = rng.integers(6)
                if chance == 1:
                    member.name = f"x{member.name}"
                if chance:
                    new.addfile(member, content)
    data[:] = file.getvalue()


DAMAGES: tuple[Callable[[bytearray, np.random.Generator], None], ...] = (
    flip_bits,
    overwrite,
    cut_off,
    clear_block,
    drop_block,
    repeat_block,
    swap_blocks,
    change_digits,
    flip_in_header,
    leave_out_members,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One shard of three small samples."""
    samples = [make_sample(number, num_frames=6) for number in range(NUM_SAMPLES)]
    return write_shards(tmp_path_factory.mktemp("fuzz"), samples)


def prints(batch: dict[str, Any]) -> dict[str, str]:
    """A digest of all that a clip is, by key."""
    found = {}
    for number, key in enumerate(batch["keys"]):
        parts = (batch[name][number].numpy() for name in ("frames", "waveform", "num_samples"))
        found[key] = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
    return found


@pytest.mark.slow
def test_no_damaged_shard_crashes_or_yields_a_damaged_sample(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    path = tar(folder, 0)
    whole = path.read_bytes()
    stream = stream_of(folder, batch_size=NUM_SAMPLES)
    (good,) = stream.reader().read([0])
    expected = prints(good)
    assert len(expected) == NUM_SAMPLES
    causes: Counter[str] = Counter()
    num_hurt: Counter[str] = Counter()
    for number in range(NUM_SHARDS):
        damage = DAMAGES[number % len(DAMAGES)]
        data = bytearray(whole)
        damage(data, np.random.default_rng(number))
        path.write_bytes(data)
        (batch,) = patient_reader(stream).read([0])
        found = prints(batch)
        skipped = Counter(batch["skipped"])
        assert len(found) + skipped.total() == NUM_SAMPLES, (number, damage.__name__)
        assert found.items() <= expected.items(), (number, damage.__name__)
        causes += skipped
        num_hurt[damage.__name__] += bool(skipped)
    path.write_bytes(whole)
    assert prints(next(iter(stream))) == expected
    # The damage was real: all checks found some of it. Most of a header matters to nobody.
    assert min(num_hurt.values()) > 0.1 * NUM_SHARDS / len(DAMAGES), num_hurt
    assert set(causes) >= {"bad-digest", "bad-json", "missing-member", "truncated"}


def patient_reader(stream: Any) -> Reader:
    """A reader that gives up at no number of bad samples."""
    reader: Reader = stream.reader()
    reader.hopeless = 10**9
    return reader


@pytest.mark.slow
def test_random_access_to_damaged_shards_is_as_safe(folder: Path) -> None:
    path = tar(folder, 0)
    whole = path.read_bytes()
    dataset = ShardDataset(read_index(folder), input=INPUT, views=2)
    good = [dataset[number] for number in range(2 * NUM_SAMPLES)]
    for number in range(150):
        data = bytearray(whole)
        DAMAGES[number % len(DAMAGES)](data, np.random.default_rng(number))
        path.write_bytes(data)
        anew = ShardDataset(read_index(folder), input=INPUT, views=2, on_bad="skip")
        for item, expected in enumerate(good):
            clip = anew[item]
            if not isinstance(clip, Skipped):
                assert (clip["frames"] == expected["frames"]).all(), number  # type: ignore[index]
                assert (clip["waveform"] == expected["waveform"]).all(), number  # type: ignore[index]
    path.write_bytes(whole)


@pytest.mark.parametrize("name", [INFO_NAME, TABLE_NAME])
def test_a_damaged_index_is_refused_or_harmless(folder: Path, name: str, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = (folder / name).read_bytes()
    expected = prints(next(iter(stream_of(folder, batch_size=NUM_SAMPLES))))
    messages = []
    for number in range(200):
        data = bytearray(whole)
        (flip_bits, overwrite, cut_off)[number % 3](data, np.random.default_rng(number))
        (tmp_path / name).write_bytes(data)
        try:
            stream = stream_of(tmp_path, batch_size=NUM_SAMPLES)
            batches = first_batches(stream, 1)
        except ValueError as error:
            messages.append(str(error))
            continue
        for batch in batches:
            for key, digest in prints(batch).items():
                assert expected[key] == digest
    assert len(messages) > 100
    assert not any("\n" in message for message in messages)
