"""Several processes testing together: each clip in one of them, everything known to all.

For: ``torchrun … -m hicmae evaluate``. Not for: training, whose processes Lightning starts.

Deviation: the reference pads the samples of its processes to equal numbers and averages their
scores; here no sample is repeated, and scores are computed once, from all of them.
"""

from __future__ import annotations

import os
from typing import Any, TypeVar

import torch.distributed
from torch.utils.data import Dataset, Subset

Item = TypeVar("Item")


class Ranks:
    """The processes that test together; one, if nobody started more.

    Attributes:
        rank: Number of this process.
        world: How many there are.
    """

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        if self.world > 1 and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def own(self, dataset: Dataset[Any]) -> Dataset[Any]:
        """The items of a dataset that are this process's: every ``world``-th."""
        if self.world == 1:
            return dataset
        return Subset(dataset, range(self.rank, len(dataset), self.world))  # type: ignore[arg-type]

    def gathered(self, items: list[Item]) -> list[Item]:
        """What all processes have, in all of them."""
        if self.world == 1:
            return items
        found: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(found, items)
        return [item for of_one in found for item in of_one]

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.world > 1:
            torch.distributed.barrier()

    def leave(self) -> None:
        """End what was begun."""
        if self.world > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def require_alone(verb: str) -> None:
    """Refuse a verb that has nothing to share out.

    Raises: ValueError: it was started as one of several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(f"{verb} runs in one process; start it without torchrun")
