"""How many speakers a batch holds: whether the order of reading is as mixed as a permutation.

Contrast takes the other clips of a batch for negatives. Where many are of the same person, it
learns who speaks in which room instead of what a voice and a face share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas

from shards.reading.order import SampleOrder

_LOOKED_AT = 64  # batches, spread over the first epoch
_FAR = 0.9  # of what a permutation gives


@dataclass(frozen=True)
class BatchSpeakers:
    """Speakers of a batch, means over batches; samples without a speaker do not count.

    Args:
        batch_size: Clips of a batch.
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
        order: In which samples are read.
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
    """Count speakers as ``batch_speakers`` does, of all samples of one folder, read from a disk.

    Args:
        table: Of its index.
        batch_size: Samples of a batch, over all ranks.
    """
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
