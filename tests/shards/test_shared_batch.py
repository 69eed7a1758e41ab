"""Batches that come from loader processes: whole, apart from each other, in memory used again."""

from __future__ import annotations

import copy
import itertools
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from shards.reading.shared_batch import Borrower, Lender
from shards.reading.streaming import ClipStream
from tests.support.stream_fixtures import first_batches, loader, stream_of

TENSORS = ("frames", "waveform", "num_samples")


@pytest.fixture(scope="module")
def folder(six_shards: Path) -> Path:
    return six_shards


def blocks_of(stream: ClipStream) -> list[int]:
    """How many blocks this process holds, of each loader process."""
    return [len(blocks) for blocks in stream._borrower._lenders.values()]


def require_same(batch: dict[str, Any], expected: dict[str, Any]) -> None:
    assert type(batch) is dict
    assert list(batch) == list(expected)
    for name in TENSORS:
        assert batch[name].dtype == expected[name].dtype
        assert torch.equal(batch[name], expected[name]), (batch["batch"], name)
    assert batch["keys"] == expected["keys"]


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_what_a_loader_process_sends_is_what_it_read(folder: Path, start: str) -> None:
    stream = stream_of(folder)
    count = 60 if start == "fork" else 12
    alone = itertools.islice(iter(stream_of(folder)), count)
    sent = iter(loader(stream, 2, multiprocessing_context=start))
    for batch, expected in zip(itertools.islice(sent, count), alone, strict=True):
        require_same(batch, expected)
    # Two batches wait, one is used, one is made, and one may be on its way.
    assert all(1 < number <= 5 for number in blocks_of(stream)), blocks_of(stream)


def test_batches_that_are_kept_do_not_change(folder: Path) -> None:
    kept = first_batches(stream_of(folder), 25, workers=1)  # more than blocks
    for batch, expected in zip(kept, stream_of(folder), strict=False):
        require_same(batch, expected)


def test_a_view_or_an_array_of_a_batch_keeps_all_of_it(folder: Path) -> None:
    batches = iter(loader(stream_of(folder), 1))
    view, array = next(batches)["frames"][1:2, ..., 0], next(batches)["waveform"].numpy()
    for _ in itertools.islice(batches, 20):
        pass
    first, second = itertools.islice(iter(stream_of(folder)), 2)
    assert torch.equal(view, first["frames"][1:2, ..., 0])
    assert (array == second["waveform"].numpy()).all()


def test_processes_that_live_on_use_their_memory_again_and_others_are_forgotten(
    folder: Path,
) -> None:
    stream = stream_of(folder)
    lasting = loader(stream, 1, persistent_workers=True)
    for _ in range(4):
        assert sum(len(batch["keys"]) for batch in itertools.islice(lasting, 6)) == 24
    assert len(blocks_of(stream)) == 1
    assert blocks_of(stream)[0] <= 5
    del lasting
    for _ in range(3):
        assert len(first_batches(stream, 6, workers=2)) == 6
        assert len(blocks_of(stream)) <= 2


def test_a_copy_of_a_stream_reads_as_well(folder: Path) -> None:
    twin = copy.deepcopy(stream_of(folder))  # what it is a copy of is gone
    expected_batches = first_batches(stream_of(folder), 6)
    for batch, expected in zip(first_batches(twin, 6, workers=1), expected_batches, strict=True):
        require_same(batch, expected)


class Wrapped(torch.utils.data.IterableDataset[dict[str, Any]]):
    """A data set of one's own around the stream, which changes batches in the loader process."""

    def __init__(self, stream: ClipStream) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.stream:
            mean = batch["frames"].float().mean(dim=(1, 2, 3, 4))
            yield batch | {"mean": mean} if batch["batch"] % 2 else {**batch, "mean": mean}


def test_a_data_set_around_the_stream_may_change_batches(folder: Path) -> None:
    wrapped = torch.utils.data.DataLoader(
        Wrapped(stream_of(folder)), batch_size=None, num_workers=1
    )
    for batch in itertools.chain(*(itertools.islice(wrapped, 6) for _ in range(2))):
        assert torch.equal(batch["mean"], batch["frames"].float().mean(dim=(1, 2, 3, 4)))


def test_a_batch_of_another_size_gets_a_block_that_is_large_enough() -> None:
    lender = Lender(Borrower())
    small = lender.lend({"frames": ((2, 3), torch.uint8), "waveform": ((5,), torch.int16)})
    small["frames"][:], small["waveform"][:] = 1, 2
    large = lender.lend({"frames": ((1000, 1000), torch.uint8), "num_samples": ((3,), torch.int64)})
    large["frames"][:], large["num_samples"][:] = 3, 4
    assert (small["frames"] == 1).all()
    assert (small["waveform"] == 2).all()
    assert (large["frames"] == 3).all()
    assert len(lender.blocks) == 2
    assert lender.lend({"frames": ((0, 3), torch.uint8)})["frames"].shape == (0, 3)


def test_a_child_of_the_training_process_does_not_give_a_batch_back(folder: Path) -> None:
    batches = iter(loader(stream_of(folder), 1))
    batch = next(batches)
    before = batch["frames"].clone()
    drop = multiprocessing.get_context("fork").Process(target=batch.clear)
    drop.start()
    drop.join()
    for _ in itertools.islice(batches, 10):
        pass
    assert torch.equal(batch["frames"], before)
