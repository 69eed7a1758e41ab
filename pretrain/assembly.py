"""Putting a run together: its records, its callbacks and Lightning's trainer.

For: the order in which the pieces act. Not for: any of the pieces, nor what the user asked for
(``pretrain/run.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from rich.console import Console

from hicmae.loss_scaling import trainer_precision
from pretrain.agreement import Agreement
from pretrain.bad_samples import BadSamples
from pretrain.checkpoint_files import CheckpointFiles
from pretrain.checkpoints import Checkpoints, Portable
from pretrain.engines import make_strategy
from pretrain.finite import FiniteGuard
from pretrain.gallery import Gallery
from pretrain.health import Health
from pretrain.meter import StepMeter
from pretrain.module import Batch
from pretrain.preparation import Prepared
from pretrain.probes import Probes
from pretrain.progress import ProgressShown
from pretrain.records import MetricsFile, Row, WandbRun
from pretrain.signals import StopOnSignal


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """The pieces of a run that are spoken to afterwards.

    Attributes:
        trainer: Lightning's.
        meter: Has the last row.
        stopper: Knows the signal that ended the run, if one did.
        guard: Knows why the run was stopped, if non-finite numbers did.
        bad_samples: Likewise, if bad samples did.
        wandb: The W&B run of the first process, if there is one.
    """

    trainer: pl.Trainer
    meter: StepMeter
    stopper: StopOnSignal
    guard: FiniteGuard
    bad_samples: BadSamples
    wandb: WandbRun | None


def assemble(prepared: Prepared, *, pictured: Batch | None, console: Console) -> Assembly:
    """Put a run together.

    Args:
        prepared: What it will be.
        pictured: The batch that pictures are made of; None: no pictures.
        console: Where the progress is shown.
    """
    asked, plan, engine = prepared.asked, prepared.plan, prepared.engine
    out, log, hardware = asked.out, asked.log, asked.hardware
    is_first = prepared.is_first
    wandb_run = None
    if is_first and asked.wandb.mode != "disabled":
        wandb_run = WandbRun(out, asked.wandb, prepared.config)
    progress = ProgressShown(console, plan.num_steps)
    sinks: list[Callable[[Row], None]] = []
    if is_first:
        sinks.append(MetricsFile(out / "metrics.csv", keep_steps=prepared.resumption.step).append)
    if wandb_run is not None:
        sinks.append(wandb_run.log)
    if is_first and log.progress:
        sinks.append(progress.show_row)
    meter = StepMeter(log_every=log.log_every, epoch_clips=prepared.found.num_clips, sinks=sinks)
    stopper = StopOnSignal()
    guard = FiniteGuard(out, max_skipped=asked.max_skipped_steps, say=console.print)
    bad_samples = BadSamples(asked.data.max_bad)
    agreement = Agreement([stopper, guard, bad_samples])
    # In this order: the guard measures the norm that the meter takes, what is measured now and
    # then goes into the row that the meter makes of the same step, and a checkpoint holds
    # what the meter has counted and all processes have agreed on.
    measuring: list[pl.Callback] = []
    if log.health_every:
        measuring.append(Health(every=log.health_every, note=meter.note))
    if prepared.probed is not None:
        measuring.append(Probes(prepared.probed, asked.probe, note=meter.note))
    callbacks: list[pl.Callback] = [guard, bad_samples, *measuring, meter, stopper, agreement]
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
    files = CheckpointFiles(
        keep=log.keep,
        keep_every=log.keep_every,
        timeout_seconds=hardware.timeout_seconds,
        portable=Portable(out / "checkpoints" / "last", prepared.sections),
    )
    callbacks.append(Checkpoints(out / "checkpoints", files, every=log.checkpoint_every))
    on_cpu = hardware.accelerator == "cpu" or not torch.cuda.is_available()
    strategy, plugins = make_strategy(
        engine,
        processes=prepared.processes,
        on_cpu=on_cpu,
        precision=prepared.precision,
        batch_size=asked.data.batch_size,
        timeout_seconds=hardware.timeout_seconds,
        checkpoint_io=files,
    )
    number_format: str | None = None  # DeepSpeed brings its own and is not told it a second time
    if engine.kind != "deepspeed":
        number_format, scaling = trainer_precision(prepared.precision, on_cpu=on_cpu)
        plugins += scaling
    trainer = pl.Trainer(
        accelerator="cpu" if on_cpu else hardware.accelerator,
        devices=prepared.processes.devices,
        num_nodes=prepared.processes.num_nodes,
        strategy=strategy,
        plugins=plugins,
        precision=number_format,  # type: ignore[arg-type]  # checked by resolve_precision
        max_steps=plan.num_steps,
        max_epochs=-1,
        accumulate_grad_batches=prepared.accumulate,
        gradient_clip_val=asked.optimizer.clip_norm,
        callbacks=callbacks,
        default_root_dir=out,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
    )
    return Assembly(
        trainer=trainer,
        meter=meter,
        stopper=stopper,
        guard=guard,
        bad_samples=bad_samples,
        wandb=wandb_run,
    )
