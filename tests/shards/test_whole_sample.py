"""The checksum of a sample's tar blocks: what it covers, and reading with and without it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
import xxhash

from shards.index import TABLE_NAME, read_index
from shards.reading import whole_sample
from shards.reading.files import Row, ShardFiles
from shards.reading.random_access import ShardDataset
from shards.schema import SampleInfo, sample_json
from tests.support.shard_fixtures import INPUT, make_sample, write_shards
from tests.support.stream_fixtures import (
    NUM_SAMPLES,
    first_batches,
    one_epoch,
    skipped_in,
    stream_of,
    tar,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    samples = [make_sample(number, sound=number % 4 > 0) for number in range(NUM_SAMPLES)]
    return write_shards(tmp_path, samples)


def epoch_of(folder: Path) -> list[dict[str, object]]:
    return one_epoch(folder, sound="optional", on_bad="raise")


def without_checksums(folder: Path) -> None:
    """Make the index one of before the column existed."""
    table = pyarrow.parquet.read_table(folder / TABLE_NAME)
    pyarrow.parquet.write_table(table.drop_columns(["blocks_xxh3"]), folder / TABLE_NAME)


def test_the_blocks_of_the_samples_of_a_shard_follow_one_another(folder: Path) -> None:
    for name, rows in read_index(folder).table.groupby("shard"):
        data = (folder / str(name)).read_bytes()
        starts = [int(row.mjpg_offset) - 512 for row in rows.itertuples()]
        for row, begin, end in zip(rows.itertuples(), starts, [*starts[1:], None], strict=True):
            blocks = data[begin:end]
            if end is None:  # two empty blocks end a tar, and it is filled up
                length = int(row.json_offset) + int(row.json_length) - begin
                blocks = blocks[: -(-length // 512) * 512]
            assert xxhash.xxh3_64_intdigest(blocks) == row.blocks_xxh3


def test_a_name_too_long_for_a_header_has_its_blocks_covered_too(tmp_path: Path) -> None:
    info, mjpg, wav = make_sample(0)
    said = {name: getattr(info, name) for name in SampleInfo.__dataclass_fields__}
    long = SampleInfo(**said | {"key": "long/" + 180 * "k"})
    write_shards(tmp_path, [(long, mjpg, wav), make_sample(1)])
    (row, _) = Row.rows_of(read_index(tmp_path).table)
    whole = whole_sample._read_unchanged(ShardFiles(tmp_path), row)
    assert whole is not None
    assert (whole.info, bytes(whole.mjpg)) == (long, mjpg)


def test_an_index_without_checksums_gives_the_same_clips(folder: Path) -> None:
    expected = epoch_of(folder)
    without_checksums(folder)
    assert (read_index(folder).table["blocks_xxh3"] == 0).all()
    for batch, other in zip(epoch_of(folder), expected, strict=True):
        assert batch["keys"] == other["keys"]
        for name in ("frames", "waveform", "num_samples"):
            assert torch.equal(batch[name], other[name])  # type: ignore[arg-type]


def test_whole_samples_are_read_at_once_and_others_part_by_part(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    parts = whole_sample._read_sample

    def counted(files: ShardFiles, row: Row, require: Any) -> whole_sample.WholeSample:
        checked.append(row.key)
        return parts(files, row, require)

    monkeypatch.setattr(whole_sample, "_read_sample", counted)
    epoch_of(folder)
    assert checked == []
    row = read_index(folder).table.iloc[5]
    data = bytearray((folder / row["shard"]).read_bytes())
    data[row["mjpg_offset"] - 512 + 140] ^= 1  # the time of a header, which no reader looks at
    (folder / row["shard"]).write_bytes(data)
    epoch_of(folder)
    assert checked == [row["key"]]
    without_checksums(folder)
    epoch_of(folder)
    assert len(checked) == 1 + NUM_SAMPLES


def test_damage_after_the_first_reading_is_found_by_the_next(folder: Path) -> None:
    stream = stream_of(folder, sound="optional")
    assert not skipped_in(first_batches(stream, 6))
    row = read_index(folder).table.iloc[5]
    with tar(folder, 1).open("r+b") as file:
        file.seek(row["mjpg_offset"] + row["mjpg_length"] // 2)
        file.write(b"\x55")
    assert skipped_in(first_batches(stream, 6)) == {"bad-digest": 1}


def test_a_member_that_is_elsewhere_is_found_at_every_reading(tmp_path: Path) -> None:
    info, mjpg, wav = make_sample(0)
    write_shards(tmp_path, [(info, mjpg, wav)])
    expected: Any = ShardDataset(read_index(tmp_path), input=INPUT, views=2)[1]
    members = {"other.mjpg": bytes(len(mjpg)), f"{info.key}.wav": wav}
    members |= {f"{info.key}.json": sample_json(info), f"{info.key}.mjpg": mjpg}
    with tarfile.open(tmp_path / "train-000000.tar", "w", format=tarfile.GNU_FORMAT) as shard:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    dataset = ShardDataset(read_index(tmp_path), input=INPUT, views=2)
    for _ in range(2):
        item: Any = dataset[1]
        assert torch.equal(item["frames"], expected["frames"])
        assert torch.equal(item["waveform"], expected["waveform"])


def test_without_checksums_the_digests_decide(tmp_path: Path) -> None:
    info, mjpg, wav = make_sample(0)
    flipped = mjpg[:300] + bytes([mjpg[300] ^ 1]) + mjpg[301:]
    write_shards(tmp_path, [(info, flipped, wav)])
    without_checksums(tmp_path)
    item = ShardDataset(read_index(tmp_path), input=INPUT, on_bad="skip")[0]
    assert getattr(item, "cause", None) == "bad-digest"
