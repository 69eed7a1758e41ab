"""Fine-tuning end to end: what is written, what is refused, what is reused."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import inspect
import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
import yaml

from finetune.benchmark import Benchmark, Published
from finetune.commands import report
from finetune.data import target_moments
from finetune.folds import make_folds, usable_rows
from finetune.mixing import MixingConfig
from finetune.module import FinetuneModule
from finetune.predictions import read_predictions
from finetune.record import read_run, runs_in
from finetune.run import finetune
from finetune.settings import FinetuneConfig, OptimizerConfig, RecipeConfig, TrainerConfig
from hicmae.__main__ import main
from hicmae.checkpoints.checkpoint import load_checkpoint
from hicmae.config import from_dict, load_yaml, to_dict
from hicmae.emotion import EmotionConfig, EmotionModel
from hicmae.run_logging import WandbConfig
from hicmae.settings import AugmentConfig, ModelConfig
from hicmae.transforms import ClipTransform
from shards.index import read_index
from shards.reading.random_access import ShardDataset
from shards.sample import collate
from tests.support.finetune_fixtures import (
    BENCHMARK,
    VALUES,
    Train,
    all_notes,
    damage_pictures,
    labels_of,
    run_tiny,
    split_benchmark,
    train_tiny,
    write_labelled_shards,
)


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, shards: Path, tiny_model_config: ModelConfig
) -> Path:
    """A run of both folds, both modalities, from scratch."""
    return run_tiny(tmp_path_factory.mktemp("finished"), shards, tiny_model_config)


@pytest.mark.slow
def test_a_run_writes_all_that_is_promised_and_nothing_half(finished: Path) -> None:
    names = {path.relative_to(finished).as_posix() for path in finished.rglob("*")}
    expected = {"config.yaml", "benchmark.yaml", "predictions.jsonl", "scores.json", "report.md"}
    expected |= {"figures/confusion.png", "figures/layer_weights.png"}
    of_fold = ["metrics.csv", "predictions.jsonl", "fold.json"]
    of_fold += ["checkpoints/last/config.json", "checkpoints/last/model.safetensors"]
    assert expected | {f"fold-{fold}/{name}" for fold in (1, 2) for name in of_fold} <= names
    hidden = [name for name in names if "partial" in name or Path(name).name.startswith(".")]
    assert hidden == [".lock"]
    with (finished / "fold-1" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["loss_step"]) for row in rows if row["loss_step"]]
    assert len(losses) == 6  # 2 epochs of 12 samples in batches of 4
    assert np.isfinite(losses).all()


def test_the_settings_of_a_run_are_those_of_its_file_and_of_the_verb(finished: Path) -> None:
    written = load_yaml(finished / "config.yaml")
    names = [item.name for item in dataclasses.fields(FinetuneConfig)]
    assert list(written) == names
    config = from_dict(FinetuneConfig, written, "config.yaml")
    assert to_dict(config) == written
    assert (config.selection, config.out) == ("last", finished)
    control = ["seeds", "resume", "overwrite", "allow_seen"]
    assert sorted(inspect.signature(finetune).parameters) == sorted([*names, *control])


def test_every_sample_is_predicted_exactly_once_by_its_own_fold(finished: Path) -> None:
    predictions = read_predictions(finished / "predictions.jsonl", BENCHMARK)
    assert len(predictions) == 24
    for item in predictions:
        labels = labels_of(int(item.key.split("/")[1]))
        assert item.true == labels["emotion"]
        assert item.fold == str(labels["fold"])
        assert item.speaker == item.key.split("/")[0]
        assert len(item.views) == 2
        assert item.probabilities == pytest.approx(np.mean(item.views, axis=0), rel=1e-5)
        assert sum(item.probabilities) == pytest.approx(1, abs=1e-5)


def test_what_is_plain_is_learned_and_stored_scores_are_those_of_the_predictions(
    finished: Path,
) -> None:
    run = read_run(finished)
    stored = json.loads((finished / "scores.json").read_text())
    assert stored["pooled"]["uar"] > 0.9
    assert (stored["num_samples"], len(run.facts.configuration_digest)) == (24, 64)
    assert (run.facts.selection, run.facts.init) == ("last", "scratch")
    assert run.disagreements == ()
    assert stored["pooled"] == run.scores.pooled
    assert {name: stored["folds"][name]["uar"] for name in stored["folds"]} == {
        name: values["uar"] for name, values in run.scores.folds.items()
    }


def test_the_saved_network_gives_the_predictions_that_were_written(
    finished: Path, shards: Path
) -> None:
    """The checkpoint alone, through the readers and the network, not through this room."""
    checkpoint = load_checkpoint(finished / "fold-1")
    assert checkpoint.kind == "emotion"
    sizes = checkpoint.model_config()
    model = EmotionModel(sizes, from_dict(EmotionConfig, checkpoint.config["emotion"], "emotion"))
    model.load_state_dict(checkpoint.tensors)
    model.eval()
    dataset = ShardDataset(read_index(shards), input=sizes.input, views=2)
    transform = ClipTransform(sizes.input).eval()
    written = read_predictions(finished / "fold-1" / "predictions.jsonl", BENCHMARK)
    places = list(dataset.rows["key"])
    for item in written[:4]:
        batch = collate([dataset[2 * places.index(item.key) + view] for view in range(2)])
        with torch.no_grad():
            outputs = model(*transform(batch)).softmax(dim=1)
        assert outputs.numpy() == pytest.approx(np.array(item.views), abs=1e-5)


@pytest.mark.slow
def test_a_seed_gives_the_same_predictions_and_another_seed_others(
    finished: Path, train: Train
) -> None:
    # Alone, the second fold starts from the same seed as after the first.
    again = train(folds="2")
    kept = (finished / "fold-2" / "predictions.jsonl").read_text()
    assert (again / "fold-2" / "predictions.jsonl").read_text() == kept
    other = train(folds="2", seed=1, name="b")
    assert (other / "fold-2" / "predictions.jsonl").read_text() != kept


@pytest.mark.slow
@pytest.mark.usefixtures("drawn")
def test_real_values_are_learned_in_their_own_units(train: Train) -> None:
    for loss in ("ccc", "mse"):
        out = train(VALUES, recipe={"loss": loss}, name=loss, report=loss == "mse")
        run = read_run(out)
        assert run.scores.pooled["ccc_valence"] > 0.5
        assert set(run.scores.pooled) >= {"ccc", "pcc", "ccc_arousal", "pcc_valence"}
        for item in run.predictions:
            labels = labels_of(int(item.key.split("/")[1]))
            assert item.true == pytest.approx((labels["valence"], labels["arousal"]))
            assert item.predicted == pytest.approx(np.mean(item.views, axis=0), abs=1e-5)
    assert (out / "figures" / "predicted_against_true.png").stat().st_size > 5000
    stored = load_checkpoint(out / "fold-1").config["targets"]
    training = [item.true for item in run.predictions if item.fold == "2"]
    assert stored["names"] == ["valence", "arousal"]
    assert stored["mean"] == pytest.approx(np.mean(training, axis=0), rel=1e-5)
    assert stored["std"] == pytest.approx(np.std(training, axis=0), rel=1e-5)


def test_targets_are_standardised_over_the_training_side_alone(shards: Path) -> None:
    rows, _ = usable_rows(VALUES, read_index(shards).table)
    fold = make_folds(VALUES, rows)[0]
    mean, std, notes = target_moments(VALUES, fold.train)
    assert mean == pytest.approx(fold.train[["valence", "arousal"]].mean().to_numpy())
    assert std == pytest.approx(fold.train[["valence", "arousal"]].std(ddof=0).to_numpy())
    assert notes == []
    mean, std, notes = target_moments(VALUES, fold.train.assign(arousal=0.25))
    assert (mean[1], std[1]) == (0.25, 1.0)
    assert notes == [
        "arousal is the same in every training sample, so nothing was learned about it"
    ]


@pytest.mark.parametrize("modalities", ["video", "audio"])
def test_a_single_modality_is_enough_and_alone_is_read(modalities: str, train: Train) -> None:
    out = train(modalities=modalities, folds="1")
    run = read_run(out)
    assert run.facts.modalities == modalities
    assert set(run.folds[0].layer_weights) == {modalities}
    assert run.scores.pooled["uar"] > 0.6


def test_a_silent_sample_is_refused_by_name_where_sound_is_needed(
    tmp_path: Path, train: Train
) -> None:
    mute = write_labelled_shards(tmp_path / "mute", mute=3)
    with pytest.raises(ValueError, match=r"sample 's1/003' has no sound \(1 of 24 samples\)"):
        train(on=mute, modalities="audio")
    assert not (tmp_path / "run").exists()
    train(on=mute, modalities="video", folds="1")


def test_a_checkpoint_of_another_size_is_refused_with_the_differences(
    shards: Path, pretrained: Path, tiny_model_config: ModelConfig, tmp_path: Path, train: Train
) -> None:
    wider = dataclasses.replace(tiny_model_config, encoder_dim=64)
    with pytest.raises(ValueError, match="encoder_dim 32 there, 64 here") as caught:
        train_tiny(tmp_path, shards, wider, checkpoint=pretrained)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="neither --checkpoint nor --model"):
        train(model=None)
    assert not (tmp_path / "run").exists()


def test_a_wrong_mode_of_wandb_leaves_no_folder_behind(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disable")
    with pytest.raises(ValueError, match="WANDB_MODE = disable in the environment"):
        train(wandb=WandbConfig())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "benchmark", "said"),
    [
        ({5: {"speaker": "s1"}}, BENCHMARK, "speaker 's1' is on both sides"),
        ({5: {"speaker": None}}, BENCHMARK, "sample 's2/005' has no speaker"),
        ({5: {"labels": {"emotion": "odd"}}}, BENCHMARK, "'s2/005': emotion 'odd' is no class"),
        ({5: {"labels": {"valence": "odd"}}}, VALUES, "'s2/005': valence = 'odd' is no finite"),
        ({23: {"fps": 10.0}}, BENCHMARK, "'s3/023' has 10 frames a second, the model takes 25"),
    ],
)
def test_an_unfit_collection_is_refused_before_anything_is_written(
    change: dict[int, dict[str, object]],
    benchmark: Benchmark,
    said: str,
    tmp_path: Path,
    train: Train,
) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        train(benchmark, changes=change)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_finished_folds_are_kept_on_resume_and_only_with_the_same_configuration(
    train: Train,
) -> None:
    out = train(folds="1")
    assert "trained for fold '2' of 'tones', so these numbers are not" in all_notes(read_run(out))
    (out / ".fold-2.partial").mkdir()  # as a killed run leaves it
    (out / ".fold-2.partial" / "metrics.csv").write_text("half")
    with pytest.raises(ValueError, match="is not empty; finish the run there with --resume"):
        train()
    with pytest.raises(ValueError, match=r"fold-1: was trained with .* \(seed was 0, now 3\)"):
        train(resume=True, seed=3, workers=1)
    with pytest.raises(ValueError, match="fold-1: was trained with another configuration"):
        train(resume=True, seed=3, folds="2")
    first = (out / "fold-1" / "fold.json").stat().st_mtime_ns
    train(resume=True, folds="2")  # and the first one stays in the scores
    assert (out / "fold-1" / "fold.json").stat().st_mtime_ns == first
    assert not (out / ".fold-2.partial").exists()
    assert list(read_run(out).scores.folds) == ["1", "2"]
    assert "no network was trained" not in all_notes(read_run(out))
    train(overwrite=True, folds="2", seed=3)
    assert list(read_run(out).scores.folds) == ["2"]
    assert not (out / "fold-1").exists()


@pytest.mark.slow
def test_words_about_a_benchmark_and_numbers_of_others_do_not_make_another_run(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Published(method="theirs", scores={"uar": 0.5}, source="a paper")
    other = dataclasses.replace(BENCHMARK, title="Mended", published=(told,), licence="free")
    with monkeypatch.context() as early:  # as the first versions counted
        early.setattr(Benchmark, "wordless", property(lambda benchmark: benchmark))
        out = train(once=True)
    before = (out / "fold-1" / "fold.json").read_bytes()
    train(once=True, resume=True)  # which keeps the fold of an early version
    with pytest.raises(ValueError, match="fold-1: was trained with another configuration"):
        train(dataclasses.replace(BENCHMARK, classes=("high", "low")), once=True, resume=True)
    assert (out / "fold-1" / "fold.json").read_bytes() == before
    shutil.rmtree(out)
    train(once=True)
    before = (out / "fold-1" / "fold.json").read_bytes()
    train(other, once=True, resume=True)
    assert (out / "fold-1" / "fold.json").read_bytes() == before
    assert read_run(out).benchmark == other


@pytest.mark.slow
def test_a_run_without_a_report_has_it_drawn_later(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    shards: Path,
    tiny_model_config: ModelConfig,
) -> None:
    def train(**options: Any) -> Path:
        quiet = TrainerConfig(progress=False, **options)
        sides = {"epochs": 1, "folds": "1", "resume": True, "trainer": quiet}
        return run_tiny(tmp_path, shards, tiny_model_config, BENCHMARK, **sides)

    out = train(report=False)
    assert f"to have one: hicmae report {out}\n" in capsys.readouterr().out.replace("\n ", " ")
    assert not (out / "report.md").exists()
    assert not (out / "figures").exists()
    train()
    assert "(kept, epoch 1)" in capsys.readouterr().out
    assert "## Measured" in (out / "report.md").read_text()


@pytest.mark.slow
def test_several_modalities_are_a_run_each_and_resume_where_they_were(
    tmp_path: Path, train: Train
) -> None:
    both = {"modalities": "video,audio", "folds": "1"}
    out = train(**both)
    runs = {folder.name: read_run(folder) for folder in runs_in(out)}
    assert {name: run.facts.modalities for name, run in runs.items()} == {
        "audio": "audio",
        "video": "video",
    }
    alone = train(name="alone", modalities="audio", folds="1")
    assert runs["audio"].predictions == read_run(alone).predictions
    shutil.rmtree(out / "audio" / "fold-1")
    kept = (out / "video" / "fold-1" / "fold.json").stat().st_mtime_ns
    train(modalities="video,audio", folds="1", resume=True)
    assert (out / "video" / "fold-1" / "fold.json").stat().st_mtime_ns == kept
    assert read_run(out / "audio").predictions == runs["audio"].predictions
    with pytest.raises(ValueError, match="holds a run; name another folder"):
        train(out=alone, modalities="video,audio")
    for wrong in ("video,", "video,video", "sound"):
        with pytest.raises(ValueError, match="several separated by commas"):
            train(name="no", modalities=wrong)
    assert not (tmp_path / "no").exists()


def test_a_fold_that_has_lost_predictions_is_refused_and_a_run_says_so(train: Train) -> None:
    out = train(once=True)
    whole = (out / "predictions.jsonl").read_text()
    (out / "predictions.jsonl").write_text("".join(whole.splitlines(keepends=True)[:5]))
    (said,) = [note for note in read_run(out).disagreements if "of 12 samples" in note]
    assert said.startswith("scores.json is of 12 samples or recordings and predictions.jsonl of 5")
    (out / "fold-1/predictions.jsonl").write_text((out / "predictions.jsonl").read_text())
    said = r"fold-1/predictions.jsonl: damaged .predictions of 5 samples, and the fold tested 12"
    with pytest.raises(ValueError, match=said):
        train(once=True, resume=True)


@pytest.mark.parametrize("name", ["predictions.jsonl", "config.yaml", "sections/notes.md"])
def test_a_file_of_a_run_that_is_no_text_is_named(
    name: str, finished: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(finished, tmp_path / "run")
    (out / name).parent.mkdir(exist_ok=True)
    for damage in (b"\xff", b"\0")[: 2 if name == "config.yaml" else 1]:
        (out / name).write_bytes(damage)
        with pytest.raises(ValueError, match=rf"{name}: not (a text|valid YAML)"):
            report(runs=[out], out=out.parent / "report.md")


def test_a_fold_that_was_finished_since_the_run_looked_is_not_left_out(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([[], ["2"]])
    monkeypatch.setattr("finetune.plan.finished_folds", lambda plan: next(found))
    with pytest.raises(ValueError, match="another process has finished fold 2 since"):
        train(folds="1", resume=True)


def test_overwriting_spares_what_is_no_run(tmp_path: Path, train: Train) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for said in ("holds no fine-tuning run", r"holds thesis\.txt beside a fine-tuning run"):
        with pytest.raises(ValueError, match=said):
            train(name="mine", overwrite=True)
        assert (tmp_path / "mine" / "thesis.txt").is_file()
        (tmp_path / "mine" / "config.yaml").touch()


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
@pytest.mark.parametrize(
    ("name", "what"), [("checkpoints", "a pretraining run"), ("index.json", "shards")]
)
def test_a_pretraining_run_or_shards_are_neither_deleted_nor_written_into(
    name: str, what: str, options: dict[str, bool], tmp_path: Path, train: Train
) -> None:
    (tmp_path / "other" / name).mkdir(parents=True)
    (tmp_path / "other" / "config.yaml").write_text("seed: 1")
    with pytest.raises(ValueError, match=f"other: holds {what}; name another"):
        train(name="other", **options)
    assert (tmp_path / "other" / "config.yaml").read_text() == "seed: 1"


def test_a_run_is_not_deleted_with_what_the_next_one_reads(
    tmp_path: Path, shards: Path, train: Train
) -> None:
    inside = shutil.copytree(shards, tmp_path / "run" / "shards")
    (tmp_path / "run" / "config.yaml").touch()
    with pytest.raises(ValueError, match=r"/run: holds .*/run/shards, which this run reads"):
        train(on=inside, overwrite=True)
    assert (inside / "index.parquet").is_file()


def test_a_training_that_fails_leaves_no_half_fold(tmp_path: Path, train: Train) -> None:
    with pytest.raises(ValueError, match=r"lower optimizer\.learning_rate"):
        train(optimizer=OptimizerConfig(learning_rate=1e30, warmup_epochs=0))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        ".lock",
        "benchmark.yaml",
        "config.yaml",
    ]


@pytest.mark.slow
def test_a_fixed_split_mixing_and_one_segment_work_together(train: Train) -> None:
    out = train(
        split_benchmark(column="fold", test=(2,)),
        recipe=RecipeConfig(batch_size=5, num_segments=1, frame_stride=2),
        mixing=MixingConfig(audio=True),
        accumulate=2,
        trainer=TrainerConfig(progress=False),
        workers=1,
    )
    run = read_run(out)
    assert list(run.scores.folds) == ["split"]
    assert {len(item.views) for item in run.predictions} == {1}
    assert run.facts.batch_size == 10
    assert load_checkpoint(out / "fold-split").model_config().input.frame_stride == 2


@pytest.mark.slow
def test_batches_that_are_accumulated_are_those_of_one_large_batch(
    monkeypatch: pytest.MonkeyPatch, train: Train
) -> None:
    """Of 12 clips, a step takes the same 8 however they are divided; of 16, all twelve."""
    steps: list[dict[str, torch.Tensor]] = []

    def note(module: FinetuneModule, *_: Any) -> None:
        found = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
        steps.append(found)

    monkeypatch.setattr(FinetuneModule, "on_before_optimizer_step", note)
    for size, count in ((8, 1), (4, 2), (2, 4), (12, 1), (4, 4)):
        out = train(
            name=f"{size}-{count}",
            once=True,
            recipe={"batch_size": size},
            accumulate=count,
            mixing=MixingConfig(mixup=0, cutmix=0),
            augment=AugmentConfig(),
        )
        said = "a step took 12 of 12 clips; the learning rate is that of 16 ("
        assert (said in all_notes(read_run(out))) == (size * count == 16)
    assert len(steps) == 5
    for one, other in ((0, 1), (0, 2), (3, 4)):
        for name, gradient in steps[one].items():
            torch.testing.assert_close(steps[other][name], gradient, atol=1e-6, rtol=1e-3, msg=name)


@pytest.mark.slow
def test_every_fold_is_an_offline_run_of_one_group(
    capfd: pytest.CaptureFixture[str], train: Train
) -> None:
    out = train(epochs=1, wandb=WandbConfig(mode="offline"))
    assert "wandb:" not in "".join(capfd.readouterr())
    files = sorted((out / "wandb").glob("fold-*/wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2
    contents = [file.read_bytes() for file in files]
    for fold in ("1", "2"):
        assert sum(f"run-fold-{fold}".encode() in content for content in contents) == 1
    assert all(b"loss_step" in content for content in contents)


@pytest.mark.slow
def test_under_an_agent_of_a_sweep_all_folds_are_one_run_that_ends_with_the_pooled_score(
    monkeypatch: pytest.MonkeyPatch, train: Train
) -> None:
    """With W&B's own steps counted by itself: those of a second fold would go backward."""
    run = MagicMock(summary={})
    begun = MagicMock(return_value=run)
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "trial7")
    monkeypatch.setattr("wandb.init", begun)
    out = train(epochs=1, wandb=WandbConfig(mode="offline"), seeds="1,2")
    assert begun.call_count == run.finish.call_count == 1
    assert (out / "wandb" / "run-id.txt").read_text() == "trial7\n"
    rows = [call.args[0] for call in run.log.call_args_list]
    assert {call.kwargs["step"] for call in run.log.call_args_list} == {None}
    parts = [f"seed-{seed}/fold-{fold}/" for seed in (1, 2) for fold in (1, 2)]
    for part in parts:
        assert [row[f"{part}step"] for row in rows if f"{part}loss_step" in row] == [0, 1, 2]
    found = [read_run(out / f"seed-{seed}").scores for seed in (1, 2)]
    one = [row["seed-1/uar"] for row in rows if "seed-1/uar" in row]
    assert one == pytest.approx([found[0].folds["1"]["uar"], found[0].pooled["uar"]])
    assert run.summary["seed-2/fold-2/uar"] == pytest.approx(found[1].folds["2"]["uar"])
    assert rows[-1]["uar"] == pytest.approx(np.mean([each.pooled["uar"] for each in found]))


@pytest.mark.parametrize(
    ("name", "several", "wanted"),
    [
        (None, {}, "run-fold-1"),
        ("mine", {}, "mine-fold-1"),
        (None, {"seeds": "3"}, "run-seed-3-fold-1"),
        (None, {"modalities": "video,audio", "name": "video"}, "video-video-fold-1"),
        ("mine", {"seeds": "3", "modalities": "video,audio"}, "mine-video-seed-3-fold-1"),
    ],
)
def test_no_two_runs_of_wandb_have_the_same_name(
    monkeypatch: pytest.MonkeyPatch,
    train: Train,
    name: str | None,
    several: dict[str, str],
    wanted: str,
) -> None:
    seen: list[str] = []

    def begin(*_: Any, name: str, settings: Any, **__: Any) -> None:
        seen.append(name)
        raise ValueError("enough")

    monkeypatch.setattr("wandb.init", begin)
    with pytest.raises(ValueError, match="enough"):
        train(wandb=WandbConfig(mode="offline", name=name), **several)
    assert seen == [wanted]


def test_a_config_that_names_a_project_keeps_the_mode_of_the_verb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "project.yaml").write_text("wandb:\n  project: faces\n")
    words = ["finetune", "--config", str(tmp_path / "project.yaml"), "--benchmark", "synthetic"]
    words += ["--shards", "shards", "--out", "run", "--print_config"]
    with contextlib.suppress(SystemExit):
        main(words)
    wandb = yaml.safe_load(capsys.readouterr().out)["wandb"]
    assert (wandb["mode"], wandb["project"]) == (None, "faces")


@pytest.mark.slow
def test_a_batch_whose_clips_are_all_damaged_is_left_out_and_the_next_one_comes(
    tmp_path: Path, shards: Path, train: Train
) -> None:
    broken = shutil.copytree(shards, tmp_path / "broken")
    table = read_index(broken).table
    training = table[table["fold"] == 2]
    chosen = {
        "folds": "1",
        "recipe": RecipeConfig(batch_size=2, drop_path=0.0),
        "trainer": TrainerConfig(progress=False, log_every=1, on_bad="skip"),
    }
    for rows, skipped in ((training.iloc[:11], 22), (training, 0)):
        damage_pictures(broken, rows)
        if skipped:  # six batches an epoch, of which one has a clip
            run = read_run(train(on=broken, name="some", **chosen))
            assert f"{skipped} training clips skipped (bad-digest)" in all_notes(run)
            assert run.folds[0].train_loss is not None
    with pytest.raises(ValueError, match=r"every training clip of epoch 1 .*bad-digest: 12"):
        train(on=broken, name="none", **chosen)
