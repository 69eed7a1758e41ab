"""Scores of emotion recognition, computed once over all samples.

Of pooled predictions of a whole test set (or of all folds), gathered with each sample once; no
average of per-process or per-batch scores.

Shape letters: N samples, K classes, D target dimensions.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_cohen_kappa,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multilabel_exact_match,
    multilabel_f1_score,
)
from torchmetrics.functional.regression import concordance_corrcoef, pearson_corrcoef


def classification_metrics(
    labels: ArrayLike | Tensor, predictions: ArrayLike | Tensor, num_classes: int
) -> dict[str, float]:
    """Scores of predicted classes, as fractions from 0 to 1.

    - ``uar``: unweighted average recall, the mean recall of the classes that occur in ``labels``.
      A class nobody has cannot be recalled, so it neither helps nor hurts (a fold may lack one).
    - ``war``: weighted average recall, which is the accuracy.
    - ``weighted_f1``: F1 of each class, weighted by its share of ``labels``.
    - ``macro_f1``: mean F1 of the classes that occur in ``labels`` or among the predictions.

    Args:
        labels: (N,) true classes, 0 to K - 1.
        predictions: (N,) predicted classes, or (N, K) probabilities or logits, of which the
            largest counts (the first of equals).
        num_classes: K.

    Raises: ValueError: nothing to score, shapes that do not fit, a class outside 0..K-1, or a score
        that is not a number.
    """
    true, predicted = _classes(labels, predictions, num_classes)
    matrix = multiclass_confusion_matrix(predicted, true, num_classes).double()
    support = matrix.sum(1)
    present = support > 0
    recalls = matrix.diag()[present] / support[present]

    def f1(average: str) -> float:
        return multiclass_f1_score(predicted, true, num_classes, average=average).item()  # type: ignore[arg-type]

    return {
        "uar": recalls.mean().item(),
        "war": multiclass_accuracy(predicted, true, num_classes, average="micro").item(),
        "weighted_f1": f1("weighted"),
        "macro_f1": f1("macro"),
    }


def confusion_matrix(
    labels: ArrayLike | Tensor, predictions: ArrayLike | Tensor, num_classes: int
) -> np.ndarray:
    """Count samples by true class (row) and predicted class (column).

    Args and errors are those of ``classification_metrics``.

    Returns: (K, K) int64.
    """
    true, predicted = _classes(labels, predictions, num_classes)
    return multiclass_confusion_matrix(predicted, true, num_classes).numpy()


def regression_metrics(
    targets: ArrayLike | Tensor, predictions: ArrayLike | Tensor
) -> dict[str, list[float]]:
    """Correlations of real-valued targets and predictions, one number a dimension.

    - ``pcc``: Pearson's correlation. nan where targets or predictions are constant (all equal, or
      a single sample): it is then undefined.
    - ``ccc``: Lin's concordance 2·cov / (var_t + var_p + (mean_t - mean_p)²) with unbiased
      covariance and variances. nan where the *targets* are constant: agreement about a dimension
      that does not vary says nothing. Where only the predictions are constant it is 0, as its
      formula has it: a network that predicts one value for everybody agrees with nobody.

    Args:
        targets: (N, D) or (N,) true values.
        predictions: The same shape.

    Returns: ``pcc``, ``ccc`` and ``mse`` (mean squared error), each a list of D numbers.
    Raises: ValueError: nothing to score, shapes that differ, or a value that is not finite.
    Source: Lin, 1989, "A concordance correlation coefficient to evaluate reproducibility".
    """
    true, predicted = (_tensor(values).double() for values in (targets, predictions))
    if true.shape != predicted.shape or true.ndim not in (1, 2) or true.numel() == 0:
        raise ValueError(
            f"regression metrics: targets {tuple(true.shape)} and predictions "
            f"{tuple(predicted.shape)} (must be the same (N, D), neither of them 0)"
        )
    for name, values in (("targets", true), ("predictions", predicted)):
        if not torch.isfinite(values).all():
            raise ValueError(f"regression metrics: {name} hold values that are not finite")
    scores: dict[str, list[float]] = {"pcc": [], "ccc": []}
    errors = (true - predicted).square().reshape(len(true), -1)
    scores["mse"] = errors.mean(dim=0).tolist()
    columns = (values.reshape(len(values), -1).unbind(1) for values in (true, predicted))
    for target, prediction in zip(*columns, strict=True):
        # Tested here and not left to the library: rounding of the mean of equal numbers leaves
        # deviations of 1e-17, and with them a correlation of noise.
        target_constant = bool(target.min() == target.max())
        if target_constant or bool(prediction.min() == prediction.max()):
            scores["pcc"].append(float("nan"))
            scores["ccc"].append(float("nan") if target_constant else 0.0)
            continue
        scores["pcc"].append(pearson_corrcoef(prediction, target).item())
        scores["ccc"].append(concordance_corrcoef(prediction, target).item())
    return scores


def multilabel_metrics(targets: ArrayLike, predictions: ArrayLike) -> dict[str, float]:
    """Scores of several classes at once.

    - ``macro_f1``: mean F1 of the classes; one that nobody has and nobody was given counts 0.
    - ``micro_f1``: F1 of all decisions together.
    - ``exact``: share of samples of which every class is right.

    Args: targets, predictions: (N, K) zeros and ones.
    """
    true, predicted = (_tensor(values).long() for values in (targets, predictions))
    size = true.shape[1]
    f1 = {
        f"{name}_f1": multilabel_f1_score(predicted, true, size, average=name).item()
        for name in ("macro", "micro")
    }
    return f1 | {"exact": multilabel_exact_match(predicted, true, size).item()}


def distribution_metrics(targets: ArrayLike, predictions: ArrayLike) -> dict[str, float]:
    """Scores of predicted shares, means over samples.

    - ``intersection``: sum of the smaller of both shares; 1 where they are the same.
    - ``cosine``: of the angle between them.
    - ``kl``: divergence of the predicted from the true shares, nats; the lower, the better.

    Args: targets, predictions: (N, K); rows sum to 1.
    Source: Geng, 2016, "Label distribution learning", section 4.
    """
    found = distribution_agreement(np.asarray(targets), np.asarray(predictions))
    return {name: float(values.mean()) for name, values in found.items()}


def distribution_agreement(true: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """What ``distribution_metrics`` averages, of each sample: (N,) by name."""
    least = np.finfo(np.float32).tiny  # a probability of 0 was rounded
    lengths = np.linalg.norm(true, axis=1) * np.linalg.norm(predicted, axis=1)
    logs = np.log(np.maximum(true, least)) - np.log(np.maximum(predicted, least))
    return {
        "intersection": np.minimum(true, predicted).sum(axis=1),
        "cosine": (true * predicted).sum(axis=1) / lengths,
        "kl": (true * logs).sum(axis=1),
    }


def ordinal_metrics(
    labels: ArrayLike | Tensor, predictions: ArrayLike | Tensor, num_levels: int
) -> dict[str, float]:
    """Scores of ordered levels.

    - ``qwk``: quadratic weighted kappa; nan where truth and predictions are one and the same level.
    - ``war``: accuracy.
    - ``mae``: mean distance in levels; the lower, the better.

    Args: labels, predictions: (N,) levels, 0 to K - 1. num_levels: K.
    Source: Cohen, 1968, "Weighted kappa".
    """
    true, predicted = _classes(labels, predictions, num_levels)
    kappa = multiclass_cohen_kappa(predicted, true, num_levels, weights="quadratic").item()
    return {
        "qwk": kappa,
        "war": multiclass_accuracy(predicted, true, num_levels, average="micro").item(),
        "mae": (true - predicted).abs().double().mean().item(),
    }


def _classes(
    labels: ArrayLike | Tensor, predictions: ArrayLike | Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Checked class numbers (N,) of labels and predictions."""
    true, predicted = _tensor(labels), _tensor(predictions)
    if predicted.ndim == 2 and predicted.shape[1] == num_classes:
        if predicted.isnan().any():
            raise ValueError("classification metrics: predictions hold scores that are nan")
        predicted = predicted.argmax(1)
    if true.ndim != 1 or predicted.shape != true.shape or len(true) == 0:
        raise ValueError(
            f"classification metrics: labels {tuple(true.shape)} and predictions "
            f"{tuple(predicted.shape)} (must be (N,) and (N,) or (N, {num_classes}), N not 0)"
        )
    for name, values in (("labels", true), ("predictions", predicted)):
        if values.is_floating_point() and not torch.equal(values, values.round()):
            raise ValueError(f"classification metrics: {name} hold numbers that are no classes")
        outside = values[(values < 0) | (values >= num_classes)]
        if len(outside):
            raise ValueError(
                f"classification metrics: {name} hold class {int(outside[0])} "
                f"(allowed: 0 to {num_classes - 1})"
            )
    return true.long(), predicted.long()


def _tensor(values: ArrayLike | Tensor) -> Tensor:
    """The values on the CPU, without a gradient."""
    if isinstance(values, Tensor):
        return values.detach().cpu()
    return torch.as_tensor(np.asarray(values))
