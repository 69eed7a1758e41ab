"""What comes of a fold that was trained: what its network says, and the folder that keeps it.

Read ``judge_fold``, then ``write_fold``.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import pytorch_lightning as pl

from finetune.data import view_loader
from finetune.folds import Fold, num_speakers
from finetune.module import FinetuneModule
from finetune.over_time import Settled, choose_smoothing, smooth
from finetune.plan import Plan
from finetune.predictions import (
    FILE_NAME,
    Prediction,
    of_head,
    predictions_of_fold,
    write_predictions,
)
from finetune.processes import Share, from_all
from finetune.record import FOLD, FoldFacts, git_commit
from finetune.reporting.features import FeatureKeeper
from finetune.scores import score
from finetune.selection import rule_sentence
from finetune.tuning import gain_note
from finetune.validation import InnerSplit, best_thresholds, fit_calibration, threshold_notes
from hicmae.checkpoints.checkpoint import SEEN_SECTION, Labels, Seen
from hicmae.config import to_dict
from hicmae.files import file_sha256, write_json
from hicmae.heads import output_names

METRICS = "metrics.csv"


def predicted(
    plan: Plan,
    fold: Fold,
    share: Share,
    trainer: pl.Trainer,
    module: FinetuneModule,
    rows: pd.DataFrame,
    limits: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> list[Prediction]:
    """What the network says of some samples, of all processes together."""
    found: Any = trainer.predict(module, view_loader(plan, rows, share))
    outputs = [{name: value.cpu() for name, value in batch.items()} for batch in found]
    return predictions_of_fold(
        plan.benchmark,
        dataclasses.replace(fold, test=rows),
        [batch for part in from_all(outputs) for batch in part],
        num_segments=plan.config.recipe.num_segments,
        clip=plan.model.input,
        thresholds=limits,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TestedFold:
    """What the trained network says, and what was fitted to it."""

    predictions: list[Prediction]  # of the test side
    kept_out: list[Prediction]  # of those who were kept out of training
    settled: Settled | None
    notes: list[str]


def judge_fold(
    plan: Plan,
    fold: Fold,
    sides: InnerSplit,
    settled: Settled | None,
    tested: Callable[..., list[Prediction]],
    shared: list[Prediction],
) -> TestedFold:
    """Test the fold, with thresholds and smoothing from people who were kept out of training.

    Args:
        settled: How answers over time are compared, of a benchmark that has such.
        tested: Gives the predictions of some rows, with thresholds.
        shared: Those of the network that an annotator's was trained from.
    """
    notes: list[str] = []
    limits: Mapping[str, Sequence[float]] = {}
    if plan.calibrates and plan.benchmark.heads:
        limits = best_thresholds(plan.benchmark, tested(sides.validation))
        notes += threshold_notes(plan.benchmark, limits, len(sides.validation))
    predictions = tested(fold.test, limits)
    keeps_out = plan.keeps_out and not plan.benchmark.heads
    kept_out = tested(sides.validation) if keeps_out else []
    if settled is not None:
        window = choose_smoothing(plan.benchmark, kept_out)
        settled = dataclasses.replace(settled, smoothing_seconds=window)
        predictions = smooth(predictions, window)
        if shared:
            before = score(plan.benchmark, smooth(shared, window))
            settled = dataclasses.replace(settled, shared=before)
            who = str(plan.config.recipe.annotator)
            notes.append(gain_note(who, before, score(plan.benchmark, predictions)))
        notes += settled.notes(len(kept_out))
    return TestedFold(predictions=predictions, kept_out=kept_out, settled=settled, notes=notes)


def write_fold(
    plan: Plan,
    facts: FoldFacts,
    module: FinetuneModule,
    predictions: Sequence[Prediction],
    seen: Seen,
    keeper: FeatureKeeper,
    done: Path,
) -> None:
    """Write the folder of a fold anew, from the first to the last file; its rows lie beside it."""
    shutil.rmtree(done, ignore_errors=True)
    done.mkdir()
    write_predictions(done / FILE_NAME, predictions)
    keeper.write(done)
    _save(plan, facts, module, predictions, seen, done / "checkpoints" / "last")
    # A copy: killed between here and the end, the fold is finished anew with these rows.
    shutil.copyfile(done.with_name(METRICS), done / METRICS)
    write_json(done / FOLD, to_dict(facts))


def facts_of(
    plan: Plan,
    fold: Fold,
    sides: InnerSplit,
    module: FinetuneModule,
    result: TestedFold,
    *,
    seconds: float,
    epoch: int,
    notes: list[str],
) -> FoldFacts:
    """What is known of a fold that was trained just now."""
    weights = module.model.layer_weights() if plan.emotion.feature_fusion else {}
    calibration = None
    if result.kept_out and result.settled is None:
        answered = plan.config.recipe.answered
        calibration = fit_calibration(plan.benchmark, result.kept_out, answered=answered)
    return FoldFacts(
        name=fold.name,
        configuration_digest=plan.digest,
        num_train=len(sides.train),
        num_validation=len(sides.validation),
        num_test=len(fold.test),
        num_train_speakers=num_speakers(plan.benchmark, sides.train),
        num_validation_speakers=num_speakers(plan.benchmark, sides.validation),
        num_test_speakers=num_speakers(plan.benchmark, fold.test),
        epoch=epoch,
        seconds=round(seconds, 1),
        train_loss=module.last_epoch_loss,
        layer_weights={name: tuple(values.float().tolist()) for name, values in weights.items()},
        notes=tuple(notes),
        calibration=calibration,
        over_time={} if result.settled is None else dataclasses.asdict(result.settled),
    )


def _save(
    plan: Plan,
    facts: FoldFacts,
    module: FinetuneModule,
    predictions: Sequence[Prediction],
    seen: Seen,
    folder: Path,
) -> None:
    """Write the portable checkpoint, with what is needed to use and to judge it."""
    recipe, scores = plan.config.recipe, score(plan.benchmark, predictions)
    labelled = {head.name: len(of_head(head, predictions)) for head in plan.benchmark.heads}
    config: dict[str, Any] = {
        "benchmark": to_dict(plan.benchmark),
        "finetuning": {
            "fold": facts.name,
            "seed": plan.config.seed,
            "selection": plan.protocol.selection,
            "rule": rule_sentence(plan.protocol.selection, plan.protocol.name),
            "epoch": facts.epoch,
            "num_segments": recipe.num_segments,
            "tuning": recipe.tuning,
            "ema_decay": recipe.ema_decay,
            "configuration_digest": plan.digest,
        },
        "scores": {name: value if math.isfinite(value) else None for name, value in scores.items()},
        "protocol": {
            "benchmark": plan.benchmark.name,
            "fold": facts.name,
            "selection": plan.protocol.selection,
            "epoch": facts.epoch,
            **{
                f"num_{side}": getattr(facts, f"num_{side}")
                for side in ("train", "validation", "test", "train_speakers", "test_speakers")
            },
            **({"num_test_labelled": labelled} if labelled else {}),
            "num_segments": recipe.num_segments,
            "epochs": plan.resolved.epochs,
            "rules": plan.protocol.name,
            "seed": plan.config.seed,
            "init": "scratch" if plan.checkpoint is None else "checkpoint",
            **({"test_seen": list(plan.test_seen)} if plan.test_seen else {}),
            "configuration_digest": plan.digest,
            "git_commit": git_commit(),
        },
        "data": {"index_sha256": plan.shards_digest, "build": plan.index.info.get("config")},
        SEEN_SECTION: seen.section(),
        "licence": f"The weights learned from the data of '{plan.benchmark.name}', whose terms "
        f"hold for what is done with them: {plan.benchmark.licence or 'not noted'}.",
    }
    if facts.over_time.get("smoothing_seconds"):
        config["over_time"] = {"smoothing_seconds": facts.over_time["smoothing_seconds"]}
    if plan.benchmark.over_time is not None:
        shift = plan.benchmark.over_time.shift_seconds(plan.model.input.clip_seconds)
        config |= {"traces": {"shift_seconds": shift}} if shift else {}
    if facts.calibration is not None:
        config["calibration"] = to_dict(facts.calibration)
    receipt = plan.index.folder / "receipt.json"
    if receipt.is_file():
        config["data"]["receipt_sha256"] = file_sha256(receipt)
    if plan.benchmark.heads:
        limits = predictions[0].limits
        heads = tuple(h.labels(limits.get(h.name, ())) for h in plan.benchmark.heads)
        labels = Labels(
            task="joint",
            names=output_names(heads),
            mean=tuple(module.target_mean.tolist()),
            std=tuple(module.target_std.tolist()),
            heads=heads,
        )
        config["labels"] = to_dict(labels)
    elif plan.benchmark.task == "regression":
        config["targets"] = {
            "names": list(plan.benchmark.targets),
            "mean": module.target_mean.tolist(),
            "std": module.target_std.tolist(),
        }
    module.model.carried = config
    module.model.save_pretrained(folder)
