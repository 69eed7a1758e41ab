"""Whether a probability of 0.8 is right four times out of five.

For: the reliability of the probabilities of a run. Not for: drawing it
(``finetune/reporting/figures_classes.py``) or mending it.

Source: Guo et al., 2017, On Calibration of Modern Neural Networks: equal bins of the highest
probability; the error is the gap between probability and accuracy, averaged over samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from finetune.benchmark import Benchmark
from finetune.facts import RunFacts
from finetune.predictions import Prediction, true_and_predicted
from finetune.reporting.tables import number

NUM_BINS = 15


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How probabilities and accuracy go together.

    Args:
        edges: (bins + 1,) of the highest probability.
        counts: (bins,) samples.
        confidence: (bins,) their mean highest probability; not-a-number in an empty bin.
        accuracy: (bins,) share of them that is right; the same.
        mean_confidence: Over all samples.
        mean_accuracy: The same.
        expected_error: Gap between both, averaged over samples.
        largest_error: Of any bin.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    mean_confidence: float
    mean_accuracy: float
    expected_error: float
    largest_error: float

    def verdict(self, facts: RunFacts) -> str:
        """Too sure, or not sure enough, as a sentence with the run's mark on its numbers."""
        gap = self.mean_confidence - self.mean_accuracy
        word = "too sure of itself" if gap > 0 else "not sure enough of itself"
        sure, right, by = (
            facts.mark(number(value))
            for value in (self.mean_confidence, self.mean_accuracy, abs(gap))
        )
        return (
            f"On average the network gives its choice a probability of {sure} and is right in"
            f" {right} of the cases: {word} by {by}."
        )


def calibrate(benchmark: Benchmark, units: Sequence[Prediction]) -> Calibration:
    """Compare the highest probability of each unit with whether it was right.

    Args:
        benchmark: Of classes.
        units: What is scored.
    """
    true, _ = true_and_predicted(benchmark, units)
    probabilities = np.array([item.probabilities for item in units], dtype=np.float64)  # (N, C)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == true
    edges = np.linspace(0, 1, NUM_BINS + 1)
    # As torchmetrics: a probability of 1 is in the last bin, one on an edge in the bin above it.
    places = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, NUM_BINS - 1)
    counts = np.bincount(places, minlength=NUM_BINS)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(places, weights=confidence, minlength=NUM_BINS) / counts
        hits = np.bincount(places, weights=right, minlength=NUM_BINS) / counts
    expected, largest = (
        float(
            multiclass_calibration_error(
                torch.from_numpy(probabilities),
                torch.from_numpy(true),
                num_classes=len(benchmark.classes),
                n_bins=NUM_BINS,
                norm=norm,
            )
        )
        for norm in ("l1", "max")
    )
    return Calibration(
        edges=edges,
        counts=counts,
        confidence=mean,
        accuracy=hits,
        mean_confidence=float(confidence.mean()),
        mean_accuracy=float(right.mean()),
        expected_error=expected,
        largest_error=largest,
    )
