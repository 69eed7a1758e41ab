"""Tars that other programs read, whose index is right, and that are the same bytes every time."""

from __future__ import annotations

import dataclasses
import hashlib
import tarfile
from pathlib import Path

import pytest
import webdataset

from shards.building.writer import ShardWriter
from shards.schema import parse_sample_json
from tests.support.shard_fixtures import make_sample

SAMPLES = [
    make_sample(0, num_frames=3),
    make_sample(1, num_frames=4, sound=False),
    make_sample(2, num_frames=5, split="test"),
    make_sample(3, num_frames=2),
]


def write(folder: Path, samples_per_shard: int = 2) -> ShardWriter:
    folder.mkdir()
    with ShardWriter(folder, samples_per_shard=samples_per_shard) as writer:
        for info, mjpg, wav in SAMPLES:
            writer.add(info, mjpg, wav)
    return writer


def test_every_row_points_at_the_bytes_of_its_members(tmp_path: Path) -> None:
    writer = write(tmp_path / "out")
    for row, (info, mjpg, wav) in zip(writer.rows, SAMPLES, strict=True):
        data = (tmp_path / "out" / str(row["shard"])).read_bytes()
        cut = {
            kind: data[row[f"{kind}_offset"] : row[f"{kind}_offset"] + row[f"{kind}_length"]]  # type: ignore[misc, operator]
            for kind in ("mjpg", "json")
        }
        assert cut["mjpg"] == mjpg
        assert parse_sample_json(cut["json"], "here") == info
        if wav is None:
            assert (row["wav_offset"], row["wav_length"]) == (-1, 0)
        else:
            assert data[row["wav_offset"] :][: row["wav_length"]] == wav  # type: ignore[misc]


def test_webdataset_reads_what_was_written(tmp_path: Path) -> None:
    write(tmp_path / "out")
    found = list(webdataset.WebDataset(str(tmp_path / "out/train-000000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in found] == ["id00/00000", "id01/00001"]
    assert found[0]["mjpg"] == SAMPLES[0][1]
    assert found[0]["wav"] == SAMPLES[0][2]
    assert "wav" not in found[1]


def test_splits_have_their_own_shards_and_a_full_one_is_followed_by_another(
    tmp_path: Path,
) -> None:
    writer = write(tmp_path / "out")
    assert [row["shard"] for row in writer.rows] == [
        "train-000000.tar",
        "train-000000.tar",
        "test-000000.tar",
        "train-000001.tar",
    ]
    assert [(shard["name"], shard["num_samples"]) for shard in writer.shards] == [
        ("test-000000.tar", 1),
        ("train-000000.tar", 2),
        ("train-000001.tar", 1),
    ]


def test_size_and_digest_are_those_of_the_file(tmp_path: Path) -> None:
    for shard in write(tmp_path / "out").shards:
        data = (tmp_path / "out" / shard["name"]).read_bytes()
        assert shard["bytes"] == len(data)
        assert shard["sha256"] == hashlib.sha256(data).hexdigest()


def test_the_same_samples_give_the_same_bytes_without_owner_or_time(tmp_path: Path) -> None:
    digests = [[s["sha256"] for s in write(tmp_path / name).shards] for name in ("a", "b")]
    assert digests[0] == digests[1]
    with tarfile.open(tmp_path / "a/train-000000.tar") as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")


def test_members_can_be_handed_over_as_files_and_have_long_names(tmp_path: Path) -> None:
    info, mjpg, wav = SAMPLES[0]
    assert wav is not None
    info = dataclasses.replace(info, key="/".join(["x" * 60] * 3))
    (tmp_path / "m").write_bytes(mjpg)
    (tmp_path / "w").write_bytes(wav)
    with ShardWriter(tmp_path, samples_per_shard=9) as writer:
        writer.add(info, tmp_path / "m", tmp_path / "w")
    row = writer.rows[0]
    with tarfile.open(tmp_path / "train-000000.tar") as tar:
        member = tar.getmember(f"{info.key}.wav")
        assert (member.offset_data, member.size) == (row["wav_offset"], row["wav_length"])
        assert tar.extractfile(member).read() == wav  # type: ignore[union-attr]


def test_a_key_is_written_once_and_has_to_be_safe(tmp_path: Path) -> None:
    info, mjpg, wav = SAMPLES[0]
    with ShardWriter(tmp_path, samples_per_shard=9) as writer:
        writer.add(info, mjpg, wav)
        with pytest.raises(ValueError, match="was written before"):
            writer.add(info, mjpg, wav)
        with pytest.raises(ValueError, match=r"sample key 'a\.b'"):
            writer.add(dataclasses.replace(info, key="a.b"), mjpg, wav)


def test_a_key_of_a_finished_shard_is_not_written_again(tmp_path: Path) -> None:
    done = write(tmp_path / "out")
    finished = {shard["name"]: shard for shard in done.shards}
    with ShardWriter(tmp_path / "out", samples_per_shard=2, finished=finished) as writer:
        for row in done.rows:
            writer.keep(row)
        assert (writer.rows, writer.shards) == (done.rows, done.shards)
        with pytest.raises(ValueError, match="was written before"):
            writer.add(*SAMPLES[0])


def test_an_error_leaves_no_open_shard_behind(tmp_path: Path) -> None:
    def interrupted() -> None:
        with ShardWriter(tmp_path, samples_per_shard=9) as writer:
            writer.add(*SAMPLES[0])
            raise RuntimeError("elsewhere")

    with pytest.raises(RuntimeError, match="elsewhere"):
        interrupted()
    assert list(tmp_path.iterdir()) == []
