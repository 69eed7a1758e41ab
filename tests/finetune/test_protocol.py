"""Whole runs under each selection rule: what is trained, what is tested, what the numbers say."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.benchmark import Benchmark
from finetune.commands import report
from finetune.module import FinetuneModule, JudgedModule
from finetune.record import read_run
from finetune.reporting.run_report import write_run_report
from finetune.scores import score, undefined
from finetune.settings import MixingConfig, OptimizerConfig, RecipeConfig
from hicmae.checkpoints.checkpoint import load_checkpoint
from hicmae.settings import AugmentConfig, ModelConfig
from shards.reading.random_access import ShardDataset
from tests.support.finetune_fixtures import (
    BENCHMARK,
    CLASSES,
    VALUES,
    Train,
    all_notes,
    labels_of,
    paper_settings,
    split_benchmark,
    train_tiny,
    write_labelled_shards,
)

_PAPER = paper_settings()
PAPER: dict[str, Any] = {
    name: getattr(_PAPER, name)
    for name in ("protocol", "accumulate", "recipe", "optimizer", "mixing", "augment")
}


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled shards that also hold groups, votes and recordings."""
    changes = {
        number: {
            "labels": {
                "sex": ("f", "m")[(number // 2) % 4 < 2],
                "video": f"v{number % 2}-{(number // 2) % 4}",
                "votes_low": 1 + 3 * (labels_of(number)["emotion"] == "low"),
                "votes_high": 1 + 3 * (labels_of(number)["emotion"] == "high"),
            }
        }
        for number in range(24)
    }
    return write_labelled_shards(tmp_path_factory.mktemp("protocol") / "shards", changes=changes)


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, noisy: Path, tiny_model_config: ModelConfig
) -> dict[str, Path]:
    """A run under every rule, with labels that cannot all be learned: chosen on the test, of both
    folds.
    """
    folder = tmp_path_factory.mktemp("rules")

    def run(name: str, **options: Any) -> Path:
        # A high rate: scores go up and down between epochs.
        optimizer = OptimizerConfig(warmup_epochs=0, learning_rate=1.0, layer_decay=None)
        chosen = {"out": folder / name, "epochs": 3, "optimizer": optimizer, "folds": "1"} | options
        return train_tiny(folder, noisy, tiny_model_config, **chosen)

    return {
        "last": run("last"),
        "inner-validation": run("inner", selection="inner-validation", validation_share=0.3),
        "best-on-test": run("best", selection="best-on-test", folds="1,2"),
        "paper": run("paper", **PAPER, epochs=6),
    }


def column(run: Path, name: str, fold: str = "1") -> list[float]:
    """A column of a fold's metrics.csv without its gaps."""
    with (run / f"fold-{fold}" / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


@pytest.mark.slow
def test_each_rule_scores_the_side_it_names_and_no_other(runs: dict[str, Path]) -> None:
    assert column(runs["last"], "test_uar") == column(runs["last"], "validation_uar") == []
    inner = runs["inner-validation"]
    assert len(column(inner, "validation_uar")) == len(column(inner, "validation_war")) == 3
    assert column(inner, "test_uar") == []
    for rule, epochs in (("best-on-test", 3), ("paper", 6)):
        assert len(column(runs[rule], "test_uar")) == epochs
        assert column(runs[rule], "validation_uar") == []


def test_the_tested_epoch_is_the_first_best_of_the_side_and_its_score_the_written_one(
    runs: dict[str, Path],
) -> None:
    for rule, prefix in (("best-on-test", "test"), ("inner-validation", "validation")):
        run = read_run(runs[rule])
        for fold in run.folds:
            scores = column(runs[rule], f"{prefix}_uar", fold.name)
            assert fold.epoch == 1 + scores.index(max(scores))
            if prefix == "test":
                assert run.scores.folds[fold.name]["uar"] == pytest.approx(max(scores), abs=1e-6)
    assert {fold.epoch for fold in read_run(runs["last"]).folds} == {3}


def test_scoring_epochs_does_not_move_the_training(runs: dict[str, Path]) -> None:
    losses = column(runs["last"], "loss_step")
    assert len(losses) == 9
    assert column(runs["best-on-test"], "loss_step") == losses
    assert column(runs["inner-validation"], "loss_step") != losses  # it trains on fewer samples


def test_the_inner_validation_trains_on_fewer_speakers_and_tests_the_same_samples(
    runs: dict[str, Path],
) -> None:
    inner, last = read_run(runs["inner-validation"]), read_run(runs["last"])
    assert [item.key for item in inner.predictions] == [item.key for item in last.predictions]
    for fold in inner.folds:
        assert (fold.num_train, fold.num_validation, fold.num_test) == (6, 6, 12)
        assert (fold.num_train_speakers, fold.num_validation_speakers) == (1, 1)


@pytest.mark.slow
def test_every_number_says_how_its_epoch_was_chosen(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = {rule: rule for rule in runs} | {"paper": "best-on-test (protocol paper)"}
    report(runs=list(runs.values()), out=tmp_path / "report.md")
    printed, compared = capsys.readouterr().out, (tmp_path / "report.md").read_text()
    for rule, folder in runs.items():
        stored = json.loads((folder / "scores.json").read_text())
        assert stored["selection"] == labels[rule]
        own = write_run_report(read_run(folder), html=False).read_text()
        assert ("inner validation speakers" in own) == (rule == "inner-validation")
        assert f"| selection: {labels[rule]} |" in own
        assert f"| {labels[rule]} |" in compared
        checkpoint = load_checkpoint(folder / "fold-1").config
        assert checkpoint["finetuning"]["selection"] == stored["run"]["selection"]
        chosen = stored["run"]["selection"] == "best-on-test"
        uar = f"{stored['pooled']['uar']:.3f}"
        assert (f"| {uar} (best-on-test) |" in own) == chosen
        for line in own.split("## What was run")[0].splitlines():
            if line.startswith(("| fold", "| **pooled", "| mean", "| 95")):
                assert line.count("(best-on-test)") == (4 if chosen else 0), line
    assert "(best-on-test)" in printed
    assert "too high for what an unseen test side would give" in compared
    assert "protocol paper: the reference's choice of epoch" in compared
    assert "by WAR for classes and CCC for real values, of one clip at a random place" in compared


def test_the_paper_protocol_chooses_by_accuracy_of_one_clip_and_tests_on_two_views(
    runs: dict[str, Path],
) -> None:
    paper = read_run(runs["paper"])
    assert (paper.facts.protocol, paper.facts.num_segments) == ("paper", 2)
    assert {len(item.views) for item in paper.predictions} == {2}
    for fold in paper.folds:
        accuracy = column(runs["paper"], "test_war", fold.name)
        assert fold.epoch == 1 + accuracy.index(max(accuracy))
        said = f"was chosen by WAR = {max(accuracy):.4f}, of one clip at a random place of each"
        assert said in "\n".join(fold.notes)


@pytest.mark.slow
@pytest.mark.parametrize(("benchmark", "judge"), [(BENCHMARK, "war"), (VALUES, "ccc")])
def test_the_paper_protocol_s_epochs_are_judged_on_other_clips_each_and_the_same_again(
    benchmark: Benchmark, judge: str, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A benchmark of which no metric is the judging one is judged by it all the same."""
    seen: list[list[int]] = []
    indices = ShardDataset._indices

    def note(dataset: ShardDataset, sample: int, view: int, num_frames: int) -> np.ndarray:
        found = indices(dataset, sample, view, num_frames)
        if dataset.on_bad == "raise" and dataset.views == "train" and not train_side(dataset):
            seen[-1].append(int(found[0]))
        return found

    def train_side(dataset: ShardDataset) -> bool:
        return set(dataset.rows["fold"].astype(str)) == {"2"}  # fold 1 is tested

    def begin(module: JudgedModule) -> None:
        seen.append([])
        started(module)

    started = JudgedModule.on_validation_epoch_start
    monkeypatch.setattr(JudgedModule, "on_validation_epoch_start", begin)
    monkeypatch.setattr(ShardDataset, "_indices", note)
    leading = "macro_f1" if judge == "war" else "pcc"
    alone = dataclasses.replace(benchmark, metrics=(leading,), leading=leading)
    drawn = []
    for name in ("one", "two"):
        seen.clear()
        out = train(alone, name=name, folds="1", epochs=6, **PAPER)
        assert len(column(out, f"test_{judge}")) == 6
        drawn.append([list(epoch) for epoch in seen])
    assert [len(epoch) for epoch in drawn[0]] == [12] * 6
    assert len({tuple(epoch) for epoch in drawn[0]}) == 6  # other places in every epoch
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"augment": AugmentConfig.finetuning()}, r"augment.crop_area = \[0.5, 1\] .*0.08, 1"),
        ({"protocol": "default", "validation_share": 1.5}, "validation_share = 1.5"),
    ],
)
def test_options_that_contradict_the_protocol_are_refused(
    options: dict[str, Any], said: str, tmp_path: Path, train: Train
) -> None:
    with pytest.raises(ValueError, match=said):
        train(**(PAPER | options))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_recordings_are_scored_and_groups_broken_down(described: Path, train: Train) -> None:
    benchmark = dataclasses.replace(BENCHMARK, average_over="video", groups=("sex", "age"))
    run = read_run(train(benchmark, on=described, report=True))
    assert (len(run.predictions), run.scores.num_samples, len(run.units)) == (24, 8, 8)
    text = (run.folder / "report.md").read_text()
    assert "### By sex" in text
    for sex in "fm":
        own = [item for item in run.predictions if item.groups["sex"] == sex]
        uar = f"{score(benchmark, own)['uar']:.3f}"
        assert f"| {sex} | 4 (small) | 2 | {uar} |" in text
    assert "the index has no column 'age', so scores are not broken down by it" in text
    assert "all 24 samples are averaged over video, of which there are 8" in text


def test_votes_and_weights_of_classes_reach_the_loss_and_not_the_test(
    described: Path, monkeypatch: pytest.MonkeyPatch, train: Train
) -> None:
    benchmark = dataclasses.replace(BENCHMARK, votes=("votes_low", "votes_high"))
    labels: list[Any] = []
    seen: list[Any] = []
    step, loss = FinetuneModule.training_step, FinetuneModule._loss

    def note_batch(module: FinetuneModule, batch: dict[str, Any], number: int) -> Any:
        labels.append(batch["sample"] % 2)  # low and high take turns
        return step(module, batch, number)

    def note_targets(module: FinetuneModule, *given: Any) -> Any:
        seen.append((given[1], module.class_weights))
        return loss(module, *given)

    monkeypatch.setattr(FinetuneModule, "training_step", note_batch)
    monkeypatch.setattr(FinetuneModule, "_loss", note_targets)
    out = train(
        benchmark,
        on=described,
        once=True,
        mixing=MixingConfig(mixup=0, cutmix=0),
        recipe={"label_smoothing": 0.0, "soft_labels": True, "class_weights": "balanced"},
    )
    for own, (targets, weights) in zip(labels, seen, strict=True):
        assert targets.gather(1, own[:, None]).flatten().tolist() == pytest.approx([0.8] * 4)
        assert weights.tolist() == [1.0, 1.0]  # as many of each
    assert {item.true for item in read_run(out).predictions} == set(CLASSES)


@pytest.mark.slow
def test_a_batch_of_one_clip_trains(train: Train) -> None:
    out = train(once=True, recipe=RecipeConfig(batch_size=1, drop_path=0.0))
    assert read_run(out).scores.num_samples == 12


@pytest.mark.slow
def test_a_class_that_a_fold_does_not_test_is_said(train: Train) -> None:
    """Every sample of fold 1 is low; fold 2, which it trains on, has both."""
    numbers = [number for number in range(24) if labels_of(number)["fold"] == 1]
    changes = {number: {"labels": {"emotion": "low"}} for number in numbers}
    out = train(changes=changes, once=True, report=True)
    text = (out / "report.md").read_text()
    assert "Fold 1 tests no sample of high: its UAR is the mean over the classes it tests." in text
    with pytest.raises(ValueError, match="fold 2: no training sample of high"):
        train(changes=changes, name="no")


@pytest.mark.slow
def test_constant_true_values_are_undefined_and_the_run_says_so(train: Train) -> None:
    changes = {number: {"labels": {"valence": 0.5}} for number in range(24)}
    out = train(VALUES, changes=changes, selection="inner-validation")
    stored = json.loads((out / "scores.json").read_text())
    assert stored["pooled"]["ccc_valence"] is None
    assert stored["pooled"]["ccc_arousal"] is not None
    assert stored["intervals"]["ccc_valence"] is None
    run = read_run(out)
    text = "\n".join([all_notes(run), *undefined(run.scores)])
    assert "valence is the same in every training sample, so nothing was learned about it" in text
    assert "ccc was undefined after every epoch" in text
    assert "shown as n/a, not as 0" in text


@pytest.mark.slow
def test_unnamed_speakers_are_allowed_by_protocol_alone_and_then_said(train: Train) -> None:
    changes: dict[int, dict[str, Any]] = {number: {"speaker": None} for number in range(24)}
    with pytest.raises(ValueError, match="has no speaker"):
        train(changes=changes, name="no")
    run = read_run(
        train(
            split_benchmark(shared_speakers=True),
            changes=changes,
            epochs=1,
            selection="inner-validation",
        )
    )
    assert (run.intervals.by, run.intervals.num_clusters) == ("sample", 24)
    assert "speakers are not named, so people are not drawn" in run.intervals.sentence()
    said = "the inner validation is divided by sample: nobody names the speaker"
    assert said in all_notes(run)


@pytest.mark.slow
def test_speakers_shared_by_protocol_are_counted(train: Train) -> None:
    shared = split_benchmark(shared_speakers=True)
    out = train(shared, changes={5: {"speaker": "s1"}}, epochs=1)
    said = "1 values of speaker are on both sides, as the benchmark's protocol allows"
    assert said in all_notes(read_run(out))
