"""Finished networks tested again: the same numbers, other views, other corpora, no leak."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.commands import evaluate, modalities, report
from finetune.predictions import make_prediction
from finetune.record import FoldFacts, read_run, runs_in
from finetune.reporting.run_report import _configuration
from finetune.testing.perturbations import PerturbationConfig
from finetune.testing.results import averaged_networks
from hicmae.checkpoints.checkpoint import Calibration
from hicmae.config import save_yaml
from hicmae.processes import VerbProcess
from hicmae.settings import ModelConfig
from tests.support.finetune_fixtures import (
    BENCHMARK,
    VALUES,
    run_tiny,
    save_benchmark,
    train_tiny,
    write_labelled_shards,
)
from tests.support.pretrain_processes import places
from tests.support.testing_fixtures import CPU

_OF_TWO = (
    "--segments 3 --crops whole,mirrored --device cpu --workers 0 --batch_size 7"
    " --precision 32-true"
)
OTHER = dataclasses.replace(BENCHMARK, name="whistles", classes=("high", "low", "none"))


@pytest.fixture
def shards(trained: Path) -> Path:
    return trained / "shards"


@pytest.fixture(scope="module")
def finished(trained: Path) -> Path:
    return trained / "run"


@pytest.fixture(scope="module")
def tested(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation of it with one view; whoever changes it copies it first."""
    return again(finished, tmp_path_factory.mktemp("tested") / "views", segments=1)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recordings of other people, who have the same names, and other class names."""
    changes: dict[int, dict[str, Any]] = {n: {"key": f"elsewhere/{n:03d}"} for n in range(24)}
    for number in (0, 1):
        changes[number]["labels"] = {"emotion": "none"}
    return write_labelled_shards(tmp_path_factory.mktemp("elsewhere") / "shards", changes=changes)


def again(source: Path, out: Path, **options: Any) -> Path:
    """Evaluate on the CPU. Returns: the folder."""
    evaluate(source=source, out=out, **(CPU | options))
    return out


@pytest.mark.slow
def test_the_same_views_give_the_numbers_of_the_run(finished: Path, tmp_path: Path) -> None:
    run, found = read_run(finished), read_run(again(finished, tmp_path / "again"))
    assert found.scores.pooled == run.scores.pooled
    assert found.scores.folds == run.scores.folds
    for first, second in zip(run.predictions, found.predictions, strict=True):
        assert dataclasses.replace(first, views=(), probabilities=None) == dataclasses.replace(
            second, views=(), probabilities=None
        )
        assert np.array(first.views) == pytest.approx(np.array(second.views), abs=1e-5)
    assert found.folds[0].layer_weights == run.folds[0].layer_weights
    assert found.disagreements == ()


@pytest.mark.slow
def test_folds_whose_names_hold_commas_are_tested_again(
    tiny_model_config: ModelConfig, tmp_path: Path
) -> None:
    names = ("Bonn, Germany", "Paris, France")
    changes: dict[int, dict[str, Any]] = {
        n: {"labels": {"fold": names[(n // 2) % 2]}} for n in range(24)
    }
    shards = write_labelled_shards(tmp_path / "shards", changes=changes)
    run = train_tiny(tmp_path, shards, tiny_model_config, epochs=1)
    assert tuple(read_run(again(run, tmp_path / "all")).scores.folds) == names
    one = again(run / "fold-Paris__France", tmp_path / "one")
    assert tuple(read_run(one).scores.folds) == names[1:]


@pytest.mark.slow
def test_views_are_segments_times_crops_and_say_which_they_are(
    finished: Path, tmp_path: Path
) -> None:
    out = again(finished, tmp_path / "views", segments=3, crops="whole,mirrored,centre")
    found = read_run(out)
    crops = ("whole", "mirrored", "centre")
    names = [f"{segment}:{crop}" for segment in (1, 2, 3) for crop in crops]
    line = json.loads((out / "predictions.jsonl").read_text().splitlines()[0])
    assert line["view_names"] == names
    for item in found.predictions:
        assert item.probabilities == pytest.approx(np.mean(item.views, axis=0), rel=1e-5)
    text = (out / "report.md").read_text()
    assert "3 x 3 (whole, mirrored, centre)" in text
    assert f"hicmae evaluate {finished} --config config.yaml" in text


@pytest.mark.slow
def test_a_clip_that_several_segments_are_counts_once(finished: Path, tmp_path: Path) -> None:
    """25 frames hold ten different clips of 16."""
    plain = PerturbationConfig(swaps=0, snr_db=(), picture_sd=(), missing_shares=())
    ten, twenty = (
        read_run(again(finished, tmp_path / f"{segments}", segments=segments)).predictions
        for segments in (10, 20)
    )
    for one, other in zip(ten, twenty, strict=True):
        assert len(other.view_names) == len(other.views) == 10
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)
    assert read_run(tmp_path / "10").facts.notes == ()
    (note,) = read_run(tmp_path / "20").facts.notes
    assert note.startswith("24 of 24 samples hold fewer than 20 different clips")
    modalities(source=finished, out=tmp_path / "worth", segments=20, perturb=plain, **CPU)
    lines = map(json.loads, (tmp_path / "worth/predictions.jsonl").read_text().splitlines())
    for one, line in zip(ten, (x for x in lines if x["condition"] == "unspoiled"), strict=True):
        assert one.probabilities == pytest.approx(line["probabilities"], abs=1e-6)


@pytest.mark.slow
def test_the_selection_rule_stays_with_the_numbers(
    finished: Path, tested: Path, tmp_path: Path
) -> None:
    assert read_run(tested).facts.selection == "best-on-test"
    assert json.loads((tested / "scores.json").read_text())["selection"] == "best-on-test"
    report(runs=[finished, tested], out=tmp_path / "both.md")
    row = next(
        line for line in (tmp_path / "both.md").read_text().splitlines() if "| views |" in line
    )
    assert "(best-on-test)" in row


@pytest.mark.slow
def test_report_computes_all_metrics_again_from_the_file(tested: Path, tmp_path: Path) -> None:
    out = shutil.copytree(tested, tmp_path / "views")
    path = out / "predictions.jsonl"
    path.write_text(path.read_text().replace('"prediction": "low"', '"prediction": "high"'))
    report(runs=[out], out=tmp_path / "report.md")
    changed = read_run(out)
    assert changed.scores.pooled["uar"] == 0.5
    assert "the latter is shown" in (tmp_path / "report.md").read_text()


@pytest.mark.slow
def test_one_fold_or_its_checkpoint_alone_is_tested_on_its_own_side(
    finished: Path, shards: Path, tmp_path: Path
) -> None:
    whole = {item.key: item for item in read_run(finished).predictions if item.fold == "2"}
    alone = tmp_path / "alone"  # as somebody gets it who has not the run
    shutil.copytree(finished / "fold-2" / "checkpoints" / "last", alone)
    for number, (source, options) in enumerate(
        [
            (finished, {"folds": "2"}),
            (finished / "fold-2", {}),
            (finished / "fold-2" / "checkpoints" / "last", {}),
            (alone, {"shards": shards}),
        ]
    ):
        found = read_run(again(source, tmp_path / str(number), **options))
        assert {item.key for item in found.predictions} == set(whole)
        assert found.facts.selection == "best-on-test"
        for item in found.predictions:
            assert item.probabilities == pytest.approx(whole[item.key].probabilities, abs=1e-5)
    assert "batch | none" in (tmp_path / "3" / "report.md").read_text()
    with pytest.raises(ValueError, match="has no network of fold 1"):
        again(finished / "fold-2", tmp_path / "no", folds="1")
    with pytest.raises(ValueError, match="does not say which shards"):
        again(alone, tmp_path / "no")


@pytest.mark.slow
def test_real_values_come_back_in_their_units(
    shards: Path, tiny_model_config: ModelConfig, tmp_path: Path
) -> None:
    run = run_tiny(tmp_path, shards, tiny_model_config, VALUES, folds="1", epochs=1)
    found = read_run(again(run, tmp_path / "again"))
    for first, second in zip(read_run(run).predictions, found.predictions, strict=True):
        assert first.predicted == pytest.approx(second.predicted, abs=1e-5)


@pytest.mark.slow
def test_people_of_the_training_are_never_tested(
    finished: Path, shards: Path, tmp_path: Path
) -> None:
    """Fold 1 of these folds has the people whom the network of fold 1 trained on."""
    swapped = dataclasses.replace(
        BENCHMARK, folds=dataclasses.replace(BENCHMARK.folds, column="other")
    )
    moved = write_labelled_shards(
        tmp_path / "moved",
        changes={n: {"labels": {"other": 2 - (n // 2) % 4 % 2}} for n in range(24)},
    )
    with pytest.raises(ValueError, match=r"fold 1: speaker 's1', 's3' of the test side was in the"):
        again(
            finished,
            tmp_path / "leak",
            shards=moved,
            benchmark=save_benchmark(tmp_path, swapped),
        )
    assert not (tmp_path / "leak").exists()
    # The same people under the same folds, in shards that were built again, are fine.
    again(finished, tmp_path / "fine", shards=moved)


@pytest.mark.slow
def test_another_corpus_is_tested_whole_by_every_network_with_a_label_map(
    finished: Path, elsewhere: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = save_benchmark(tmp_path, OTHER)
    options = {"shards": elsewhere, "benchmark": benchmark}
    with pytest.raises(ValueError, match="say which are the same with --label_map"):
        again(finished, tmp_path / "no", **options)
    path = tmp_path / "map.yaml"
    names = {"trained_on": "tones", "tested_on": "whistles", "classes": {"low": "low"}}
    save_yaml(path, names)
    with pytest.raises(ValueError, match="high of tones is forgotten") as caught:
        again(finished, tmp_path / "no", label_map=str(path), **options)
    assert "high of whistles is forgotten" in str(caught.value)
    assert "\n" not in str(caught.value)
    names["classes"] = {"low": "low", "high": "high"}
    save_yaml(path, names | {"leave_out": ["none"]})
    out = again(finished, tmp_path / "cross", label_map=str(path), **options)
    plain = PerturbationConfig(swaps=0, snr_db=(), picture_sd=(), missing_shares=())
    worth = options | {"out": tmp_path / "worth", "label_map": str(path), "perturb": plain}
    modalities(source=finished, **(CPU | worth))
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("on all of whistles: 22 samples x") == 2
    assert "of 44 pairs" in (tmp_path / "worth" / "modalities.md").read_text()
    assert [folder.name for folder in runs_in(out)] == ["ensemble", "network-1", "network-2"]
    runs = {folder.name: read_run(folder) for folder in runs_in(out)}
    for run in runs.values():
        assert run.benchmark.classes == ("high", "low")
        assert (run.facts.trained_on, run.facts.benchmark) == ("tones", "whistles from tones")
        assert len(run.predictions) == 22
        assert run.facts.ignored == {"none": 2}
        assert run.facts.selection == "best-on-test"
        one = run.facts.network
        who = "all networks together" if one == "ensemble" else f"the network of fold {one}"
        told = (run.folder / "report.md").read_text()
        assert f"every sample is predicted once, by {who}." in told
        assert "side of each fold" not in told
    both = [
        {item.key: item.probabilities for item in runs[name].predictions}
        for name in ("network-1", "network-2")
    ]
    for item in runs["ensemble"].predictions:
        mean = np.mean([one[item.key] for one in both], axis=0)
        assert item.probabilities == pytest.approx(mean, rel=1e-5)
    summary = json.loads((out / "networks.json").read_text())
    scores = [runs[name].scores.pooled["uar"] for name in ("network-1", "network-2")]
    assert summary["mean"]["uar"] == pytest.approx(np.mean(scores))
    assert summary["sd"]["uar"] == pytest.approx(np.std(scores, ddof=1))
    text = (out / "networks.md").read_text()
    assert "leaves out none (2 samples) of 'whistles'" in text
    assert text.count("(best-on-test)") >= 12
    report(runs=[finished, out], out=tmp_path / "report.md")
    assert "whistles from tones" in (tmp_path / "report.md").read_text()


def test_networks_together_have_the_calibration_of_none() -> None:
    sure = Calibration(
        temperature=2, threshold=0.5, answered=0.9, num_samples=9, surprise=1, surprise_before=2
    )
    facts = FoldFacts(
        name="1",
        configuration_digest="",
        num_train=1,
        num_test=1,
        num_train_speakers=1,
        num_test_speakers=1,
        seconds=1.0,
        train_loss=1.0,
        layer_weights={},
        calibration=sure,
    )
    one = make_prediction(
        BENCHMARK, key="a", fold="1", speaker="s", true="low", views=np.array([[0.6, 0.4]])
    )
    together, _ = averaged_networks(BENCHMARK, [(facts, [one]), (facts, [one])])
    assert together.calibration is None


@pytest.mark.slow
def test_several_runs_are_evaluated_under_their_names(
    shards: Path,
    tiny_model_config: ModelConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sweep = run_tiny(tmp_path, shards, tiny_model_config, seeds="0,1", folds="1", epochs=1)
    (sweep / "seed-2" / ".fold-1.partial").mkdir(parents=True)
    (sweep / "seed-2" / "benchmark.yaml").touch()
    capsys.readouterr()
    out = again(sweep, tmp_path / "again", crops="whole,mirrored")
    assert "seed-2 is not finished and left out" in capsys.readouterr().out.replace("\n", " ")
    runs = [read_run(folder) for folder in runs_in(out)]
    assert [run.name for run in runs] == ["seed-0", "seed-1"]
    assert len({run.facts.experiment_digest for run in runs}) == 1
    assert len({run.facts.configuration_digest for run in runs}) == 2
    report(runs=[out], out=tmp_path / "report.md")
    assert "(2 seeds)" in (tmp_path / "report.md").read_text()


def test_an_evaluation_that_ends_before_it_is_a_run_leaves_nothing(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object) -> None:
        raise SystemExit(143)

    monkeypatch.setattr("finetune.testing.results.write_run", end)
    for _ in range(2):  # it would not be begun again where anything else is
        with pytest.raises(SystemExit):
            again(finished, tmp_path / "out")
    assert [*(tmp_path / "out").iterdir()] == []


def test_what_no_evaluation_wrote_is_not_deleted_with_one(
    finished: Path, tested: Path, tmp_path: Path
) -> None:
    shutil.copytree(tested, tmp_path / "all" / "first")
    (tmp_path / "all" / "notes.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"all: holds something else .*\(notes.txt\)"):
        again(finished, tmp_path / "all", overwrite=True)
    assert (tmp_path / "all" / "notes.txt").is_file()


@pytest.mark.slow
def test_what_cannot_be_evaluated_is_refused_in_one_line(
    finished: Path, tested: Path, shards: Path, tmp_path: Path
) -> None:
    evaluated = shutil.copytree(tested, tmp_path / "done")
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (evaluated, {}, "is an evaluation and holds no weights"),
        (tmp_path / "nowhere", {}, "no such run"),
        (shards, {}, "neither a finished fine-tuning run"),
        (finished, {"folds": "3"}, "has no network of fold 3"),
        (finished, {"crops": "whole,whole"}, "'whole' stands twice"),
        (finished, {"crops": "left,right"}, "'left' of a square face is the whole picture"),
        (finished, {"crops": "center"}, "did you mean 'centre'"),
        (finished, {"segments": 0}, "segments = 0"),
        (finished, {"label_map": "x.yaml"}, "name it with --benchmark"),
        (finished, {"benchmark": save_benchmark(tmp_path, VALUES)}, "is classification and"),
        (finished, {"out": evaluated}, "is not empty"),
        (finished, {"out": finished, "overwrite": True}, "something else than evaluations"),
    ]
    for source, options, said in cases:
        with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
            again(source, options.pop("out", tmp_path / "no"), **options)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "no").exists()
    place = evaluated.stat().st_ino
    again(finished, evaluated, segments=2, overwrite=True)
    assert evaluated.stat().st_ino == place  # the folder stays, which may be a mount or a link
    assert read_run(evaluated).facts.num_segments == 2
    light = shutil.copytree(finished, tmp_path / "light")
    shutil.rmtree(light / "fold-1" / "checkpoints")
    with pytest.raises(ValueError, match="holds no weights"):
        again(light, tmp_path / "no")
    (light / "fold-1" / "fold.json").unlink()
    with pytest.raises(ValueError, match="fold 1 has predictions and no fold"):
        again(light, tmp_path / "no")


@pytest.mark.slow
def test_two_processes_test_each_clip_once_and_give_the_predictions_of_one(
    finished: Path, tmp_path: Path
) -> None:
    one = again(finished, tmp_path / "one", segments=3, crops="whole,mirrored")
    words = ["evaluate", str(finished), "--out", str(tmp_path / "two"), *_OF_TWO.split()]
    torchrun = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "two"}
    started = [
        VerbProcess(words, {**os.environ, **torchrun, **place, "RANK": place["LOCAL_RANK"]})
        for place in places(2)
    ]
    try:
        said = [process.output.read().decode() for process in started]
        assert [process.wait() for process in started] == [0, 0], said
    finally:
        for process in started:
            process.kill()
    assert "".join(said).count("report:") == 1
    first, second = read_run(one), read_run(tmp_path / "two")
    assert first.scores.pooled == second.scores.pooled
    assert first.facts.configuration_digest == second.facts.configuration_digest
    for ours, theirs in zip(first.predictions, second.predictions, strict=True):
        assert ours.key == theirs.key
        assert np.array(ours.views) == pytest.approx(np.array(theirs.views), abs=1e-5)


def test_what_a_report_says_to_run_can_be_pasted(trained: Path) -> None:
    run = read_run(trained / "run")
    facts = dataclasses.replace(run.facts, evaluates="my runs/it's mine")
    section = _configuration(dataclasses.replace(run, facts=facts))
    assert section is not None
    words = shlex.split(str(section.parts[0]).split("`")[1])
    assert words[:4] == ["hicmae", "evaluate", "my runs/it's mine", "--config"]
