"""Tests of the arithmetic of order: epochs, mixtures of corpora, batches and their shares."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest

from shards.reading.order import (
    Batches,
    BatchSpeakers,
    Mixture,
    SampleOrder,
    batch_speakers,
    epoch_order,
)

SIZES = np.array([7, 5, 9, 1, 8, 10])


def batches(world_size: int, rank: int, *, batch: int) -> Batches:
    return Batches(num_samples=23, batch_samples=batch, rank=rank, world_size=world_size)


def corpus_by_speaker(samples_of_a_shard: int) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of shards, and the speaker of each sample: a list sorted by speaker, as listings are.

    800 speakers of 20 to 160 clips; a permutation's batch of 160 holds about 143 of them.
    """
    counts = 20 + np.arange(800) * 37 % 141
    speakers = np.repeat(np.arange(800), counts)
    full, rest = divmod(len(speakers), samples_of_a_shard)
    return np.array([samples_of_a_shard] * full + [rest] * (rest > 0)), speakers


@pytest.mark.parametrize("lanes", [0, 1, 2, 5, 6, 1000, None])
def test_an_epoch_holds_every_sample_once(lanes: int | None) -> None:
    order = epoch_order(SIZES, draws=(3, 0, 5), lanes=lanes)
    assert sorted(order.tolist()) == list(range(SIZES.sum()))


def test_every_corpus_and_every_epoch_of_it_has_an_order_of_its_own() -> None:
    order = SampleOrder([SIZES, SIZES], [1.0, 1.0], seed=0, lanes=[None, None])
    found: dict[tuple[int, int], list[int]] = {}
    for position in range(4 * int(SIZES.sum())):
        place = order.at(position)
        found.setdefault((place.corpus, place.epoch), []).append(place.sample)
    assert sorted(found) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert len(set(map(tuple, found.values()))) == 4
    every, all_lanes = (epoch_order(SIZES, draws=(3,), lanes=lanes) for lanes in (None, 6))
    assert np.array_equal(every, all_lanes)


def test_speakers_of_small_batches_are_those_of_every_draw() -> None:
    order = SampleOrder([[4]], None, seed=0, lanes=[None])
    found = batch_speakers(order, [np.array([0, 0, 1, 1])], 2)
    assert found is not None
    assert found.permuted == pytest.approx(2 * (1 - 1 / 6))  # of six pairs one lacks a speaker
    assert [BatchSpeakers(10, met, 10.0).is_mixed for met in (8.9, 9.0)] == [False, True]


def test_without_lanes_whole_shards_are_shuffled_and_nothing_else() -> None:
    order = epoch_order(SIZES, draws=(3, 0, 5), lanes=0).tolist()
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


@pytest.mark.parametrize("lanes", [1, 7, 30])
def test_no_more_shards_are_open_at_once_than_there_are_lanes(lanes: int) -> None:
    sizes = np.full(100, 50)
    of_shard = epoch_order(sizes, draws=(1,), lanes=lanes) // 50
    places = {shard: np.flatnonzero(of_shard == shard) for shard in range(100)}
    # A shard that two lanes share is open at the end of one and at the beginning of the other.
    gaps = {shard: np.diff(found) for shard, found in places.items()}
    cut = [shard for shard, gap in gaps.items() if gap.max() > 3 * lanes]
    assert len(cut) < lanes
    open_at = np.zeros(5000, dtype=int)
    for shard in set(places) - set(cut):
        open_at[places[shard][0] : places[shard][-1] + 1] += 1
    # In the row in which a lane passes from one shard to the next, it holds both.
    assert np.median(open_at) <= lanes
    assert open_at.max() <= 2 * lanes
    for shard in set(places) - set(cut):  # each is open for its share of the epoch
        assert places[shard][-1] - places[shard][0] < 51 * lanes + lanes


@pytest.mark.parametrize("samples_of_a_shard", [1, 16, 256, 3000, 10**6])
@pytest.mark.parametrize("corpora", [1, 2])
def test_a_corpus_sorted_by_speaker_gives_batches_as_mixed_as_a_permutation(
    samples_of_a_shard: int, corpora: int
) -> None:
    sizes, speakers = corpus_by_speaker(samples_of_a_shard)
    weights = None if corpora == 1 else (1.0, 1.0)
    order = SampleOrder([sizes.tolist()] * corpora, weights, seed=0, lanes=[None] * corpora)
    found = batch_speakers(order, [speakers] * corpora, 160)
    assert found is not None
    assert found.batch_size == 160
    assert found.permuted == pytest.approx(143 if corpora == 1 else 151, abs=1)
    assert found.found == pytest.approx(found.permuted, abs=1.5)
    assert found.is_mixed


def test_lanes_mix_by_the_speakers_that_their_shards_hold() -> None:
    sizes, speakers = corpus_by_speaker(256)
    shares = {}
    for lanes in (0, 1, 16, 128):
        order = SampleOrder([sizes.tolist()], None, seed=0, lanes=[lanes])
        found = batch_speakers(order, [speakers], 160)
        assert found is not None
        shares[lanes] = found.found / found.permuted
        assert found.is_mixed == (shares[lanes] >= 0.9)
    assert shares[0] < shares[1] < 0.1 < shares[16] < 0.7
    assert shares[128] > 0.95


def test_speakers_that_nobody_knows_do_not_count() -> None:
    order = SampleOrder([[40]], None, seed=0, lanes=[None])
    assert batch_speakers(order, [np.full(40, -1)], 8) is None
    some = batch_speakers(order, [np.repeat([-1, 0, 1, 2], 10)], 40)  # an epoch is one batch
    assert some is not None
    assert (some.found, some.permuted) == (3, pytest.approx(3))


def test_every_epoch_seed_and_corpus_has_an_order_of_its_own() -> None:
    drawn = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    orders = {tuple(epoch_order(SIZES, draws=draws, lanes=2).tolist()) for draws in drawn}
    assert len(orders) == 4


def test_the_order_is_the_same_for_ever() -> None:
    # A number seen once: another one would begin every resumed run with other batches.
    whole = epoch_order(np.array([3, 4, 2]), draws=(0, 0, 0), lanes=None)
    assert whole.tolist() == [3, 2, 1, 8, 6, 0, 7, 4, 5]
    order = epoch_order(np.array([3, 4, 2]), draws=(0, 0, 0), lanes=2)
    assert order.tolist() == [3, 7, 8, 2, 1, 6, 0, 4, 5]


def test_samples_come_to_every_place_alike() -> None:
    firsts = Counter(
        int(epoch_order(np.array([4, 4]), draws=(0, 0, epoch), lanes=None)[0])
        for epoch in range(4000)
    )
    assert min(firsts.values()) > 400  # 500 each are expected, 21 their deviation
    assert len(firsts) == 8


def test_places_can_be_looked_up_in_any_order_and_in_another_process() -> None:
    order = SampleOrder([SIZES.tolist()], None, seed=4, lanes=[3])
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
    order = SampleOrder([[4], [6, 6]], (1, 1), seed=0, lanes=[None, 1])
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
