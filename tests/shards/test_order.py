"""Tests of the arithmetic of order: epochs, mixtures of corpora, batches and their shares."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest

from shards.reading.order import Batches, Mixture, SampleOrder, epoch_order

SIZES = np.array([7, 5, 9, 1, 8, 10])


def batches(world_size: int, rank: int, *, batch: int) -> Batches:
    return Batches(num_samples=23, batch_samples=batch, rank=rank, world_size=world_size)


@pytest.mark.parametrize("window", [0, 1, 2, 8, 1000])
def test_an_epoch_holds_every_sample_once(window: int) -> None:
    order = epoch_order(SIZES, draws=(3, 0, 5), window=window)
    assert sorted(order.tolist()) == list(range(SIZES.sum()))


def test_without_a_window_whole_shards_are_shuffled_and_nothing_else() -> None:
    order = epoch_order(SIZES, draws=(3, 0, 5), window=0).tolist()
    starts = np.cumsum(SIZES) - SIZES
    shards = {
        int(start): list(range(start, start + size))
        for start, size in zip(starts, SIZES, strict=True)
    }
    met = []
    while order:
        shard = shards[order[0]]
        assert order[: len(shard)] == shard
        met.append(order[0])
        del order[: len(shard)]
    assert sorted(met) == sorted(shards)
    assert met != sorted(shards)


def test_a_sample_moves_by_less_than_the_window() -> None:
    sizes = np.full(100, 50)
    still = epoch_order(sizes, draws=(1,), window=0)
    moved = epoch_order(sizes, draws=(1,), window=200)
    place = np.argsort(still)[moved]  # where each was before
    distance = np.abs(np.arange(5000) - place)
    assert distance.max() < 200
    assert distance.mean() > 200 / 6  # of uniform draws: about a quarter of the window


def test_every_epoch_seed_and_corpus_has_an_order_of_its_own() -> None:
    drawn = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    orders = {tuple(epoch_order(SIZES, draws=draws, window=8).tolist()) for draws in drawn}
    assert len(orders) == 4


def test_the_order_is_the_same_for_ever() -> None:
    # A number seen once: another one would begin every resumed run with other batches.
    order = epoch_order(np.array([3, 4, 2]), draws=(0, 0, 0), window=4)
    assert order.tolist() == [7, 8, 4, 3, 5, 6, 2, 0, 1]


def test_samples_move_to_every_place_alike_if_the_window_is_wide() -> None:
    firsts = Counter(
        int(epoch_order(np.array([4, 4]), draws=(0, 0, epoch), window=10**6)[0])
        for epoch in range(4000)
    )
    assert min(firsts.values()) > 400  # 500 each are expected, 21 their deviation
    assert len(firsts) == 8


def test_places_can_be_looked_up_in_any_order_and_in_another_process() -> None:
    order = SampleOrder([SIZES.tolist()], None, seed=4, window=6)
    places = [order.at(position) for position in range(200)]
    again = pickle.loads(pickle.dumps(order))
    assert [again.at(position) for position in reversed(range(200))] == places[::-1]
    assert [place.epoch for place in places] == [position // 40 for position in range(200)]
    assert [n for n, place in enumerate(places) if place.first] == [0, 40, 80, 120, 160]


@pytest.mark.parametrize(
    "weights", [(1, 1), (3, 1), (0.2, 0.5, 0.3), (1, 1, 1, 1), (1e-3, 1), (0.1, 0.7, 1 / 3)]
)
def test_a_mixture_deals_every_place_once_and_in_proportion(weights: tuple[float, ...]) -> None:
    mixture = Mixture(weights)
    counts = [0] * len(weights)
    for position in range(3000):
        number, before = mixture.locate(position)
        assert before == counts[number]
        counts[number] += 1
        for share, count in zip(weights, counts, strict=True):
            assert abs(count - (position + 1) * share / sum(weights)) <= len(weights)


def test_a_place_far_away_is_found_without_counting() -> None:
    mixture = Mixture((0.3, 0.7))
    found = [mixture.locate(10**15 + place) for place in range(10)]
    assert Counter(number for number, _ in found) == {0: 3, 1: 7}
    assert abs(found[0][1] - (0.7 if found[0][0] else 0.3) * 10**15) < 2


def test_corpora_have_epochs_of_their_own() -> None:
    order = SampleOrder([[4], [6, 6]], (1, 1), seed=0, window=3)
    places = [order.at(position) for position in range(48)]
    assert order.num_samples == 16
    for corpus, size in ((0, 4), (1, 12)):
        mine = [place for place in places if place.corpus == corpus]
        assert len(mine) == 24
        for epoch in range(24 // size):
            seen = [place.sample for place in mine if place.epoch == epoch]
            assert sorted(seen) == list(range(size))


@pytest.mark.parametrize(("world_size", "batch"), [(1, 12), (2, 6), (3, 4), (4, 3), (6, 2)])
def test_shares_of_any_number_of_ranks_make_the_same_global_batches(
    world_size: int, batch: int
) -> None:
    for number in range(12):
        shares = [
            batches(world_size, rank, batch=batch).share(number) for rank in range(world_size)
        ]
        places = [place for share in shares for place in share]
        assert places == list(range(12 * number, 12 * (number + 1)))
        assert set(map(len, shares)) == {batch}


def test_batches_and_epochs_are_counted_through() -> None:
    # Epoch 1 begins at place 23, inside of batch 2; epoch 2 at 46, inside of batch 5.
    assert [batches(2, 0, batch=4).epoch(number) for number in range(7)] == [0, 0, 0, 1, 1, 1, 2]
