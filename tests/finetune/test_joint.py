"""Several heads in one network, from a benchmark to its report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune import module
from finetune.benchmark import Benchmark
from finetune.commands import evaluate, modalities
from finetune.heads import Head
from finetune.mixing import mix_batch
from finetune.record import read_run
from finetune.settings import MixingConfig
from finetune.testing.label_map import map_benchmark
from finetune.testing.modalities import read_spoiled
from finetune.testing.perturbations import PerturbationConfig
from hicmae.checkpoints.checkpoint import load_checkpoint
from hicmae.page.analysis import open_analyst
from hicmae.page.server import Prediction as PageAnswer
from hicmae.page.settings import Limits
from hicmae.prediction.messages import WindowConfig
from hicmae.prediction.model import load
from tests.support.finetune_fixtures import BENCHMARK, CLASSES, Train, all_notes
from tests.support.media_files import counting_frames, write_recording
from tests.support.prediction_fixtures import talk

EMOTION = Head(name="emotion", kind="classification", label="emotion", classes=CLASSES)
VALUES = Head(name="values", kind="regression", targets=("valence", "arousal"), loss="mse")
JOINT = Benchmark(
    name="joint",
    task="joint",
    heads=(EMOTION, VALUES),
    combinations={"f1_minus_mse": {"emotion.weighted_f1": 1.0, "values.mse_valence": -0.25}},
    leading="f1_minus_mse",
)


@pytest.mark.slow
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
    assert pooled["emotion.war"] == pytest.approx(sum(right for right, _ in by_hand) / 24)
    error = sum(float(gap) for _, gap in by_hand) / 24
    expected = pooled["emotion.weighted_f1"] - 0.25 * error
    assert abs(pooled["f1_minus_mse"] - expected) < 1e-6
    report = (folder / "report.md").read_text()
    for said in (
        "by the labels of head emotion, the first that all of them have",
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


def everything(number: int) -> dict[str, Any]:
    """Further labels of a sample, some of which are missing: what it is follows from its class."""
    high, take = number % 2, number // 8
    labels: dict[str, Any] = {
        "tags": "bright;shrill" if high else "dark",
        "joy": 70.0 if high else 20.0,
        "calm": 30.0 if high else 80.0,
    }
    if take:
        labels["level"] = "much" if high else "little" if take == 1 else "some"
    return {"labels": labels}


TAGS = Head(name="tags", kind="multilabel", label="tags", classes=("dark", "bright", "shrill"))
SHARES = Head(name="shares", kind="distribution", classes=("joy", "calm"), columns=("joy", "calm"))
LEVEL = Head(name="level", kind="ordinal", label="level", classes=("little", "some", "much"))
ALL = Benchmark(name="all", task="joint", heads=(EMOTION, VALUES, TAGS, SHARES, LEVEL))
PARTLY = Benchmark(name="partly", task="joint", heads=(EMOTION, VALUES, LEVEL))
CHANGES = {number: everything(number) for number in range(24)}


@pytest.mark.slow
@pytest.mark.usefixtures("one_decoding_process")
def test_every_kind_is_trained_scored_tested_again_and_predicted(
    train: Train, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"folds": "1", "epochs": 40}
    folder = train(ALL, changes=CHANGES, recipe={"class_weights": "balanced"}, **options)
    run = read_run(folder)
    pooled = run.scores.pooled
    assert pooled["tags.micro_f1"] > 0.9
    assert pooled["level.qwk"] > 0.4
    assert pooled["shares.intersection"] > 0.85
    notes = all_notes(run)
    assert "training samples have no label of 'level'; they train the other heads" in notes
    assert "chosen on the" in notes
    labels = load_checkpoint(folder / "fold-1").labels()
    assert labels is not None
    thresholds = {head.name: head.thresholds for head in labels.heads}
    assert len(thresholds["tags"]) == 3
    assert run.predictions[0].heads["tags"].thresholds == thresholds["tags"]
    evaluate(source=folder, out=tmp_path / "again", device="cpu", precision="32-true", workers=0)
    again = read_run(tmp_path / "again")
    assert again.scores.pooled == pytest.approx(pooled, abs=1e-5, nan_ok=True)
    assert "Head tags" in (tmp_path / "again" / "report.md").read_text()
    few = PerturbationConfig(swaps=1, snr_db=(0.0,), picture_sd=(50.0,), missing_shares=(0.5,))
    modalities(source=folder, perturb=few, device="cpu", precision="32-true", workers=0)
    unspoiled = read_spoiled(folder / "modalities").conditions[0]
    assert unspoiled.scores[0] == pytest.approx(pooled, abs=1e-5, nan_ok=True)
    assert unspoiled.recalls[0].keys() >= {"emotion.low", "emotion.high", "level.much"}
    page = (folder / "modalities" / "modalities.md").read_text()
    for what in ("emotion", "values.valence", "values.arousal", "level"):
        assert f"told of {what} by" in page
    card = (folder / "fold-1" / "checkpoints" / "last" / "README.md").read_text()
    assert "| tags | multilabel | shrill |" in card
    counts = "emotion 12, values 12, tags 12, shares 12, level 8"
    assert f"| num_test_labelled | {counts} |" in card
    assert "Selection: last: the weights after the last epoch" in card

    clip = write_recording(
        tmp_path / "clip.mp4", counting_frames(50), np.arange(50) / 25, sound=talk(2)
    )
    windows = WindowConfig(faces="none", hop=0.5)
    network = str(folder / "fold-1")
    with load(network, device="cpu", precision="32-true") as predictor:
        prediction = predictor.predict(clip, config=windows)
        with pytest.raises(ValueError, match="min_confidence is for one task"):
            predictor.confidence(0.5)
    row = prediction.timeline.iloc[0]
    emotion = row[["emotion.low", "emotion.high"]].to_numpy(float)
    assert emotion.sum() == pytest.approx(1)
    assert row["emotion.prediction"] == CLASSES[int(emotion.argmax())]
    levels = row[[f"level.{name}" for name in LEVEL.classes]].to_numpy(float)
    assert levels.sum() == pytest.approx(1)
    assert (levels >= 0).all()
    out = prediction.save(tmp_path / "predicted", picture=True)
    line = json.loads((out / "timeline.jsonl").read_text().splitlines()[0])
    assert set(line["predictions"]) == {head.name for head in ALL.heads}
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["tracks"][0]["heads"]) == {head.name for head in ALL.heads}
    analyst = open_analyst(network, windows, Limits(seconds=3), device="cpu", precision="32-true")
    try:
        described = analyst.describe()
        shown = PageAnswer.model_validate(analyst.analyse(clip, lambda *_: None))
    finally:
        analyst.close()
    assert [head["name"] for head in described["heads"]] == [head.name for head in ALL.heads]
    assert shown.task == "joint"
    assert shown.labels == list(labels.names)
    assert shown.tracks[0].windows[0].both == pytest.approx(
        prediction.tracks[0].values[0].tolist(), abs=1e-4
    )


def test_a_clip_that_was_blended_with_one_without_a_label_has_none() -> None:
    known = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    targets = torch.cat([torch.rand(3, 4), known], dim=1)
    video = torch.rand(3, 3, 4, 8, 8)
    mixing = MixingConfig(mixup=1.0, cutmix=0.0, probability=1.0, regression=True)
    torch.manual_seed(3)
    _, _, mixed = mix_batch(video, None, targets, mixing)
    assert (mixed[:, 4:] > module.WHOLE).tolist() == [[True, True], [True, False], [True, False]]


def test_what_does_not_go_together_is_one_line(train: Train) -> None:
    gone = dataclasses.replace(
        JOINT, heads=(EMOTION, dataclasses.replace(VALUES, targets=("valence", "dominance")))
    )
    with pytest.raises(ValueError, match="no column 'dominance', which benchmark 'joint'"):
        train(gone, once=True)
    for recipe, message in (
        ({"soft_labels": True}, "soft_labels .*distribution"),
        ({"shots": 2}, "shots is for classification"),
        ({"loss": "mse"}, "stand in each head"),
        ({"calibrate": True}, "calibrate of heads"),
    ):
        with pytest.raises(ValueError, match=message):
            train(JOINT, once=True, recipe=recipe)
    with pytest.raises(ValueError, match="protocol = paper is for one task"):
        train(JOINT, once=True, protocol="paper")


@pytest.mark.slow
def test_a_share_of_the_training_side_without_labels_of_a_head_is_refused(train: Train) -> None:
    # One sample of each fold has a number, one says yes and one no.
    changes: dict[int, dict[str, Any]] = {
        number: {"labels": {"rated": 0.5 * number, "rare": ("yes", "no")[number // 4 % 2]}}
        for number in (0, 2)
    }
    for number in (4, 6):
        changes[number] = {"labels": {"rare": "no"}}
    rated = Head(name="rated", kind="regression", targets=("rated",))
    rare = Head(name="rare", kind="classification", label="rare", classes=("yes", "no"))
    for head in (rated, rare):
        benchmark = dataclasses.replace(
            JOINT, heads=(EMOTION, head), combinations={}, metrics=(), leading=None
        )
        train(benchmark, changes=changes, once=True, name=head.name)
        with pytest.raises(ValueError, match=f"share of 0.2 .*raise it.*: no .*'{head.name}'"):
            train(benchmark, changes=changes, once=True, recipe={"fraction": 0.2})


def test_a_network_of_heads_is_not_tested_on_other_heads() -> None:
    with pytest.raises(ValueError, match="same heads alone"):
        map_benchmark(JOINT, BENCHMARK, None)
    other = dataclasses.replace(JOINT, name="elsewhere")
    assert map_benchmark(JOINT, other, None).benchmark is other
