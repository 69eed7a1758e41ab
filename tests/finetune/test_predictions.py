"""Predictions are written once, read back exactly, and give the scores that others compute."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from finetune.benchmark import Benchmark
from finetune.folds import Fold
from finetune.predictions import (
    Prediction,
    collect_views,
    make_prediction,
    parse_prediction,
    prediction_line,
    predictions_of_fold,
    read_predictions,
    write_predictions,
)
from finetune.scores import chance_score, score, score_run, undefined
from hicmae.settings import InputConfig
from tests.support.finetune_fixtures import BENCHMARK, VALUES


def prediction(benchmark: Benchmark, number: int, **fields: Any) -> Prediction:
    """One of four folds, each of a speaker."""
    fold = str(number % 4)
    given = {"key": f"k{number}", "fold": fold, "speaker": f"s{fold}"} | fields
    return make_prediction(benchmark, **given)


def classes(count: int = 40, seed: int = 0) -> list[Prediction]:
    """Predictions of two classes in four folds, most of them right."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        true = int(rng.integers(2))
        views = rng.dirichlet(np.where(np.arange(2) == true, 3.0, 1.5), size=3)
        made.append(prediction(BENCHMARK, number, true=BENCHMARK.classes[true], views=views))
    return made


def values(count: int = 30) -> list[Prediction]:
    """Predictions of two values."""
    rng = np.random.default_rng(1)
    return [
        prediction(VALUES, number, true=true, views=true + rng.normal(scale=0.3, size=(2, 2)))
        for number, true in enumerate(rng.normal(size=(count, 2)))
    ]


def test_the_views_of_a_sample_are_averaged_before_the_class_is_taken() -> None:
    views = np.array([[0.45, 0.55], [0.9, 0.1], [0.45, 0.55]])  # two of three views say "high"
    made = prediction(BENCHMARK, 1, true="high", views=views)
    assert made.probabilities == (0.6, 0.4)
    assert made.predicted == "low"
    assert made.views == ((0.45, 0.55), (0.9, 0.1), (0.45, 0.55))


def test_an_output_that_is_no_number_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="sample 'k' is no finite number; the training diverged"):
        prediction(VALUES, 1, key="k", true=(0, 0), views=np.array([[np.nan, 0.0]]))


@pytest.mark.parametrize(("benchmark", "made"), [(BENCHMARK, classes()), (VALUES, values())])
def test_predictions_come_back_as_they_were(benchmark, made, tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, made)
    assert read_predictions(path, benchmark) == made
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["key"] for line in lines] == [item.key for item in made]
    assert all(("label" in line) == (benchmark is BENCHMARK) for line in lines)


def test_names_may_hold_whatever_a_line_of_text_might_end_with(tmp_path: Path) -> None:
    ends = "\u0085 \u2028 \u2029 \x0b \x0c \x1c \x1d \x1e \r \n"  # \u0085: an ellipsis misread
    made = [
        prediction(BENCHMARK, 1, true="high", views=np.eye(2)[:1], groups={"place": f"a{ends}b"})
    ]
    write_predictions(tmp_path / "predictions.jsonl", made)
    assert read_predictions(tmp_path / "predictions.jsonl", BENCHMARK) == made


def test_damaged_predictions_are_refused_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    made = classes(4)
    write_predictions(path, [*made, made[1]])
    with pytest.raises(ValueError, match="line 5: sample 'k1' stands in line 2 too"):
        read_predictions(path, BENCHMARK)
    write_predictions(path, made)
    path.write_text(path.read_text().replace('"high"', '"hgih"'))
    with pytest.raises(ValueError, match="class 'hgih' is none of low, high"):
        read_predictions(path, BENCHMARK)
    write_predictions(path, made)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match="line 4: no prediction of 'tones'"):
        read_predictions(path, BENCHMARK)
    write_predictions(path, values(1))
    path.write_text(re.sub(r'("target": \[)[^,]*, ', r"\1", path.read_text()))
    with pytest.raises(ValueError, match=r"line 1: no prediction of .* \(2 values are expected"):
        read_predictions(path, VALUES)
    path.write_text("")
    with pytest.raises(ValueError, match="holds no prediction"):
        read_predictions(path, BENCHMARK)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="is the run finished"):
        read_predictions(path, BENCHMARK)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"probabilities": [1.0]}, "2 values are expected"),
        ({"views": [[0.5, 0.3, 0.2]]}, "2 values are expected for each view"),
        ({"view_names": ["1:whole"]}, "1 view_names for 3 views"),
    ],
)
def test_a_line_whose_parts_do_not_fit_is_refused(part: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_prediction(prediction_line(classes(1)[0]) | part, BENCHMARK)


def test_scores_of_classes_agree_with_scikit_learn() -> None:
    made = classes()
    true = [item.true for item in made]
    predicted = [item.predicted for item in made]
    found = score(BENCHMARK, made)
    assert 0.5 < found["uar"] < 1  # a case in which something is wrong
    assert found["uar"] == pytest.approx(balanced_accuracy_score(true, predicted))
    assert found["war"] == pytest.approx(accuracy_score(true, predicted))
    for name, average in (("weighted_f1", "weighted"), ("macro_f1", "macro")):
        assert found[name] == pytest.approx(f1_score(true, predicted, average=average))


def test_scores_of_values_agree_with_numpy() -> None:
    made = values()
    true = np.array([item.true for item in made])
    predicted = np.array([item.predicted for item in made])
    found = score(VALUES, made)
    for index, name in enumerate(VALUES.targets):
        covariance = np.cov(true[:, index], predicted[:, index])
        shift = (true[:, index].mean() - predicted[:, index].mean()) ** 2
        ccc = 2 * covariance[0, 1] / (covariance.trace() + shift)
        assert found[f"ccc_{name}"] == pytest.approx(ccc)
        assert found[f"pcc_{name}"] == pytest.approx(
            np.corrcoef(true[:, index], predicted[:, index])[0, 1]
        )
    assert found["ccc"] == pytest.approx((found["ccc_valence"] + found["ccc_arousal"]) / 2)


def test_folds_are_pooled_before_scoring_and_their_spread_is_that_of_samples() -> None:
    made = classes(41)  # folds of unequal size
    scores = score_run(BENCHMARK, made)
    each = [
        score(BENCHMARK, [item for item in made if item.fold == name])["war"] for name in "0123"
    ]
    right = np.mean([item.true == item.predicted for item in made])
    assert scores.pooled["war"] == pytest.approx(right)
    assert scores.mean["war"] == pytest.approx(np.mean(each))
    assert scores.sd["war"] == pytest.approx(np.std(each, ddof=1))
    assert scores.num_samples == 41
    assert scores.counts == {"0": 11, "1": 10, "2": 10, "3": 10}


def test_a_constant_target_is_undefined_and_said_so() -> None:
    made = [
        prediction(
            VALUES, number, true=(0.5, number / 4), views=np.array([[number / 5, number / 4]])
        )
        for number in range(5)
    ]
    scores = score_run(VALUES, made)
    assert math.isnan(scores.pooled["ccc_valence"])
    assert math.isnan(scores.pooled["ccc"])
    assert scores.pooled["ccc_arousal"] == pytest.approx(1)
    assert scores.to_dict()["pooled"]["ccc_valence"] is None
    json.dumps(scores.to_dict(), allow_nan=False)
    assert any(
        "CCC valence" in sentence and "constant" in sentence for sentence in undefined(scores)
    )


def test_views_are_put_in_their_places_and_each_is_needed_once() -> None:
    def batch(*places: tuple[int, int]) -> dict[str, torch.Tensor]:
        sample, view = torch.tensor(places).T
        return {"sample": sample, "view": view, "output": (10.0 * sample + view)[:, None]}

    shape = {"num_samples": 2, "num_views": 2, "num_outputs": 1}
    found = collect_views([batch((1, 1), (0, 0)), batch((0, 1), (1, 0))], **shape)
    assert found[..., 0].tolist() == [[0, 1], [10, 11]]
    for wrong in ([batch((0, 0), (0, 1), (1, 0))], [batch((0, 0), (0, 1), (1, 0), (1, 1), (0, 0))]):
        with pytest.raises(AssertionError, match="instead of once"):
            collect_views(wrong, **shape)


def test_segments_that_are_the_same_clip_count_once_in_the_mean() -> None:
    rows = pd.DataFrame({"key": ["a", "b"], "emotion": "low", "num_frames": [17, 15]})
    clip = InputConfig(num_frames=16, frame_stride=1)
    shares = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], *[[0.8, 0.2]] * 3])
    place = torch.arange(6)
    found = predictions_of_fold(
        BENCHMARK,
        Fold(name="1", train=rows, test=rows),
        [{"sample": place // 3, "view": place % 3, "output": shares}],
        num_segments=3,
        clip=clip,
    )
    assert [item.probabilities for item in found] == [(0.5, 0.5), (0.8, 0.2)]
    assert [item.view_names for item in found] == [("1:whole", "3:whole"), ("1:whole",)]


def test_chance_is_said_of_the_metric_that_leads() -> None:
    def chance(leading: str) -> float:
        classes = ("a", "b", "c", "d")
        return chance_score(
            Benchmark(name="b", task="classification", label="e", classes=classes, leading=leading)
        )

    assert chance("uar") == chance("war") == 0.25
    # Of each class equally often: 0.25 only where the classes have equally many samples.
    assert math.isnan(chance("weighted_f1"))
    assert math.isnan(chance("macro_f1"))
    values = Benchmark(name="v", task="regression", targets=("valence",))
    assert chance_score(values) == 0
