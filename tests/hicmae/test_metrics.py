"""Scores, against scikit-learn and NumPy."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from hicmae.metrics import classification_metrics, confusion_matrix, regression_metrics


def _noisy_classes(seed: int, num_classes: int, present: list[int]) -> tuple:
    rng = np.random.default_rng(seed)
    labels = rng.choice(
        present, size=200, p=np.arange(1, len(present) + 1) / sum(range(1, len(present) + 1))
    )
    guesses = rng.integers(num_classes, size=200)
    return labels, np.where(rng.random(200) < 0.6, labels, guesses)


@pytest.mark.parametrize("present", [[0, 1, 2, 3, 4], [0, 2, 3], [4]])
def test_classification_scores_agree_with_scikit_learn(present: list[int]) -> None:
    labels, predictions = _noisy_classes(0, 5, present)
    scores = classification_metrics(labels, predictions, 5)
    recall = sklearn_metrics.recall_score(
        labels, predictions, labels=present, average="macro", zero_division=0
    )
    assert scores["uar"] == pytest.approx(recall, abs=1e-6)
    assert scores["war"] == pytest.approx(
        sklearn_metrics.accuracy_score(labels, predictions), abs=1e-6
    )
    for average in ("weighted", "macro"):
        assert scores[f"{average}_f1"] == pytest.approx(
            sklearn_metrics.f1_score(labels, predictions, average=average, zero_division=0),
            abs=1e-6,
        )


def test_a_class_that_is_only_predicted_counts_against_f1_but_not_against_recall() -> None:
    scores = classification_metrics([0, 0, 1, 1], [0, 2, 1, 1], 3)
    assert scores["uar"] == pytest.approx((0.5 + 1.0) / 2)
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_scores_may_be_given_as_probabilities_of_each_class() -> None:
    labels, predictions = _noisy_classes(1, 4, [0, 1, 2, 3])
    probabilities = torch.full((200, 4), 0.1)
    probabilities[torch.arange(200), torch.as_tensor(predictions)] = 0.7
    assert classification_metrics(labels, probabilities, 4) == classification_metrics(
        labels, predictions, 4
    )


def test_confusion_matrix_has_true_classes_in_rows() -> None:
    labels, predictions = _noisy_classes(2, 5, [0, 1, 3])
    ours = confusion_matrix(labels, predictions, 5)
    assert np.array_equal(
        ours, sklearn_metrics.confusion_matrix(labels, predictions, labels=range(5))
    )
    assert confusion_matrix([0], [2], 3)[0, 2] == 1


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([0, 3], [0, 1], "labels hold class 3"),
        ([0, 1], [0, -1], "predictions hold class -1"),
        ([0, 1, 2], [0, 1], r"labels \(3,\)"),
        ([], [], "N not 0"),
        ([0.5, 1], [0, 1], "no classes"),
        ([0, 1], [[0.1, 0.2, float("nan")], [0.1, 0.2, 0.7]], "nan"),
        ([0, 1], [[0.1, 0.9], [0.1, 0.9]], r"\(2, 2\)"),
    ],
)
def test_what_cannot_be_scored_is_refused(labels: list, predictions: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classification_metrics(labels, predictions, 3)


def test_correlations_agree_with_numpy() -> None:
    rng = np.random.default_rng(3)
    targets = rng.normal(size=(150, 3)) * [1, 10, 0.1] + [0, 100, -3]
    predictions = 0.6 * targets + rng.normal(size=(150, 3)) * [1, 5, 0.05] + 0.2
    scores = regression_metrics(targets, torch.as_tensor(predictions))
    for d in range(3):
        covariance = np.cov(targets[:, d], predictions[:, d])  # unbiased
        gap = targets[:, d].mean() - predictions[:, d].mean()
        ccc = 2 * covariance[0, 1] / (covariance[0, 0] + covariance[1, 1] + gap**2)
        assert scores["ccc"][d] == pytest.approx(ccc, abs=1e-9)
        assert scores["pcc"][d] == pytest.approx(
            np.corrcoef(targets[:, d], predictions[:, d])[0, 1], abs=1e-9
        )
    assert scores["ccc"][1] < scores["pcc"][1]


def test_one_dimension_may_come_as_a_flat_list() -> None:
    scores = regression_metrics([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
    assert scores["pcc"] == pytest.approx([1.0])
    assert scores["ccc"] == pytest.approx([2 * 2 / (1 + 4 + 4)])


# 0.1 repeated has a mean that differs from 0.1 by rounding, which must not pass for variance.
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
def test_constant_targets_have_no_score_and_constant_predictions_none_or_zero(
    constant: float,
) -> None:
    varying = np.random.default_rng(4).normal(size=(31, 1))
    flat = np.full((31, 1), constant)
    of_flat_targets = regression_metrics(flat, varying)
    assert math.isnan(of_flat_targets["pcc"][0])
    assert math.isnan(of_flat_targets["ccc"][0])
    of_flat_predictions = regression_metrics(varying, flat)
    assert math.isnan(of_flat_predictions["pcc"][0])
    assert of_flat_predictions["ccc"] == [0.0]


def test_a_single_sample_has_no_correlation() -> None:
    scores = regression_metrics([[1.0, 2.0]], [[1.0, 2.0]])
    assert all(math.isnan(value) for name in ("pcc", "ccc") for value in scores[name])
    assert scores["mse"] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("targets", "predictions", "message"),
    [
        ([[1.0], [2.0]], [[1.0]], r"targets \(2, 1\)"),
        ([], [], r"targets \(0,\)"),
        ([1.0, 2.0], [1.0, float("nan")], "predictions hold values that are not finite"),
        ([1.0, float("inf")], [1.0, 2.0], "targets hold values that are not finite"),
    ],
)
def test_real_values_that_cannot_be_scored_are_refused(
    targets: list, predictions: list, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        regression_metrics(targets, predictions)
