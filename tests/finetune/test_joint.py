"""Several heads in one network, from a benchmark to its report."""

from __future__ import annotations

from finetune.benchmark import Benchmark
from finetune.heads import Head
from finetune.record import read_run
from hicmae.checkpoints.checkpoint import load_checkpoint
from tests.support.finetune_fixtures import CLASSES, Train

EMOTION = Head(name="emotion", kind="classification", label="emotion", classes=CLASSES)
VALUES = Head(name="values", kind="regression", targets=("valence", "arousal"), loss="mse")
JOINT = Benchmark(
    name="joint",
    task="joint",
    heads=(EMOTION, VALUES),
    combinations={"f1_minus_mse": {"emotion.weighted_f1": 1.0, "values.mse_valence": -0.25}},
    leading="f1_minus_mse",
)


def test_a_joint_run_learns_both_heads_and_reports_them(train: Train) -> None:
    folder = train(JOINT, epochs=4, report=True)
    run = read_run(folder)
    pooled = run.scores.pooled
    assert pooled["emotion.uar"] > 0.9
    assert pooled["values.ccc_valence"] > 0.6
    by_hand = [
        (first.true == first.predicted, (second.true[0] - second.predicted[0]) ** 2)
        for first, second in (
            (item.heads["emotion"], item.heads["values"]) for item in run.predictions
        )
        if isinstance(second.true, tuple) and isinstance(second.predicted, tuple)
    ]
    assert len(by_hand) == 24
    assert pooled["emotion.war"] == sum(right for right, _ in by_hand) / 24
    error = sum(float(gap) for _, gap in by_hand) / 24
    expected = pooled["emotion.weighted_f1"] - 0.25 * error
    assert abs(pooled["f1_minus_mse"] - expected) < 1e-6
    report = (folder / "report.md").read_text()
    for said in (
        "Head emotion",
        "Head values",
        "f1_minus_mse",
        "emotion UAR",
        "values CCC valence",
    ):
        assert said in report
    labels = load_checkpoint(folder / "fold-1").labels()
    assert labels is not None
    assert [head.name for head in labels.heads] == ["emotion", "values"]
    assert labels.mean[:2] == (0.0, 0.0)
    assert all(abs(value) > 0 for value in labels.mean[3:])
