"""Which clips of a batch are there, and how the means of losses count them.

A batch keeps its size though samples could not be read, or lack a modality: black pictures and
silence stand in, so that a graph is compiled once and all processes gather equally many rows
(``equal_rows``). No loss counts what stands in. ``all_rows``, for other numbers, waits until hosts
have told theirs: a collective operation on tensors of different sizes ends in an error, waits for
ever or returns what was never sent.

Shape letters: B clips of this process, B' of all that share the step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_gather


class Presence(NamedTuple):
    """Of a batch of B clips, B being the same in all processes.

    A mean over the clips that are there is the sum over them, divided by ``counts``: of one process
    that is their mean, and the mean over processes is that of all their clips.
    """

    video: Tensor  # (B,) boolean, whether the clip has its picture
    audio: Tensor  # (B,) boolean, whether it has its sound
    everyone: Tensor  # (B',) boolean, whether it has both, of all processes, rank by rank
    counts: Tensor  # (3,) float32: with picture, sound, both; mean over processes, above 0

    @property
    def both(self) -> Tensor:
        """(B,) boolean."""
        return self.video & self.audio

    @property
    def is_mixed(self) -> bool:
        """Whether a clip may lack one of the two: then each has a vector of its own."""
        return self.video is not self.audio

    def contrastable(self, *, shared: bool) -> tuple[Tensor, Tensor]:
        """Whether this process's clips have another one to be told apart from, and how many have.

        Args:
            shared: Whether the clips of all processes are told apart, or those of each.

        Returns: 0-d boolean: whether two or more that share negatives have both; and 0-d float32:
            how many are contrasted, mean over processes, above 0.
        """
        num_processes = len(self.everyone) // len(self.video)
        groups = self.everyone.reshape(1 if shared else num_processes, -1).sum(
            dim=1
        )  # clips with both
        used = torch.where(groups >= 2, groups, 0).sum().float().clamp(min=1)
        mine = groups.sum() if shared else self.both.sum()
        return mine >= 2, used / num_processes


def find_presence(video: Tensor, audio: Tensor) -> Presence:
    """From what this process has, (B,) boolean each; a collective call that no host waits in."""
    everyone = equal_rows(torch.stack((video, audio, video & audio), dim=1))  # (B', 3)
    totals = everyone.sum(dim=0).float().clamp(min=1)
    return Presence(video, audio, everyone[:, 2], totals * (len(video) / len(everyone)))


def whole(batch: int, device: torch.device) -> Presence:
    """Of clips that are all there, in all processes."""
    processes = dist.get_world_size() if are_several() else 1
    everyone = torch.ones(batch * processes, dtype=torch.bool, device=device)
    own = everyone[:batch]
    return Presence(own, own, everyone, torch.full((3,), float(batch), device=device))


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
