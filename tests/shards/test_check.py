"""The check: whole shards pass, and each kind of damage is named with shard and sample."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from shards.check import check_shards
from shards.schema import Digests, SampleInfo, ShardError
from tests.support.shard_fixtures import jpeg, make_sample, rewrite_shard, wav_bytes, write_shards

FIRST = "train-000000.tar"
KEY = "id01/00001"  # of the second sample


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four samples in two shards, one without sound, with labels of all kinds."""
    samples = [
        make_sample(
            number,
            num_frames=5,
            sound=number != 2,
            labels={"emotion": "joy", "fold": number, "valence": number / 3},
        )
        for number in range(4)
    ]
    samples[3] = (dataclasses.replace(samples[3][0], labels={}, speaker=None), *samples[3][1:])
    return write_shards(tmp_path_factory.mktemp("whole"), samples, samples_per_shard=3)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "shards"))


def found(folder: Path) -> list[str]:
    problems = [str(problem) for problem in check_shards(folder)]
    assert all("\n" not in problem for problem in problems)
    return problems


def adopt(folder: Path) -> None:
    """Make size, digest and offsets of the index those of the tars, so that damage is deeper."""
    path = folder / "index.json"
    about = json.loads(path.read_text())
    for shard in about["shards"]:
        data = (folder / shard["name"]).read_bytes()
        shard |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps(about))


def test_whole_shards_have_no_problems(whole: Path) -> None:
    assert found(whole) == []


def test_a_truncated_shard_is_named_with_the_samples_it_lost(folder: Path) -> None:
    path = folder / FIRST
    path.write_bytes(path.read_bytes()[:14000])
    problems = found(folder)
    assert any("14000 bytes" in p and "it is truncated" in p for p in problems)
    assert f"{FIRST}: cannot be read as a tar (unexpected end of data)" in problems
    assert any("sample 'id01/00001': its mjpg ends after 688 of" in p for p in problems)
    assert any("sample 'id02/00002': its json ends after 0 of" in p for p in problems)
    assert not any("id00" in p or "id03" in p for p in problems)


def test_a_missing_and_a_foreign_shard_are_named(folder: Path) -> None:
    (folder / "train-000001.tar").rename(folder / "train-000007.tar")
    assert found(folder) == [
        "train-000007.tar: is not in the index",
        "train-000001.tar: is missing; rebuild the folder",
    ]


def test_one_flipped_byte_is_found_and_the_sample_named(folder: Path) -> None:
    path = folder / FIRST
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\xd8", data.index(f"{KEY}.mjpg".encode())) + 300
    data[at] ^= 1
    path.write_bytes(data)
    problems = found(folder)
    assert f"{FIRST}: its bytes are not those that were built (sha256)" in problems
    assert f"{FIRST}: sample '{KEY}': its mjpg is not the one that was built (sha256)" in problems


@pytest.mark.parametrize("name", ["seconds", "face_coverage", "face_pixels", "loudness_db"])
def test_a_measure_that_the_index_has_otherwise_is_named(folder: Path, name: str) -> None:
    path = folder / "index.parquet"
    table = pyarrow.parquet.read_table(path).to_pandas()
    table.loc[1, name] = 1234.5
    table.to_parquet(path)
    assert any(f"'{KEY}': its json says {name} " in problem for problem in found(folder))


def test_a_column_that_lost_its_name_is_named(folder: Path) -> None:
    path = folder / "index.parquet"
    table = pyarrow.parquet.read_table(path).to_pandas()
    table.rename(columns={"blocks_xxh3": "blocks_xph3"}).to_parquet(path)
    assert found(folder) == [
        "index.parquet: its column 'blocks_xph3' is none that index.json lists"
    ]


@pytest.mark.parametrize("kind", ["mjpg", "wav", "json"])
def test_a_missing_member_is_named(folder: Path, kind: str) -> None:
    rewrite_shard(folder / FIRST, {f"{KEY}.{kind}": None})
    assert f"{FIRST}: sample '{KEY}': has no {kind} member" in found(folder)


def test_a_member_that_is_not_in_the_index_is_named(folder: Path) -> None:
    with tarfile.open(folder / FIRST, "a") as tar:
        member = tarfile.TarInfo("stranger.mjpg")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    assert f"{FIRST}: sample 'stranger': its member stranger.mjpg is not in the index" in found(
        folder
    )


def changed_json(folder: Path, **changes: Any) -> None:
    """Rewrite the json of the second sample."""
    with tarfile.open(folder / FIRST) as tar:
        raw = json.loads(tar.extractfile(f"{KEY}.json").read())  # type: ignore[union-attr]
    rewrite_shard(folder / FIRST, {f"{KEY}.json": json.dumps(raw | changes).encode()})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema_version": 9}, "schema version 9, this program reads 2 and 3"),
        ({"fps": 30.0}, "its json says fps 30.0, the index says 25.0"),
        ({"labels": {"emotion": "fear"}}, "its json says emotion 'fear', the index says 'joy'"),
        ({"speaker": None}, "its json says speaker None, the index says 'id01'"),
        ({"key": "other"}, "its json says key 'other'"),
        ({"num_frames": 4}, "frame_offsets"),
        ({"sound": "absent"}, "sound is absent but"),
    ],
)
def test_a_json_that_says_something_else_is_named(
    folder: Path, change: dict[str, Any], told: str
) -> None:
    changed_json(folder, **change)
    assert any(p.startswith(f"{FIRST}: sample '{KEY}'") and told in p for p in found(folder))


Sample = tuple[SampleInfo, bytes, bytes]


def cut_short(info: SampleInfo, mjpg: bytes, wav: bytes) -> Sample:
    begin, end = info.frame_offsets[1:3]
    return info, mjpg[: (begin + end) // 2] + bytes(end - (begin + end) // 2) + mjpg[end:], wav


def larger(info: SampleInfo, mjpg: bytes, wav: bytes) -> Sample:
    parts = [jpeg((9, 9, 9), 32)] * 4 + [jpeg((9, 9, 9), 40)]
    offsets = tuple(np.cumsum([0, *map(len, parts)]).tolist())
    return dataclasses.replace(info, frame_offsets=offsets), b"".join(parts), wav


def sounding(num_samples: int, rate: int = 16000) -> Callable[..., Sample]:
    """The sample with so much sound; the picture is as long as 3200."""
    wav = wav_bytes(np.ones(num_samples, dtype=np.int16), sample_rate=rate)
    return lambda info, mjpg, _: (dataclasses.replace(info, num_samples=num_samples), mjpg, wav)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (cut_short, "1 of its 5 images (1) do not decode to 32x32 pixels"),
        (larger, "1 of its 5 images (4) do not decode to 32x32 pixels"),
        (sounding(3200 + 700), "its wav lasts 0.244 s, its picture 0.200 s"),  # > 1 / 25 s
        (sounding(3200 + 600), None),
        (
            sounding(3200, 8000),
            "has 1 channels of 16 bits at 8000 Hz, it should be 1 of 16 at 16000",
        ),
        (lambda info, mjpg, _: (info, mjpg, b"RIFF" + bytes(100)), "its wav cannot be read"),
    ],
)
def test_a_sample_that_is_wrong_in_itself_is_found_under_right_digests(
    change: Callable[..., Sample], told: str | None, tmp_path: Path
) -> None:
    info, mjpg, wav = change(*make_sample(0, num_frames=5))
    digests = Digests(
        **{n: hashlib.sha256(x).hexdigest() for n, x in (("mjpg", mjpg), ("wav", wav))}
    )
    sample = (dataclasses.replace(info, digests=digests), mjpg, wav)
    problems = found(write_shards(tmp_path, [sample]))
    assert len(problems) == (told is not None)
    assert all(str(told) in problem for problem in problems)


def test_an_index_that_points_elsewhere_is_named(folder: Path) -> None:
    rewrite_shard(folder / FIRST, {f"{KEY}.mjpg": jpeg((1, 2, 3)) * 40})
    adopt(folder)
    problems = found(folder)
    assert any(f"sample '{KEY}': its mjpg is at byte" in p for p in problems)
    assert any("sample 'id02/00002': its mjpg is at byte" in p for p in problems)


def test_counts_that_do_not_add_up_are_named(folder: Path) -> None:
    path = folder / "index.json"
    about = json.loads(path.read_text())
    about["counts"]["num_frames"] = 21
    about["shards"][0]["num_samples"] = 2
    path.write_text(json.dumps(about))
    assert found(folder) == [
        "index.json: counts num_frames 21, its table has 20",
        f"{FIRST}: index.json says 2 samples, the table has 3",
    ]


def test_a_folder_without_index_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no index"):
        check_shards(tmp_path)


def test_blocks_of_another_checksum_are_named(folder: Path) -> None:
    table = pyarrow.parquet.read_table(folder / "index.parquet")
    sums = table["blocks_xxh3"].to_pylist()
    place = table.column_names.index("blocks_xxh3")
    changed = pyarrow.array([sums[0], sums[1] ^ 1, 0, sums[3]], type=pyarrow.uint64())
    pyarrow.parquet.write_table(
        table.set_column(place, "blocks_xxh3", changed), folder / "index.parquet"
    )
    assert found(folder) == [
        f"{FIRST}: sample '{KEY}': its blocks in the tar are not those of its checksum in the index"
    ]
