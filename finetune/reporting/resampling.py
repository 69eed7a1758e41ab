"""How sure a score is: bootstrap intervals by speaker, and paired comparisons of runs.

Samples of one person are no independent draws, so whole speakers are drawn; of people who are not
named single samples, and whole recordings where these are instants of them. A draw is a vector of
weights over what is drawn, and every metric follows from sums over samples: a draw costs one row
of a matrix product.

Shape letters: R weightings, S clusters (speakers, recordings or samples), K classes, D targets,
Q sums.

Source: Efron and Tibshirani, 1993, An Introduction to the Bootstrap, ch. 13 (percentiles) and 15
(permutations).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from finetune.benchmark import Benchmark
from finetune.heads import Head, combination, score_names
from finetune.instants import recording_of
from finetune.predictions import Prediction, head_arrays, named_shares, of_head
from hicmae.heads import what_is_right
from hicmae.metrics import distribution_agreement

NUM_DRAWS = 2000
LEVEL = 0.95
SEED = 0
# Of fewer clusters, percentiles miss the truth more often than they say.
_FEW = 10
# Weights of one block of draws, at most: 32 MiB.
_BLOCK = 1 << 22
# Share of the draws in which a metric may be undefined before its interval is.
_MAX_UNDEFINED = 0.05
Units = Sequence[Prediction]
Metrics = dict[str, np.ndarray]
# A variance below this share of the mean square is rounding of a constant.
_CONSTANT = 1e-12


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """95 % intervals.

    Args:
        by: What was drawn: the benchmark's speaker column, or what ``alone`` says.
        values: Metric to low and high; not-a-number where there is none.
        people: Why people, or some of the samples with theirs, are not drawn; empty where all are.
    """

    by: str
    num_clusters: int
    values: dict[str, tuple[float, float]]
    people: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no not-a-number."""
        pairs = {
            name: None if math.isnan(low) else [low, high]
            for name, (low, high) in self.values.items()
        }
        return {"what": self.sentence(), **pairs}

    def sentence(self) -> str:
        """What the intervals are, for a report."""
        why = f" ({self.people})" if self.people else ""
        if self.num_clusters < 2:
            return f"Intervals: none, for there is one value of {self.by} to draw{why}."
        few = self._rough("of them")
        return (
            f"Intervals: {LEVEL:.0%}, percentiles of {NUM_DRAWS} bootstrap draws of the"
            f" {self.num_clusters} values of {self.by}{why}, seed {SEED}.{few and f' {few}'}"
        )

    @property
    def caution(self) -> str:
        """For tables that have no text beside them: a word where few are drawn, or nothing."""
        return self._rough(f"values of {self.by}") if self.num_clusters > 1 else ""

    def _rough(self, these: str) -> str:
        few = self.num_clusters < _FEW
        return f"With only {self.num_clusters} {these}, the interval is rough." if few else ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The leading metric of one entry minus that of another, over the same samples.

    Args:
        difference: First minus second, each averaged over its seeds.
        low: Of the 95 % interval of the difference (paired bootstrap).
        p_value: Two-sided; not-a-number where runs cannot be paired.
        by: What was drawn and swapped: speakers, or what ``alone`` says.
        exact: Whether all swaps were tried and not a number of random ones.
    """

    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    by: str
    num_clusters: int
    exact: bool

    @property
    def method(self) -> str:
        """How the p-value came about, if there is one."""
        if math.isnan(self.p_value):
            return "n/a"
        tried = "all" if self.exact else f"{NUM_DRAWS} random"
        return f"{tried} swaps of {self.num_clusters} values of {self.by}"


def intervals(benchmark: Benchmark, runs: Sequence[Units]) -> Intervals:
    """Bootstrap every metric of a run, or its mean over runs with other seeds.

    Args: runs: Scored units of each seed; all of the same keys.
    """
    sums = make_sums(benchmark, runs)
    drawn: dict[str, list[np.ndarray]] = {}
    if sums.num_clusters > 1:
        for weights in _bootstrap_weights(sums.num_clusters):
            for name, values in _mean_metrics(sums, range(len(runs)), weights).items():
                drawn.setdefault(name, []).append(values)
    return Intervals(
        by=sums.by,
        people=sums.people,
        num_clusters=sums.num_clusters,
        values={
            name: _percentiles(np.concatenate(drawn[name])) if drawn else (math.nan, math.nan)
            for name in _mean_metrics(sums, range(len(runs)), np.ones((1, sums.num_clusters)))
        },
    )


def class_intervals(benchmark: Benchmark, units: Units) -> list[tuple[float, float]]:
    """95 % interval of the recall of each class.

    Returns: low and high of each class; not-a-number where there is none.
    """
    sums, size = make_sums(benchmark, [units]), len(benchmark.classes)
    if sums.num_clusters < 2:
        return [(math.nan, math.nan)] * size
    drawn = []
    for weights in _bootstrap_weights(sums.num_clusters):
        matrix = sums.total(0, weights).reshape(-1, size, size)  # (R, C, C)
        with np.errstate(invalid="ignore"):
            drawn.append(np.einsum("rkk->rk", matrix) / matrix.sum(axis=2))
    return [_percentiles(values) for values in np.concatenate(drawn).T]


def compare(benchmark: Benchmark, first: Sequence[Units], second: Sequence[Units]) -> Comparison:
    """Compare two entries in the leading metric.

    The interval is a paired bootstrap: a draw of speakers is the same for both. The p-value is a
    permutation test: under the hypothesis that the runs are alike, swapping their predictions of a
    whole speaker changes nothing; it is the share of swaps that give a difference as large as the
    one seen (all 2^S swaps where these are no more than the draws, else random ones, the seen one
    counted among them).

    Args:
        first: Scored units of each seed of one entry.
        second: Of the other, of the same keys. Seeds are paired in order; with other numbers of
            seeds there is no p-value.
    """
    sums = make_sums(benchmark, [*first, *second])
    ours, theirs = range(len(first)), range(len(first), len(first) + len(second))
    metric, size = benchmark.ranking, sums.num_clusters

    def gaps(weights: np.ndarray) -> np.ndarray:
        """First minus second for each row of weights."""
        pair = (_mean_metrics(sums, side, weights)[metric] for side in (ours, theirs))
        return next(pair) - next(pair)

    seen = float(gaps(np.ones((1, size)))[0])
    low = high = p_value = math.nan
    exact = 2**size <= NUM_DRAWS if size < 64 else False
    if size > 1:
        low, high = _percentiles(
            np.concatenate([gaps(weights) for weights in _bootstrap_weights(size)])
        )
    if len(first) == len(second) and not math.isnan(seen):
        p_value = _swap_test(sums, ours, theirs, metric, seen, exact=exact)
    return Comparison(
        metric=metric,
        difference=seen,
        low=low,
        high=high,
        p_value=p_value,
        by=sums.by,
        num_clusters=size,
        exact=exact,
    )


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Sums of several runs over the same samples.

    Args:
        by: What a cluster is: the name of the speaker column, or what ``alone`` says.
        runs: One matrix (S, Q) a run; sparse, as a sample touches few sums.
        metrics: From totals (R, Q) to values (R,) by name, not-a-number where undefined.
        people: Why speakers are not the clusters, or not all; empty where they are.
    """

    by: str
    runs: tuple[sparse.csr_array, ...]
    metrics: Callable[[np.ndarray], Metrics]
    people: str = ""

    @property
    def num_clusters(self) -> int:
        """S."""
        return int(self.runs[0].shape[0])

    def total(self, run: int, weights: np.ndarray) -> np.ndarray:
        """Weighted sums of one run: weights (R, S) give (R, Q)."""
        return np.asarray((self.runs[run].T @ weights.T).T)


def alone(benchmark: Benchmark) -> str:
    """What is drawn of one speaker, or of people who are not named."""
    return "sample" if benchmark.over_time is None else "recording"


def make_sums(benchmark: Benchmark, runs: Sequence[Sequence[Prediction]]) -> Sums:
    """Sum up runs that scored the same units.

    Args: runs: Scored units, each run in any order.
    Raises: AssertionError: runs of other units or truths.
    """
    order = {item.key: place for place, item in enumerate(runs[0])}
    first = runs[0]
    by, people = benchmark.speaker, ""
    speakers = [item.speaker for item in first]
    singly: list[Any] = list(range(len(first)))
    if benchmark.over_time is not None:
        singly = [recording_of(item.key)[0] for item in first]
    drawn = [(bool(who), who or one) for who, one in zip(speakers, singly, strict=True)]
    if len(set(speakers)) == 1:
        people = "there is one speaker" if all(speakers) else "speakers are not named"
        people += ", so people are not drawn"
        by, drawn = alone(benchmark), [(False, one) for one in singly]
    elif not all(speakers):
        count = len({one for named, one in drawn if not named})
        people = f"each {alone(benchmark)} without one, {count} in all, counts as one of its own"
    number = {name: place for place, name in enumerate(sorted(set(drawn)))}
    clusters = np.array([number[name] for name in drawn])
    matrices = []
    num_clusters = int(clusters.max()) + 1
    centres: dict[str, np.ndarray] = {}
    for run in runs:
        ordered = sorted(run, key=lambda item: order[item.key])
        assert [(item.key, item.truths) for item in ordered] == [
            (item.key, item.truths) for item in first
        ], "runs of other samples"
        parts = []
        for head in benchmark.every_head:
            known = np.array([not head.name or bool(i.heads[head.name].true) for i in ordered])
            own, places = of_head(head, ordered), clusters[known]
            if head.kind == "regression" and head.name not in centres and own:
                centres[head.name] = head_arrays(head, own)[0].mean(axis=0)
            parts.append(_sums(head, own, places, num_clusters, centres.get(head.name)))
        matrices.append(sparse.hstack(parts, format="csr") if len(parts) > 1 else parts[0])
    return Sums(
        by=by,
        runs=tuple(matrices),
        metrics=_metrics_of(benchmark),
        people=people,
    )


def class_metrics(totals: np.ndarray, num_classes: int) -> Metrics:
    """Scores of weighted confusion matrices (R, K·K), true class by predicted class; as
    ``hicmae.metrics.classification_metrics``.
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

    Args: totals: (R, 1 + 5·D): weight, then sums of t, p, t², p², t·p for each target.
    Returns: ``ccc``, ``pcc`` and ``mse``, (R, D) each.
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
        "mse": square_t + square_p - 2 * product,
    }


def multilabel_metrics(totals: np.ndarray, num_classes: int) -> Metrics:
    """As ``hicmae.metrics.multilabel_metrics``.

    Args: totals: (R, 2 + 3·K): weight, weight of samples that are right, then hits, names that are
        true and names that were given, of each class.
    """
    hits, true, given = totals[:, 2:].reshape(-1, 3, num_classes).transpose(1, 0, 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        each = np.where(true + given > 0, 2 * hits / (true + given), 0.0)
        whole = (true + given).sum(axis=1)
        micro = np.where(whole > 0, 2 * hits.sum(axis=1) / whole, 0.0)
        nobody = totals[:, 0] == 0  # of a draw without anybody who has this head's label
        return {
            "macro_f1": np.where(nobody, np.nan, each.mean(axis=1)),
            "micro_f1": np.where(nobody, np.nan, micro),
            "exact": totals[:, 1] / totals[:, 0],
        }


def ordinal_metrics(totals: np.ndarray, num_levels: int) -> Metrics:
    """As ``hicmae.metrics.ordinal_metrics``, of weighted confusion matrices (R, K·K)."""
    matrix = totals.reshape(-1, num_levels, num_levels)
    gap = np.abs(np.arange(num_levels)[:, None] - np.arange(num_levels))
    size = matrix.sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        chance = matrix.sum(2)[:, :, None] * matrix.sum(1)[:, None, :] / size[:, None, None]
        by_chance = (chance * gap**2).sum(axis=(1, 2))
        return {
            "qwk": 1 - (matrix * gap**2).sum(axis=(1, 2)) / by_chance,
            "war": np.einsum("rkk->r", matrix) / size,
            "mae": (matrix * gap).sum(axis=(1, 2)) / size,
        }


_OF_NAMES = {
    "classification": class_metrics,
    "ordinal": ordinal_metrics,
    "multilabel": multilabel_metrics,
}


def _swap_test(
    sums: Sums, ours: range, theirs: range, metric: str, seen: float, *, exact: bool
) -> float:
    """Share of swaps whose difference is at least as large as the one seen."""
    at_least = tried = 0
    for stay in _swaps(sums.num_clusters, exact=exact):
        gap = np.mean(
            [
                sums.metrics(sums.total(a, stay) + sums.total(b, 1 - stay))[metric]
                - sums.metrics(sums.total(b, stay) + sums.total(a, 1 - stay))[metric]
                for a, b in zip(ours, theirs, strict=True)
            ],
            axis=0,
        )
        defined = ~np.isnan(gap)
        at_least += int((np.abs(gap[defined]) >= abs(seen) - 1e-12).sum())
        tried += int(defined.sum())
    # All swaps contain the seen one; random ones do not, so it is added.
    return at_least / tried if exact else (at_least + 1) / (tried + 1)


def _mean_metrics(sums: Sums, runs: range, weights: np.ndarray) -> dict[str, np.ndarray]:
    each = [sums.metrics(sums.total(run, weights)) for run in runs]
    return {name: np.mean([values[name] for values in each], axis=0) for name in each[0]}


def _bootstrap_weights(size: int) -> Iterator[np.ndarray]:
    """How often each cluster is drawn: blocks of (draws, clusters), float64."""
    rng = np.random.default_rng(SEED)
    even = np.full(size, 1 / size)
    for count in _blocks(NUM_DRAWS, size):
        yield rng.multinomial(size, even, size=count).astype(np.float64)


def _swaps(size: int, *, exact: bool) -> Iterator[np.ndarray]:
    """Which clusters stay (1) and which are swapped (0): blocks of (swaps, clusters)."""
    if exact:
        numbers = np.arange(2**size)[:, None]
        yield (numbers >> np.arange(size) & 1).astype(np.float64)
        return
    rng = np.random.default_rng(SEED)
    for count in _blocks(NUM_DRAWS, size):
        yield rng.integers(0, 2, size=(count, size)).astype(np.float64)


def _blocks(draws: int, size: int) -> list[int]:
    most = max(1, _BLOCK // size)
    return [min(most, draws - start) for start in range(0, draws, most)]


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    defined = values[~np.isnan(values)]
    if len(defined) < (1 - _MAX_UNDEFINED) * len(values):
        return math.nan, math.nan
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(defined, [tail, 100 - tail])
    return float(low), float(high)


def _metrics_of(benchmark: Benchmark) -> Callable[[np.ndarray], Metrics]:
    """From totals of all heads, one after another, to scores by name."""

    def metrics(totals: np.ndarray) -> Metrics:
        values: Metrics = {}
        start = 0
        for head in benchmark.every_head:
            end = start + _num_sums(head)
            own = _head_metrics(head, totals[:, start:end])
            start = end
            values |= {f"{head.name}.{n}" if head.name else n: value for n, value in own.items()}
        for name, weights in benchmark.combinations.items():
            values[name] = combination(weights, values)
        if benchmark.heads:
            return values
        return {
            name: values[name] for name in score_names(benchmark.every_head[0], benchmark.metrics)
        }

    return metrics


def _head_metrics(head: Head, totals: np.ndarray) -> Metrics:
    size = len(head.names)
    if head.kind in _OF_NAMES:
        return _OF_NAMES[head.kind](totals, size)
    if head.kind == "distribution":
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = (totals[:, 1:4] / totals[:, :1]).T
            both = (totals[:, 4:6] / totals[:, [0, 6]]).T if head.names_blends else ()
        return dict(zip(head.scored, (*shares, *both), strict=True))
    found, values = value_metrics(totals, size), {}
    for name, each in found.items():
        values[name] = each.mean(axis=1)
        if size > 1:
            values |= {f"{name}_{t}": each[:, place] for place, t in enumerate(head.targets)}
    return values


def _num_sums(head: Head) -> int:
    """Q of one head."""
    size, shares = len(head.names), 7 if head.names_blends else 4
    other = {"multilabel": 2 + 3 * size, "regression": 1 + 5 * size, "distribution": shares}
    return other.get(head.kind, size**2)


def _sums(
    head: Head,
    units: Sequence[Prediction],
    clusters: np.ndarray,
    num_clusters: int,
    centre: np.ndarray | None,
) -> sparse.csr_array:
    """Sums of one head over units that have its label, (S, Q); ``centre`` (D,) of real values."""
    if not units:
        return sparse.csr_array((num_clusters, _num_sums(head)))
    true, predicted = head_arrays(head, units)
    if head.kind in ("classification", "ordinal"):
        # Of the confusion matrix of each cluster; entries that stand twice are added up.
        places = (clusters, true * len(head.classes) + predicted)
        shape = (num_clusters, _num_sums(head))
        return sparse.coo_array((np.ones(len(true)), places), shape).tocsr()
    ones = np.ones((len(true), 1))
    if head.kind == "regression":
        true, predicted = true - centre, predicted - centre
        rows = [ones, true, predicted, true**2, predicted**2, true * predicted]
    elif head.kind == "multilabel":
        right = (true == predicted).all(axis=1, keepdims=True)
        rows = [ones, right, true * predicted, true, predicted]
    else:
        each = [*distribution_agreement(true, predicted).values()]
        if head.names_blends:
            right = what_is_right(true, named_shares(head, units))
            each += [right.presence, right.salience, right.blends]
        rows = [ones, *(values[:, None] for values in each)]
    sums = np.zeros((num_clusters, _num_sums(head)))
    np.add.at(sums, clusters, np.hstack(rows))
    return sparse.csr_array(sums)
