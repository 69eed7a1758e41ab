"""What people kept out of training decide: the epoch, a temperature, thresholds.

The rules by which an epoch is chosen are those of ``finetune/selection.py``.

Source of the temperature: Guo et al., 2017, On Calibration of Modern Neural Networks. Source of the
threshold on the highest probability, at a share of known samples that is kept: Hendrycks and
Gimpel, 2017, A Baseline for Detecting Misclassified and Out-of-Distribution Examples.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from torch import Tensor

from finetune.benchmark import Benchmark
from finetune.folds import Fold, as_text
from finetune.heads import NAMED, read_truth
from finetune.predictions import (
    Prediction,
    head_arrays,
    of_head,
    predictions_of_fold,
    true_and_predicted,
)
from finetune.processes import from_all
from finetune.scores import Values, score
from hicmae.checkpoints.checkpoint import Calibration
from hicmae.heads import HALF, choose_thresholds
from hicmae.settings import InputConfig

_TEMPERATURES = (0.05, 20.0)
_LEAST = 1e-12  # a probability of 0 was rounded


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

    Args: share: Of its samples, in (0, 1); at least one value is taken and one left.
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
        if (left - own).min() <= 0:  # so that one value is left, too
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
    """How many samples with a label, and of each class, each unit has."""
    found = []
    for head in benchmark.every_head:
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

    def __init__(
        self,
        *,
        benchmark: Benchmark,
        fold: Fold,
        num_segments: int,
        clip: InputConfig,
        prefix: str,
    ) -> None:
        self.benchmark = benchmark
        self.fold = fold
        self.num_segments, self.clip = num_segments, clip
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
            self.benchmark, self.fold, outputs, num_segments=self.num_segments, clip=self.clip
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


def fit_calibration(
    benchmark: Benchmark, predictions: Sequence[Prediction], *, answered: float
) -> Calibration:
    """Fit the temperature that makes the truth most likely, then the threshold that leaves a share
    of the samples an answer.

    As few samples may all be right, the truth counts as right but for one in N + 2. Source: Platt,
    1999, Probabilistic Outputs for Support Vector Machines, section 2.2.

    Args: predictions: Of classes, of samples that were not trained on.
    """
    true, _ = true_and_predicted(benchmark, predictions)

    doubt = 1 / (len(true) + 2)

    def surprise(log_temperature: float, doubt: float = 0.0) -> float:
        found = -np.log(np.maximum(_tempered(predictions, float(np.exp(log_temperature))), _LEAST))
        of_truth = found[np.arange(len(true)), true]
        of_others = (found.sum(axis=1) - of_truth) / max(found.shape[1] - 1, 1)
        return float(((1 - doubt) * of_truth + doubt * of_others).mean())

    bounds = tuple(np.log(_TEMPERATURES))
    fitted = minimize_scalar(surprise, bounds=bounds, args=(doubt,), method="bounded")
    temperature = float(np.exp(fitted.x))
    sure = _tempered(predictions, temperature).max(axis=1)
    threshold = float(np.quantile(sure, 1 - answered, method="lower"))
    return Calibration(
        temperature=temperature,
        threshold=threshold,
        answered=answered,
        num_samples=len(predictions),
        surprise_before=surprise(0.0),
        surprise=surprise(float(fitted.x)),
    )


def best_thresholds(
    benchmark: Benchmark, predictions: Sequence[Prediction]
) -> dict[str, tuple[float, ...]]:
    """The thresholds of heads that have some.

    Of several classes at once the probability from which each is named: where its F1 is best.
    Candidates lie half way between two neighbouring probabilities, and below the lowest; of equal
    ones the nearest to a half is taken. A class that nobody of these samples has, or that all have,
    keeps a half. Of shares that name blends: see ``hicmae.heads.choose_thresholds``.

    Args: predictions: Of samples that were not trained on.
    Returns: by head, one of each class, or both of blends.
    Source: Lipton et al., 2014, Optimal Thresholding of Classifiers to Maximize F1 Measure.
    """
    found: dict[str, tuple[float, ...]] = {}
    for head in benchmark.heads:
        units = of_head(head, predictions)
        if not head.has_thresholds or not units:
            continue
        true, shares = head_arrays(head, units)
        if head.names_blends:
            alone = head.classes.index(head.unblended) if head.unblended else None
            best = choose_thresholds(true, shares, unblended=alone)
            found[head.name] = (float(best.presence), float(best.equal))
            continue
        sure = np.array([unit.probabilities for unit in units], dtype=np.float64)
        columns = zip(true.T, sure.T, strict=True)
        found[head.name] = tuple(_best_threshold(there, own) for there, own in columns)
    return found


def threshold_notes(
    benchmark: Benchmark, found: Mapping[str, Sequence[float]], num_samples: int
) -> list[str]:
    """What ``best_thresholds`` has found on so many samples, for the reader of the numbers."""
    notes = []
    for head in benchmark.heads:
        each = [f"{value:.3f}" for value in found.get(head.name, ())]
        if each:
            what = f"a class is named from a probability of {', '.join(each)}"
            if head.names_blends:
                what = f"a second emotion is named from a share of {each[0]}, and as equal up to"
                what += f" {each[1]} below the first"
            notes.append(
                f"{head.name}: {what} (chosen on the {num_samples} samples kept out of training)"
            )
    return notes


def calibrated(
    benchmark: Benchmark, predictions: Sequence[Prediction], found: Mapping[str, Calibration]
) -> list[Prediction]:
    """The predictions of folds at the temperature of each fold."""
    changed = []
    for item in predictions:
        (mean,) = _tempered([item], found[item.fold].temperature)
        best = benchmark.classes[int(mean.argmax())]
        changed.append(dataclasses.replace(item, probabilities=tuple(mean), predicted=best))
    return changed


def _is_named(rows: pd.DataFrame, column: str) -> bool:
    """Whether every row has a value there, and not all the same."""
    if column not in rows.columns:
        return False
    values = rows[column].map(as_text)
    return bool((values != "").all()) and values.nunique() > 1


def _best_threshold(there: np.ndarray, sure: np.ndarray) -> float:
    """Of one class: truth (N,) and probability (N,)."""
    if there.min() == there.max():
        return HALF
    values = np.unique(sure)
    candidates = np.concatenate([[HALF, values[0] / 2], (values[1:] + values[:-1]) / 2])
    given = sure >= candidates[:, None]  # (T, N)
    f1 = 2 * (given & (there > 0)).sum(axis=1) / (given.sum(axis=1) + there.sum())
    best = candidates[f1 >= f1.max() - 1e-12]
    return float(best[np.abs(best - HALF).argmin()])


def _tempered(predictions: Sequence[Prediction], temperature: float) -> np.ndarray:
    """Probabilities (N, C) at a temperature, averaged over the views.

    The logarithm of a softmax is its input less a constant, which the next softmax takes away.
    """
    counts = [len(item.views) for item in predictions]
    views = np.concatenate([np.array(item.views, dtype=np.float64) for item in predictions])
    changed = softmax(np.log(np.maximum(views, _LEAST)) / temperature, axis=1)
    begins = np.cumsum([0, *counts[:-1]])
    return np.asarray(np.add.reduceat(changed, begins, axis=0) / np.array(counts)[:, None])
