"""On what networks are tested, and every view of every sample through one of them, once.

The device, the way of a batch into a network, the processes together.

Deviation: the reference pads the samples of its processes to equal numbers and averages their
scores; here no sample is repeated, and scores are computed once, from all of them.

Shape letters: N samples, V views of each, C outputs.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
import torch.distributed
from rich.console import Console
from rich.progress import Progress, TextColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from finetune.data import check_modalities
from finetune.predictions import collect_views, equal_segments
from finetune.processes import from_all
from hicmae.checkpoints.checkpoint import Checkpoint, Labels
from hicmae.checkpoints.networks import build_network
from hicmae.devices import autocast, choose_device, inference_precision
from hicmae.emotion import EmotionModel, clip_values
from hicmae.processes import check_workers
from hicmae.settings import InputConfig, outside, raise_all
from hicmae.transforms import ClipTransform
from hicmae.transforms.video import crop_views
from hicmae.views import ViewGrid
from shards.index import Index
from shards.reading.random_access import ShardDataset
from shards.sample import collate

# Entry of a batch by the modality that reads it.
_ENTRY = {"video": "frames", "audio": "waveform"}
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """On what networks are tested; none of it changes what is tested.

    ``precision`` is ``32-true`` or ``bf16-mixed``; counts are those of ``EvaluationConfig``.
    """

    device: torch.device
    precision: str
    batch_size: int
    workers: int

    def __post_init__(self) -> None:
        raise_all("", outside(self, {"1 or more": "batch_size", "0 or more": "workers"}))


def make_machine(
    device: str = "auto", precision: str = "auto", batch_size: int = 16, workers: int = 2
) -> Machine:
    """Decide what ``auto`` is here.

    Raises: ValueError: no such device or precision; an impossible batch or number of workers.
    """
    check_workers(workers)
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
        progress = Progress(
            TextColumn("{task.description}", markup=False),  # the name of a fold is no style
            *Progress.get_default_columns()[1:],
            console=Console(stderr=True),
            transient=True,
            disable=not shown,
        )
        with progress:
            for batch in progress.track(loader, description=doing):
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


_OF_TORCHRUN = ("RANK", "MASTER_ADDR", "MASTER_PORT")


class Ranks:
    """The processes that test together; one, if nobody started more.

    Attributes:
        rank: Number of this process.
        world: How many there are.

    Raises: ValueError: the environment is not that of torchrun.
    """

    def __init__(self) -> None:
        self.rank = _from_launcher("RANK", 0)
        self.world = _from_launcher("WORLD_SIZE", 1)
        if self.world > 1 and not torch.distributed.is_initialized():
            lacking = [name for name in _OF_TORCHRUN if name not in os.environ]
            if lacking:
                raise ValueError(
                    f"environment: WORLD_SIZE = {self.world}, and {', '.join(lacking)} not set: "
                    "start with torchrun, or unset what is left of a launcher"
                )
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
        return [item for of_one in from_all(items) for item in of_one]

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
    if _from_launcher("WORLD_SIZE", 1) > 1:
        raise ValueError(f"{verb} runs in one process; start it without torchrun")


def _from_launcher(name: str, default: int) -> int:
    """A number that torchrun puts into the environment.

    Raises: ValueError: it is none.
    """
    value = os.environ.get(name, str(default))
    if not re.fullmatch(r"\d+", value):
        raise ValueError(f"environment: {name} = {value!r} is no whole number; unset it")
    return int(value)


@dataclass(frozen=True, kw_only=True)
class Tested:
    """A network that can be tested, in evaluation mode, and what its outputs stand for."""

    network: EmotionModel
    labels: Labels

    @property
    def modalities(self) -> str:
        """What it sees and hears."""
        return self.network.emotion.modalities


def load_tested(checkpoint: Checkpoint) -> Tested:
    """The network of a fine-tuned checkpoint.

    Raises: ValueError: a pretrained one, or one that does not say what its outputs stand for.
    """
    network = build_network(checkpoint)
    if not isinstance(network, EmotionModel):
        raise ValueError(
            f"{checkpoint.path}: is a pretrained network, which predicts nothing; fine-tune it"
            " first (`hicmae finetune`)"
        )
    labels = checkpoint.labels()
    if labels is None:
        raise ValueError(
            f"{checkpoint.path}: does not say what its {network.emotion.num_outputs} outputs stand"
            " for; convert it again with their names (`hicmae checkpoint convert --help`)"
        )
    return Tested(network=network, labels=labels)


def check_views(modalities: str, grid: ViewGrid) -> None:
    """Refuse views that would be equal for a network that sees nothing.

    Raises: ValueError: several crops for a network that only hears.
    """
    if "video" not in modalities.split("-") and grid.crops != ("whole",):
        raise ValueError(
            f"crops = {','.join(grid.crops)}: the network only hears, so its views would be equal;"
            " leave --crops out"
        )


def sample_views(
    tested: Tested,
    index: Index,
    rows: pd.DataFrame,
    *,
    grid: ViewGrid,
    machine: Machine,
    doing: str = "",
) -> np.ndarray:
    """Run a network over all views of some samples.

    A segment is read once for all its crops, and segments that coincide (of samples hardly longer
    than a clip) are computed once and stand in the place of each.

    Returns: float64 (N, V, C): probabilities, or values in the units of the labels.
    Raises: ValueError: a sample without the one modality that the network reads, or one that
        cannot be read.
    """
    check_views(tested.modalities, grid)
    equal = equal_segments(rows, tested.network.config.input, grid.segments)
    return run_views(
        tested,
        Subset(view_dataset(tested, index, rows, grid.segments), distinct_items(equal)),
        equal=equal,
        grid=grid,
        machine=machine,
        doing=doing,
    )


def view_dataset(tested: Tested, index: Index, rows: pd.DataFrame, segments: int) -> ShardDataset:
    """Every segment of every sample, one after another.

    Raises: ValueError: a sample without the one modality that the network reads.
    """
    check_modalities(rows, modalities=tested.modalities, choice="")
    return ShardDataset(
        index,
        input=tested.network.config.input,
        rows=rows,
        views=segments,
        modalities=tested.modalities,
        require_picture=False,
        require_sound=False,
    )


def distinct_items(equal: list[list[int]]) -> list[int]:
    """Numbers, in ``view_dataset``, of the segments that have to be computed."""
    return [
        sample * len(firsts) + segment
        for sample, firsts in enumerate(equal)
        for segment in sorted(set(firsts))
    ]


def run_views(
    tested: Tested,
    dataset: Dataset[Any],
    *,
    equal: list[list[int]],
    grid: ViewGrid,
    machine: Machine,
    hidden: str = "",
    doing: str = "",
) -> np.ndarray:
    """Run a network over clips and put what it says into the place of every view.

    Args:
        dataset: Clips with ``sample`` and ``view`` (the segment), each of those that differ once.
        equal: As ``equal_segments`` gives it.
        hidden: A modality that the network is not given, though it reads it: video or audio.

    Returns: float64 (N, V, C), the same in every process of several.
    """
    running = Running(tested.network, tested.network.config.input, tested.modalities, machine)
    ranks = Ranks()
    outputs = []
    for batch, video, fbank in running.batches(loader_of(machine, ranks.own(dataset)), doing):
        video = None if hidden == "video" else video
        fbank = None if hidden == "audio" else fbank
        found = _all_crops(tested, running, video, fbank, batch, grid)  # (B, crops, C)
        outputs.append(_spread(batch["sample"].tolist(), batch["view"].tolist(), found, equal))
    return collect_views(
        ranks.gathered(outputs),
        num_samples=len(equal),
        num_views=grid.num_views,
        num_outputs=len(tested.labels.names),
    )


def _all_crops(
    tested: Tested,
    running: Running,
    video: Tensor | None,
    fbank: Tensor | None,
    batch: Mapping[str, Any],
    grid: ViewGrid,
) -> Tensor:
    """Probabilities, or real values, of clips in every crop: (B, crops, C), on the CPU."""
    num_crops, labels = len(grid.crops), tested.labels
    if video is not None:
        video = crop_views(video, grid.crops)  # (B·crops, 3, T, S, S)
    if fbank is not None:
        fbank = fbank.repeat_interleave(num_crops, dim=0)
    presence = {
        name: batch[name].repeat_interleave(num_crops)
        for name in ("seen", "heard")
        if name in batch and video is not None and fbank is not None
    }
    units: dict[str, Any] = {}
    if labels.mean:
        units = {
            name: torch.tensor(values, dtype=torch.float32, device=running.machine.device)
            for name, values in (("mean", labels.mean), ("std", labels.std))
        }
    values, _ = clip_values(
        tested.network,
        video,
        fbank,
        task=labels.task,
        heads=labels.heads,
        precision=running.machine.precision,
        **units,
        **presence,
    )
    return values.unflatten(0, (-1, num_crops)).cpu()


def _spread(
    samples: list[int], segments: list[int], outputs: Tensor, equal: list[list[int]]
) -> dict[str, Tensor]:
    """Put outputs (B, crops, C) of clips into the places of all segments that are these clips."""
    places = [
        (number, sample, segment)
        for number, (sample, shown) in enumerate(zip(samples, segments, strict=True))
        for segment, first in enumerate(equal[sample])
        if first == shown
    ]
    number, sample, segment = torch.tensor(places).unbind(1)
    crops = outputs.shape[1]
    views = segment[:, None] * crops + torch.arange(crops)  # (places, crops)
    return {
        "sample": sample.repeat_interleave(crops),
        "view": views.flatten(),
        "output": outputs[number].flatten(0, 1),
    }
