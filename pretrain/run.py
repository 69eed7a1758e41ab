"""``hicmae pretrain``: from settings to a run folder, top to bottom.

The settings become one ``PretrainConfig``; ``pretrain.plan`` settles what a run will be;
``pretrain.training`` puts the pieces together and trains. One step is ``pretrain.module``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hicmae.config import from_options
from hicmae.devices import Precision
from hicmae.run_logging import WandbConfig
from hicmae.settings import AugmentConfig, ObjectiveConfig
from hicmae.terminal import plain_console
from pretrain.settings import (
    HardwareConfig,
    LogConfig,
    OptimizerConfig,
    PretrainConfig,
    ProbeConfig,
)
from shards.reading.settings import DataConfig


def pretrain(
    *,
    data: DataConfig,
    out: Path,
    model: str | dict[str, Any] = "base",
    objective: ObjectiveConfig = PretrainConfig.objective,
    augment: AugmentConfig = PretrainConfig.augment,
    optimizer: OptimizerConfig = PretrainConfig.optimizer,
    steps: int | None = PretrainConfig.steps,
    epochs: float = PretrainConfig.epochs,
    accumulate: int = PretrainConfig.accumulate,
    device: str = PretrainConfig.device,
    precision: Precision = PretrainConfig.precision,
    workers: int = PretrainConfig.workers,
    max_skipped_steps: int = PretrainConfig.max_skipped_steps,
    hardware: HardwareConfig = PretrainConfig.hardware,
    log: LogConfig = PretrainConfig.log,
    probe: ProbeConfig = PretrainConfig.probe,
    wandb: WandbConfig = PretrainConfig.wandb,
    seed: int = PretrainConfig.seed,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    clips_per_second: float | None = None,
) -> int:
    """Pretrain the masked autoencoder on shards.

    Writes a run folder: config.yaml, metrics.csv, figures/, checkpoints/last (the portable
    checkpoint that fine-tuning takes) and checkpoints/step-….ckpt (to resume from, on any number
    of devices). The same command runs on one machine, under torchrun, and with srun.

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
        resume: Go on from the newest whole checkpoint in the run folder, or begin if there is
            none: with the clip that would have come next, and ending with the weights that the run
            would have had. On another number of processes an optimizer step still takes the same
            clips: accumulate is changed against it.
        overwrite: Delete the run that is in the run folder.
        dry_run: Check paths and permissions, print the plan (steps, tokens, memory of each
            engine, operations, hours), and end; nothing is written.
        clips_per_second: For dry_run: speed of one device, such as bench step measures.

    Returns: 0; 128 + the number of the signal that stopped the run (it is saved then); or 1 if
        another process of the run was lost.
    Raises:
        ValueError: Settings that do not go together, a folder that holds a run, shards that
            cannot be used, too many steps that are not finite, too many bad samples.
        FileNotFoundError: No such folder of shards or model file.
    """
    options = locals()
    if clips_per_second is not None and not 0 < clips_per_second < math.inf:
        raise ValueError(f"clips_per_second = {clips_per_second:g} (must be positive and finite)")
    if resume and overwrite:
        raise ValueError(
            "resume and overwrite contradict each other; give one of them (the scripts for SLURM "
            "add --resume: delete the run yourself, or give another --out)"
        )
    from pretrain.plan import choose_model, make_plan, show

    config = from_options(PretrainConfig, options | {"model": choose_model(model)})
    plan = make_plan(config, resume=resume)
    console = plain_console(quiet=not plan.is_first)
    for line in plan.notes():
        console.print(line)
    if dry_run:
        show(plan, console, clips_per_second=clips_per_second, may_exist=resume or overwrite)
        return 0
    from pretrain.training import train

    return train(plan, console, resume=resume, overwrite=overwrite)
