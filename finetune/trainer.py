"""Lightning's trainer for one fold, and where its numbers are logged.

For: ``metrics.csv`` always, Weights & Biases beside it. Not for: the training step
(``finetune/module.py``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy

from finetune.fitting.resuming import next_part
from finetune.plan import Plan
from hicmae.loss_scaling import trainer_precision
from hicmae.plain import to_dict


def make_trainer(
    plan: Plan,
    folder: Path,
    wandb_logger: WandbLogger | None,
    *,
    num_batches: int,
    callbacks: Sequence[pl.Callback],
) -> pl.Trainer:
    """Lightning's trainer for one process of a fold."""
    part = next_part(folder)
    loggers: list[Any] = [CSVLogger(save_dir=part.parent, name="", version=part.name)]
    if wandb_logger is not None:
        loggers.append(wandb_logger)
    kind = plan.trainer.accelerator
    on_cpu = kind == "cpu" or (kind == "auto" and not torch.cuda.is_available())
    precision, plugins = trainer_precision(plan.precision, on_cpu=on_cpu)
    if plan.trainer.devices > 1:
        plugins.append(LightningEnvironment())  # not SLURM's: a fold's processes are started here
    return pl.Trainer(
        accelerator=kind,
        devices=plan.trainer.devices,
        strategy=_strategy(plan),
        plugins=plugins or None,
        use_distributed_sampler=False,
        precision=precision,  # type: ignore[arg-type]  # checked by resolve_precision
        max_epochs=plan.resolved.epochs,
        accumulate_grad_batches=plan.accumulate,
        gradient_clip_val=plan.optimizer.clip_norm,
        logger=loggers,
        log_every_n_steps=min(plan.trainer.log_every, num_batches),
        default_root_dir=folder,
        callbacks=list(callbacks),
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=plan.trainer.progress and sys.stderr.isatty(),
    )


def _strategy(plan: Plan) -> DDPStrategy | str:
    """How several processes keep their weights the same."""
    if plan.trainer.devices == 1:
        return "auto"
    return DDPStrategy(
        timeout=timedelta(seconds=plan.trainer.timeout_seconds),
        # A batch of clips with a modality each leaves weights out that other batches use.
        find_unused_parameters=plan.recipe.modality_dropout > 0,
        # They never change; and processes do not have as many test views as each other.
        broadcast_buffers=False,
    )


def make_wandb_logger(plan: Plan, fold: str, folder: Path) -> WandbLogger | None:
    """One W&B run a fold, in the group of what one command made; a resumed fold goes on in its."""
    if plan.wandb.mode == "disabled":
        return None
    import wandb  # a second of import that a run without it need not wait for

    run_folder = plan.out.resolve().name
    name = run_folder if run_folder == plan.group else f"{plan.group}-{run_folder}"
    identity = folder / "wandb-id"
    # Started here and not by Lightning, which hands over a setting that W&B warns about.
    run = wandb.init(
        dir=plan.out,
        id=identity.read_text() if identity.is_file() else None,
        resume="allow" if plan.wandb.mode == "online" else None,
        project=plan.wandb.project,
        group=plan.group,
        name=f"{name}-fold-{fold}",
        mode=plan.wandb.mode,
        settings=wandb.Settings(silent=True),
        config={
            "fold": fold,
            "seed": plan.seed,
            "protocol": to_dict(plan.protocol),
            "configuration_digest": plan.digest,
            "benchmark": to_dict(plan.benchmark),
            "model": to_dict(plan.model),
            "emotion": to_dict(plan.emotion),
            "recipe": to_dict(plan.recipe),
            "optimizer": to_dict(plan.optimizer),
            "mixing": to_dict(plan.mixing),
            "augment": to_dict(plan.augment),
            "resolved": to_dict(plan.resolved),
        },
    )
    identity.write_text(run.id)
    return WandbLogger(experiment=run)


def finish_wandb(logger: WandbLogger | None, *, finished: bool) -> None:
    """End the fold's W&B run, if it has one."""
    if logger is not None:
        logger.experiment.finish(exit_code=0 if finished else 1)
