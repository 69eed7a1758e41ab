"""Recipes turned into counts, settings that are refused, and what the dry run says of a run."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hicmae import processes
from hicmae.config import choose_model, load_model_config, to_dict
from hicmae.pretraining import HiCMAE
from hicmae.run_logging import WandbConfig
from hicmae.settings import ModelConfig
from pretrain.plan import _bytes_on_disk, _held_bytes, make_plan
from pretrain.settings import (
    Counts,
    DataConfig,
    HardwareConfig,
    LogConfig,
    OptimizerConfig,
    PretrainConfig,
    count_steps,
)
from shards.reading.remote import CacheConfig
from tests.support.pretrain_shards import Train


def make_config(model: ModelConfig | None = None, **changes: Any) -> PretrainConfig:
    arguments: dict[str, Any] = {"data": DataConfig(shards="shards"), "out": Path("run")}
    return PretrainConfig(model=model or load_model_config("tiny"), **(arguments | changes))


def counts(
    num_clips: int = 1000, *, batch_size: int = 8, world_size: int = 1, **changes: Any
) -> Counts:
    data = DataConfig(shards="shards", batch_size=batch_size)
    config = make_config(data=data, **({"epochs": 10.0} | changes))
    return count_steps(config, num_clips=num_clips, world_size=world_size)


def test_the_published_recipe_has_its_published_counts() -> None:
    found = counts(1_091_581, batch_size=40, world_size=4, epochs=100.0)
    assert (found.global_batch, found.steps_per_epoch) == (160, 6822)
    assert (found.num_steps, found.warmup_steps) == (682_200, 5 * 6822)


def test_epochs_become_steps_of_the_global_batch() -> None:
    found = counts(accumulate=3, world_size=2)
    assert (found.global_batch, found.steps_per_epoch) == (48, 20)
    assert (found.num_steps, found.warmup_steps) == (200, 100)
    assert counts(epochs=0.5, optimizer=OptimizerConfig(warmup_epochs=0)).num_steps == 62
    assert counts(steps=70, optimizer=OptimizerConfig(warmup_steps=7)).num_steps == 70
    assert counts(8, steps=9, optimizer=OptimizerConfig(warmup_steps=0)).steps_per_epoch == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0, "workers": -1}, r"steps = 0 \(must be 1 or more\)|workers = -1"),
        ({"accumulate": 0}, "pretrain: accumulate = 0"),
        ({"max_skipped_steps": -1}, r"max_skipped_steps = -1 \(must be 0 or more\)"),
        ({"epochs": -1.0}, "epochs = -1"),
        (
            {"num_clips": 15, "world_size": 2},
            r"step takes 16 clips \(2 processes x data.batch_size = 8 x .*, and there are 15: some",
        ),
        ({"epochs": math.inf}, r"epochs = inf \(must be positive and finite\)"),
        ({"seed": 2**64}, r"seed = 18446744073709551616 \(must lie in 0..2\^64 - 1\)"),
        ({"epochs": 4.0}, "warmup_epochs: the warm-up takes 625 steps, the run 500"),
        (
            {"steps": 5, "optimizer": OptimizerConfig(warmup_steps=6)},
            "warmup_steps: the warm-up takes 6 steps, the run 5",
        ),
    ],
)
def test_impossible_plans_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        counts(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hardware": HardwareConfig(strategy="zero1"), "precision": "16-mixed"},
            "precision = 16-mixed with ZeRO 1 on a CPU: .* take bf16-mixed, or",
        ),
        (
            {"hardware": HardwareConfig(strategy="zero3_offload", compile=True)},
            "hardware.compile = true with ZeRO 3: .* take zero1 or zero2, or",
        ),
        (
            {"hardware": HardwareConfig(strategy="zero3", cuda_graphs=True)},
            "hardware.cuda_graphs = true with ZeRO 3: .*, or hardware.cuda_graphs false",
        ),
        (
            {"hardware": HardwareConfig(compile=True, cuda_graphs=True), "accumulate": 2},
            "hardware.cuda_graphs = true with .* and accumulate = 2: .* take accumulate 1, or",
        ),
        (
            {"hardware": HardwareConfig(bf16_residual=True), "precision": "32-true"},
            "hardware.bf16_residual = true with precision = 32-true: is for bf16-mixed",
        ),
    ],
)
def test_an_engine_that_cannot_do_it_is_refused_before_anything_is_made(
    changes: dict[str, Any], message: str, shards: Path, tiny_model_config: ModelConfig
) -> None:
    config = make_config(
        tiny_model_config,
        **{"data": DataConfig(shards=shards, batch_size=4), "device": "cpu", **changes},
    )
    with pytest.raises(ValueError, match=message) as caught:
        make_plan(config, resume=False)
    assert "\n" not in str(caught.value)


def test_a_wrong_mode_of_wandb_leaves_no_folder_behind(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disable")
    with pytest.raises(ValueError, match="WANDB_MODE = disable in the environment"):
        train(tmp_path / "run", wandb=WandbConfig())
    assert not (tmp_path / "run").exists()


def test_what_is_settled_goes_together(shards: Path, tiny_model_config: ModelConfig) -> None:
    config = make_config(
        tiny_model_config,
        data=DataConfig(shards=shards, batch_size=4),
        out=shards / "run",
        optimizer=OptimizerConfig(warmup_steps=1),
        steps=7,
        device="cpu",
        hardware=HardwareConfig(devices=2),
    )
    found = make_plan(config, resume=False)
    assert found.counts.global_batch == 8
    assert found.engine.stage == 1, "several processes: ZeRO 1"
    assert found.is_first
    assert found.sections["pretraining"] == to_dict(config)
    assert to_dict(config)["model"] == to_dict(tiny_model_config)
    assert list(found.notes()) == []
    assert not (shards / "run").exists(), "nothing is written"


def test_readers_of_the_long_run_need_the_shared_memory_that_the_plan_says(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight processes with 11 readers; five batches each, of 128 clips of 16 frames and sound."""
    config = make_config(
        load_model_config("base"),
        data=DataConfig(shards=shards, batch_size=1),
        workers=11,
        hardware=HardwareConfig(devices=8),
        optimizer=OptimizerConfig(warmup_steps=0),
        device="cpu",
    )
    plan = make_plan(config, resume=False)
    larger = replace(plan, config=replace(config, data=DataConfig(shards=shards, batch_size=128)))
    clip = 16 * 160 * 160 * 3 + 2 * config.model.input.clip_samples
    assert larger.reader_bytes == 8 * 11 * 5 * 128 * clip
    assert 73e9 < larger.reader_bytes < 75e9
    three = replace(plan, config=replace(config, accumulate=3))  # two more, read ahead of a step
    assert three.reader_bytes == 8 * (11 * 5 + 2) * clip
    monkeypatch.setattr("pretrain.plan._shared_memory", lambda: larger.reader_bytes - 1)
    assert "readers fill up to 68." in larger.lack()
    assert "remount" in larger.lack()
    assert plan.lack() == ""
    monkeypatch.setattr("pretrain.plan._shared_memory", lambda: None)  # not Linux
    assert larger.lack() == ""


def test_a_gpu_that_cannot_be_used_is_not_silently_a_cpu(
    shards: Path, tiny_model_config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever pretrains on a machine with GPUs wants them, also where device is auto."""
    problem = "V100 has compute capability 7.0, and torch is built for sm_75; install another"
    for module in ("hicmae.devices", "pretrain.plan"):
        monkeypatch.setattr(f"{module}.cuda_problem", lambda *_: problem)
    config = make_config(
        tiny_model_config, data=DataConfig(shards=shards, batch_size=4), epochs=900.0
    )
    for device in ("auto", "cuda"):
        with pytest.raises(ValueError, match=f"device = {device}: V100 has compute capability"):
            make_plan(replace(config, device=device), resume=False)
    assert make_plan(replace(config, device="cpu"), resume=False).device.type == "cpu"


def test_a_size_is_a_name_a_file_or_changes_to_one(tmp_path: Path) -> None:
    tiny = load_model_config("tiny")
    assert choose_model("tiny") == tiny
    assert choose_model({"size": "tiny"}) == tiny
    assert choose_model({"size": "tiny", "fusion_depth": 1}) == replace(tiny, fusion_depth=1)
    # The command line leaves what is nested deeper as text.
    changed = choose_model({"size": "tiny", "input": {"image_size": "96", "pad": "silence"}})
    expected = replace(tiny.input, image_size=96, pad="silence")
    assert changed == replace(tiny, input=expected)
    # A run's config.yaml gives every size.
    assert choose_model(to_dict(changed)) == changed


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("huge", "no such size"),
        ({"fusion_depth": 1}, "fusion_depth given, but not what to start from"),
        ({"size": "tiny", "fusion_dept": 1}, "did you mean 'fusion_depth'"),
        ({"size": "tiny", "encoder_dim": 255}, "encoder_dim = 255"),
        ({"size": "tiny", "input": {"fps": "fast"}}, "input.fps = 'fast'"),
    ],
)
def test_a_size_that_is_none_is_refused(model: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        choose_model(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: DataConfig(shards=(), batch_size=0), ["shards is empty", "batch_size = 0"]),
        (lambda: DataConfig(shards=("a", "b", "a/")), ["shards names a twice (weights draw more"]),
        (
            lambda: OptimizerConfig(learning_rate=0.0, betas=(0.9, 1.0), clip_norm=0.0),
            ["learning_rate = 0", "min_learning_rate = 1e-05", "betas", "clip_norm = 0"],
        ),
        (lambda: HardwareConfig(devices=0, num_nodes=0), ["num_nodes = 0", "devices = 0"]),
        (lambda: LogConfig(log_every=0, pictures_every=-1), ["log_every = 0", "pictures_every"]),
    ],
)
def test_settings_say_all_their_problems_at_once(make: Any, parts: list[str]) -> None:
    with pytest.raises(ValueError, match=": ") as caught:
        make()
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.slow
def test_the_plan_has_counts_tokens_memory_operations_and_hours(
    train: Train,
    shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    out = tmp_path / "runs" / "run"
    settings: dict[str, Any] = {
        "steps": 3600,
        "hardware": HardwareConfig(devices=2, strategy="zero2"),
        "dry_run": True,
    }
    assert train(out, clips_per_second=4.0, **settings) == 0
    said = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [], "nothing is written"
    assert "8 clips a step (4 x 1 accumulated x 2 processes), 1 steps an epoch" in said
    assert "speakers: 5.0 different in a batch of 8 (5.0 in a permutation's)" in said
    assert "steps: 3600 (3600.0 epochs, 28800 clips), warm-up 2" in said
    # 4 cells, 3 of them hidden, in 8 rows; 8 patches, 6 of them hidden.
    assert "video 32, of which 8 are seen; audio 8, of which 2 are seen" in said
    assert "time: 1.0 h at 4 clips a second" in said
    assert "zero2 (chosen)" in said
    assert "zero3_offload" in said
    assert "single" not in said
    assert "checked: 2 shards" in said
    assert "shared memory: readers fill up to 0.00 GiB of a node's (2 processes x 0 work" in said
    assert "hicmae bench step" not in said
    data = DataConfig(shards=str(shards), batch_size=5)
    train(out, steps=None, epochs=8, data=data, dry_run=True)
    said = capsys.readouterr().out
    assert "hicmae bench step" in said, "how to get a speed"
    assert "steps: 8 (5.0 epochs, 40 clips)" in said, "as metrics.csv will count them"


@pytest.mark.parametrize("speed", [0.0, -3.0, math.inf])
def test_a_speed_that_gives_no_hours_is_refused(train: Train, tmp_path: Path, speed: float) -> None:
    with pytest.raises(ValueError, match=r"clips_per_second = .* \(must be positive and finite\)"):
        train(tmp_path / "run", clips_per_second=speed, dry_run=True)


@pytest.fixture
def uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory and operations of the network, which take seconds to count, are not."""
    monkeypatch.setattr("pretrain.plan._memory_table", lambda plan: "")
    monkeypatch.setattr("pretrain.plan.step_flops", lambda *_, **__: 1e9)


@pytest.mark.usefixtures("uncounted")
def test_a_dry_run_of_a_resumed_run_counts_and_compares_what_goes_on(
    train: Train,
    copied: Path,
    tiny_model_config: ModelConfig,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings: dict[str, Any] = {"steps": 3604, "dry_run": True, "resume": True}
    assert train(copied, clips_per_second=4.0, **settings) == 0
    said = capsys.readouterr().out
    assert "resumed with steps = 3604, was 4" in said
    assert "; 4 are done, 3600 to go" in said
    assert "time: 1.0 h at 4 clips a second" in said
    wider = replace(tiny_model_config, encoder_dim=64)
    with pytest.raises(ValueError, match=r"another network \(model\.encoder_dim was 32, now 64"):
        train(copied, sizes=wider, **settings)


@pytest.mark.usefixtures("uncounted")
def test_checkpoints_that_will_be_replaced_make_room_for_others(
    train: Train, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"steps": 6, "dry_run": True, "resume": True}
    files = (path for path in (copied / "checkpoints").rglob("*") if path.is_file())
    held = sum(path.stat().st_size for path in files)
    monkeypatch.setattr("pretrain.plan._bytes_on_disk", lambda plan, count: 1_000_000 + held)
    monkeypatch.setattr("pretrain.plan._free_bytes", lambda out: 1_000_000)
    assert train(copied, **settings) == 0
    monkeypatch.setattr("pretrain.plan._free_bytes", lambda out: 500_000)
    with pytest.raises(ValueError, match="checkpoints take up to"):
        train(copied, **settings)


def test_a_run_is_not_gone_on_with_and_deleted_at_once(train: Train, copied: Path) -> None:
    before = (copied / "metrics.csv").read_bytes()
    with pytest.raises(ValueError, match="resume and overwrite contradict each other"):
        train(copied, resume=True, overwrite=True)
    assert (copied / "metrics.csv").read_bytes() == before


def test_every_path_that_will_not_do_is_named_at_once(
    train: Train, shards: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "shards"
    shutil.copytree(shards, damaged)
    (damaged / "train-000000.tar").unlink()
    with (damaged / "train-000001.tar").open("ab") as file:
        file.write(b"more")
    out = tmp_path / "run"
    out.mkdir()
    (out / "metrics.csv").touch()
    with pytest.raises(ValueError, match="dry run: ") as caught:
        train(out, shards=damaged, dry_run=True)
    said = str(caught.value)
    assert "\n" not in said
    assert "train-000000.tar: no such shard" in said
    assert "train-000001.tar: has" in said
    assert "holds a run already (metrics.csv)" in said
    assert (out / "metrics.csv").read_text() == ""


@pytest.mark.slow
def test_the_plan_says_what_lies_on_the_disk_while_a_checkpoint_is_written(
    train: Train, tmp_path: Path, tiny_model_config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, remove, held = tmp_path / "run", shutil.rmtree, [0]

    def look(path: Path, **how: Any) -> None:
        held.append(_held_bytes(out))
        remove(path, **how)

    monkeypatch.setattr("hicmae.files.shutil.rmtree", look)
    log = LogConfig(keep=1, checkpoint_every=1, pictures_every=0, progress=False)
    train(out, log=log)
    settled: Any = SimpleNamespace(config=SimpleNamespace(log=log))
    count = sum(parameter.numel() for parameter in HiCMAE(tiny_model_config).parameters())
    assert max(held) == pytest.approx(_bytes_on_disk(settled, count), rel=0.1)


def test_too_many_checkpoints_for_the_disk_are_refused(train: Train, tmp_path: Path) -> None:
    log = LogConfig(keep=10_000_000, pictures_every=0, progress=False)
    with pytest.raises(ValueError, match=r"free, checkpoints take up to .* GiB; keep fewer"):
        train(tmp_path / "run", log=log, dry_run=True)


@pytest.mark.usefixtures("uncounted")
def test_a_dry_run_says_which_shards_it_has_not_looked_at_and_may_be_of_another_machine(
    train: Train,
    shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "_MOST_WORKERS", 2)
    monkeypatch.setattr(processes, "num_cores", lambda: 0)
    data = DataConfig(
        shards=(str(shards), f"file://{shards}"), cache=CacheConfig(folder=tmp_path / "cache")
    )
    assert train(tmp_path / "run", data=data, workers=3, dry_run=True) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "checked: 2 shards to train on" in said
    assert "readable; 2 elsewhere were not looked at; the run folder" in said
