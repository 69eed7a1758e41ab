"""Rows of all processes one after another.

``equal_rows`` is for batches that have their size however many samples were bad; ``all_rows``
waits until hosts have told their numbers: a collective operation on tensors of different sizes ends
in an error, waits for ever or returns what was never sent.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def are_several() -> bool:
    """Whether there are other processes to gather from."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def equal_rows(rows: Tensor) -> Tensor:
    """Rows (B, …) of all processes (B', …), rank by rank, with gradients; B is the same in all.

    The gradient of a process's rows is the sum over processes: where all of them compute the same
    loss of all rows, the mean of their parameters' gradients is that of one process with all rows.
    """
    return torch.cat(all_gather(rows.contiguous())) if are_several() else rows


def all_rows(rows: Tensor) -> Tensor:
    """As ``equal_rows`` of processes with 0 or more rows each, which may differ."""
    if not are_several():
        return rows
    # Where hosts have a way of their own, no device is waited for.
    beside = "cpu:" in dist.get_backend_config()
    mine = torch.tensor([len(rows)], device="cpu" if beside else rows.device)
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    counts = torch.cat(everyone).tolist()
    padded = F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, max(counts) - len(rows)))
    parts = equal_rows(padded).chunk(len(counts))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
