"""Sums over samples from which every metric follows, speaker by speaker.

For: scoring thousands of weighted collections of speakers at once. Not for: drawing them
(``finetune/reporting/resampling.py``), nor the scores of a run, which ``hicmae/metrics.py``
computes; tests hold the two to each other.

Shape letters: R weightings, S clusters (speakers or samples), K classes, D targets, Q sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from finetune.benchmark import Benchmark
from finetune.predictions import Prediction, true_and_predicted

Metrics = dict[str, np.ndarray]
# A variance below this share of the mean square is rounding of a constant.
_CONSTANT = 1e-12


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Sums of several runs over the same samples.

    Args:
        by: What a cluster is: the name of the speaker column, or ``sample``.
        runs: One matrix (S, Q) a run; sparse, as a sample touches few sums.
        metrics: From totals (R, Q) to values (R,) by name, not-a-number where undefined.
    """

    by: str
    runs: tuple[sparse.csr_array, ...]
    metrics: Callable[[np.ndarray], Metrics]

    @property
    def num_clusters(self) -> int:
        """S."""
        return int(self.runs[0].shape[0])

    def total(self, run: int, weights: np.ndarray) -> np.ndarray:
        """Weighted sums of one run: weights (R, S) give (R, Q)."""
        return np.asarray((self.runs[run].T @ weights.T).T)


def make_sums(benchmark: Benchmark, runs: Sequence[Sequence[Prediction]]) -> Sums:
    """Sum up runs that scored the same units.

    Args:
        benchmark: What is predicted.
        runs: Scored units, each run in any order.

    Raises: AssertionError: runs of other units or truths.
    """
    order = {item.key: place for place, item in enumerate(runs[0])}
    first = runs[0]
    speakers = [item.speaker for item in first]
    if all(speakers) and len(set(speakers)) > 1:
        by = benchmark.speaker
        clusters = np.unique(speakers, return_inverse=True)[1]
    else:
        by, clusters = "sample", np.arange(len(first))
    matrices = []
    centre: np.ndarray | None = None
    for run in runs:
        ordered = sorted(run, key=lambda item: order[item.key])
        assert [(item.key, item.true) for item in ordered] == [
            (item.key, item.true) for item in first
        ], "runs of other samples"
        true, predicted = true_and_predicted(benchmark, ordered)
        if benchmark.task == "classification":
            matrices.append(_counts(true, predicted, clusters, len(benchmark.classes)))
        else:
            centre = true.mean(axis=0) if centre is None else centre
            matrices.append(_moments(true - centre, predicted - centre, clusters))
    return Sums(by=by, runs=tuple(matrices), metrics=_metrics_of(benchmark))


def class_metrics(totals: np.ndarray, num_classes: int) -> Metrics:
    """Scores of weighted confusion matrices; as ``hicmae.metrics.classification_metrics``.

    Args:
        totals: (R, K·K) weighted counts, true class by predicted class.
        num_classes: K.
    """
    matrix = totals.reshape(-1, num_classes, num_classes)  # (R, K, K)
    hits = np.einsum("rkk->rk", matrix)
    support, calls, size = matrix.sum(2), matrix.sum(1), matrix.sum((1, 2))  # (R, K) twice, (R,)
    present, counted = support > 0, (support + calls) > 0
    recall = np.divide(hits, support, out=np.zeros_like(hits), where=present)
    f1 = np.divide(2 * hits, support + calls, out=np.zeros_like(hits), where=counted)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "uar": recall.sum(1) / present.sum(1),
            "war": hits.sum(1) / size,
            "weighted_f1": (f1 * support).sum(1) / size,
            "macro_f1": f1.sum(1) / counted.sum(1),
        }


def value_metrics(totals: np.ndarray, num_targets: int) -> Metrics:
    """Correlations of weighted moments; as ``hicmae.metrics.regression_metrics``.

    Args:
        totals: (R, 1 + 5·D): weight, then sums of t, p, t², p², t·p for each target.
        num_targets: D.

    Returns: ``ccc`` and ``pcc``, (R, D) each.
    """
    size = totals[:, :1]  # (R, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_t, mean_p, square_t, square_p, product = (
            totals[:, 1:].reshape(-1, 5, num_targets).transpose(1, 0, 2) / size
        )  # (R, D) each
        unbiased = size / (size - 1)
        var_t = (square_t - mean_t**2) * unbiased
        var_p = (square_p - mean_p**2) * unbiased
        covariance = (product - mean_t * mean_p) * unbiased
        ccc = 2 * covariance / (var_t + var_p + (mean_t - mean_p) ** 2)
        pcc = covariance / np.sqrt(var_t * var_p)
    flat_t = ~(var_t > _CONSTANT * square_t)
    flat_p = ~(var_p > _CONSTANT * square_p)
    return {
        "ccc": np.where(flat_t, np.nan, np.where(flat_p, 0.0, ccc)),
        "pcc": np.where(flat_t | flat_p, np.nan, pcc),
    }


def _metrics_of(benchmark: Benchmark) -> Callable[[np.ndarray], Metrics]:
    """The metrics that a benchmark reports, by the names of ``scores.score``."""

    def of_classes(totals: np.ndarray) -> Metrics:
        found = class_metrics(totals, len(benchmark.classes))
        return {name: found[name] for name in benchmark.metrics}

    def of_values(totals: np.ndarray) -> Metrics:
        found = value_metrics(totals, len(benchmark.targets))
        values = {}
        for name in benchmark.metrics:
            values[name] = found[name].mean(axis=1)
            if len(benchmark.targets) > 1:
                for place, target in enumerate(benchmark.targets):
                    values[f"{name}_{target}"] = found[name][:, place]
        return values

    return of_classes if benchmark.task == "classification" else of_values


def _counts(
    true: np.ndarray, predicted: np.ndarray, clusters: np.ndarray, num_classes: int
) -> sparse.csr_array:
    """Confusion matrix of each cluster, (S, K·K)."""
    shape = (int(clusters.max()) + 1, num_classes**2)
    ones = np.ones(len(true))
    # Entries that stand twice are added up.
    return sparse.coo_array((ones, (clusters, true * num_classes + predicted)), shape).tocsr()


def _moments(true: np.ndarray, predicted: np.ndarray, clusters: np.ndarray) -> sparse.csr_array:
    """Sums of each cluster, (S, 1 + 5·D)."""
    ones = np.ones((len(true), 1))
    rows = np.hstack([ones, true, predicted, true**2, predicted**2, true * predicted])
    sums = np.zeros((int(clusters.max()) + 1, rows.shape[1]))
    np.add.at(sums, clusters, rows)
    return sparse.csr_array(sums)
