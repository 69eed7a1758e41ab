"""What comes of a fold: what is fitted to whom, and who is counted where."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from finetune import outcome
from finetune.outcome import TestedFold, facts_of, judge_fold
from finetune.over_time import Settled
from tests.support.finetune_fixtures import BENCHMARK, VALUES


def said(*asked: Any) -> Any:
    """What the network would say of these rows, by their name."""
    return list(asked)


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each fit was given."""
    given: dict[str, Any] = {}

    def noting(name: str, result: Any) -> Any:
        def fit(_: Any, *what: Any) -> Any:
            given.setdefault(name, []).append(what)
            return result

        return fit

    monkeypatch.setattr(outcome, "best_thresholds", noting("thresholds", {"head": (0.3,)}))
    monkeypatch.setattr(outcome, "choose_smoothing", noting("window", 2.0))
    monkeypatch.setattr(outcome, "score", noting("score", {"ccc": 0.5}))
    monkeypatch.setattr(outcome, "threshold_notes", lambda *_: [])
    monkeypatch.setattr(outcome, "gain_note", lambda *_: "gain")
    monkeypatch.setattr(outcome, "smooth", lambda found, window: [*found, f"over {window} s"])
    return given


@pytest.mark.parametrize("heads", [True, False])
@pytest.mark.parametrize("over_time", [True, False])
def test_what_is_fitted_is_fitted_to_who_was_kept_out_and_never_to_who_is_tested(
    fitted: dict[str, Any], heads: bool, over_time: bool
) -> None:
    plan: Any = SimpleNamespace(
        calibrates=True,
        keeps_out=True,
        benchmark=SimpleNamespace(heads=heads),
        config=SimpleNamespace(recipe=SimpleNamespace(annotator="anna")),
    )
    sides: Any = SimpleNamespace(validation="kept out")
    settled = Settled(lags={}, weights={}) if over_time else None
    found = judge_fold(plan, SimpleNamespace(test="test"), sides, settled, said, said("shared"))  # type: ignore[arg-type]
    assert fitted.get("thresholds") == ([(["kept out"],)] if heads else None)
    assert found.kept_out == ([] if heads else ["kept out"])
    tested = ["test", {"head": (0.3,)} if heads else {}]
    if settled is None:
        assert found.predictions == tested
        return
    assert fitted["window"] == [(found.kept_out,)]
    assert found.predictions == [*tested, "over 2.0 s"]
    # What a shared network says is smoothed alike, before the two are compared.
    assert fitted["score"] == [(["shared", "over 2.0 s"],), (found.predictions,)]
    assert found.settled == replace(settled, smoothing_seconds=2.0, shared={"ccc": 0.5})


def rows(*speakers: str) -> pd.DataFrame:
    return pd.DataFrame({"speaker": speakers})


@pytest.mark.parametrize("over_time", [True, False])
def test_each_side_is_counted_by_itself(monkeypatch: pytest.MonkeyPatch, over_time: bool) -> None:
    monkeypatch.setattr(outcome, "fit_calibration", lambda _, kept, *, answered: (kept, answered))
    plan: Any = SimpleNamespace(
        benchmark=VALUES if over_time else BENCHMARK,
        digest="digest",
        emotion=SimpleNamespace(feature_fusion=True),
        config=SimpleNamespace(recipe=SimpleNamespace(answered=0.9)),
    )
    sides: Any = SimpleNamespace(train=rows(*"aabbc"), validation=rows(*"ddef"))
    fold: Any = SimpleNamespace(name="1", test=rows(*"gg"), train=rows(*"aabbcddef"))
    network = SimpleNamespace(layer_weights=lambda: {"video": torch.tensor([0.25, 0.75])})
    module: Any = SimpleNamespace(model=network, last_epoch_loss=0.5)
    settled = Settled(lags={"x": 1.0}, weights={}) if over_time else None
    result = TestedFold(predictions=[], kept_out=said("kept"), settled=settled, notes=[])
    found = facts_of(plan, fold, sides, module, result, seconds=1.26, epoch=3, notes=["a"])
    assert (found.num_train, found.num_validation, found.num_test) == (5, 4, 2)
    assert found.num_train_speakers == found.num_validation_speakers == 3
    assert (found.num_test_speakers, found.epoch, found.seconds) == (1, 3, 1.3)
    assert found.layer_weights == {"video": (0.25, 0.75)}
    assert found.calibration == (None if over_time else (["kept"], 0.9))
    assert bool(found.over_time) == over_time
