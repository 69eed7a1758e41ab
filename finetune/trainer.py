"""Lightning's trainer for one fold, and where its numbers are logged.

For: ``metrics.csv`` always, Weights & Biases beside it. Not for: the training step
(``finetune/module.py``).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger, WandbLogger

from finetune.plan import Plan
from hicmae.plain import to_dict


def make_trainer(
    plan: Plan,
    folder: Path,
    wandb_logger: WandbLogger | None,
    *,
    num_batches: int,
    choice: pl.Callback | None,
) -> pl.Trainer:
    """Lightning's trainer for one fold on one device; ``choice`` chooses the epoch, if any does."""
    loggers: list[Any] = [CSVLogger(save_dir=folder, name="", version="")]
    if wandb_logger is not None:
        loggers.append(wandb_logger)
    return pl.Trainer(
        accelerator=plan.trainer.accelerator,
        devices=1,
        precision=plan.precision,  # type: ignore[arg-type]  # checked by resolve_precision
        max_epochs=plan.resolved.epochs,
        accumulate_grad_batches=plan.accumulate,
        gradient_clip_val=plan.optimizer.clip_norm,
        logger=loggers,
        log_every_n_steps=min(plan.trainer.log_every, num_batches),
        default_root_dir=folder,
        callbacks=None if choice is None else [choice],
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=plan.trainer.progress and sys.stderr.isatty(),
    )


def make_wandb_logger(plan: Plan, fold: str) -> WandbLogger | None:
    """One W&B run a fold, in the group of what one command made."""
    if plan.wandb.mode == "disabled":
        return None
    import wandb  # a second of import that a run without it need not wait for

    run_folder = plan.out.resolve().name
    name = run_folder if run_folder == plan.group else f"{plan.group}-{run_folder}"
    # Started here and not by Lightning, which hands over a setting that W&B warns about.
    run = wandb.init(
        dir=plan.out,
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
    return WandbLogger(experiment=run)
