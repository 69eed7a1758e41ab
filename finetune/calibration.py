"""How sure a network may be: a temperature and a threshold, fitted on people kept out of training.

Source of the temperature: Guo et al., 2017, On Calibration of Modern Neural Networks. Source of the
threshold on the highest probability, at a share of known samples that is kept: Hendrycks and
Gimpel, 2017, A Baseline for Detecting Misclassified and Out-of-Distribution Examples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from finetune.benchmark import Benchmark
from finetune.predictions import Prediction, head_arrays, of_head, true_and_predicted
from hicmae.checkpoints.checkpoint import Calibration
from hicmae.heads import HALF, choose_thresholds

_TEMPERATURES = (0.05, 20.0)
_LEAST = 1e-12  # a probability of 0 was rounded


def fit_calibration(
    benchmark: Benchmark, predictions: Sequence[Prediction], *, answered: float
) -> Calibration:
    """Fit the temperature that makes the truth most likely, then the threshold that leaves a share
    of the samples an answer.

    As few samples may all be right, the truth counts as right but for one in N + 2. Source: Platt,
    1999, Probabilistic Outputs for Support Vector Machines, section 2.2.

    Args:
        predictions: Of classes, of samples that were not trained on.
        answered: The share.
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

    Args:
        predictions: Of samples that were not trained on.

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
