"""How sure a score is: bootstrap intervals by speaker, and paired comparisons of runs.

For: 95 % intervals of every metric and the test whether two runs differ, from predictions alone.
Not for: the metrics of a run itself (``finetune/scores.py``).

Samples of one person are no independent draws, so whole speakers are drawn; single samples where
speakers are unknown. A draw is a vector of weights over speakers, and every metric follows from
sums over samples (``finetune/reporting/sums.py``): a draw costs one row of a matrix product.

Source: Efron and Tibshirani, 1993, An Introduction to the Bootstrap, ch. 13 (percentiles) and 15
(permutations).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.benchmark import Benchmark
from finetune.predictions import Prediction
from finetune.reporting.sums import Sums, make_sums

NUM_DRAWS = 2000
LEVEL = 0.95
SEED = 0
# Weights of one block of draws, at most: 32 MiB.
_BLOCK = 1 << 22
# Share of the draws in which a metric may be undefined before its interval is.
_MAX_UNDEFINED = 0.05

Units = Sequence[Prediction]


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """95 % intervals.

    Args:
        by: What was drawn: the benchmark's speaker column, or ``sample``.
        num_clusters: How many there are.
        values: Metric to low and high; not-a-number where there is none.
    """

    by: str
    num_clusters: int
    values: dict[str, tuple[float, float]]

    def sentence(self) -> str:
        """What the intervals are, for a report."""
        why = "" if self.by != "sample" else " (speakers are not named, so people are not drawn)"
        few = (
            f" With only {self.num_clusters} of them, the interval is rough."
            if self.num_clusters < 10
            else ""
        )
        return (
            f"Intervals: {LEVEL:.0%}, percentiles of {NUM_DRAWS} bootstrap draws of the"
            f" {self.num_clusters} values of {self.by}{why}, seed {SEED}.{few}"
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The leading metric of one entry minus that of another, over the same samples.

    Args:
        metric: Its name.
        difference: First minus second, each averaged over its seeds.
        low: Of the 95 % interval of the difference (paired bootstrap).
        high: Of the same.
        p_value: Two-sided; not-a-number where runs cannot be paired.
        by: What was drawn and swapped: speakers, or ``sample``.
        num_clusters: How many.
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
        """How the p-value came about."""
        tried = "all" if self.exact else f"{NUM_DRAWS} random"
        return f"{tried} swaps of {self.num_clusters} values of {self.by}"


def intervals(benchmark: Benchmark, runs: Sequence[Units]) -> Intervals:
    """Bootstrap every metric of a run, or its mean over runs with other seeds.

    Args:
        benchmark: What is predicted.
        runs: Scored units of each seed; all of the same keys.
    """
    sums = make_sums(benchmark, runs)
    drawn: dict[str, list[np.ndarray]] = {}
    if sums.num_clusters > 1:
        for weights in _bootstrap_weights(sums.num_clusters):
            for name, values in _mean_metrics(sums, range(len(runs)), weights).items():
                drawn.setdefault(name, []).append(values)
    return Intervals(
        by=sums.by,
        num_clusters=sums.num_clusters,
        values={
            name: _percentiles(np.concatenate(drawn[name])) if drawn else (math.nan, math.nan)
            for name in _mean_metrics(sums, range(len(runs)), np.ones((1, sums.num_clusters)))
        },
    )


def class_intervals(benchmark: Benchmark, units: Units) -> list[tuple[float, float]]:
    """95 % interval of the recall of each class.

    Args:
        benchmark: Of classes.
        units: What is scored.

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
        benchmark: What is predicted.
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
    """Each metric averaged over runs, for each row of weights."""
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
    """Draws in blocks whose weights fit into little memory."""
    most = max(1, _BLOCK // size)
    return [min(most, draws - start) for start in range(0, draws, most)]


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 %; nothing where too many draws have no value."""
    defined = values[~np.isnan(values)]
    if len(defined) < (1 - _MAX_UNDEFINED) * len(values):
        return math.nan, math.nan
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(defined, [tail, 100 - tail])
    return float(low), float(high)
