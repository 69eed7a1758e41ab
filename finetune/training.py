"""Training and testing one fold.

For: everything between a checked fold and its folder of results. Not for: which folds there are,
or what is done with all of them (``finetune/run.py``).
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl

from finetune.assembly import make_module
from finetune.benchmark import Benchmark
from finetune.data import Loader, test_loader, training_loader
from finetune.evaluation import predictions_of_fold
from finetune.facts import FoldFacts
from finetune.folds import Fold, as_text, shared_values
from finetune.module import FinetuneModule
from finetune.plan import Plan
from finetune.predictions import FILE_NAME, Prediction, write_predictions
from finetune.provenance import file_digest, git_commit
from finetune.record import FOLD, fold_folder, write_json
from finetune.scores import score
from finetune.targets import vote_shares
from finetune.trainer import make_trainer, make_wandb_logger
from finetune.validation import EpochChoice, InnerSplit, inner_split
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
    sides, choice, notes = _sides(plan, fold)
    loader = training_loader(
        plan.index,
        sides.train,
        plan.benchmark,
        plan.model.input,
        modalities=plan.emotion.modalities,
        batch_size=plan.recipe.batch_size,
        seed=plan.seed,
        trainer=plan.trainer,
    )
    module, found = make_module(
        plan, sides.train, steps_per_epoch=math.ceil(len(loader) / plan.accumulate)
    )
    notes += found
    wandb_logger = make_wandb_logger(plan, fold.name)
    trainer = make_trainer(plan, folder, wandb_logger, num_batches=len(loader), choice=choice)
    finished = False
    try:
        if choice is None:
            trainer.fit(module, loader)
        else:
            trainer.fit(module, loader, _views(plan, choice.fold))
            notes += choice.restore(module)
        outputs = trainer.predict(module, _views(plan, fold))
        assert outputs is not None
        predictions = predictions_of_fold(
            plan.benchmark,
            fold,
            outputs,  # type: ignore[arg-type]  # one loader: a flat list of batches
            num_segments=plan.recipe.num_segments,
        )
        write_predictions(folder / FILE_NAME, predictions)
        epoch = plan.resolved.epochs if choice is None or choice.epoch is None else choice.epoch
        _save(plan, fold, sides, module, predictions, folder / "checkpoints" / "last", epoch=epoch)
        notes += [
            f"{count} training clips skipped ({cause})" for cause, count in module.skipped.items()
        ]
        facts = _facts(
            plan,
            fold,
            sides,
            module,
            seconds=time.monotonic() - started,
            epoch=epoch,
            notes=notes,
        )
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


def check_training(plan: Plan, folds: Sequence[Fold]) -> None:
    """Prove of each fold, before any is trained, that its targets and its epoch can be had.

    Raises: ValueError: votes that are no counts; a training side of which nothing can be kept out
        for the inner validation.
    """
    for fold in folds:
        sides, _, _ = _sides(plan, fold)
        if plan.recipe.soft_labels:
            vote_shares(plan.benchmark, sides.train)


def _sides(plan: Plan, fold: Fold) -> tuple[InnerSplit, EpochChoice | None, list[str]]:
    """What a fold trains on, what chooses its epoch if anything does, and notes about both."""
    sides = InnerSplit(train=fold.train, validation=fold.train.iloc[:0], by="")
    notes = []
    shared = shared_values(fold, plan.benchmark.speaker)
    if shared:  # or it would have been refused
        notes.append(
            f"{len(shared)} values of {plan.benchmark.speaker} are on both sides, as the"
            " benchmark's protocol allows"
        )
    rule = plan.protocol.selection
    if rule == "last":
        return sides, None, notes
    judged = fold
    if rule == "inner-validation":
        sides = inner_split(plan.benchmark, fold, share=plan.protocol.validation_share)
        judged = Fold(name=fold.name, train=sides.train, test=sides.validation)
        if sides.by != plan.benchmark.speaker:
            notes.append(
                f"the inner validation is divided by {sides.by}: nobody names the"
                f" {plan.benchmark.speaker}"
            )
    choice = EpochChoice(
        benchmark=plan.benchmark,
        fold=judged,
        num_segments=plan.recipe.num_segments,
        prefix="test" if rule == "best-on-test" else "validation",
    )
    return sides, choice, notes


def _views(plan: Plan, fold: Fold) -> Loader:
    """The test views of a fold."""
    return test_loader(
        plan.index,
        fold.test,
        plan.benchmark,
        plan.model.input,
        modalities=plan.emotion.modalities,
        batch_size=plan.recipe.batch_size,
        num_segments=plan.recipe.num_segments,
        trainer=plan.trainer,
    )


def _save(
    plan: Plan,
    fold: Fold,
    sides: InnerSplit,
    module: FinetuneModule,
    predictions: Sequence[Prediction],
    folder: Path,
    *,
    epoch: int,
) -> None:
    """Write the portable checkpoint, with what is needed to use and to judge it."""
    scores = score(plan.benchmark, predictions)
    config: dict[str, Any] = {
        "benchmark": to_dict(plan.benchmark),
        "finetuning": {
            "fold": fold.name,
            "seed": plan.seed,
            "selection": plan.protocol.selection,
            "epoch": epoch,
            "num_segments": plan.recipe.num_segments,
            "configuration_digest": plan.digest,
        },
        "scores": {name: value if math.isfinite(value) else None for name, value in scores.items()},
        "protocol": {
            "benchmark": plan.benchmark.name,
            "fold": fold.name,
            "selection": plan.protocol.selection,
            "epoch": epoch,
            "num_train": len(sides.train),
            "num_validation": len(sides.validation),
            "num_test": len(fold.test),
            "num_train_speakers": _num_speakers(plan.benchmark, sides.train),
            "num_test_speakers": _num_speakers(plan.benchmark, fold.test),
            "num_segments": plan.recipe.num_segments,
            "epochs": plan.resolved.epochs,
            "rules": plan.protocol.name,
            "seed": plan.seed,
            "init": "scratch" if plan.checkpoint is None else "checkpoint",
            "configuration_digest": plan.digest,
            "git_commit": git_commit(),
        },
        "data": {"index_sha256": plan.shards_digest, "build": plan.index.info.get("config")},
        "licence": f"The weights learned from the data of '{plan.benchmark.name}', whose terms "
        f"hold for what is done with them: {plan.benchmark.licence or 'not noted'}.",
    }
    receipt = plan.index.folder / "receipt.json"
    if receipt.is_file():
        config["data"]["receipt_sha256"] = file_digest(receipt)
    if plan.benchmark.task == "regression":
        config["targets"] = {
            "names": list(plan.benchmark.targets),
            "mean": module.target_mean.tolist(),
            "std": module.target_std.tolist(),
        }
    module.model.carried = config
    module.model.save_pretrained(folder)


def _facts(
    plan: Plan,
    fold: Fold,
    sides: InnerSplit,
    module: FinetuneModule,
    *,
    seconds: float,
    epoch: int,
    notes: list[str],
) -> FoldFacts:
    """What is known of a fold that was trained just now."""
    weights = module.model.layer_weights() if plan.emotion.feature_fusion else {}
    return FoldFacts(
        name=fold.name,
        configuration_digest=plan.digest,
        num_train=len(sides.train),
        num_validation=len(sides.validation),
        num_test=len(fold.test),
        num_train_speakers=_num_speakers(plan.benchmark, sides.train),
        num_validation_speakers=_num_speakers(plan.benchmark, sides.validation),
        num_test_speakers=_num_speakers(plan.benchmark, fold.test),
        epoch=epoch,
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
