"""The network of one fold with all that its training needs.

For: from a plan and a training side to a Lightning module. Not for: running it
(``finetune/training.py``).
"""

from __future__ import annotations

import pandas as pd
import torch

from finetune.fitting.tuning import apply_tuning
from finetune.loss_terms import loss_terms
from finetune.module import FinetuneModule, JudgedModule
from finetune.plan import Plan
from finetune.targets import balanced_weights, target_moments, vote_shares
from hicmae.blocks import set_grad_checkpointing
from hicmae.checkpoint import load_encoder


def make_module(
    plan: Plan, rows: pd.DataFrame, *, steps_per_epoch: int
) -> tuple[FinetuneModule, list[str]]:
    """The network of one fold, with the pretrained encoder.

    Args:
        plan: Of the run.
        rows: What is trained on, in the order in which the loader numbers samples.
        steps_per_epoch: Optimizer steps of a pass over them.

    Returns: the module, and notes about its targets.
    Raises: ValueError: votes that are no counts, or a checkpoint that does not fit.
    """
    mean, std, notes = target_moments(plan.benchmark, rows)
    shares = None
    if plan.recipe.soft_labels:
        shares, silent = vote_shares(plan.benchmark, rows)
        notes += silent
    weights = None
    if plan.recipe.class_weights == "balanced":
        weights = balanced_weights(plan.benchmark, rows)
    kind = FinetuneModule if plan.protocol.selection == "last" else JudgedModule
    module = kind(
        model=plan.model,
        emotion=plan.emotion,
        benchmark=plan.benchmark,
        loss=loss_terms(plan.resolved.loss, plan.benchmark.task),
        optimizer=plan.optimizer,
        learning_rate=plan.scaled(plan.resolved.learning_rate),
        min_learning_rate=plan.scaled(plan.optimizer.min_learning_rate),
        mixing=plan.mixing,
        augment=plan.augment,
        label_smoothing=plan.recipe.label_smoothing,
        modality_dropout=plan.recipe.modality_dropout,
        seed=plan.seed,
        soft_labels=shares,
        class_weights=weights,
        target_mean=torch.from_numpy(mean),
        target_std=torch.from_numpy(std),
        num_steps=steps_per_epoch * plan.resolved.epochs,
        warmup_steps=round(plan.optimizer.warmup_epochs * steps_per_epoch),
    )
    if plan.checkpoint is not None:
        load_encoder(module.model.encoder, plan.checkpoint)
    module.frozen = apply_tuning(module.model, plan.recipe)
    set_grad_checkpointing(module.model, plan.trainer.recompute)
    return module, notes
