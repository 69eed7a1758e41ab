"""On what networks are tested: the device, the way of a batch into them, the processes together.

Deviation: the reference pads the samples of its processes to equal numbers and averages their
scores; here no sample is repeated, and scores are computed once, from all of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from hicmae.devices import autocast, choose_device, inference_precision
from hicmae.settings import InputConfig
from hicmae.transforms import ClipTransform
from shards.sample import collate

# Entry of a batch by the modality that reads it.
_ENTRY = {"video": "frames", "audio": "waveform"}
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """On what networks are tested; none of it changes what is tested.

    Args:
        device: Where they compute.
        precision: ``32-true`` or ``bf16-mixed``.
        batch_size: Clips handled at once (each in all its crops).
        workers: Reading processes; 0 reads in the testing process.
    """

    device: torch.device
    precision: str
    batch_size: int
    workers: int


def make_machine(
    device: str = "auto", precision: str = "auto", *, batch_size: int = 16, workers: int = 2
) -> Machine:
    """Decide what ``auto`` is here.

    Raises: ValueError: no such device or precision; an impossible batch or number of workers.
    """
    problems = []
    if batch_size < 1:
        problems.append(f"batch_size = {batch_size} (must be 1 or more)")
    if workers < 0:
        problems.append(f"workers = {workers} (must be 0 or more)")
    if problems:
        raise ValueError("; ".join(problems))
    found = choose_device(device)
    return Machine(
        device=found,
        precision=inference_precision(precision, found),
        batch_size=batch_size,
        workers=workers,
    )


def loader_of(machine: Machine, dataset: Dataset[Any]) -> DataLoader[Any]:
    """Batches of a dataset in its order."""
    return DataLoader(
        dataset,
        batch_size=machine.batch_size,
        shuffle=False,
        num_workers=machine.workers,
        collate_fn=collate,
        pin_memory=machine.device.type == "cuda",
        # Of its own: reading must not move anybody's draws.
        generator=torch.Generator().manual_seed(0),
    )


class Running:
    """Networks on a device, fed with batches of a reader.

    Args:
        network: Whose input it is; moved to the device, in evaluation mode.
        input: Geometry of its clips.
        modalities: What it reads: ``audio-video``, ``video`` or ``audio``.
    """

    def __init__(
        self, network: nn.Module, input: InputConfig, modalities: str, machine: Machine
    ) -> None:
        self.machine = machine
        self.network = network.to(machine.device).eval()
        self.transform = ClipTransform(input).to(machine.device).eval()
        self.modalities = modalities.split("-")

    def batches(
        self, loader: DataLoader[Any], doing: str = ""
    ) -> Iterator[tuple[dict[str, Any], Tensor | None, Tensor | None]]:
        """Batches with their video (B, 3, T, H, W) and filter banks (B, S, F) on the device.

        Args:
            loader: Of ``shards.sample.collate``'s batches.
            doing: What the progress bar says; none is drawn without, or without a terminal.
        """
        is_first = os.environ.get("RANK", "0") == "0"
        shown = bool(doing) and is_first and sys.stderr.isatty()
        console = Console(stderr=True)
        for batch in track(loader, doing, console=console, disable=not shown, transient=True):
            yield batch, *self.inputs(batch)

    @torch.no_grad()
    def inputs(self, batch: Mapping[str, Any]) -> tuple[Tensor | None, Tensor | None]:
        """What the network takes of a batch; a modality that it does not read is None."""
        kept = {
            name: value.to(self.machine.device, non_blocking=True)
            for name, value in batch.items()
            if isinstance(value, Tensor)
            and name not in {_ENTRY[m] for m in _ENTRY if m not in self.modalities}
        }
        return self.transform(kept)

    def autocast(self) -> torch.autocast:
        """The number format of the network's arithmetic."""
        return autocast(self.machine.precision, self.machine.device)


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
