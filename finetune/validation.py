"""Choosing an epoch: what is kept out of training for it, and keeping the best weights.

The rules' names and meaning are those of ``finetune/selection.py``.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
from torch import Tensor

from finetune.benchmark import Benchmark
from finetune.folds import Fold, as_text
from finetune.heads import NAMED, read_truth
from finetune.predictions import predictions_of_fold
from finetune.processes import from_all
from finetune.scores import Values, score


@dataclass(frozen=True, kw_only=True)
class InnerSplit:
    """A training side divided again.

    Args:
        train, validation: What is trained on, and what chooses the epoch.
        by: Column whose values are on one side each; ``sample`` where none is known.
    """

    train: pd.DataFrame
    validation: pd.DataFrame
    by: str


def inner_split(benchmark: Benchmark, fold: Fold, *, share: float) -> InnerSplit:
    """Carve a validation side out of the training side of a fold.

    Whole speakers are taken, in an order that only their names and the fold's decide, so that
    every seed and every machine takes the same. Where speakers are unknown (which only a protocol
    with ``shared_speakers`` allows), whole values of ``benchmark.disjoint`` or else samples are.
    Whoever would take the last training sample of a class stays.

    Args:
        fold: Whose training side is divided.
        share: Of its samples, in (0, 1); at least one value is taken and one left.

    Raises: ValueError: there is nothing to take that leaves every class in training.
    """
    rows = fold.train
    by = benchmark.speaker
    if benchmark.folds.shared_speakers:
        known = (benchmark.speaker, *benchmark.disjoint)
        by = next((name for name in known if _is_named(rows, name)), "sample")
    units = rows["key" if by == "sample" else by].map(as_text)
    counts = _class_counts(benchmark, rows, units)  # (units, classes)
    sizes, left = units.value_counts(), counts.sum()
    wanted, taken = share * len(rows), 0
    chosen: set[str] = set()

    def place(name: Any) -> str:
        """Where a value stands in the order of taking."""
        return hashlib.sha256(f"{fold.name}\n{name}".encode()).hexdigest()

    for name in sorted(counts.index, key=place):
        own = counts.loc[name]
        if chosen and (taken >= wanted or taken + int(sizes[name]) > 1.5 * wanted + 1):
            continue
        if (left - own).min() <= 0 or len(chosen) + 1 == len(counts):
            continue
        left, taken = left - own, taken + int(sizes[name])
        chosen.add(name)
    if not chosen:
        raise ValueError(
            f"fold {fold.name}: selection inner-validation finds no {by} of the training side"
            f" ({len(counts)} of them) to keep out that leaves a sample of every class; use"
            " --selection last"
        )
    out = units.isin(chosen)
    return InnerSplit(train=rows[~out], validation=rows[out], by=by)


def _class_counts(benchmark: Benchmark, rows: pd.DataFrame, units: pd.Series) -> pd.DataFrame:
    """How many samples of each class each unit has; of several heads, who has labels, too."""
    if not benchmark.heads:
        labels = pd.Series("", rows.index)
        if benchmark.label:
            labels = rows[benchmark.label].map(as_text)
        return pd.crosstab(units, labels)
    found = []
    for head in benchmark.heads:
        truth, known = read_truth(head, rows)
        found += [known[:, None], *([truth > 0] if head.kind in NAMED else [])]
    table = pd.DataFrame(np.concatenate(found, axis=1).astype(int), index=rows.index)
    return table.groupby(units).sum()


class EpochChoice(pl.Callback):
    """Score every epoch on one side and keep the weights of the best.

    The first of equal epochs wins. An epoch whose leading metric is undefined (a constant target)
    is never better than another; if all are, the last is taken.

    Args:
        fold: A fold whose *test* rows are the side to score.
        num_segments: Views of a sample.
        prefix: Of the columns in ``metrics.csv``: ``validation`` or ``test``.

    Attributes:
        epoch: The best so far, counted from 1; none before the first or if all are undefined.
        scores: Of that epoch.
    """

    def __init__(self, *, benchmark: Benchmark, fold: Fold, num_segments: int, prefix: str) -> None:
        self.benchmark = benchmark
        self.fold = fold
        self.num_segments = num_segments
        self.prefix = prefix
        self.epoch: int | None = None
        self.scores: Values = {}
        self._outputs: list[dict[str, Tensor]] = []
        self._weights: dict[str, Tensor] = {}

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what a batch gave."""
        self._outputs.append({name: value.cpu() for name, value in outputs.items()})

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Score the epoch; keep its weights if it is the best so far."""
        outputs = [batch for part in from_all(self._outputs) for batch in part]
        self._outputs = []
        predictions = predictions_of_fold(
            self.benchmark, self.fold, outputs, num_segments=self.num_segments
        )
        values = score(self.benchmark, predictions)
        pl_module.log_dict(
            {f"{self.prefix}_{name}": value for name, value in values.items()}, sync_dist=True
        )
        found, best = values[self.benchmark.ranking], self.scores.get(self.benchmark.ranking)
        if not math.isnan(found) and (best is None or found > best):
            self.epoch, self.scores = trainer.current_epoch + 1, values
            self._weights = {
                name: value.detach().cpu().clone() for name, value in pl_module.state_dict().items()
            }

    def state_dict(self) -> dict[str, Any]:
        """The best epoch so far, for a fold that is resumed."""
        scores = {name: float(value) for name, value in self.scores.items()}
        return {"epoch": self.epoch, "scores": scores, "weights": self._weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up again."""
        self.epoch, self.scores = state_dict["epoch"], state_dict["scores"]
        self._weights = state_dict["weights"]

    def restore(self, module: pl.LightningModule) -> list[str]:
        """Put the best weights back. Returns: notes for the reader of the numbers."""
        if self.epoch is None:
            return [
                f"{self.benchmark.ranking} was undefined after every epoch (constant true values),"
                " so the last epoch's weights were tested"
            ]
        module.load_state_dict(self._weights)
        return []


def _is_named(rows: pd.DataFrame, column: str) -> bool:
    """Whether every row has a value there, and not all the same."""
    if column not in rows.columns:
        return False
    values = rows[column].map(as_text)
    return bool((values != "").all()) and values.nunique() > 1
