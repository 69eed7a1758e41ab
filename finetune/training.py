"""Training and testing one fold.

For: everything between a checked fold and its folder of results. Not for: which folds there are,
or what is done with all of them (``finetune/run.py``).
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch

from finetune.benchmark import Benchmark
from finetune.data import test_loader, training_loader
from finetune.evaluation import predictions_of_fold
from finetune.folds import Fold, as_text, true_values
from finetune.module import FinetuneModule
from finetune.plan import Plan
from finetune.predictions import FILE_NAME, write_predictions
from finetune.record import FOLD, FoldFacts, fold_folder, write_json
from finetune.trainer import make_trainer, make_wandb_logger
from hicmae.checkpoint import load_encoder, save_checkpoint
from hicmae.plain import to_dict


def train_fold(plan: Plan, fold: Fold) -> FoldFacts:
    """Train and test one fold; its folder appears when everything in it is written.

    Raises: ValueError: a sample that cannot be read, a loss or output that is not finite, or a
        checkpoint that does not fit the network.
    """
    started = time.monotonic()
    final = fold_folder(plan.out, fold.name)
    folder = final.with_name(f".{final.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir(parents=True)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    pl.seed_everything(plan.seed, workers=True, verbose=False)
    loader = training_loader(
        plan.index,
        fold.train,
        plan.benchmark,
        plan.model.input,
        modalities=plan.emotion.modalities,
        batch_size=plan.recipe.batch_size,
        seed=plan.seed,
        trainer=plan.trainer,
    )
    module, notes = _module(plan, fold, steps_per_epoch=math.ceil(len(loader) / plan.accumulate))
    wandb_logger = make_wandb_logger(plan, fold.name)
    trainer = make_trainer(plan, folder, wandb_logger, num_batches=len(loader))
    finished = False
    try:
        trainer.fit(module, loader)
        outputs = trainer.predict(
            module,
            test_loader(
                plan.index,
                fold.test,
                plan.benchmark,
                plan.model.input,
                modalities=plan.emotion.modalities,
                batch_size=plan.recipe.batch_size,
                num_segments=plan.recipe.num_segments,
                trainer=plan.trainer,
            ),
        )
        assert outputs is not None
        predictions = predictions_of_fold(
            plan.benchmark,
            fold,
            outputs,  # type: ignore[arg-type]  # one loader: a flat list of batches
            num_segments=plan.recipe.num_segments,
        )
        write_predictions(folder / FILE_NAME, predictions)
        _save(plan, fold, module, folder / "checkpoints" / "last")
        notes += [
            f"{count} training clips skipped ({cause})" for cause, count in module.skipped.items()
        ]
        facts = _facts(plan, fold, module, time.monotonic() - started, notes)
        write_json(folder / FOLD, to_dict(facts))
        shutil.rmtree(final, ignore_errors=True)
        folder.replace(final)
        finished = True
    finally:
        if wandb_logger is not None:
            wandb_logger.experiment.finish(exit_code=0 if finished else 1)
        if not finished:
            shutil.rmtree(folder, ignore_errors=True)
    return facts


def _module(plan: Plan, fold: Fold, *, steps_per_epoch: int) -> tuple[FinetuneModule, list[str]]:
    """The network of one fold, with the pretrained encoder, and notes about its targets."""
    num_steps = steps_per_epoch * plan.resolved.epochs
    mean, std, notes = target_moments(plan.benchmark, fold)
    module = FinetuneModule(
        model=plan.model,
        emotion=plan.emotion,
        benchmark=plan.benchmark,
        loss=plan.resolved.loss,
        optimizer=plan.optimizer,
        learning_rate=plan.scaled(plan.resolved.learning_rate),
        min_learning_rate=plan.scaled(plan.optimizer.min_learning_rate),
        mixing=plan.mixing,
        augment=plan.augment,
        label_smoothing=plan.recipe.label_smoothing,
        freeze_encoder=plan.recipe.freeze_encoder,
        target_mean=torch.from_numpy(mean),
        target_std=torch.from_numpy(std),
        num_steps=num_steps,
        warmup_steps=round(plan.optimizer.warmup_epochs * steps_per_epoch),
    )
    if plan.checkpoint is not None:
        load_encoder(module.model.encoder, plan.checkpoint)
    return module, notes


def target_moments(benchmark: Benchmark, fold: Fold) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Mean and deviation of each real-valued target over the training side alone.

    Returns: mean (D,), standard deviation (D,), 1 where a target is constant, and notes about
        such targets; for classes, zeros, ones and none.
    """
    if benchmark.task == "classification":
        return np.zeros(1), np.ones(1), []
    values = true_values(benchmark, fold.train)
    constant = values.min(axis=0) == values.max(axis=0)
    notes = [
        f"{name} is the same in every training sample, so nothing was learned about it"
        for name, flag in zip(benchmark.targets, constant, strict=True)
        if flag
    ]
    return values.mean(axis=0), np.where(constant, 1.0, values.std(axis=0)), notes


def _save(plan: Plan, fold: Fold, module: FinetuneModule, folder: Path) -> None:
    """Write the portable checkpoint, with what is needed to use and to judge it."""
    config: dict[str, Any] = {
        "model": to_dict(plan.model),
        "emotion": to_dict(plan.emotion),
        "benchmark": to_dict(plan.benchmark),
        "finetuning": {
            "fold": fold.name,
            "seed": plan.seed,
            "selection": "last",
            "num_segments": plan.recipe.num_segments,
            "configuration_digest": plan.digest,
        },
    }
    if plan.benchmark.task == "regression":
        config["targets"] = {
            "names": list(plan.benchmark.targets),
            "mean": module.target_mean.tolist(),
            "std": module.target_std.tolist(),
        }
    save_checkpoint(folder, module.model, kind="emotion", config=config)


def _facts(
    plan: Plan,
    fold: Fold,
    module: FinetuneModule,
    seconds: float,
    notes: list[str],
) -> FoldFacts:
    """What is known of a fold that was trained just now."""
    weights = module.model.layer_weights() if plan.emotion.feature_fusion else {}
    return FoldFacts(
        name=fold.name,
        configuration_digest=plan.digest,
        num_train=len(fold.train),
        num_test=len(fold.test),
        num_train_speakers=_num_speakers(plan.benchmark, fold.train),
        num_test_speakers=_num_speakers(plan.benchmark, fold.test),
        seconds=round(seconds, 1),
        train_loss=module.last_epoch_loss,
        layer_weights={name: tuple(values.float().tolist()) for name, values in weights.items()},
        notes=tuple(notes),
    )


def _num_speakers(benchmark: Benchmark, rows: pd.DataFrame) -> int | None:
    """Speakers of one side; none where somebody is not named."""
    if benchmark.speaker not in rows.columns:
        return None
    names = set(rows[benchmark.speaker].map(as_text))
    return None if "" in names else len(names)
