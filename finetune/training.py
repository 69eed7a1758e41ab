"""Training and testing one fold.

For: everything between a checked fold and its folder of results. Not for: which folds there are,
or what is done with all of them (``finetune/run.py``).
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from finetune.assembly import make_module
from finetune.data import Loader, test_loader, training_loader
from finetune.evaluation import predictions_of_fold
from finetune.facts import FoldFacts
from finetune.fitting.averaging import MovingAverage
from finetune.fitting.order import Share
from finetune.fitting.processes import (
    LostProcessError,
    from_all,
    quiet_lightning,
    run_processes,
)
from finetune.fitting.resuming import EpochSaver, join_parts, saved_epoch
from finetune.fitting.saving import fold_facts, save_fold
from finetune.fitting.sides import sides_of
from finetune.fitting.tuning import merge_tuning
from finetune.folds import Fold
from finetune.kept_features import FeatureKeeper, choose_samples
from finetune.plan import Plan
from finetune.predictions import FILE_NAME, write_predictions
from finetune.record import FOLD, fold_folder, read_fold, write_json
from finetune.trainer import finish_wandb, make_trainer, make_wandb_logger
from hicmae.plain import to_dict

_DONE = "done"


def train_fold(plan: Plan, fold: Fold, *, resume: bool = False) -> FoldFacts:
    """Train and test one fold; its folder appears when everything in it is written.

    Args:
        plan: Of the run.
        fold: What is trained and tested on.
        resume: Whether a fold that was killed goes on from its last saved epoch.

    Raises: ValueError: a sample that cannot be read, a loss or output that is not finite, or a
        checkpoint that does not fit the network. What was saved of the fold is then deleted.
        LostProcessError: one of several processes was killed or hung. What was saved stays then,
        as with every error that is not the settings' or the data's: a full disk, no memory.
    """
    final, folder = fold_folder(plan.out, fold.name), _partial(plan, fold)
    if not (resume and can_resume(plan, fold)):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    try:
        if plan.trainer.devices == 1:
            _work(plan, fold, Share())
        else:
            run_processes(plan.trainer.devices, _work, (plan, fold), folder)
        shutil.rmtree(final, ignore_errors=True)
        (folder / _DONE).replace(final)
    except LostProcessError:
        raise
    except ValueError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder)
    facts = read_fold(final)
    assert facts is not None
    return facts


def can_resume(plan: Plan, fold: Fold) -> bool:
    """Whether an epoch of the fold was saved by a run with this very configuration."""
    return saved_epoch(_partial(plan, fold), plan.digest).is_file()


def _partial(plan: Plan, fold: Fold) -> Path:
    """Where a fold is worked on."""
    final = fold_folder(plan.out, fold.name)
    return final.with_name(f".{final.name}.partial")


def _work(plan: Plan, fold: Fold, share: Share) -> None:
    """What one process does for a fold; the first writes the folder ``done``."""
    folder = _partial(plan, fold)
    quiet_lightning()
    pl.seed_everything(plan.seed, workers=True, verbose=False)
    sides, choice, notes = sides_of(plan, fold)
    loader = training_loader(
        plan.index,
        sides.train,
        plan.benchmark,
        plan.model.input,
        modalities=plan.emotion.modalities,
        batch_size=plan.recipe.batch_size,
        seed=plan.seed,
        trainer=plan.trainer,
        share=share,
    )
    module, found = make_module(
        plan, sides.train, steps_per_epoch=math.ceil(len(loader) / plan.accumulate)
    )
    notes += found
    saved = saved_epoch(folder, plan.digest)
    saver = EpochSaver(saved, every=plan.trainer.save_every)
    keeper = _feature_keeper(plan, fold, folder)
    callbacks: list[pl.Callback] = [keeper] if choice is None else [keeper, choice]
    if plan.recipe.ema_decay is not None:  # after the choice, which wants the average's weights
        callbacks.append(MovingAverage(plan.recipe.ema_decay))
    wandb_logger = make_wandb_logger(plan, fold.name, folder) if share.rank == 0 else None
    trainer = make_trainer(
        plan, folder, wandb_logger, num_batches=len(loader), callbacks=[*callbacks, saver]
    )
    finished = False
    try:
        trainer.fit(
            module,
            loader,
            None if choice is None else _views(plan, choice.fold, share),
            ckpt_path=saved if saved.is_file() else None,
            weights_only=True,
        )
        if choice is not None:
            notes += choice.restore(module)
        merge_tuning(module.model)
        outputs = trainer.predict(module, _views(plan, fold, share))
        skipped = sum((Counter(counts) for counts in from_all(module.skipped)), Counter())
        notes += [f"{count} training clips skipped ({cause})" for cause, count in skipped.items()]
        everyone = [batch for part in from_all(_on_cpu(outputs)) for batch in part]
        if share.rank == 0:
            epoch = plan.resolved.epochs if choice is None or choice.epoch is None else choice.epoch
            predictions = predictions_of_fold(
                plan.benchmark, fold, everyone, num_segments=plan.recipe.num_segments
            )
            done = folder / _DONE
            done.mkdir(exist_ok=True)
            write_predictions(done / FILE_NAME, predictions)
            keeper.write(done)
            last = done / "checkpoints" / "last"
            save_fold(plan, fold, sides, module, predictions, last, epoch=epoch)
            join_parts(folder, done)
            facts = fold_facts(
                plan, fold, sides, module, seconds=saver.seconds, epoch=epoch, notes=notes
            )
            write_json(done / FOLD, to_dict(facts))
        finished = True
    finally:
        finish_wandb(wandb_logger, finished=finished)


def _feature_keeper(plan: Plan, fold: Fold, folder: Path) -> FeatureKeeper:
    """What keeps the features of some test samples for the report; in the first process alone."""
    rows = choose_samples(fold.test, plan.seed)
    views = _views(plan, dataclasses.replace(fold, test=rows), Share(), num_segments=1)
    return FeatureKeeper(views, [str(key) for key in rows["key"]], folder)


def _views(plan: Plan, fold: Fold, share: Share, *, num_segments: int | None = None) -> Loader:
    """The test views of a fold that a process predicts; as many as the recipe has unless told."""
    return test_loader(
        plan.index,
        fold.test,
        plan.benchmark,
        plan.model.input,
        modalities=plan.emotion.modalities,
        batch_size=plan.recipe.batch_size,
        num_segments=num_segments or plan.recipe.num_segments,
        trainer=plan.trainer,
        share=share,
    )


def _on_cpu(outputs: Any) -> list[dict[str, Tensor]]:
    """Outputs of one loader's batches, away from the device."""
    return [{name: value.cpu() for name, value in batch.items()} for batch in outputs]
