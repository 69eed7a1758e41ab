"""On what a network is tested, and the way of a batch from a reader into it.

For: every verb that runs a trained network over shards. Not for: training, which Lightning runs,
nor which samples and views there are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from finetune.evaluating.settings import MachineConfig
from hicmae.settings import InputConfig
from hicmae.transforms import ClipTransform
from shards.sample import collate

# Entry of a batch by the modality that reads it.
_ENTRY = {"video": "frames", "audio": "waveform"}


def device_of(machine: MachineConfig) -> torch.device:
    """The device to compute on.

    Raises: ValueError: a GPU is asked for and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if machine.accelerator == "gpu" and not has_gpu:
        raise ValueError("machine.accelerator = gpu: PyTorch sees no GPU here; take auto or cpu")
    if not has_gpu or machine.accelerator == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def loader_of(machine: MachineConfig, dataset: Dataset[Any]) -> DataLoader[Any]:
    """Batches of a dataset in its order."""
    return DataLoader(
        dataset,
        batch_size=machine.batch_size,
        shuffle=False,
        num_workers=machine.workers,
        collate_fn=collate,
        pin_memory=device_of(machine).type == "cuda",
        # Of its own: reading must not move anybody's draws.
        generator=torch.Generator().manual_seed(0),
    )


class Running:
    """Networks on a device, fed with batches of a reader.

    Args:
        network: Whose input it is; moved to the device, in evaluation mode.
        input: Geometry of its clips.
        modalities: What it reads: ``audio-video``, ``video`` or ``audio``.
        machine: On what.
    """

    def __init__(
        self, network: nn.Module, input: InputConfig, modalities: str, machine: MachineConfig
    ) -> None:
        self.device = device_of(machine)
        self.network = network.to(self.device).eval()
        self.transform = ClipTransform(input).to(self.device).eval()
        self.modalities = modalities.split("-")
        self.is_half = machine.resolved_precision == "bf16-mixed"

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
            name: value.to(self.device, non_blocking=True)
            for name, value in batch.items()
            if isinstance(value, Tensor)
            and name not in {_ENTRY[m] for m in _ENTRY if m not in self.modalities}
        }
        return self.transform(kept)

    def autocast(self) -> torch.autocast:
        """The number format of the network's arithmetic."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.is_half)
