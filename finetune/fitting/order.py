"""In which order a training side is read, and which process reads what.

For: samplers of training clips and of test views, for one process or several that share each
batch. Not for: reading (``finetune/data.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Sampler


@dataclass(frozen=True, kw_only=True)
class Share:
    """One of several processes that share the work.

    Args:
        rank: Number of the process, from 0.
        of: How many there are.
    """

    rank: int = 0
    of: int = 1


class EpochOrder(Sampler[int]):
    """A new order for each epoch, which follows from the seed and the epoch alone.

    Every batch of all processes together is the batch that one process would read: of a batch, a
    process takes each ``share.of``-th sample. A last batch that is not full is left out unless it
    is the only one, and then of that what the processes cannot share evenly.

    Args:
        num_samples: Of the training side.
        batch_size: Of all processes together.
        seed: Of the orders.
        share: Whose part this is.
    """

    def __init__(self, num_samples: int, *, batch_size: int, seed: int, share: Share) -> None:
        whole = batch_size if num_samples >= batch_size else share.of
        self.num_samples, self.seed, self.share, self.epoch = num_samples, seed, share, 0
        self.num_used = num_samples - num_samples % whole

    def __len__(self) -> int:
        return self.num_used // self.share.of

    def __iter__(self) -> Iterator[int]:
        state = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)[0]
        order = torch.randperm(
            self.num_samples, generator=torch.Generator().manual_seed(int(state))
        )
        return iter(order[: self.num_used][self.share.rank :: self.share.of].tolist())

    def set_epoch(self, epoch: int) -> None:
        """Take the order of another epoch."""
        self.epoch = epoch


def part_of(number: int, share: Share) -> range:
    """The part of ``number`` items that a process handles: each item is in one part alone."""
    return range(number * share.rank // share.of, number * (share.rank + 1) // share.of)
