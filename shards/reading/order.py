"""Which sample stands at each place of the endless sequence that pretraining reads.

The order is a function of (counts, weights, seed, lanes) and of nothing else: not of the number of
ranks or loader processes, nor of what was read before. So any place of it can be looked up,
which is what makes resuming exact and a change of the number of processes harmless. WebDataset's
order has neither property: it deals whole shards to processes and draws from buffers that fill as
tars are read, so what comes depends on each process's past, which cannot be saved.

One epoch of a corpus whose shards can all be open at once is a permutation of its samples. A corpus
that is fetched through a cache cannot have that. Its shards, in an order drawn for the epoch and
each with its samples shuffled, then make one line, which is cut into as many lanes as shards may be
open; the epoch goes down all lanes side by side, so that neighbours come from different lanes. A
lane opens the next shard when it has come to the end of one, so each is open once an epoch, or
twice where a cut goes through it. (Lists of recordings are sorted by speaker, and shards are
written in their order: a shuffle within a window of some thousand samples would fill a batch from
the few speakers of a few shards.) Either is one array of integers, 4 bytes a sample.

A global batch is what all ranks handle in one step: batch b holds the places b·G to (b + 1)·G - 1
and reaches across the ends of epochs. Its number alone says which places it holds, so it is the
same batch whatever the number of ranks, as long as ranks x clips of a rank stay the same. A rank
takes a contiguous share of it, and loader process w of W the batches w, w + W, … of its rank, which
a DataLoader asks for in turn.

How many speakers a batch holds says whether the order is as mixed as a permutation. Contrast takes
the other clips of a batch for negatives. Where many are of the same person, it learns who speaks in
which room instead of what a voice and a face share.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pandas

_EPOCHS_KEPT = 2  # of each corpus: a batch may reach across the end of one


@dataclass(frozen=True)
class Place:
    """One place of the sequence.

    Args:
        epoch: Pass over that corpus.
        first: Whether the pass begins here.
        sample: Number of the sample in the corpus, in the order of its shards.
    """

    corpus: int
    epoch: int
    first: bool
    sample: int


class SampleOrder:
    """The endless sequence: epochs of one corpus, or several corpora mixed by weight.

    Args:
        shard_sizes: Of each corpus, the number of samples of each of its shards.
        weights: Of each corpus; the shares of the sequence are in proportion to them. None: there
            is one corpus.
        seed: Of every draw, 0 or more.
        lanes: Of each corpus, the shards that are drawn from at once; None: from all. 0 leaves
            samples in the order of their shard, and only shuffles shards.

    Attributes:
        num_samples: Samples of all corpora together: the length of an epoch of the sequence.
    """

    def __init__(
        self,
        shard_sizes: Sequence[Sequence[int]],
        weights: Sequence[float] | None,
        *,
        seed: int,
        lanes: Sequence[int | None],
    ) -> None:
        assert weights is not None or len(shard_sizes) == 1, len(shard_sizes)
        self.seed, self.lanes = seed, list(lanes)
        self._sizes = [np.asarray(sizes, dtype=np.int64) for sizes in shard_sizes]
        self._mixture = Mixture(weights or [1.0])
        self._counts = [int(sizes.sum()) for sizes in self._sizes]
        self._epochs: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self.num_samples = sum(self._counts)

    def at(self, position: int) -> Place:
        """What stands at a position, counted from 0."""
        corpus, number = self._mixture.locate(position)
        epoch, place = divmod(number, self._counts[corpus])
        sample = int(self._epoch(corpus, epoch)[place])
        return Place(corpus, epoch, place == 0, sample)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_epochs": OrderedDict()}  # another process draws its own

    def _epoch(self, corpus: int, epoch: int) -> np.ndarray:
        key = (corpus, epoch)
        order = self._epochs.get(key)
        if order is None:
            while len(self._epochs) >= _EPOCHS_KEPT * len(self._sizes):
                self._epochs.popitem(last=False)
            order = epoch_order(
                self._sizes[corpus],
                draws=(self.seed, corpus, epoch),
                lanes=self.lanes[corpus],
            )
            self._epochs[key] = order
        self._epochs.move_to_end(key)
        return order


def epoch_order(sizes: np.ndarray, *, draws: tuple[int, ...], lanes: int | None) -> np.ndarray:
    """The order of one epoch.

    Args:
        sizes: (number of shards,) samples of each.
        draws: What the draws depend on, integers of 0 or more.
        lanes: As one in ``SampleOrder``.

    Returns: (N,) int32 or int64, each number from 0 to N - 1 once; sample n is the n-th in the
        order of the shards as given.
    """
    num_shards, num_samples = len(sizes), int(sizes.sum())
    # Only the raw stream of a bit generator is promised to be the same in every NumPy (NEP 19).
    stream = np.random.PCG64(np.random.SeedSequence(draws))
    if lanes is None or lanes >= num_shards:
        order = np.argsort(stream.random_raw(num_samples), kind="stable")
    else:
        shards = np.argsort(stream.random_raw(num_shards), kind="stable")
        starts = np.cumsum(sizes) - sizes  # of each shard, where samples are numbered in order
        placed = np.cumsum(sizes[shards]) - sizes[shards]  # of each, as they were shuffled
        order = np.arange(num_samples) + np.repeat(starts[shards] - placed, sizes[shards])
        if lanes:
            of_shard = np.repeat(np.arange(num_shards), sizes[shards])
            order = order[np.lexsort((stream.random_raw(num_samples), of_shard))]
            rows = np.arange(num_samples) % -(-num_samples // lanes)  # a row: one of each lane
            order = order[np.lexsort((stream.random_raw(num_samples), rows))]
    return order.astype(np.int32 if num_samples < 2**31 else np.int64)


@dataclass(frozen=True, kw_only=True)
class Batches:
    """How the sequence is cut into global batches, and these into ranks' shares.

    Args:
        num_samples: Of an epoch, over all ranks.
        batch_samples: Of a batch of one rank.
    """

    num_samples: int
    batch_samples: int
    rank: int
    world_size: int

    def epoch(self, batch: int) -> int:
        """The epoch in which a global batch begins."""
        return batch * self.batch_samples * self.world_size // self.num_samples

    def share(self, batch: int) -> range:
        """The places of the sequence that are this rank's part of a global batch."""
        first = (batch * self.world_size + self.rank) * self.batch_samples
        return range(first, first + self.batch_samples)


class Mixture:
    """Deals the places of one sequence out to several, in proportion to weights, all positive.

    Every stretch of the sequence holds each in its proportion, to within a few places; the first
    takes the places at which the whole part of position x share grows, the next does so among
    what is left, and so on, in exact integers.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        left = sum(map(Fraction, weights), Fraction(0))
        self._shares = []
        for weight in map(Fraction, weights):
            self._shares.append(weight / left)
            left -= weight

    def locate(self, position: int) -> tuple[int, int]:
        """Whose the place is, and how many places of the same are before it."""
        for number, share in enumerate(self._shares[:-1]):
            before = position * share.numerator // share.denominator
            if (position + 1) * share.numerator // share.denominator > before:
                return number, before
            position -= before
        return len(self._shares) - 1, position


_LOOKED_AT = 64  # batches, spread over the first epoch
_FAR = 0.9  # of what a permutation gives


@dataclass(frozen=True)
class BatchSpeakers:
    """Speakers of a batch, means over batches; samples without a speaker do not count.

    Args:
        found: In batches of the order that is read.
        permuted: In batches of a permutation.
    """

    batch_size: int
    found: float
    permuted: float

    @property
    def is_mixed(self) -> bool:
        """Whether batches are about as mixed as a permutation's."""
        return self.found >= _FAR * self.permuted

    def __str__(self) -> str:
        return (
            f"{self.found:.1f} different in a batch of {self.batch_size} "
            f"({self.permuted:.1f} in a permutation's)"
        )


def batch_speakers(
    order: SampleOrder, speakers: Sequence[np.ndarray], batch_size: int
) -> BatchSpeakers | None:
    """Count speakers in the batches of the first epoch.

    Args:
        speakers: Of each corpus, the number of each sample's speaker, (N,) integers; -1: not known.
        batch_size: Samples of a batch, over all ranks.

    Returns: None where no speaker is known.
    """
    if all((numbers < 0).all() for numbers in speakers):
        return None
    batch_size = min(batch_size, order.num_samples)
    num_batches = order.num_samples // batch_size
    counts, dealt = [], np.zeros(len(speakers))
    for number in (
        np.linspace(0, num_batches - 1, min(num_batches, _LOOKED_AT)).astype(int).tolist()
    ):
        met = set()
        for position in range(number * batch_size, (number + 1) * batch_size):
            place = order.at(position)
            met.add((place.corpus, int(speakers[place.corpus][place.sample])))
            dealt[place.corpus] += 1
        counts.append(sum(speaker >= 0 for _, speaker in met))
    permuted = [
        _permuted(numbers, share)
        for numbers, share in zip(speakers, dealt / len(counts), strict=True)
    ]
    return BatchSpeakers(batch_size, float(np.mean(counts)), sum(permuted))


def folder_speakers(table: pandas.DataFrame, batch_size: int) -> BatchSpeakers | None:
    """Count as ``batch_speakers`` does, of all samples of one index, read from a disk."""
    table = table.sort_values(["shard", "json_offset"], kind="stable")
    sizes = table["shard"].value_counts(sort=False).tolist()
    speakers = pandas.factorize(table["speaker"])[0]
    return batch_speakers(SampleOrder([sizes], None, seed=0, lanes=[None]), [speakers], batch_size)


def _permuted(speakers: np.ndarray, drawn: float) -> float:
    """Speakers expected among so many samples drawn without putting back."""
    total = len(speakers)
    sizes = np.bincount(speakers[speakers >= 0])
    expected = 0.0
    for size, times in zip(*np.unique(sizes[sizes > 0], return_counts=True), strict=True):
        others = total - int(size)
        absent = 0.0
        if drawn <= others:
            absent = math.exp(
                math.lgamma(others + 1)
                + math.lgamma(total - drawn + 1)
                - math.lgamma(others - drawn + 1)
                - math.lgamma(total + 1)
            )
        expected += int(times) * (1 - absent)
    return expected
