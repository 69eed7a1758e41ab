"""Rows of all processes one after another, where each may have another number of them.

Bad samples are left out of a batch, so processes that share one have different numbers of clips, or
none. A collective operation on tensors of different sizes ends in an error, waits for ever or
returns what was never sent.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def are_several() -> bool:
    """Whether there are other processes to gather from."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def row_counts(count: int, device: torch.device) -> list[int]:
    """How many rows each process has, in the order of ranks."""
    if not are_several():
        return [count]
    mine = torch.tensor([count], device=device)
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    return [int(number) for number in everyone]


def shared_mean(values: Tensor, there: Tensor) -> Tensor:
    """Mean of values (B,) over those clips of all processes that are ``there``, (B,) boolean.

    Each process gets its own clips' part of the sum, times the number of processes, over the count
    of all: the mean over processes, of this and of its gradients, is that of one process with all
    clips, however they are dealt. 0 where none is there. Every process must call this.
    """
    total, count = torch.where(there, values, 0.0).sum(), there.sum()
    if not are_several():
        return total / count.clamp(min=1)
    dist.all_reduce(count)
    return total * dist.get_world_size() / count.clamp(min=1)


def all_rows(rows: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """Rows (B, …) of all processes (B', …), with gradients.

    The gradient of a process's rows is the sum over processes: where all of them compute the same
    loss of all rows, the mean of their parameters' gradients is that of one process with all rows.

    Args:
        rows: Of this process, B of 0 or more.
        counts: What ``row_counts`` gives; none given: it is asked.
    """
    if not are_several():
        return rows
    counts = row_counts(len(rows), rows.device) if counts is None else counts
    missing = max(counts) - len(rows)
    padded = F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, missing)).contiguous()
    parts = all_gather(padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
