"""Which clips of a batch are there, and how the means of losses count them.

A batch keeps its size though samples could not be read, or lack a modality: black pictures and
silence stand in, so that a graph is compiled once and all processes gather equally many rows. No
loss counts what stands in.

Shape letters: B clips of this process, B' of all that share the step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from hicmae.objective.gathering import are_several, equal_rows


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
