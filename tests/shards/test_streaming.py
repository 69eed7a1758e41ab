"""Tests of the stream: what is read, in which order, on how many ranks and workers."""

from __future__ import annotations

import gc
import itertools
import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset

from shards.schema import parse_sample_json
from tests.support.shard_fixtures import INPUT, SIDE, frame_value, make_sample, write_shards
from tests.support.stream_fixtures import NUM_SAMPLES, first_batches, keys_of, one_epoch, stream_of

# (ranks, clips of a batch, workers): always 12 clips over all ranks.
SHAPES = [(1, 12, 1), (1, 12, 3), (2, 6, 2), (4, 3, 0)]


@pytest.fixture(scope="module")
def folder(six_shards: Path) -> Path:
    return six_shards


def global_batches(
    folder: Any, shape: tuple[int, int, int], count: int, **options: Any
) -> list[dict[str, Any]]:
    """The first batches, the shares of all ranks joined."""
    ranks, batch_size, workers = shape
    shares = []
    for rank in range(ranks):
        stream = stream_of(folder, batch_size=batch_size, rank=rank, world_size=ranks, **options)
        shares.append(first_batches(stream, count, workers))
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


@pytest.mark.parametrize("shape", SHAPES, ids=str)
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
def test_each_sample_is_seen_once_an_epoch_over_two_ranks(
    tmp_path: Path, samples_per_shard: int
) -> None:
    samples = [make_sample(number, num_frames=4) for number in range(24)]
    write_shards(tmp_path, samples, samples_per_shard)
    workers = 2 if samples_per_shard == 4 else 0
    every = []
    for rank in range(2):
        batches = one_epoch(tmp_path, batch_size=4, rank=rank, world_size=2, workers=workers)
        assert [batch["batch"] for batch in batches] == [0, 1, 2]
        assert [len(batch["keys"]) for batch in batches] == [4, 4, 4]
        every += keys_of(batches)
    assert sorted(every) == sorted(info.key for info, _, _ in samples)


@pytest.mark.parametrize(("used", "workers"), [(1, 0), (5, 2), (14, 1)])
def test_a_stream_goes_on_with_the_batch_that_would_have_come(
    folder: Path, used: int, workers: int
) -> None:
    whole = first_batches(stream_of(folder), used + 4)
    stream = stream_of(folder, first_batch=used)
    for _ in range(2):  # iterating again begins where it began
        for batch, expected in zip(first_batches(stream, 4, workers), whole[used:], strict=True):
            assert (batch["batch"], batch["keys"]) == (expected["batch"], expected["keys"])
            for name in ("frames", "waveform", "num_samples"):
                assert torch.equal(batch[name], expected[name])


def test_a_run_moves_to_other_ranks_and_workers(folder: Path) -> None:
    whole = first_batches(stream_of(folder, batch_size=6), 12)
    shares = [
        first_batches(
            stream_of(folder, batch_size=2, rank=rank, world_size=3, first_batch=5), 7, workers=rank
        )
        for rank in range(3)
    ]
    for number, expected in enumerate(whole[5:]):
        assert keys_of(share[number] for share in shares) == expected["keys"]
        waveforms = torch.cat([share[number]["waveform"] for share in shares])
        assert torch.equal(waveforms, expected["waveform"])


def test_another_seed_gives_other_batches_and_the_same_seed_the_same(folder: Path) -> None:
    first, again, other = (one_epoch(folder, seed=seed) for seed in (5, 5, 6))
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

    assert starts(0) == starts(0, batch_size=23, shuffle_shards=0)
    assert starts(0) != starts(1)


def test_picture_and_sound_of_every_clip_are_of_its_key_and_of_one_time(folder: Path) -> None:
    for batch in one_epoch(folder, batch_size=23):
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
    assert sorted(keys_of(one_epoch([first, str(second)]))) == ["id00/00000", "id02/00002"]
    assert stream_of([first, str(second)]).num_samples == 2
    assert keys_of(one_epoch(first, split="test")) == ["id01/00001"]
    assert len(keys_of(one_epoch(first, split="all"))) == 2
    with pytest.raises(ValueError, match="no samples of split 'val' \\(found test, train\\)"):
        one_epoch(first, split="val")


def test_ranks_that_would_read_other_samples_are_told_apart(folder: Path, tmp_path: Path) -> None:
    def about(of: Any, **options: Any) -> str:
        return stream_of(of, **options).about()

    assert about(folder).startswith("23 samples of 6 shards, ")
    assert about(folder) == about(f"file://{folder}", rank=1, world_size=2)
    other = tmp_path / "other"
    write_shards(other, [make_sample(number) for number in range(1, 24)])
    assert about(other) != about(folder)
    assert about(folder, shuffle_shards=2) != about(folder)


def test_a_stream_can_be_pickled(folder: Path) -> None:
    stream = stream_of(folder, first_batch=12)
    copy = pickle.loads(pickle.dumps(stream))
    assert keys_of(first_batches(copy, 6)) == keys_of(first_batches(stream, 6))


def test_another_frame_rate_is_refused_before_reading(tmp_path: Path) -> None:
    write_shards(tmp_path, [make_sample(0), make_sample(1, fps=30.0)])
    with pytest.raises(ValueError, match=r"1 samples, 'id01/00001' first, have 30 frames a second"):
        one_epoch(tmp_path)


def test_impossible_settings_are_refused_all_at_once() -> None:
    message = r"batch_size = 0.*shuffle_shards = -1.*weights = \(0.0,\) \(each must be positive\)"
    with pytest.raises(ValueError, match=message):
        stream_of("shards", batch_size=0, shuffle_shards=-1, weights=(0.0,))
    message = r"weights = \[1.0, 2.0\] \(must be one for each folder of shards: shards\).*e = 3 "
    with pytest.raises(ValueError, match=message):
        stream_of("shards", weights=(1.0, 2.0), clips_per_sample=3)
    with pytest.raises(ValueError, match="shards is empty"):
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


def private_megabytes() -> float:
    """Memory of this process that it shares with none, 1e6 bytes."""
    gc.collect()
    fields = Path("/proc/self/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc of Linux")
def test_a_reader_is_as_large_after_ten_thousand_samples_as_after_two(tmp_path: Path) -> None:
    samples = [make_sample(number, side=96, num_frames=12) for number in range(90)]
    write_shards(tmp_path, samples, samples_per_shard=1)  # more shards than are kept open
    batches = iter(stream_of(tmp_path, batch_size=20))
    sizes = []
    for _ in range(6):
        for _ in itertools.islice(batches, 100):
            pass
        sizes.append(private_megabytes())
    # A leak of one clip in ten would be 110 kB x 1000; one file name a sample, 1 MB.
    assert sizes[-1] - sizes[0] < 3, sizes
