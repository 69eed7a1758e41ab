"""Cutting the endless sequence of samples into global batches, and these into ranks' shares.

For: arithmetic on numbers of batches. Not for: which sample stands where (``order.py``).

A global batch is what all ranks handle in one step. Its number alone says which places of the
sequence it holds, so it is the same batch whatever the number of ranks, as long as ranks x clips
of a rank stay the same. A rank takes a contiguous share of it, and loader process w of W the
batches w, w + W, … of its rank, which a DataLoader asks for in turn.

Endless, global batch b holds the places b·G to (b + 1)·G - 1 and reaches across the ends of
epochs; all shares are equal. One epoch at a time, each epoch has ceil(N / G) batches of its own;
what is left for the last one is spread over the ranks as evenly as it goes. All ranks have the
same number of batches, so none waits for another at the end; the last share of some may be empty.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Batches:
    """How a sequence is cut.

    Args:
        num_samples: Of an epoch, over all ranks.
        batch_samples: Of a batch of one rank.
        rank: Of this process.
        world_size: Number of ranks.
        infinite: Whether batches reach across the ends of epochs.
    """

    num_samples: int
    batch_samples: int
    rank: int
    world_size: int
    infinite: bool

    @property
    def global_samples(self) -> int:
        """Samples of a global batch."""
        return self.batch_samples * self.world_size

    @property
    def of_epoch(self) -> int:
        """Batches of an epoch; endless, those that it takes to hold it."""
        return -(-self.num_samples // self.global_samples)

    def first(self, epoch: int) -> int:
        """The first batch with nothing of an earlier epoch in it."""
        if self.infinite:
            return -(-epoch * self.num_samples // self.global_samples)
        return epoch * self.of_epoch

    def epoch(self, batch: int) -> int:
        """The epoch in which a batch begins."""
        if self.infinite:
            return batch * self.global_samples // self.num_samples
        return batch // self.of_epoch

    def share(self, batch: int) -> range:
        """The places of the sequence that are this rank's part of a global batch."""
        if self.infinite:
            first, count = batch * self.global_samples, self.global_samples
        else:
            epoch, number = divmod(batch, self.of_epoch)
            done = number * self.global_samples
            first = epoch * self.num_samples + done
            count = min(self.global_samples, self.num_samples - done)
        begin, end = (count * rank // self.world_size for rank in (self.rank, self.rank + 1))
        return range(first + begin, first + end)
