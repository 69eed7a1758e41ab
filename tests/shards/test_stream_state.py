"""Tests of resuming a stream exactly, on as many or other ranks and workers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.shard_fixtures import make_sample, write_shards
from tests.support.stream_fixtures import keys_of, loader, one_epoch, stream_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six shards of 23 samples."""
    samples = [make_sample(number) for number in range(23)]
    return write_shards(tmp_path_factory.mktemp("shards"), samples)


def first_batches(stream: Any, count: int, workers: int = 0) -> list[dict[str, Any]]:
    return list(itertools.islice(loader(stream, workers), count))


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("used", [0, 1, 5, 6, 14])
def test_after_a_restore_comes_the_batch_that_would_have_come(
    folder: Path, workers: int, used: int
) -> None:
    whole = first_batches(stream_of(folder), used + 4)
    stream = stream_of(folder)
    batches = iter(loader(stream, workers))
    for batch in itertools.islice(batches, used):
        stream.mark_used(batch)
    # What was read ahead, and one batch that came and was not used, do not count.
    next(batches)
    state = json.loads(json.dumps(stream.state_dict()))
    del batches
    restored = stream_of(folder)
    restored.load_state_dict(state)
    for batch, expected in zip(first_batches(restored, 4, workers), whole[used:], strict=True):
        assert (batch["batch"], batch["keys"]) == (expected["batch"], expected["keys"])
        for name in ("frames", "waveform", "num_samples"):
            assert torch.equal(batch[name], expected[name])
    again = first_batches(stream_of(folder, first_batch=used), 4)
    assert keys_of(again) == keys_of(whole[used:])


def test_a_run_moves_to_other_ranks_and_workers(folder: Path) -> None:
    whole = first_batches(stream_of(folder, batch_size=6), 12)
    stream = stream_of(folder, batch_size=6)
    stream.mark_used(whole[4])
    shares = []
    for rank in range(3):
        moved = stream_of(folder, batch_size=2, rank=rank, world_size=3)
        moved.load_state_dict(stream.state_dict())
        shares.append(first_batches(moved, 7, workers=rank))
    for number, expected in enumerate(whole[5:]):
        assert keys_of(share[number] for share in shares) == expected["keys"]
        waveforms = torch.cat([share[number]["waveform"] for share in shares])
        assert torch.equal(waveforms, expected["waveform"])


def test_a_finite_stream_is_resumed_within_its_epoch(folder: Path) -> None:
    whole = list(one_epoch(folder, 2))
    assert [batch["batch"] for batch in whole] == list(range(12, 18))
    stream = one_epoch(folder)
    stream.set_batch(15)
    assert stream.epoch == 2
    assert keys_of(stream) == keys_of(whole[3:])


def test_an_endless_stream_begins_with_nothing_of_the_epoch_before(folder: Path) -> None:
    from_start = first_batches(stream_of(folder), 20)
    batches = first_batches(stream_of(folder, first_epoch=2), 2)
    assert batches[0]["batch"] == 12  # 46 / 4, rounded up
    assert keys_of(batches) == keys_of(from_start[12:14])


def test_iterating_again_begins_where_it_began_until_told_otherwise(folder: Path) -> None:
    stream = stream_of(folder, first_batch=3)
    first = first_batches(stream, 2)
    stream.mark_used(first[1])
    assert keys_of(first_batches(stream, 2)) == keys_of(first)
    stream.load_state_dict(stream.state_dict())
    assert first_batches(stream, 1)[0]["batch"] == 5


def test_a_state_of_another_sequence_is_refused_by_what_differs(
    folder: Path, tmp_path: Path
) -> None:
    state = stream_of(folder).state_dict()
    other = stream_of(folder, batch_size=3, seed=1)
    with pytest.raises(ValueError, match=r"global_batch was 4, is 3; seed was 0, is 1\)") as error:
        other.load_state_dict(state)
    assert "\n" not in str(error.value)
    more = write_shards(tmp_path, [make_sample(number) for number in range(24)])
    with pytest.raises(ValueError, match=r"another sequence of batches \(shards was"):
        stream_of(more).load_state_dict(state)
    # The same shards elsewhere are the same.
    copy = write_shards(tmp_path / "copy", [make_sample(number) for number in range(23)])
    stream_of(copy).load_state_dict(state)
