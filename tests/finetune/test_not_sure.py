"""Saying "not sure": the fit on people kept out of training, its way to prediction and report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss

import hicmae
from finetune.predictions import Prediction, make_prediction
from finetune.record import read_run
from finetune.reporting.classes import (
    at_share,
    confidence,
    coverage_figure,
    coverage_section,
    risk_area,
    risk_curve,
)
from finetune.settings import RecipeConfig
from finetune.validation import calibrated, fit_calibration
from hicmae.checkpoints.checkpoint import Calibration, load_checkpoint
from hicmae.checkpoints.networks import average
from hicmae.prediction.results import NOT_SURE
from hicmae.settings import ModelConfig
from shards.settings import BuildConfig
from tests.support.finetune_fixtures import BENCHMARK, Train, settings
from tests.support.prediction_fixtures import CLASSES, real_values, write_checkpoint, write_talking

BUILD = BuildConfig(faces="boxes", face_size=32)
FITTED = Calibration(
    temperature=20.0,
    threshold=0.5,
    answered=0.95,
    num_samples=40,
    surprise=1.0,
    surprise_before=1.2,
)


@pytest.mark.parametrize("right", [1.0, 0.0])
def test_a_few_samples_that_are_all_right_or_wrong_give_no_certainty(right: float) -> None:
    few = [item for item in overconfident(1.0) if (item.predicted == item.true) == bool(right)]
    found = fit_calibration(BENCHMARK, few[:9], answered=0.9)
    changed = calibrated(BENCHMARK, few[:9], {"1": found})
    sure, _ = confidence(BENCHMARK, changed)
    assert sure.max() < 0.999
    assert (sure >= found.threshold - 1e-9).mean() >= 0.9
    assert 0.05 < found.temperature <= 20


def overconfident(factor: float, *, count: int = 4000) -> list[Prediction]:
    """Predictions whose logits are a factor too large."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(count, 2)) * 1.5
    truth = (rng.uniform(size=count) < softmax(logits, axis=1)[:, 1]).astype(int)
    views = softmax(factor * logits, axis=1)
    return [
        make_prediction(
            BENCHMARK,
            key=str(number),
            fold="1",
            speaker="",
            true=BENCHMARK.classes[truth[number]],
            views=views[number][None],
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_the_temperature_is_that_by_which_the_network_is_too_sure(factor: float) -> None:
    predictions = overconfident(factor)
    found = fit_calibration(BENCHMARK, predictions, answered=0.9)
    assert found.temperature == pytest.approx(factor, rel=0.08)
    changed = calibrated(BENCHMARK, predictions, {"1": found})
    truth = [item.true for item in predictions]
    for items, surprise in ((predictions, found.surprise_before), (changed, found.surprise)):
        # scikit-learn sorts the names: high, low.
        of_high_first = np.array([item.probabilities for item in items])[:, ::-1]
        of_high_first /= of_high_first.sum(axis=1, keepdims=True)
        assert log_loss(truth, of_high_first) == pytest.approx(surprise, abs=1e-5)
    assert found.surprise < found.surprise_before - 0.005
    sure, _ = confidence(BENCHMARK, changed)
    assert (sure >= found.threshold - 1e-9).mean() == pytest.approx(0.9, abs=0.002)


def test_risk_and_coverage_are_those_counted_by_hand() -> None:
    sure = np.array([0.9, 0.6, 0.8, 0.6, 0.5])
    wrong = np.array([False, True, False, False, True])
    coverage, risk = risk_curve(sure, wrong)
    assert coverage.tolist() == [0.2, 0.4, 0.8, 1.0]
    assert risk.tolist() == [0, 0, 0.25, 0.4]
    assert risk_area(coverage, risk) == pytest.approx(0.4 * 0.125 + 0.2 * 0.325)
    # Networks that are as sure of everything are wrong as often at any share of answers.
    assert risk_area(*risk_curve(np.ones(5), wrong)) == pytest.approx(0.4)
    assert at_share(sure, wrong, 1.0) == (0.5, 1.0, 0.4)
    assert at_share(sure, wrong, 0.6) == (0.6, 0.8, 0.25)  # two are as sure
    # As it may be typed in: never above the unit that it is to let answer.
    assert at_share(np.array([0.999987, 0.999912, 0.4739]), wrong[:3], 1 / 3)[0] == 0.99998
    assert at_share(np.array([0.999987, 0.999912, 0.4739]), wrong[:3], 1.0)[0] == 0.473


def test_a_network_that_is_as_sure_of_everything_has_a_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[np.ndarray] = []
    monkeypatch.setattr(
        "finetune.reporting.document.save",
        lambda figure, _: lines.extend(line.get_xydata() for line in figure.axes[0].lines[:2]),
    )
    equal = np.ones(5), np.array([True, False, False, True, False])
    coverage_figure(equal, equal, (1.0, 0.4), tmp_path / "coverage.png", title="")
    assert [line.tolist() for line in lines] == [[[0, 0.4], [1, 0.4]]] * 2


@pytest.mark.slow
@pytest.mark.usefixtures("one_decoding_process")
def test_what_says_how_sure_it_may_be_is_asked_by_it(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    video = write_talking(tmp_path / "a.mp4", 1.5)
    plain, fitted = (
        write_checkpoint(tmp_path / name, tiny_model_config, build=BUILD, **carried)
        for name, carried in (("plain", {}), ("fitted", {"calibration": vars(FITTED)}))
    )
    model = hicmae.load(plain, device="cpu", precision="32-true")
    assert model.notes == ()
    (before,) = model.predict(video).tracks
    (asked,) = model.predict(video, min_confidence=1.0).tracks
    with pytest.raises(ValueError, match=r"min_confidence = 1.5 \(must lie in 0..1\)"):
        model.predict(video, min_confidence=1.5)
    assert NOT_SURE not in before.predictions
    assert set(asked.predictions) == {NOT_SURE} == set(asked.timeline["prediction"])
    assert (asked.summary.prediction, asked.summary.not_sure) == (NOT_SURE, 1.0)
    assert asked.values == pytest.approx(before.values), "they are told all the same"
    model = hicmae.load(fitted, device="cpu", precision="32-true")
    assert "temperature 20.00): where no class reaches 0.500 the" in model.notes[0]
    prediction = model.predict(video)
    (after,) = prediction.tracks
    (all_answered,) = model.predict(video, min_confidence=0).tracks
    assert after.logits == pytest.approx(before.logits, abs=1e-5)
    assert after.values == pytest.approx(softmax(before.logits / 20, axis=1), abs=1e-5)
    expected = [
        CLASSES[int(each.argmax())] if each.max() >= 0.5 else NOT_SURE for each in after.values
    ]
    assert after.predictions == expected
    assert NOT_SURE in expected
    assert NOT_SURE not in all_answered.predictions
    folder = prediction.save(tmp_path / "out", picture=True, tiers=("eaf", "vtt"))
    lines = [json.loads(line) for line in (folder / "timeline.jsonl").read_text().splitlines()]
    assert [line["prediction"] for line in lines] == expected
    other = write_checkpoint(tmp_path / "other", tiny_model_config, build=BUILD, seed=1)
    assert "calibration" not in average([fitted, other]).config
    values = write_checkpoint(
        tmp_path / "v", tiny_model_config, build=BUILD, names=("x",), labels=real_values("x")
    )
    with pytest.raises(ValueError, match="min_confidence is for classes"):
        hicmae.load(values, device="cpu").predict(video, min_confidence=0.5)


@pytest.mark.slow
@pytest.mark.usefixtures("drawn")
def test_a_run_fits_it_on_people_kept_out_and_shows_it(train: Train, tmp_path: Path) -> None:
    recipe = RecipeConfig(batch_size=4, drop_path=0.0, calibrate=True, answered=0.5)
    run = read_run(train(recipe=recipe, validation_share=0.3))
    for fold in run.folds:
        assert fold.calibration is not None
        assert fold.num_validation == fold.calibration.num_samples > 0
        assert "kept out of training, to fit the calibration" in fold.notes[-1]
        place = run.folder / f"fold-{fold.name}" / "checkpoints" / "last"
        assert load_checkpoint(place).calibration() == fold.calibration
    section = coverage_section(run, tmp_path, "title")
    assert section is not None
    assert (tmp_path / "coverage.png").stat().st_size > 5000
    model = hicmae.load(run.folder, device="cpu")
    thresholds = [fold.calibration.threshold for fold in run.folds if fold.calibration]
    assert model.network.threshold == pytest.approx(np.mean(thresholds))

    plain = RecipeConfig(batch_size=4, drop_path=0.0)
    wanted = {"selection": "inner-validation", "validation_share": 0.3}
    inner = read_run(train(recipe=plain, out=tmp_path / "inner", **wanted))
    assert all(fold.calibration is not None for fold in inner.folds)
    off = RecipeConfig(batch_size=4, drop_path=0.0, calibrate=False)
    same = read_run(train(recipe=off, out=tmp_path / "off", **wanted))
    assert [f.calibration for f in same.folds] == [None, None]
    assert coverage_section(same, tmp_path, "title") is None
    assert same.predictions == inner.predictions, "the fit moves no tested number"


def test_a_fit_that_nobody_is_kept_out_for_is_refused(train: Train) -> None:
    recipe = RecipeConfig(batch_size=4, drop_path=0.0, calibrate=True)
    with pytest.raises(ValueError, match=r"recipe.calibrate with selection best-on-test"):
        train(recipe=recipe, selection="best-on-test")
    assert settings().recipe.calibrate is None
