"""Tests of the stream: what is read, in which order, on how many ranks and workers."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset

from shards.sample_json import parse_sample_json
from shards.streaming import StreamConfig
from tests.support.shard_fixtures import INPUT, SIDE, frame_value, make_sample, write_shards
from tests.support.stream_fixtures import NUM_SAMPLES, keys_of, loader, one_epoch, stream_of

# (ranks, clips of a batch, workers): always 12 clips over all ranks.
SHAPES = [(1, 12, 0), (1, 12, 1), (1, 12, 3), (2, 6, 0), (2, 6, 2), (4, 3, 0)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six shards of 23 samples."""
    samples = [make_sample(number) for number in range(NUM_SAMPLES)]
    return write_shards(tmp_path_factory.mktemp("shards"), samples)


def global_batches(
    folder: Any, shape: tuple[int, int, int], count: int, **options: Any
) -> list[dict[str, Any]]:
    """The first batches, the shares of all ranks joined."""
    ranks, batch_size, workers = shape
    shares = []
    for rank in range(ranks):
        stream = stream_of(folder, batch_size=batch_size, rank=rank, world_size=ranks, **options)
        shares.append(list(itertools.islice(loader(stream, workers), count)))
    joined = []
    for parts in zip(*shares, strict=True):
        assert len({(part["batch"], part["epoch"]) for part in parts}) == 1
        batch = dict(parts[0])
        for name in ("frames", "waveform", "num_samples"):
            batch[name] = torch.cat([part[name] for part in parts])
        batch["keys"] = keys_of(parts)
        joined.append(batch)
    return joined


@pytest.fixture(scope="module")
def alone(folder: Path) -> list[dict[str, Any]]:
    """Seven global batches, more than three epochs, as one process reads them."""
    return global_batches(folder, (1, 12, 0), 7)


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_global_batches_do_not_depend_on_ranks_and_workers(
    folder: Path, alone: list[dict[str, Any]], shape: tuple[int, int, int]
) -> None:
    for batch, expected in zip(global_batches(folder, shape, 7), alone, strict=True):
        assert batch["keys"] == expected["keys"]
        assert (batch["batch"], batch["epoch"]) == (expected["batch"], expected["epoch"])
        for name in ("frames", "waveform", "num_samples"):
            assert torch.equal(batch[name], expected[name])


def test_batches_carry_their_number_and_the_epoch_in_which_they_begin(
    alone: list[dict[str, Any]],
) -> None:
    assert [batch["batch"] for batch in alone] == list(range(7))
    assert [batch["epoch"] for batch in alone] == [12 * number // 23 for number in range(7)]
    assert {len(batch["keys"]) for batch in alone} == {12}


def test_an_endless_stream_ends_one_epoch_before_the_next(alone: list[dict[str, Any]]) -> None:
    keys = keys_of(alone)
    epochs = [keys[NUM_SAMPLES * epoch : NUM_SAMPLES * (epoch + 1)] for epoch in range(3)]
    assert len(set(epochs[0])) == NUM_SAMPLES
    assert set(epochs[0]) == set(epochs[1]) == set(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("samples_per_shard", [4, 12, 100])
def test_each_sample_is_seen_once_an_epoch_over_two_ranks_with_two_workers(
    tmp_path: Path, samples_per_shard: int
) -> None:
    samples = [make_sample(number, num_frames=4) for number in range(NUM_SAMPLES)]
    write_shards(tmp_path, samples, samples_per_shard)
    every = []
    for rank in range(2):
        batches = list(loader(one_epoch(tmp_path, rank=rank, world_size=2), 2))
        assert [batch["batch"] for batch in batches] == [0, 1, 2]
        assert all(batch["keys"] for batch in batches)
        every += keys_of(batches)
    assert sorted(every) == sorted(info.key for info, _, _ in samples)


@pytest.mark.parametrize("ranks", [2, 3, 5])
@pytest.mark.parametrize("num_samples", [1, 9, 23])
def test_ranks_have_equally_many_batches_however_uneven_the_end(
    tmp_path: Path, ranks: int, num_samples: int
) -> None:
    samples = [make_sample(number, num_frames=4) for number in range(num_samples)]
    write_shards(tmp_path, samples)
    shares = [list(one_epoch(tmp_path, rank=rank, world_size=ranks)) for rank in range(ranks)]
    assert {len(share) for share in shares} == {-(-num_samples // (4 * ranks))}
    assert sorted(keys_of(itertools.chain(*shares))) == sorted(info.key for info, _, _ in samples)
    sizes = [len(share[-1]["keys"]) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_a_share_without_clips_is_an_empty_batch(tmp_path: Path) -> None:
    write_shards(tmp_path, [make_sample(0)])
    batch = next(iter(one_epoch(tmp_path, rank=0, world_size=2)))
    assert batch["frames"].shape == (0, INPUT.num_frames, SIDE, SIDE, 3)
    assert batch["waveform"].shape == (0, INPUT.clip_samples)
    assert (batch["num_samples"].shape, batch["keys"]) == ((0,), [])


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_give_batches_in_order_however_they_are_started(
    folder: Path, start_method: str
) -> None:
    batches = list(loader(one_epoch(folder), 2, multiprocessing_context=start_method))
    assert [batch["batch"] for batch in batches] == list(range(6))
    assert keys_of(batches) == keys_of(one_epoch(folder))
    assert [len(batch["keys"]) for batch in batches] == [4] * 5 + [3]


def test_another_seed_gives_other_batches_and_the_same_seed_the_same(folder: Path) -> None:
    first, again, other = (list(one_epoch(folder, seed=seed)) for seed in (5, 5, 6))
    assert keys_of(first) == keys_of(again) != keys_of(other)
    assert all(torch.equal(a["waveform"], b["waveform"]) for a, b in zip(first, again, strict=True))


def test_the_clip_of_a_sample_depends_on_the_epoch_and_not_on_what_was_read_before(
    folder: Path,
) -> None:
    def starts(epoch: int, **options: Any) -> dict[str, int]:
        return {
            key: int(waveform[0])
            for batch in one_epoch(folder, epoch, **options)
            for key, waveform in zip(batch["keys"], batch["waveform"], strict=True)
        }

    assert starts(0) == starts(0, batch_size=5, shuffle_buffer=0)
    assert starts(0) != starts(1)


def test_picture_and_sound_of_every_clip_are_of_its_key_and_of_one_time(folder: Path) -> None:
    for batch in one_epoch(folder):
        assert batch["frames"].shape[1:] == (4, SIDE, SIDE, 3)
        for number, key in enumerate(batch["keys"]):
            sample = int(key.split("/")[1])
            first_sound = int(batch["waveform"][number, 0]) - 1 - 101 * sample
            frame, rest = divmod(first_sound, 640)
            assert rest == 0
            for place in range(INPUT.num_frames):
                expected = frame_value(sample, min(24, frame + place * INPUT.frame_stride))
                np.testing.assert_allclose(batch["frames"][number, place, 0, 0], expected, atol=3)
            assert batch["num_samples"][number] == min(INPUT.clip_samples, 16000 - first_sound)


@pytest.mark.parametrize("shape", [(1, 12, 2), (2, 6, 2), (3, 4, 0)], ids=str)
def test_several_clips_of_a_sample_come_side_by_side_and_differ(
    folder: Path, shape: tuple[int, int, int]
) -> None:
    batches = global_batches(folder, shape, 8, clips_per_sample=2)
    keys = keys_of(batches)
    assert keys[0::2] == keys[1::2]
    assert len(set(keys[: 2 * NUM_SAMPLES])) == NUM_SAMPLES
    waveforms = torch.cat([batch["waveform"] for batch in batches])
    same = [torch.equal(a, b) for a, b in zip(waveforms[0::2], waveforms[1::2], strict=True)]
    assert sum(same) < len(same) / 2
    expected = global_batches(folder, (1, 12, 0), 8, clips_per_sample=2)
    assert keys == keys_of(expected)
    assert torch.equal(waveforms, torch.cat([batch["waveform"] for batch in expected]))


def test_corpora_are_mixed_by_weight_on_any_number_of_ranks(tmp_path: Path) -> None:
    few = write_shards(tmp_path / "few", [make_sample(n, num_frames=4) for n in range(5)])
    many = write_shards(tmp_path / "many", [make_sample(n, num_frames=4) for n in range(5, 25)])
    options = {"weights": (1.0, 3.0)}
    batches = global_batches([few, many], (1, 12, 0), 10, **options)
    keys = keys_of(batches)
    of_few = [int(key[-5:]) < 5 for key in keys]
    assert [sum(of_few[start : start + 12]) for start in range(0, 120, 12)] == [3] * 10
    counts = Counter(keys)
    assert sorted(counts.values()) == [4] * 10 + [5] * 10 + [6] * 5  # 30 of few, 90 of many
    assert keys == keys_of(global_batches([few, many], (2, 6, 2), 10, **options))
    assert [batch["epoch"] for batch in batches] == [12 * n // 25 for n in range(10)]
    assert len(keys_of(one_epoch([few, many], **options))) == 25


def test_folders_without_weights_are_one_collection_and_splits_are_chosen(tmp_path: Path) -> None:
    first = write_shards(tmp_path / "a", [make_sample(0), make_sample(1, split="test")])
    second = write_shards(tmp_path / "b", [make_sample(2)])
    stream = one_epoch([first, str(second)])
    assert sorted(keys_of(stream)) == ["id00/00000", "id02/00002"]
    assert stream.num_samples == 2
    assert keys_of(one_epoch(first, split="test")) == ["id01/00001"]
    assert len(keys_of(one_epoch(first, split="all"))) == 2
    with pytest.raises(ValueError, match="no samples of split 'val' \\(found test, train\\)"):
        one_epoch(first, split="val")


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_hear_of_a_new_epoch(folder: Path, workers: int) -> None:
    stream = one_epoch(folder)
    batches = loader(stream, workers, persistent_workers=workers > 0)
    orders = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        assert stream.epoch == epoch
        orders.append(keys_of(batches))
    assert orders[0] == orders[2] != orders[1]


def test_a_stream_can_be_pickled(folder: Path) -> None:
    stream = one_epoch(folder, 2)
    copy = pickle.loads(pickle.dumps(stream))
    assert keys_of(copy) == keys_of(stream)


def test_the_rank_comes_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert keys_of(one_epoch(folder)) == keys_of(one_epoch(folder, rank=1, world_size=2))


def test_a_stream_made_before_its_process_group_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = one_epoch(folder)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="made as rank 0 of 1, before the process group"):
        next(iter(stream))


def test_another_frame_rate_is_refused_before_reading(tmp_path: Path) -> None:
    write_shards(tmp_path, [make_sample(0), make_sample(1, fps=30.0)])
    with pytest.raises(ValueError, match=r"1 samples, 'id01/00001' first, have 30 frames a second"):
        one_epoch(tmp_path)


def test_impossible_settings_are_refused_all_at_once(folder: Path) -> None:
    message = r"batch_size = 0.*shuffle_buffer = -1.*sound = loud.*weights = \(0.0,\)"
    with pytest.raises(ValueError, match=message):
        StreamConfig(batch_size=0, shuffle_buffer=-1, sound="loud", weights=(0.0,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"clips_per_sample = 3 \(must divide batch_size = 8\)"):
        StreamConfig(clips_per_sample=3)
    with pytest.raises(ValueError, match=r"2 weights for 1 folders.*seed = -1, first_batch = 2"):
        stream_of(folder, weights=(1.0, 2.0), seed=-1, first_batch=2, first_epoch=1)
    with pytest.raises(ValueError, match="no folder of shards given"):
        stream_of([])


def test_plain_webdataset_reads_the_shards(folder: Path) -> None:
    tars = sorted(str(path) for path in folder.glob("*.tar"))
    dataset = webdataset.WebDataset(tars, shardshuffle=False)
    samples = list(dataset)
    assert len(samples) == NUM_SAMPLES
    for sample in samples:
        info = parse_sample_json(sample["json"], "here")
        assert sample["__key__"] == info.key
        assert len(sample["mjpg"]) == info.frame_offsets[-1]
        assert len(sample["wav"]) == 44 + 2 * info.num_samples
