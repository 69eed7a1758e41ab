"""Labels over time: lag, annotators, smoothing and scores, from shards to a report."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.over_time import per_recording
from finetune.record import read_run
from tests.support.finetune_fixtures import Train
from tests.support.shared import made_once
from tests.support.trace_fixtures import ANNA, BEN, over_time_benchmark, write_trace_shards


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of recordings with two annotators."""
    folder = made_once(
        tmp_path_factory, "traced", lambda folder: write_trace_shards(folder / "shards")
    )
    return folder / "shards"


def test_lags_are_found_and_the_run_says_all_that_was_decided(train: Train, traced: Path) -> None:
    benchmark = over_time_benchmark(
        lag_seconds=None, combine="evaluator-weighted", smoothing_seconds=(0.0, 1.0)
    )
    folder = train(
        benchmark,
        on=traced,
        modalities="video",
        folds="1",
        epochs=2,
        recipe={"batch_size": 16},
        report=True,
    )
    run = read_run(folder)
    settled = run.folds[0].over_time
    assert settled["lags"]["anna"] == pytest.approx(ANNA, abs=0.08)
    assert settled["lags"]["ben"] == pytest.approx(BEN, abs=0.08)
    assert sum(settled["weights"]["valence"].values()) == pytest.approx(1)
    means = per_recording(run.benchmark, run.predictions)
    assert any(f"ccc {means['ccc']:.4f}" in note for note in run.facts.notes)
    print(settled, run.scores.pooled, per_recording(run.benchmark, run.predictions))
    report = (folder / "report.md").read_text()
    assert "CCC per recording" in report
