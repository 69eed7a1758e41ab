"""What is written of a fold that was trained just now: its checkpoint and its facts.

For: the portable checkpoint with what is needed to use and to judge it. Not for: training or the
saved epochs of a fold in progress (``resuming.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from finetune.benchmark import Benchmark
from finetune.facts import FoldFacts
from finetune.folds import Fold, as_text
from finetune.module import FinetuneModule
from finetune.plan import Plan
from finetune.predictions import Prediction
from finetune.provenance import file_digest, git_commit
from finetune.scores import score
from finetune.validation import InnerSplit
from hicmae.plain import to_dict


def save_fold(
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
            "tuning": plan.recipe.tuning,
            "ema_decay": plan.recipe.ema_decay,
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


def fold_facts(
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
