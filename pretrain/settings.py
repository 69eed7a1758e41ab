"""Settings of a pretraining run, as frozen dataclasses that are checked when they are made.

``PretrainConfig`` is all of them: what ``hicmae pretrain`` makes once of its options, what
``config.yaml`` in a run folder holds, and what every part of a run is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal

from hicmae.devices import Precision
from hicmae.run_logging import WandbConfig
from hicmae.settings import WHOLE, AugmentConfig, ModelConfig, ObjectiveConfig, outside, raise_all
from shards.reading.settings import DataConfig

_OBJECTIVE = ObjectiveConfig()
_AUGMENT = AugmentConfig.pretraining()
_WANDB = WandbConfig()


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
        fused: Whether AdamW updates in one kernel, which is faster. With 16-mixed outside
            DeepSpeed it never does.
    """

    learning_rate: float = 3e-4
    min_learning_rate: float = 1e-5
    warmup_steps: int | None = None
    warmup_epochs: float = 5.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    clip_norm: float | None = None
    fused: bool = True

    def __post_init__(self) -> None:
        bounds = {
            "0 or more, and finite": "min_learning_rate warmup_epochs weight_decay",
            "positive and finite": "learning_rate eps",
        }
        problems = outside(self, bounds)
        if self.min_learning_rate > self.learning_rate:
            problems.append(
                f"min_learning_rate = {self.min_learning_rate} (must not exceed learning_rate"
                f" = {self.learning_rate})"
            )
        problems += outside(self, {"0 or more": "warmup_steps", "positive": "clip_norm"})
        if not all(0 <= beta < 1 for beta in self.betas):
            problems.append(f"betas = {self.betas} (each must lie in [0, 1))")
        raise_all("optimizer", problems)


@dataclass(frozen=True, kw_only=True)
class HardwareConfig:
    """What the training runs on.

    Args:
        devices: Processes (devices) on this node; ``auto``: every GPU, or one process on a CPU.
            Under torchrun and SLURM their count holds.
        num_nodes: Nodes; ``auto``: one, or as many as torchrun or SLURM started processes on.
        strategy: How several devices train one network: a name out of configs/engines (single,
            ddp, zero1, zero2, zero3, zero2_offload, zero3_offload) or a YAML file; ``auto``:
            single for one device, zero1 for several.
        compile: Whether the network is compiled with ``torch.compile`` (worth its minutes in runs
            of hours).
        cuda_graphs: Whether a GPU records forward and backward pass once and launches each as a
            whole, since launching kernels takes longer than they do; some more memory. With
            compile it is the compiled ones that are recorded, by PyTorch, and batches are not
            accumulated then. Nothing on a CPU.
        recompute: Whether each layer's activations are computed again in the backward pass
            instead of being kept (gradient checkpointing): a third more time, less memory.
        bf16_residual: Whether the tokens that layers add to, and the norms before attention and
            MLP, are bfloat16 too, with precision bf16-mixed: less memory, and of tokens no casts.
        timeout_seconds: Longest that a process waits for another one before it gives up; of one
            that has died it hears at once.
    """

    devices: int | Literal["auto"] = "auto"
    num_nodes: int | Literal["auto"] = "auto"
    strategy: str = "auto"
    compile: bool = False
    cuda_graphs: bool = False
    recompute: bool = False
    bf16_residual: bool = False
    timeout_seconds: int = 600

    def __post_init__(self) -> None:
        problems = outside(self, {"1 or more": "timeout_seconds"})
        for name in ("devices", "num_nodes"):
            if isinstance(getattr(self, name), int):
                problems += outside(self, {"1 or more": name})
        raise_all("hardware", problems)


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What a run writes, and how often; all counts are optimizer steps.

    Args:
        log_every: Steps between rows of ``metrics.csv``; a row holds means over those steps.
        checkpoint_every: Steps between checkpoints; one is also saved at the end.
        keep: How many resumable checkpoints are kept, the newest ones.
        keep_every: Steps between checkpoints that are kept for good besides; 0: none.
        health_every: Steps between norms of parameters and updates and the spread of features,
            which cost a forward pass of the encoder and a copy of the weights; 0: none.
        pictures_every: Steps between picture grids of reconstructions; 0: none.
        picture_clips: Clips in a grid.
        paper_style: Draw reconstructions with the mean and deviation of the hidden truth, as
            papers do; false: with what can be known from visible patches.
        progress: Whether a progress bar is drawn (or, without a terminal, lines are printed).
    """

    log_every: int = 10
    checkpoint_every: int = 1000
    keep: int = 2
    keep_every: int = 0
    health_every: int = 100
    pictures_every: int = 1000
    picture_clips: int = 4
    paper_style: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        bounds = {
            "1 or more": "log_every checkpoint_every keep picture_clips",
            "0 or more": "pictures_every keep_every health_every",
        }
        raise_all("log", outside(self, bounds))


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Probes of the frozen features on held-out clips; a run without ``shards`` has none.

    Args:
        shards: Folders of shards to probe on: one, or a list; null: no probes.
        split: Split of them, or ``all``; it may not be one that is trained on.
        every: Optimizer steps between probes; the last step always has one. 0: none.
        clips: Most clips, spread evenly over the samples with all that is trained on; each costs
            one forward pass of the encoder over all its tokens.
        batch_size: Clips that one process encodes at once.
        labels: Columns of the shards to predict; null: all that look like labels.
    """

    shards: Path | tuple[Path, ...] | None = None
    split: str = "all"
    every: int = 1000
    clips: int = 256
    batch_size: int = 8
    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        bounds = {"0 or more": "every", "2 or more": "clips", "1 or more": "batch_size"}
        problems = outside(self, bounds)
        if self.shards is not None and not self.folders:
            problems.append("shards is empty (name one folder or more, or leave it out)")
        raise_all("probe", problems)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of shards."""
        if self.shards is None:
            return ()
        return (self.shards,) if isinstance(self.shards, Path) else tuple(self.shards)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """All settings of a run.

    Args:
        data: Where the clips come from and how they are read.
        out: The run folder.
        model: Size of the network: a name out of configs/model (tiny, small, base) or a YAML file;
            or --model.size with one of these, and changes such as --model.fusion_depth 1.
        objective: Masks, weights and ablations.
        augment: Random changes to the clips.
        optimizer: AdamW and its schedule.
        steps: Optimizer steps of the whole run; null: epochs.
        epochs: Passes over the data, where steps is null; each of the whole steps that it has.
        accumulate: Batches whose gradients are averaged into one optimizer step.
        device: auto (CUDA where it can be used), cpu, cuda (each process takes one) or cuda:1.
        precision: auto: bf16-mixed where the machine computes in bfloat16, else 32-true.
        workers: Reading processes of each training process; 0 reads in the training process.
        max_skipped_steps: Optimizer steps that may be left out, in the whole run, because the loss
            or a gradient was not finite; with one more the run stops, saved, at its next row.
        hardware: What the training runs on.
        log: What is written, and how often.
        probe: Retrieval and linear probes on held-out shards while the run goes on.
        wandb: Logging to Weights & Biases, beside metrics.csv.
        seed: Of the weights, the order of the data, the crops and the masks.
    """

    data: DataConfig
    out: Path
    model: ModelConfig
    objective: ObjectiveConfig = _OBJECTIVE
    augment: AugmentConfig = _AUGMENT
    optimizer: OptimizerConfig = OptimizerConfig()
    steps: int | None = None
    epochs: float = 100.0
    accumulate: int = 1
    device: str = "auto"
    precision: Precision = "auto"
    workers: int = 2
    max_skipped_steps: int = 10
    hardware: HardwareConfig = HardwareConfig()
    log: LogConfig = LogConfig()
    probe: ProbeConfig = ProbeConfig()
    wandb: WandbConfig = _WANDB
    seed: int = 0

    def __post_init__(self) -> None:
        bounds = {"1 or more": "accumulate", "0 or more": "workers max_skipped_steps"}
        length = {"positive and finite": "epochs"} if self.steps is None else {"1 or more": "steps"}
        problems = outside(self, bounds) + outside(self, length)
        if not 0 <= self.seed < 2**64:  # what PyTorch takes
            problems.append(f"seed = {self.seed} (must lie in 0..2^64 - 1)")
        raise_all("pretrain", problems)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How long a run is, in optimizer steps."""

    num_steps: int
    warmup_steps: int
    global_batch: int  # clips of one optimizer step, over processes and accumulation
    steps_per_epoch: int  # in which about every clip is seen once
    stages: tuple[tuple[int, str], ...] = ()  # step at which each ends, and its name

    def stage(self, step: int) -> str:
        """What the optimizer step after ``step`` others trains (``ObjectiveConfig.stages``)."""
        return next((name for end, name in self.stages if step < end), WHOLE)


def count_steps(config: PretrainConfig, *, num_clips: int, world_size: int) -> Counts:
    """Turn epochs (of ``num_clips``), batches and warm-up into counts.

    Raises: ValueError: more clips in a step than there are, a warm-up longer than the run,
        a stage without a step, or stages that leave nothing of the run.
    """
    optimizer, batch_size = config.optimizer, config.data.batch_size
    global_batch = batch_size * config.accumulate * world_size
    if global_batch > num_clips:
        raise ValueError(
            f"an optimizer step takes {global_batch} clips ({world_size} processes x"
            f" data.batch_size = {batch_size} x accumulate = {config.accumulate}), and there are"
            f" {num_clips}: some would be in it twice; lower one of the three, or give more shards"
        )
    per_epoch = num_clips // global_batch
    num_steps = max(1, round(config.epochs * per_epoch)) if config.steps is None else config.steps
    if optimizer.warmup_steps is None:
        warmup_steps, name = round(optimizer.warmup_epochs * per_epoch), "warmup_epochs"
    else:
        warmup_steps, name = optimizer.warmup_steps, "warmup_steps"
    if warmup_steps > num_steps:
        raise ValueError(
            f"optimizer.{name}: the warm-up takes {warmup_steps} steps, the run {num_steps} "
            f"({per_epoch} steps an epoch); shorten it or train longer"
        )
    stages = config.objective.stages
    lengths = [round(epochs * per_epoch) for epochs in stages.values()]
    if 0 in lengths:
        name = list(stages)[lengths.index(0)]
        raise ValueError(
            f"objective.stages: {name} = {stages[name]:g} epochs is no whole step ({per_epoch} an"
            " epoch), so nothing would be trained in it; lengthen it or leave it out"
        )
    ends = list(accumulate(lengths))
    if ends and ends[-1] >= num_steps:
        raise ValueError(
            f"objective.stages: they take {ends[-1]} steps, the run {num_steps} ({per_epoch} steps"
            " an epoch), which leaves none to train both modalities together; shorten them or"
            " train longer"
        )
    return Counts(
        num_steps=num_steps,
        warmup_steps=warmup_steps,
        global_batch=global_batch,
        steps_per_epoch=per_epoch,
        stages=tuple(zip(ends, stages, strict=True)),
    )
