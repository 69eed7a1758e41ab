"""Calibration, error by range, agreement of neighbours: against scikit-learn, pandas and hand."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve

from finetune.predictions import Prediction, make_prediction
from finetune.record import RunFacts
from finetune.reporting import features as feature_report
from finetune.reporting.classes import NUM_BINS, calibrate, recall_figure
from finetune.reporting.features import (
    MIN_SAMPLES,
    KeptFeatures,
    kept_layouts,
    lay_out,
    neighbour_agreement,
    perplexity,
)
from finetune.reporting.values import errors_by_range, range_table
from tests.support.finetune_fixtures import BENCHMARK


def said_of_the_second(high: np.ndarray, truth: np.ndarray) -> list[Prediction]:
    """Predictions of two classes: the probability of the second, and whether it is the truth."""
    return [
        make_prediction(
            BENCHMARK,
            key=str(number),
            fold="1",
            speaker="",
            true=BENCHMARK.classes[int(is_high)],
            views=np.array([[1 - p, p]]),
        )
        for number, (p, is_high) in enumerate(zip(high, truth, strict=True))
    ]


@pytest.mark.parametrize("certain", [0, 40])
def test_bins_and_errors_are_those_of_scikit_learn(certain: int) -> None:
    rng = np.random.default_rng(0)
    high = rng.uniform(size=500)
    high[:certain] = 1.0
    truth = rng.uniform(size=500) < high**2
    truth[: certain // 4] = False
    found = calibrate(BENCHMARK, said_of_the_second(high, truth))
    sure, right = np.maximum(high, 1 - high), (high > 0.5) == truth
    accuracy, confidence = calibration_curve(right, sure, n_bins=NUM_BINS)
    filled = found.counts > 0
    assert found.counts.sum() == 500
    np.testing.assert_allclose(found.accuracy[filled], accuracy, atol=1e-6)
    np.testing.assert_allclose(found.confidence[filled], confidence, atol=1e-6)
    gaps = np.abs(accuracy - confidence)
    expected = (gaps * found.counts[filled]).sum() / 500
    assert found.expected_error == pytest.approx(expected, abs=1e-6)
    assert found.largest_error == pytest.approx(gaps.max(), abs=1e-6)
    assert found.mean_confidence == pytest.approx(sure.mean())
    assert found.mean_accuracy == pytest.approx(right.mean())


@pytest.mark.parametrize(
    ("right", "words"),
    [
        (3, "in 0.750 of the cases: as sure of itself as it may be."),
        (2, "too sure of itself by 0.250."),
    ],
)
def test_the_verdict_names_a_gap_only_where_there_is_one(right: int, words: str) -> None:
    truth = np.arange(4) < right
    found = calibrate(BENCHMARK, said_of_the_second(np.full(4, 0.75), truth))
    assert found.verdict(cast(RunFacts, SimpleNamespace(mark=str))).endswith(words)


def test_ranges_hold_every_sample_once_and_have_its_error() -> None:
    rng = np.random.default_rng(1)
    true = rng.normal(size=203)
    predicted = 0.5 * true + 0.1
    found = errors_by_range(true, predicted)
    assert [item.count for item in found] == [41, 40, 41, 40, 41]
    frame = pd.DataFrame({"true": true, "error": predicted - true})
    groups = frame.groupby(pd.qcut(frame["true"], 5))["error"]
    np.testing.assert_allclose([item.bias for item in found], groups.mean())
    rms = groups.apply(lambda error: float(np.sqrt((error**2).mean())))
    np.testing.assert_allclose([item.rmse for item in found], rms)
    assert all(one.high < two.low for one, two in itertools.pairwise(found))


def test_a_range_of_large_values_has_all_digits_before_the_point() -> None:
    (one,) = errors_by_range(np.full(3, 1234.0), np.full(3, 1235.0))
    assert one.name == "1234"
    assert replace(one, low=0.12345, high=999.6).name == "0.123 to 1000"


@pytest.mark.parametrize(
    ("unit", "told"),
    [(1e-5, ["+2e-05", "2e-05"]), (0.02, ["+0.04", "0.04"]), (70, ["+140", "140"])],
)
def test_errors_have_three_digits_in_any_unit(unit: float, told: list[str]) -> None:
    found = errors_by_range(np.full(3, unit), np.full(3, 3 * unit))
    facts = cast(RunFacts, SimpleNamespace(mark=str, rule="last"))
    assert range_table("gain", found, facts).rows[0][2:] == told


def test_steps_of_a_scale_are_ranges_and_a_constant_truth_is_one() -> None:
    true = np.array([1.0, 3.0, 1.0, 2.0])
    found = errors_by_range(true, true + np.array([1.0, 0.0, -1.0, 2.0]))
    assert [(item.name, item.count, item.bias, item.rmse) for item in found] == [
        ("1", 2, 0.0, 1.0),
        ("2", 1, 2.0, 2.0),
        ("3", 1, 0.0, 0.0),
    ]
    assert len(errors_by_range(np.ones(30), np.zeros(30))) == 1
    skewed = errors_by_range(np.r_[np.zeros(50), np.arange(1.0, 11)], np.zeros(60))
    assert sum(item.count for item in skewed) == 60


def test_neighbours_agree_where_truths_lie_together_and_not_where_they_are_mixed() -> None:
    rng = np.random.default_rng(2)
    classes = np.arange(200) % 4
    apart = rng.normal(size=(200, 8)) + 20 * np.eye(8)[classes]
    assert neighbour_agreement(apart, classes) == 1
    assert neighbour_agreement(rng.normal(size=(200, 8)), classes) == pytest.approx(0.25, abs=0.08)
    values = np.linspace(0, 1, 200)
    line = np.outer(values, np.ones(8))
    assert neighbour_agreement(line, values) > 0.99
    assert np.isnan(neighbour_agreement(line, np.ones(200)))
    assert np.isnan(neighbour_agreement(line[:5], values[:5]))


def test_a_plane_keeps_heaps_apart_and_few_or_equal_samples_have_none() -> None:
    rng = np.random.default_rng(3)
    heaps = np.arange(40) % 2
    found = lay_out(rng.normal(size=(40, 6)) + 30 * heaps[:, None])
    assert found is not None
    assert perplexity(len(found)) == 13
    assert neighbour_agreement(found, heaps) == 1
    again = lay_out(rng.normal(size=(MIN_SAMPLES - 1, 6)))
    assert again is None
    assert lay_out(np.ones((50, 6))) is None


def test_a_plane_is_kept_layouts_once_for_the_same_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(4)
    before, after = rng.normal(size=(2, 40, 6)).astype(np.float32)
    kept = KeptFeatures(keys=tuple(map(str, range(40))), before=np.ones_like(before), after=after)
    path = tmp_path / "features.npz"
    first = kept_layouts(kept, path)
    asked = []

    def counted(features: np.ndarray) -> np.ndarray | None:
        asked.append(features)
        return lay_out(features)

    monkeypatch.setattr(feature_report, "lay_out", counted)
    again = kept_layouts(kept, path)
    assert not asked
    assert first["before"] is again["before"] is None
    assert first["after"] is not None
    assert again["after"] is not None
    assert np.array_equal(first["after"], again["after"])
    other = replace(kept, before=before)
    assert kept_layouts(other, path)["before"] is not None
    assert len(asked) == 2
    path.write_bytes(path.read_bytes()[:100])
    assert kept_layouts(other, path)["after"] is not None
    assert len(asked) == 4


@pytest.mark.parametrize(("size", "inches"), [(20, 8.3), (120, 10.5)])
def test_recalls_of_hundreds_of_classes_lie_close_without_their_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: int, inches: float
) -> None:
    made: list[Figure] = []
    monkeypatch.setattr("finetune.reporting.document.save", lambda figure, _: made.append(figure))
    names = tuple(f"class {number}" for number in range(size))
    benchmark = replace(BENCHMARK, classes=names)
    counts, sure = np.eye(size, dtype=int), [(0.1, 0.9)] * size
    recall_figure(benchmark, counts, sure, tmp_path / "r.png", title="")
    assert made[0].get_size_inches()[1] == pytest.approx(inches)
    assert len(made[0].axes[0].texts) == (size if size < 100 else 0)
    assert len(made[0].axes[0].get_yticks()) == (size if size < 100 else 0)
