"""Whole pretraining runs on tiny shards: the run folder, resuming, and what is refused."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from hicmae import processes
from hicmae.checkpoints.checkpoint import load_checkpoint, load_encoder, load_weights
from hicmae.checkpoints.networks import preparation_of
from hicmae.config import load_yaml, to_dict
from hicmae.encoder import AudioVisualEncoder
from hicmae.files import only_writer
from hicmae.media.faces import FaceConfig
from hicmae.pretraining import HiCMAE
from hicmae.settings import AugmentConfig, ModelConfig, ObjectiveConfig
from pretrain import training
from pretrain.checkpoints import clear_leftovers, newest_checkpoint
from pretrain.guard import NonFiniteError, TooManyBadError
from pretrain.module import PretrainModule
from pretrain.settings import DataConfig, HardwareConfig, LogConfig, OptimizerConfig
from tests.support.pretrain_shards import (
    Train,
    assert_same_weights,
    moving_sample,
    moving_shards,
    rows_of,
)
from tests.support.shard_fixtures import rewrite_shard, write_shards
from tests.support.shared import another_writer


@pytest.fixture
def damaged(shards: Path, tmp_path: Path) -> Path:
    """A copy of the shards that the test may spoil."""
    return shutil.copytree(shards, tmp_path / "damaged")


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a clip of some steps (counted from 0) hold no finite number."""
    original = PretrainModule.on_after_batch_transfer

    def poison(name: str, clip: int, *steps: int, value: float) -> None:
        def spoiling(self: PretrainModule, batch: Any, dataloader_idx: int) -> Any:
            batch = original(self, batch, dataloader_idx)
            if self.global_step in steps:
                batch[name][clip] = value
            return batch

        monkeypatch.setattr(PretrainModule, "on_after_batch_transfer", spoiling)

    return poison


@pytest.mark.slow
def test_a_run_leaves_configuration_metrics_checkpoints_and_pictures(
    train: Train, tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    out = tmp_path / "run"
    log = LogConfig(log_every=2, checkpoint_every=2, keep=1, pictures_every=4, picture_clips=2)
    assert train(out, steps=5, log=log) == 0

    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert names == {
        ".lock",
        "config.yaml",
        "metrics.csv",
        "checkpoints/step-000005.ckpt",
        "checkpoints/step-000005.json",
        "checkpoints/last/config.json",
        "checkpoints/last/model.safetensors",
        "figures/reconstruction-000004.png",
        "figures/reconstruction-000005.png",
    }
    config = load_yaml(out / "config.yaml")
    assert config["model"] == to_dict(tiny_model_config)
    assert config["seed"] == 0
    rows = rows_of(out)
    assert [row["step"] for row in rows] == ["2", "4", "5"]
    assert [row["clips"] for row in rows] == ["8", "16", "20"]
    accuracies = {f"contrast_accuracy_layer{layer}" for layer in (1, 2)}
    for name in {*accuracies, "gradient_norm", "clips_per_second", "peak_memory_bytes"}:
        assert all(float(row[name]) >= 0 for row in rows), name
    total = [
        float(row["video"]) + float(row["audio"]) + 0.0025 * float(row["contrast"]) for row in rows
    ]
    assert [float(row["loss"]) for row in rows] == pytest.approx(total, rel=1e-5)
    assert all(0 <= float(row["data_wait_share"]) <= 1 for row in rows)
    # Warm-up of two steps: 0, then the peak; rows show the rate of their last step.
    assert float(rows[0]["learning_rate"]) == pytest.approx(3e-3)
    assert float(rows[2]["learning_rate"]) == pytest.approx(3e-3 * 0.25)  # cosine, 2 of 3
    picture = cv2.imread(str(out / "figures" / "reconstruction-000005.png"))
    assert picture.shape[1] > 1000
    assert picture.shape[0] > 500


def test_the_portable_checkpoint_loads_strictly_and_knows_its_size(
    finished: Path, tiny_model_config: ModelConfig
) -> None:
    checkpoint = load_checkpoint(finished)
    assert checkpoint.kind == "pretraining"
    assert checkpoint.model_config() == tiny_model_config
    assert checkpoint.config["objective"] == to_dict(ObjectiveConfig())
    assert checkpoint.config["pretraining"] == load_yaml(finished / "config.yaml")
    assert checkpoint.config["step"] == 4
    load_encoder(AudioVisualEncoder(tiny_model_config), checkpoint)
    load_weights(HiCMAE(tiny_model_config), checkpoint.tensors, where="test")
    saved = torch.load(finished / "checkpoints" / "step-000004.ckpt", weights_only=True)
    for name, tensor in checkpoint.tensors.items():
        assert torch.equal(saved["state_dict"][f"model.{name}"], tensor), name


def test_the_portable_checkpoint_says_how_the_images_of_its_shards_were_made(
    train: Train, tmp_path: Path
) -> None:
    build = {"faces": "cascade", "face_size": 48, "fps": 10.0, "face_margin": 0.05}
    shards = write_shards(tmp_path / "s", [moving_sample(n) for n in range(4)], config=build)
    train(tmp_path / "run", shards=shards, steps=1, optimizer=OptimizerConfig(warmup_steps=0))
    faces = FaceConfig(faces="cascade", face_size=48, fps=10.0, face_margin=0.05)
    assert preparation_of(load_checkpoint(tmp_path / "run")) == (faces, "")


@pytest.mark.slow
def test_the_loss_falls_when_the_same_clips_come_again_and_again(
    train: Train, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train(
        out,
        steps=40,
        log=LogConfig(log_every=5, pictures_every=0, progress=False),
        augment=AugmentConfig(),
        objective=ObjectiveConfig(video_mask_ratio=0.5, audio_mask_ratio=0.5),
    )
    rows = rows_of(out)
    first, last = (float(rows[index]["loss"]) for index in (0, -1))
    assert last < 0.8 * first
    assert float(rows[-1]["audio"]) < 0.8 * float(rows[0]["audio"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("accumulate", "workers"), [(3, 0), pytest.param(2, 2, marks=pytest.mark.slow)]
)
def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(
    train: Train,
    accumulate: int,
    workers: int,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From inside a pass over the data (of four batches), bit for bit, clip for clip."""
    taken: list[tuple[str, ...]] = []
    original = PretrainModule.on_after_batch_transfer

    def noting(self: PretrainModule, batch: Any, dataloader_idx: int) -> Any:
        taken.append(tuple(batch["keys"]))
        return original(self, batch, dataloader_idx)

    monkeypatch.setattr(PretrainModule, "on_after_batch_transfer", noting)
    log = LogConfig(log_every=1, checkpoint_every=3, keep=9, pictures_every=0, progress=False)
    data = DataConfig(shards=shards, batch_size=2, shuffle_shards=8)
    settings: dict[str, Any] = {"steps": 7, "accumulate": accumulate, "data": data, "log": log}
    settings |= {"augment": AugmentConfig.pretraining(), "workers": workers}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(whole, **settings)
    keys, taken[:] = list(taken), []
    shutil.copytree(whole, broken)
    # As after a crash in step 6: rows 4 and 5 are there, the last one cut, step 6 never saved.
    for step in (6, 7):
        (broken / "checkpoints" / f"step-{step:06d}.ckpt").unlink()
    lines = (broken / "metrics.csv").read_text().splitlines(keepends=True)
    (broken / "metrics.csv").write_text("".join(lines[:6]) + lines[6][:9])

    assert train(broken, resume=True, **settings) == 0

    assert taken == keys[3 * accumulate :]
    assert len(set(keys)) > 2, "passes differ, so that a wrong one would show"
    assert [row["step"] for row in rows_of(broken)] == [str(step) for step in range(1, 8)]
    for one, other in zip(rows_of(whole), rows_of(broken), strict=True):
        for name in ("loss", "gradient_norm", "learning_rate", "clips", "epoch"):
            assert one[name] == other[name], (one["step"], name)
    assert_same_weights(broken, whole)


@pytest.mark.slow
def test_fp16_scales_its_loss_on_a_cpu_too_and_resumes_with_its_scale(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scale that overflows at first and is halved until it does not."""
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=2.0**26))
    kinds: set[torch.dtype] = set()
    original = PretrainModule.training_step

    def noting(self: PretrainModule, *args: Any) -> Any:
        kinds.add(torch.get_autocast_dtype("cpu"))
        return original(self, *args)

    monkeypatch.setattr(PretrainModule, "training_step", noting)
    log = LogConfig(log_every=1, checkpoint_every=2, keep=9, pictures_every=0, progress=False)
    settings: dict[str, Any] = {"steps": 8, "log": log, "precision": "16-mixed"}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(whole, **settings)
    assert kinds == {torch.float16}
    shutil.copytree(whole, broken)
    for path in (broken / "checkpoints").glob("step-*.ckpt"):
        if path.stem > "step-000006":
            path.unlink()

    def scaler(out: Path, step: int) -> dict[str, Any]:
        path = out / "checkpoints" / f"step-{step:06d}.ckpt"
        state: dict[str, Any] = torch.load(path, weights_only=False)["MixedPrecision"]
        return state

    assert scaler(whole, 2)["scale"] < 2.0**26
    assert scaler(whole, 6)["_growth_tracker"] > 0, "steps were taken"
    assert train(broken, resume=True, **settings) == 0
    assert scaler(broken, 8) == scaler(whole, 8)
    assert_same_weights(broken, whole)


@pytest.mark.slow
def test_a_network_in_bf16_learns_as_in_fp32_and_goes_on_bit_for_bit(
    train: Train, tmp_path: Path
) -> None:
    log = LogConfig(log_every=1, checkpoint_every=2, health_every=2, pictures_every=4)
    half, whole = tmp_path / "half", tmp_path / "whole"
    for out, precision in ((half, "bf16-true"), (whole, "32-true")):
        assert train(out, steps=4, precision=precision, log=log) == 0
    for name in ("loss", "video", "audio", "gradient_norm"):
        found, expected = ([float(row[name]) for row in rows_of(out)] for out in (half, whole))
        assert found == pytest.approx(expected, rel=0.05), name
    tensors = load_checkpoint(half).tensors
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    broken = shutil.copytree(half, tmp_path / "broken")
    for suffix in ("ckpt", "json"):
        (broken / f"checkpoints/step-000004.{suffix}").unlink()
    assert train(broken, steps=4, precision="bf16-true", log=log, resume=True) == 0
    assert_same_weights(broken, half)


@pytest.mark.slow
def test_a_run_that_goes_on_in_smaller_batches_takes_whole_steps_of_them(
    train: Train, shards: Path, tmp_path: Path
) -> None:
    """After three batches, which is no multiple of the two that a step has then."""
    log = LogConfig(log_every=1, checkpoint_every=9, pictures_every=0, progress=False)
    for batch_size, steps in ((4, 3), (2, 5)):
        data = DataConfig(shards=shards, batch_size=batch_size)
        train(tmp_path, steps=steps, data=data, log=log, resume=True)
    assert [row["clips"] for row in rows_of(tmp_path)] == ["4", "8", "12", "16", "20"]


def test_resuming_a_finished_run_does_nothing_and_an_empty_folder_begins(
    train: Train, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a[v2]"  # no style of rich's
    assert train(out, steps=2, resume=True) == 0
    assert [row["step"] for row in rows_of(out)] == ["2"]
    shutil.rmtree(out)
    shutil.copytree(finished, out)
    before = (out / "metrics.csv").read_text()
    capsys.readouterr()
    assert train(out, resume=True) == 0
    assert f"{out}: already pretrained for 4 of 4 steps" in capsys.readouterr().out
    assert (out / "metrics.csv").read_text() == before


def test_the_portable_checkpoint_of_a_finished_run_is_written_again(
    train: Train, finished: Path, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last, hardware = copied / "checkpoints/last", HardwareConfig(timeout_seconds=700)
    shutil.rmtree(last)
    assert train(copied, resume=True, hardware=hardware) == 0  # which trained nothing of it
    assert f"{last}: was missing, written again from step-000004.ckpt" in capsys.readouterr().out
    assert_same_weights(copied, finished)
    configs = [load_checkpoint(run).config for run in (copied, finished)]
    assert configs[0] == configs[1]


def test_a_run_of_which_the_portable_checkpoint_alone_is_left_is_not_trained_over(
    train: Train, copied: Path
) -> None:
    for path in (copied / "checkpoints").glob("step-*"):
        path.unlink()
    before = (copied / "metrics.csv").read_text()
    with pytest.raises(ValueError, match=r"no step-….ckpt to go on from .*--overwrite"):
        train(copied, resume=True)
    assert (copied / "metrics.csv").read_text() == before
    # It was killed over its first checkpoint, and again before the next.
    (copied / "checkpoints/.step-000004.ckpt.1.part").touch()
    assert newest_checkpoint(copied) == (None, [])
    clear_leftovers(copied, newest=None)
    assert newest_checkpoint(copied) == (None, [])


def test_changed_settings_of_the_optimizer_count_when_resuming_and_are_said(
    train: Train, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    optimizer = OptimizerConfig(
        learning_rate=64e-5, min_learning_rate=64e-5, warmup_steps=2, fused=False
    )
    train(copied, steps=6, optimizer=optimizer, resume=True)
    whole = torch.load(copied / "checkpoints/step-000006.ckpt", weights_only=True)
    assert not any(group["fused"] for group in whole["optimizer_states"][0]["param_groups"])
    assert float(rows_of(copied)[-1]["learning_rate"]) == pytest.approx(1e-5)
    said = capsys.readouterr().out
    assert "resumed with optimizer.learning_rate = 0.00064, was 0.192" in said
    assert "resumed with optimizer.fused = False, was True" in said
    assert "resumed with steps = 6, was 4" in said


@pytest.mark.slow
def test_a_run_is_resumed_on_shards_that_were_rebuilt_in_place_not_without_a_word(
    train: Train, damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    train(out, shards=damaged, steps=2)
    shutil.rmtree(damaged)
    moving_shards(damaged, 8)
    train(out, shards=damaged, steps=3, resume=True)
    assert "other samples" not in capsys.readouterr().out, "the same were made again"
    shutil.rmtree(damaged)
    moving_shards(damaged, 8, silent=(5,))  # the same names, and other bytes
    data = DataConfig(shards=damaged, batch_size=4, shuffle_shards=2, on_bad="skip")
    train(out, data=data, steps=4, resume=True)
    said = capsys.readouterr().out
    assert "warning: resumed on other samples than step 3 was trained on (7 samples of 2" in said
    train(out, data=replace(data, shuffle_shards=0), steps=5, resume=True)
    assert "other samples" not in capsys.readouterr().out, "drawn otherwise, not others"


def test_a_folder_that_holds_a_run_is_neither_mixed_nor_lost(
    train: Train, copied: Path, tmp_path: Path
) -> None:
    (copied / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds a run already .*--resume .*--overwrite"):
        train(copied)
    assert train(copied, steps=3, overwrite=True) == 0
    assert [row["step"] for row in rows_of(copied)] == ["2", "3"]
    assert (copied / "notes.txt").read_text() == "mine"
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match="is a file"):
        train(file)


@pytest.mark.parametrize("how", ["resume", "overwrite"])
@pytest.mark.parametrize("name", ["index.json", "benchmark.yaml"])
def test_a_folder_of_something_else_is_left_alone(
    name: str, how: str, train: Train, tmp_path: Path
) -> None:
    """The scripts for SLURM resume always, and a word of --out is soon another's."""
    files = {name: "{}", "config.yaml": "seed: 1"}
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    for dry in (True, False):
        with pytest.raises(ValueError, match=r"holds (shards|a fine-tuning run); give another"):
            train(tmp_path, dry_run=dry, **{how: True})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


@pytest.mark.slow
def test_a_run_that_another_process_is_writing_is_left_alone(
    train: Train, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    ways = ("resume", "overwrite")
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    before.pop(copied / ".lock", None)
    with another_writer(copied) as other:
        for how in ways:
            with pytest.raises(ValueError, match="another process writes into it now"):
                train(copied, steps=6, **{how: True})
            found = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
            found.pop(copied / ".lock")
            assert found == before
        with monkeypatch.context() as requeued:
            requeued.setenv("SLURM_RESTART_COUNT", "1")
            only_writer(copied).close()  # what is held there is its own, of before
            requeued.setenv("SLURM_JOB_ID", "18")
            with pytest.raises(ValueError, match="another process writes into it now"):
                only_writer(copied)
        other.kill()  # its lock is gone with it
    for how in ways:
        assert train(copied, steps=6, **{how: True}) == 0


def test_a_checkpoint_that_was_saved_since_the_run_looked_is_not_set_aside(
    train: Train, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = training.prepare_folder
    newer = copied / "checkpoints" / "step-000099.ckpt"

    def late(out: Path, **how: bool) -> Any:
        newer.touch()
        return prepare(out, **how)

    monkeypatch.setattr(training, "prepare_folder", late)
    with pytest.raises(ValueError, match=r"another process has saved step-000099\.ckpt since"):
        train(copied, steps=6, resume=True)
    assert newer.exists()


def test_workers_beyond_all_cores_are_refused_before_anything_is_written(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_MOST_WORKERS", 2)
    monkeypatch.setattr(processes, "num_cores", lambda: 0)
    with pytest.raises(ValueError, match=r"workers = 3 \(at most 2 here"):
        train(tmp_path / "run", workers=3)
    assert not (tmp_path / "run").exists()


def test_another_network_cannot_be_resumed(
    train: Train, copied: Path, tiny_model_config: ModelConfig
) -> None:
    wider = replace(tiny_model_config, encoder_dim=64)
    with pytest.raises(ValueError, match=r"model\.encoder_dim was 32, now 64") as caught:
        train(copied, sizes=wider, steps=6, resume=True)
    assert "\n" not in str(caught.value)
    checkpoint = copied / "checkpoints" / "step-000004.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(
        ValueError, match=r"step-000004\.ckpt has 1000 bytes instead of \d+\), and so is"
    ):
        train(copied, steps=6, resume=True)


def test_samples_without_sound_are_named_or_counted(train: Train, tmp_path: Path) -> None:
    shards = moving_shards(tmp_path / "some-silent", silent=(2,))
    with pytest.raises(ValueError, match=r"sample 'id02/00002' has no sound \(1 of 8"):
        train(tmp_path / "run", shards=shards)
    assert not (tmp_path / "run").exists()
    data = DataConfig(shards=shards, batch_size=4, shuffle_shards=0, on_bad="skip")
    train(tmp_path / "run", data=data)
    last = rows_of(tmp_path / "run")[-1]
    # 16 clips of 7 usable samples: the silent one was met in two passes, perhaps in a third.
    assert int(last["skipped_no-sound"]) in (2, 3)
    assert last["skipped"] == last["skipped_no-sound"]


def test_a_truncated_shard_stops_the_run_by_name(
    train: Train, damaged: Path, tmp_path: Path
) -> None:
    file = damaged / "train-000001.tar"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    with pytest.raises(ValueError, match=r"train-000001\.tar: .*truncated") as caught:
        train(tmp_path / "run", shards=damaged)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": DataConfig(shards=Path("nowhere"))}, FileNotFoundError, "nowhere"),
        ({"model": "huge"}, ValueError, "no such size"),
        ({"steps": 1}, ValueError, "the warm-up takes 2 steps, the run 1"),
        ({"device": "cuda:0", "hardware": HardwareConfig(devices=2)}, ValueError, "device = cuda"),
        ({"precision": "half"}, ValueError, "'half' is unknown"),
        (
            {"objective": ObjectiveConfig(video_mask_ratio=0.1)},
            ValueError,
            "hides 0 of 4 tokens",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_before_a_folder_is_made(
    train: Train, changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as caught:
        train(tmp_path / "run", **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_before_the_weights_and_names_the_samples(
    train: Train, poisoned: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    poisoned("video", 1, 2, value=math.nan)
    weights: list[torch.Tensor] = []
    modules: list[PretrainModule] = []
    step = PretrainModule.training_step

    def noting(self: PretrainModule, *args: Any) -> Any:
        if self.global_step == 2:
            modules.append(self)
            weights.extend(parameter.detach().clone() for parameter in self.parameters())
        return step(self, *args)

    monkeypatch.setattr(PretrainModule, "training_step", noting)
    with pytest.raises(NonFiniteError, match=r"step 3: not finite .*video nan") as caught:
        train(out, max_skipped_steps=0, log=LogConfig(log_every=1, pictures_every=0))
    assert "\n" not in str(caught.value)
    report = json.loads((out / "nonfinite-step-000003-process-0.json").read_text())
    assert len(report["keys"]) == 4
    assert report["keys_of_broken_inputs"] == [report["keys"][1]]
    assert report["keys"][1] in str(caught.value)
    for before, now in zip(weights, modules[0].parameters(), strict=True):
        assert torch.equal(before, now)


@pytest.mark.slow
@pytest.mark.parametrize("fused", [True, False])
def test_steps_that_are_not_finite_are_left_out_up_to_a_budget(
    fused: bool,
    train: Train,
    poisoned: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two bad steps, one allowed: the second one stops the run, saved with its count."""
    out = tmp_path / "run"
    optimizer = OptimizerConfig(learning_rate=1e-2, warmup_steps=2, fused=fused)
    poisoned("fbank", 0, 1, 3, value=math.inf)
    with pytest.raises(NonFiniteError, match=r"step 4: .*max_skipped_steps = 1 allows; saved"):
        train(out, steps=6, max_skipped_steps=1, optimizer=optimizer)
    assert "step 2: not finite" in capsys.readouterr().out
    assert len(list(out.glob("nonfinite-step-00000[24]-process-0.json"))) == 2
    assert load_checkpoint(out).config["step"] == 4
    for name, tensor in load_checkpoint(out).tensors.items():
        assert torch.isfinite(tensor).all(), name
    saved = torch.load(out / "checkpoints" / "step-000004.ckpt", weights_only=True)
    steps = {int(state["step"]) for state in saved["optimizer_states"][0]["state"].values()}
    assert steps == {2}, "AdamW has taken two of four steps"
    assert train(out, steps=6, resume=True) == 0


def test_too_many_bad_samples_stop_the_run_by_cause(
    train: Train, damaged: Path, tmp_path: Path
) -> None:
    rewrite_shard(damaged / "train-000000.tar", {"id00/00000.mjpg": b"no picture"})
    data = DataConfig(shards=damaged, batch_size=4, shuffle_shards=0, on_bad="skip", max_bad=2)
    with pytest.raises(
        TooManyBadError, match=r"3 of \d+ samples .*\(\S+ 3\).*max_bad = 2"
    ) as caught:
        train(tmp_path / "run", shards=damaged, data=data, steps=50)
    assert "\n" not in str(caught.value)
    assert load_checkpoint(tmp_path / "run").config["step"] < 10


def test_sigterm_ends_the_run_after_a_step_and_saves_it(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def terminate() -> None:
        while not (out / "metrics.csv").exists():
            time.sleep(0.01)
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    assert train(out, steps=100_000) == 128 + signal.SIGTERM
    said = capsys.readouterr().out
    match = re.search(r"stopped by SIGTERM after step (\d+) of 100000.*--resume", said)
    assert match
    assert (out / "checkpoints" / f"step-{int(match[1]):06d}.ckpt").is_file()
    assert rows_of(out)[-1]["step"] == match[1]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.slow
def test_reader_processes_give_the_same_run_as_none(
    train: Train, finished: Path, tmp_path: Path
) -> None:
    train(tmp_path / "run", workers=1)
    for one, other in zip(rows_of(tmp_path / "run"), rows_of(finished), strict=True):
        assert one["loss"] == other["loss"]
