"""Putting a run together: its records, its callbacks and Lightning's trainer.

For: the order in which the pieces act. Not for: any of the pieces, nor what the user asked for
(``pretrain/run.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from rich.console import Console

from pretrain.callbacks import Checkpoints, FiniteGuard, StopOnSignal
from pretrain.gallery import Gallery
from pretrain.meter import StepMeter
from pretrain.module import Batch
from pretrain.plan import Plan
from pretrain.progress import ProgressShown
from pretrain.records import MetricsFile, Row, WandbRun
from pretrain.settings import HardwareConfig, LogConfig, WandbConfig


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """The pieces of a run that are spoken to afterwards.

    Attributes:
        trainer: Lightning's.
        meter: Has the last row.
        stopper: Knows the signal that ended the run, if one did.
        wandb: The W&B run of the first process, if there is one.
    """

    trainer: pl.Trainer
    meter: StepMeter
    stopper: StopOnSignal
    wandb: WandbRun | None


def assemble(
    *,
    out: Path,
    plan: Plan,
    epoch_clips: int,
    done: int,
    pictured: Batch | None,
    config: dict[str, Any],
    sections: Mapping[str, Any],
    accumulate: int,
    clip_norm: float | None,
    precision: str,
    hardware: HardwareConfig,
    log: LogConfig,
    wandb: WandbConfig,
    console: Console,
    is_first: bool,
) -> Assembly:
    """Put a run together.

    Args:
        out: The run folder.
        plan: Its counts.
        epoch_clips: Clips of one pass over the data.
        done: Step that is resumed from, or 0.
        pictured: The batch that pictures are made of; None: no pictures.
        config: The resolved configuration, for W&B.
        sections: Configuration that the portable checkpoint carries.
        accumulate: Batches of one optimizer step.
        clip_norm: Largest gradient norm, if there is one.
        precision: Lightning's name.
        hardware: What it runs on.
        log: What is written, and how often.
        wandb: Mode, project and name.
        console: Where the progress is shown.
        is_first: Whether this is the first process: only that one writes records.
    """
    wandb_run = WandbRun(out, wandb, config) if is_first and wandb.mode != "disabled" else None
    progress = ProgressShown(console, plan.num_steps)
    sinks: list[Callable[[Row], None]] = []
    if is_first:
        sinks.append(MetricsFile(out / "metrics.csv", keep_steps=done).append)
    if wandb_run is not None:
        sinks.append(wandb_run.log)
    if is_first and log.progress:
        sinks.append(progress.show_row)
    meter = StepMeter(log_every=log.log_every, epoch_clips=epoch_clips, sinks=sinks)
    stopper = StopOnSignal()
    # In this order: the guard measures the norm that the meter takes, and a checkpoint holds
    # what the meter has counted.
    callbacks: list[pl.Callback] = [FiniteGuard(out), meter, stopper]
    if log.progress:
        callbacks.append(progress)
    if pictured is not None:
        callbacks.append(
            Gallery(
                out / "figures",
                every=log.pictures_every,
                clips=pictured,
                title=out.resolve().name,
                paper_style=log.paper_style,
                on_picture=wandb_run.log_picture if wandb_run else None,
            )
        )
    callbacks.append(
        Checkpoints(out / "checkpoints", every=log.checkpoint_every, keep=log.keep, config=sections)
    )
    trainer = pl.Trainer(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        num_nodes=hardware.num_nodes,
        strategy=hardware.strategy,
        precision=precision,  # type: ignore[arg-type]
        max_steps=plan.num_steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=clip_norm,
        callbacks=callbacks,
        default_root_dir=out,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
    )
    return Assembly(trainer=trainer, meter=meter, stopper=stopper, wandb=wandb_run)
