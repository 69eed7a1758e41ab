"""Tests of reading samples through the index."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hicmae.views import sound_span, test_views
from shards.index import read_index
from shards.reading.random_access import ShardDataset
from shards.sample import collate
from shards.schema import ClipError, ShardError, sample_json
from tests.support.shard_fixtures import (
    INPUT,
    frame_value,
    make_sample,
    rewrite_shard,
    sound_values,
    write_shards,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten samples in three shards and two folds."""
    samples = [
        make_sample(
            number,
            num_frames=20 + 3 * number,
            labels={"fold": number % 2},
        )
        for number in range(10)
    ]
    return write_shards(tmp_path_factory.mktemp("shards"), samples)


def test_every_view_of_every_sample_is_the_frames_and_the_sound_of_its_time(folder: Path) -> None:
    dataset = ShardDataset(read_index(folder), input=INPUT, views=3)
    assert len(dataset) == 30
    for number in range(30):
        sample, view = divmod(number, 3)
        clip: Any = dataset[number]
        assert (clip["sample"], clip["view"]) == (sample, view)
        assert clip["key"] == dataset.rows["key"][sample]
        num_frames = 20 + 3 * sample
        indices = test_views(num_frames, INPUT.num_frames, INPUT.frame_stride, 3)[view]
        for frame, index in zip(clip["frames"], indices, strict=True):
            np.testing.assert_allclose(frame[3, 3], frame_value(sample, int(index)), atol=3)
        start, stop = sound_span(int(indices[0]), INPUT)
        expected = sound_values(sample, num_frames * 640)[start:stop]
        np.testing.assert_array_equal(clip["waveform"][: len(expected)], expected)
        assert clip["num_samples"] == len(expected)
        assert not clip["waveform"][len(expected) :].any()


def test_a_fold_is_a_filter_on_the_index(folder: Path) -> None:
    index = read_index(folder)
    rows = index.table[index.table["fold"] == 1]
    dataset = ShardDataset(index, input=INPUT, rows=rows, views=1)
    batch = collate([dataset[number] for number in range(len(dataset))])
    assert batch["keys"] == list(rows["key"])
    assert batch["sample"].tolist() == [0, 1, 2, 3, 4]
    assert batch["sample"].dtype == torch.int64


def test_training_clips_change_with_the_epoch_and_not_with_the_fold(folder: Path) -> None:
    index = read_index(folder)
    dataset = ShardDataset(index, input=INPUT, seed=1)
    part = ShardDataset(index, input=INPUT, rows=index.table.iloc[5:], seed=1)

    def starts(dataset: ShardDataset, samples: range) -> list[int]:
        return [int(dataset[number]["waveform"][0]) for number in samples]  # type: ignore[index]

    first = starts(dataset, range(10))
    assert len(dataset) == 10
    assert first == starts(dataset, range(10))
    assert first[5:] == starts(part, range(5))
    dataset.set_epoch(1)
    assert first != starts(dataset, range(10))
    assert first != starts(ShardDataset(index, input=INPUT, seed=2), range(10))


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_read_every_sample_and_hear_of_a_new_epoch(folder: Path, workers: int) -> None:
    dataset = ShardDataset(read_index(folder), input=INPUT)
    dataset[0]  # opened here: a worker must not mind
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=4,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    waveforms = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        batches = list(loader)
        assert torch.cat([batch["sample"] for batch in batches]).tolist() == list(range(10))
        waveforms.append(torch.cat([batch["waveform"] for batch in batches]))
    assert torch.equal(waveforms[0], waveforms[2])
    assert not torch.equal(waveforms[0], waveforms[1])


def test_a_dataset_can_be_pickled(folder: Path) -> None:
    dataset = ShardDataset(read_index(folder), input=INPUT, views=2)
    copy = pickle.loads(pickle.dumps(dataset))
    clip: Any = dataset[15]
    again: Any = copy[15]
    assert (clip["sample"], clip["view"], clip["key"]) == (7, 1, "id02/00007")
    assert torch.equal(clip["frames"], again["frames"])
    assert dataset.info(7).key == "id02/00007"
    with pytest.raises(IndexError, match="item 20 of 20"):
        dataset[20]


def test_a_process_keeps_only_some_shards_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.reading.files._MAX_OPEN", 64)
    samples = [make_sample(number, num_frames=4) for number in range(70)]
    write_shards(tmp_path, samples, samples_per_shard=1)
    dataset = ShardDataset(read_index(tmp_path), input=INPUT)
    before = _num_open_files()
    keys = [dataset[number]["key"] for number in range(70)]  # type: ignore[index]
    assert keys == [info.key for info, _, _ in samples]
    assert _num_open_files() - before <= 64
    dataset._files.close()
    assert _num_open_files() == before


def test_impossible_requests_are_refused(folder: Path) -> None:
    index = read_index(folder)
    with pytest.raises(ValueError, match="no sample left to read"):
        ShardDataset(index, input=INPUT, rows=index.table[:0])
    with pytest.raises(ValueError, match="views = 0"):
        ShardDataset(index, input=INPUT, views=0)


def test_another_frame_rate_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, [make_sample(0, fps=30.0)])
    with pytest.raises(ValueError, match="sample 'id00/00000' has 30 frames a second"):
        ShardDataset(read_index(tmp_path), input=INPUT)


def test_a_sample_without_sound_is_named_skipped_or_allowed(tmp_path: Path) -> None:
    write_shards(tmp_path, [make_sample(0), make_sample(1, sound=False)])
    message = r"train-000000.tar: sample 'id01/00001' has no wav member \(found mjpg, json\)"
    with pytest.raises(ShardError, match=message):
        ShardDataset(read_index(tmp_path), input=INPUT)[1]
    dataset = ShardDataset(read_index(tmp_path), input=INPUT, on_bad="skip")
    batch = collate([dataset[0], dataset[1]])
    assert (batch["keys"], batch["skipped"]) == (["id00/00000"], {"no-sound": 1})
    dataset = ShardDataset(read_index(tmp_path), input=INPUT, require_sound=False)
    assert collate([dataset[0], dataset[1]])["num_samples"].tolist() == [INPUT.clip_samples, 0]


def test_a_truncated_or_absent_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, [make_sample(number) for number in range(3)])
    path = tmp_path / "train-000000.tar"
    row = read_index(tmp_path).table.iloc[1]
    dataset = ShardDataset(read_index(tmp_path), input=INPUT)
    for member in ("mjpg", "wav"):
        whole = path.read_bytes()
        path.write_bytes(whole[: row[f"{member}_offset"] + 50])
        with pytest.raises(
            ClipError, match=r"sample 'id01/00001': .*truncated, it ends at byte"
        ) as error:
            dataset[1]
        assert error.value.cause == "truncated"
        assert dataset[0]["key"] == "id00/00000"  # type: ignore[index]
        path.write_bytes(whole)
    path.unlink()
    with pytest.raises(ClipError, match="no such shard, but the index beside"):
        ShardDataset(read_index(tmp_path), input=INPUT)[0]


def test_a_json_that_is_not_what_the_index_says_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, [make_sample(number) for number in range(2)])
    info, _, _ = make_sample(1)
    other = sample_json(info).replace(b'"num_frames":25', b'"num_frames":24')
    rewrite_shard(tmp_path / "train-000000.tar", {"id01/00001.json": other})
    with pytest.raises(ClipError, match=r"train-000000.tar: sample 'id01/00001': .*24 frames"):
        ShardDataset(read_index(tmp_path), input=INPUT)[1]
    changed = sample_json(info).replace(b"id01/00001", b"id01/00009")
    rewrite_shard(tmp_path / "train-000000.tar", {"id01/00001.json": changed})
    with pytest.raises(ClipError, match=r"its json says .*'id01/00009'.* the index .*'id01/00001'"):
        ShardDataset(read_index(tmp_path), input=INPUT)[1]


@pytest.mark.parametrize("column", ["num_frames", "num_samples"])
def test_a_number_of_the_index_that_is_not_the_samples_is_named(folder: Path, column: str) -> None:
    index = read_index(folder)
    rows = index.table.assign(**{column: index.table[column] + 1})
    with pytest.raises(ClipError, match=r"id00/00000': its json says .*, the index \("):
        ShardDataset(index, input=INPUT, rows=rows)[0]


def test_a_range_that_comes_in_pieces_is_put_together(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected: Any = ShardDataset(read_index(folder), input=INPUT)[0]
    whole = os.pread
    monkeypatch.setattr(os, "pread", lambda file, length, at: whole(file, min(length, 999), at))
    item: Any = ShardDataset(read_index(folder), input=INPUT)[0]
    assert torch.equal(item["frames"], expected["frames"])


def test_a_worker_process_names_the_sample_in_one_line(tmp_path: Path) -> None:
    write_shards(tmp_path, [make_sample(0), make_sample(1, sound=False)])
    dataset = ShardDataset(read_index(tmp_path), input=INPUT)
    loader = torch.utils.data.DataLoader(dataset, batch_size=1, collate_fn=collate, num_workers=1)
    iterator: Any = iter(loader)
    with pytest.raises(ShardError) as error:
        list(iterator)
    for process in iterator._workers:  # after an error torch would wait 5 s for each
        process.terminate()
    assert str(error.value) == (
        f"{tmp_path}/train-000000.tar: sample 'id01/00001' has no wav member (found mjpg, json); "
        "rebuild it or pass sound: optional"
    )


def _num_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
