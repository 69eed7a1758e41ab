"""Clips to recordings, and scores by group."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from finetune.predictions import Prediction, make_prediction, read_predictions, write_predictions
from finetune.scores import check_units, score, score_run, scored_units
from tests.support.finetune_fixtures import BENCHMARK, VALUES

CLIPS = dataclasses.replace(BENCHMARK, average_over="video")


def clip(number: int, video: str, true: str, low: float, **fields: object) -> Prediction:
    given = {"fold": "1", "speaker": "s", "groups": {"sex": "f"}} | fields
    return make_prediction(
        CLIPS, key=f"k{number}", true=true, views=np.array([[low, 1 - low]]), unit=video, **given
    )


def test_the_outputs_of_a_recording_are_averaged_before_the_class_is_taken() -> None:
    made = [
        clip(0, "v1", "low", 0.45),  # two of three clips say high, their mean says low
        clip(1, "v1", "low", 0.45),
        clip(2, "v1", "low", 0.9),
        clip(3, "v2", "high", 0.3),
    ]
    units = scored_units(CLIPS, made)
    assert [unit.key for unit in units] == ["v1", "v2"]
    assert units[0].probabilities == pytest.approx((0.6, 0.4))
    assert [unit.predicted for unit in units] == ["low", "high"]
    assert score(CLIPS, made)["war"] == 1.0
    assert score(BENCHMARK, made)["war"] == 0.5  # clip by clip
    scores = score_run(CLIPS, made)
    assert (scores.num_samples, scores.counts) == (2, {"1": 2})
    assert (units[0].speaker, units[0].groups) == ("s", {"sex": "f"})


def test_a_recording_of_two_people_is_nobodys() -> None:
    made = [clip(0, "v", "low", 0.5, groups={"sex": "m"}), clip(1, "v", "low", 0.5, speaker="t")]
    (unit,) = scored_units(CLIPS, made)
    assert (unit.speaker, unit.groups) == ("", {"sex": ""})


def test_recordings_of_one_name_in_two_folds_are_two() -> None:
    made = [clip(n, "v", "low", 0.9, fold=fold) for n, fold in enumerate(("1", "2"))]
    assert [unit.fold for unit in scored_units(CLIPS, made)] == ["1", "2"]


def test_real_values_are_averaged_too() -> None:
    benchmark = dataclasses.replace(VALUES, average_over="video")
    made = [
        make_prediction(
            benchmark, key=str(n), fold="1", speaker="s", true=(0.5, 1), views=view, unit="v"
        )
        for n, view in enumerate(np.array([[[0.0, 1.0]], [[1.0, 4.0]]]))
    ]
    assert scored_units(benchmark, made)[0].predicted == (0.5, 2.5)


def test_clips_of_no_recording_are_refused_before_they_are_tested() -> None:
    """Or those of nobody knows which would be averaged as one."""
    rows = pd.DataFrame({"key": ["a", "b"], "emotion": ["low", "low"], "video": ["v", None]})
    check_units(CLIPS, rows[:1])
    with pytest.raises(ValueError, match=r"sample 'b' has no video \(1 such samples\), over which"):
        check_units(CLIPS, rows)
    with pytest.raises(ValueError, match=r"no column 'video', which benchmark .*\(average_over\)"):
        check_units(CLIPS, rows.drop(columns="video"))


def test_clips_of_one_recording_with_other_truths_are_refused() -> None:
    table = pd.DataFrame({"video": ["a", "a", "b"], "emotion": ["low", "high", "low"]})
    with pytest.raises(ValueError, match=r"video 'a' has samples of different emotion \(1 of 2"):
        check_units(CLIPS, table)
    check_units(CLIPS, table.assign(emotion="low"))
    check_units(BENCHMARK, table)
    with pytest.raises(ValueError, match="video 'v': samples 'k0' and 'k1' have different truths"):
        scored_units(CLIPS, [clip(0, "v", "low", 0.5), clip(1, "v", "high", 0.5)])


def test_units_and_groups_are_written_and_needed(tmp_path) -> None:
    made = [clip(0, "v1", "low", 0.4), clip(1, "v2", "high", 0.4)]
    write_predictions(tmp_path / "p.jsonl", made)
    assert read_predictions(tmp_path / "p.jsonl", CLIPS) == made
    write_predictions(tmp_path / "p.jsonl", [dataclasses.replace(made[0], unit="")])
    with pytest.raises(ValueError, match="no unit, though the benchmark averages over video"):
        read_predictions(tmp_path / "p.jsonl", CLIPS)
