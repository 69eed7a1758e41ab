"""Settings of a pretraining run, as frozen dataclasses that are checked when they are made.

For: everything a recipe in ``configs/pretrain/`` may say besides the network and the objective.
Not for: sizes of the network (``hicmae/settings.py``), augmentation (``hicmae/transforms``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the clips come from and how they are read.

    Args:
        shards: Folders of shards, as ``hicmae shards build`` makes them: one, or a list.
        split: Split to train on, or ``all``.
        batch_size: Clips that one process handles at once (before accumulation).
        workers: Reading processes of each training process; 0 reads in the training process.
        shuffle_buffer: Samples that one worker mixes; about 0.2 MB each at 160 pixels.
        sound: ``required``: a sample without sound is bad; ``optional``: it is silent.
        on_bad: What a bad sample or shard does: ``raise`` stops with its name, ``skip`` leaves it
            out, counted by cause.
    """

    shards: Path | tuple[Path, ...]
    split: str = "train"
    batch_size: int = 8
    workers: int = 2
    shuffle_buffer: int = 1000
    sound: Literal["required", "optional"] = "required"
    on_bad: Literal["raise", "skip"] = "raise"

    def __post_init__(self) -> None:
        problems = [] if self.folders else ["shards is empty (name one folder or more)"]
        problems += _below(self, 1, "batch_size")
        problems += _below(self, 0, "workers", "shuffle_buffer")
        _raise_all("data", problems)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of shards."""
        return (self.shards,) if isinstance(self.shards, Path) else tuple(self.shards)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with a linear warm-up and a cosine; the defaults are the published recipe.

    Args:
        learning_rate: Base rate at a global batch of 256 clips; the peak is this times the
            global batch over 256 (batch size x accumulation x processes).
        min_learning_rate: Base rate at the end of the cosine, scaled alike.
        warmup_steps: Optimizer steps of the linear warm-up from zero; null: ``warmup_epochs``.
        warmup_epochs: Warm-up in passes over the data, where ``warmup_steps`` is null.
        weight_decay: For matrices; biases and other 1-D parameters have none.
        betas: Decay of AdamW's running means.
        eps: AdamW's epsilon.
        clip_norm: Largest gradient norm; null: gradients are not clipped, as published.
    """

    learning_rate: float = 3e-4
    min_learning_rate: float = 1e-5
    warmup_steps: int | None = None
    warmup_epochs: float = 5.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        problems = _below(self, 0, "min_learning_rate", "warmup_epochs", "weight_decay")
        problems += _not_positive(self, "learning_rate", "eps")
        if self.min_learning_rate > self.learning_rate:
            problems.append(
                f"min_learning_rate = {self.min_learning_rate} (must not exceed learning_rate"
                f" = {self.learning_rate})"
            )
        if self.warmup_steps is not None:
            problems += _below(self, 0, "warmup_steps")
        if self.clip_norm is not None:
            problems += _not_positive(self, "clip_norm")
        if not all(0 <= beta < 1 for beta in self.betas):
            problems.append(f"betas = {self.betas} (each must lie in [0, 1))")
        _raise_all("optimizer", problems)


@dataclass(frozen=True, kw_only=True)
class HardwareConfig:
    """What the training runs on.

    Args:
        accelerator: Lightning's name of the hardware: auto, cpu, gpu, ….
        devices: Processes (devices) on this node; ``auto``: every GPU, or one process on a CPU.
        num_nodes: Nodes.
        strategy: Lightning's name of the distributed strategy: auto, ddp, ….
        compile: Whether the network is compiled with ``torch.compile`` (worth its minute from a
            few hundred steps on).
    """

    accelerator: str = "auto"
    devices: int | Literal["auto"] = 1
    num_nodes: int = 1
    strategy: str = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        problems = _below(self, 1, "num_nodes")
        if isinstance(self.devices, int):
            problems += _below(self, 1, "devices")
        _raise_all("hardware", problems)

    @property
    def world_size(self) -> int:
        """Processes over all nodes."""
        if self.devices != "auto":
            return self.devices * self.num_nodes
        on_cpu = self.accelerator == "cpu" or not torch.cuda.is_available()
        return self.num_nodes * (1 if on_cpu else torch.cuda.device_count())


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What a run writes, and how often; all counts are optimizer steps.

    Args:
        log_every: Steps between rows of ``metrics.csv``; a row holds means over those steps.
        checkpoint_every: Steps between checkpoints; one is also saved at the end.
        keep: How many resumable checkpoints are kept, the newest ones.
        pictures_every: Steps between picture grids of reconstructions; 0: none.
        picture_clips: Clips in a grid.
        paper_style: Draw reconstructions with the mean and deviation of the hidden truth, as
            papers do; false: with what can be known from visible patches.
        progress: Whether a progress bar is drawn (or, without a terminal, lines are printed).
    """

    log_every: int = 10
    checkpoint_every: int = 1000
    keep: int = 2
    pictures_every: int = 1000
    picture_clips: int = 4
    paper_style: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        problems = _below(self, 1, "log_every", "checkpoint_every", "keep", "picture_clips")
        problems += _below(self, 0, "pictures_every")
        _raise_all("log", problems)


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """Logging to Weights & Biases, beside ``metrics.csv``.

    Args:
        mode: ``auto``: online where the user is logged in, else offline into the run folder;
            ``disabled``: none. The environment variable WANDB_MODE outranks ``auto``.
        project: Project there.
        name: Name of the run; null: the name of the run folder.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "hicmae-pretrain"
    name: str | None = None


def _below(config: object, least: float, *names: str) -> list[str]:
    """Problems of the fields that are smaller than allowed."""
    return [
        f"{name} = {getattr(config, name)} (must be {least:g} or more)"
        for name in names
        if getattr(config, name) < least
    ]


def _not_positive(config: object, *names: str) -> list[str]:
    """Problems of the fields that are not positive."""
    return [
        f"{name} = {getattr(config, name)} (must be positive)"
        for name in names
        if not getattr(config, name) > 0
    ]


def _raise_all(what: str, problems: list[str]) -> None:
    """Report every problem of a settings group at once."""
    if problems:
        raise ValueError(f"{what}: {'; '.join(problems)}")
