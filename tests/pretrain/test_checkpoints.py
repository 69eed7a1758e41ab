"""Checkpoints on the disk: whole or not there, known by digest, kept by rule."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from hicmae.config import save_yaml, to_dict
from hicmae.files import file_sha256
from hicmae.objective.losses import LOSSES, LossOutput
from hicmae.settings import ModelConfig, ObjectiveConfig
from pretrain.checkpoints import (
    CheckpointFiles,
    Checkpoints,
    Resumption,
    clear_leftovers,
    compare_settings,
    find_resumption,
    host_copy,
    newest_checkpoint,
    prepare_folder,
    save_tensors,
    since_chosen,
    step_files,
    step_of,
)
from pretrain.plan import make_plan
from pretrain.settings import DataConfig, HardwareConfig, OptimizerConfig, PretrainConfig


def make_files(**changes: Any) -> CheckpointFiles:
    settings: dict[str, Any] = {
        "keep": 2,
        "keep_every": 0,
        "portable": lambda weights, step: None,
    }
    return CheckpointFiles(**(settings | changes))


def resumed(
    out: Path, model: ModelConfig, *, batch_size: int, accumulate: int, world_size: int
) -> Resumption:
    data = DataConfig(shards="shards", batch_size=batch_size)
    config = PretrainConfig(data=data, out=out, model=model, accumulate=accumulate)
    return find_resumption(config, world_size=world_size)


def state(step: int) -> dict[str, Any]:
    return {
        "global_step": step,
        "state_dict": {"model.weight": torch.full((1000,), float(step))},
        "place": {"batches": 2 * step, "batch_size": 4, "global_batch": 8},
    }


def save_steps(out: Path, files: CheckpointFiles, *steps: int) -> None:
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    for step in steps:
        files.save_checkpoint(state(step), out / "checkpoints" / f"step-{step:06d}.ckpt")
        assert files.finish() is None


def test_hosts_tell_each_other_off_the_device_whether_a_checkpoint_was_written(
    tmp_path: Path,
) -> None:
    told: list[bool] = []

    def gather(failed: bool) -> list[bool]:
        told.append(failed)
        return [failed, True]

    # It has no strategy, by which the main group would be asked.
    trainer: Any = SimpleNamespace(global_step=4, world_size=2)
    checkpoints = Checkpoints(tmp_path, make_files(), every=2, gather=gather)
    with pytest.raises(ValueError, match="another process could not write its checkpoint"):
        checkpoints.act(trainer, None, None)  # type: ignore[arg-type]

    def full(weights: Any, step: int) -> None:
        raise ValueError("no space left")

    files = make_files(portable=full)
    files.save_checkpoint(state(4), tmp_path / "step-000004.ckpt")
    checkpoints = Checkpoints(tmp_path, files, every=2, gather=gather)
    with pytest.raises(ValueError, match="no space left"):
        checkpoints.act(trainer, None, None)  # type: ignore[arg-type]
    assert told == [False, True]


def test_the_newest_ones_and_every_so_many_steps_are_kept(tmp_path: Path) -> None:
    save_steps(tmp_path, make_files(keep=2, keep_every=4), 2, 4, 6, 8, 10, 11)
    folder = tmp_path / "checkpoints"
    assert [step_of(path) for path in step_files(folder)] == [4, 8, 10, 11]
    names = {path.name for path in folder.iterdir()}
    assert names == {f"step-{n:06d}.{end}" for n in (4, 8, 10, 11) for end in ("ckpt", "json")}


def test_steps_beyond_six_digits_are_the_newest(tmp_path: Path) -> None:
    save_steps(tmp_path, make_files(), 999_998, 999_999, 1_000_000)
    kept = step_files(tmp_path / "checkpoints")
    assert [step_of(path) for path in kept] == [999_999, 1_000_000]


def test_a_checkpoint_holds_what_was_there_when_it_was_asked_for(tmp_path: Path) -> None:
    """Training goes on and changes its weights in place while the thread writes."""
    data = state(3)
    files = make_files()
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "step-000003.ckpt"
    files.save_checkpoint(data, path)
    data["state_dict"]["model.weight"].zero_()
    assert files.finish() is None
    assert files.load_checkpoint(path)["state_dict"]["model.weight"].unique().tolist() == [3.0]


def test_a_copy_shares_nothing_and_keeps_types() -> None:
    whole = torch.arange(10.0)
    data = {"part": whole[:2], "rows": (whole, [1, "a"]), "none": None}
    copied = host_copy(data)
    whole.zero_()
    assert copied["part"].tolist() == [0.0, 1.0]
    assert copied["part"].untyped_storage().nbytes() == 8, "a view is not saved with its base"
    assert isinstance(copied["rows"], tuple)
    assert copied["rows"][1] == [1, "a"]


@pytest.mark.parametrize(
    "kind", ["cut", "changed", "unnoted", "bad note", "other note", "no shards"]
)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(
    kind: str, tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    save_steps(tmp_path, make_files(), 5, 7)
    newest = tmp_path / "checkpoints" / "step-000007.ckpt"
    note = newest.with_suffix(".json")
    content = newest.read_bytes()
    if kind == "cut":
        newest.write_bytes(content[:-1])
    elif kind == "changed":
        newest.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    elif kind == "unnoted":
        note.unlink()
    elif kind == "bad note":
        note.write_text("{")
    elif kind == "other note":
        note.write_text('{"step": 7, "files": {}}')
    else:
        document = json.loads(note.read_text())
        document["files"]["step-000007.shards/checkpoint/a.pt"] = {"bytes": 1, "sha256": ""}
        note.write_text(json.dumps(document))
    path, lines = newest_checkpoint(tmp_path)
    assert path is not None
    assert path.name == "step-000005.ckpt"
    assert len(lines) == 1
    assert "step-000007.ckpt: damaged" in lines[0]
    found = resumed(tmp_path, tiny_model_config, batch_size=4, accumulate=2, world_size=1)
    assert (found.step, found.first_batch) == (5, 10)
    assert since_chosen(tmp_path, found) is None, "what is damaged was not saved since then"
    # Set aside, or it would pass for the newest one again when the run has saved step 6.
    clear_leftovers(tmp_path, newest=path)
    assert [step_of(path) for path in step_files(tmp_path / "checkpoints")] == [5]
    assert (tmp_path / "checkpoints" / "step-000007.ckpt.damaged").is_file()


@pytest.mark.parametrize(
    ("process", "read", "step"),
    [
        pytest.param({}, 2, 5, id="the first, which starts the others"),
        pytest.param(
            {"LOCAL_RANK": "1", "HICMAE_CHECKPOINT": "step-000005.ckpt"}, 0, 5, id="started by it"
        ),
        pytest.param({"LOCAL_RANK": "1"}, 2, 5, id="started by hand"),
        # Its size is right; who has read it says at the meeting that it is damaged.
        pytest.param({"SLURM_PROCID": "1", "SLURM_STEP_ID": "0"}, 0, 7, id="a task of SLURM"),
        pytest.param({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0"}, 2, 5, id="SLURM's first"),
    ],
)
def test_one_process_of_a_run_reads_checkpoints_to_compare_their_digests(
    process: dict[str, str],
    read: int,
    step: int,
    shards: Path,
    tmp_path: Path,
    tiny_model_config: ModelConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_steps(tmp_path, make_files(), 5, 7)
    newest = tmp_path / "checkpoints" / "step-000007.ckpt"
    content = newest.read_bytes()
    newest.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    for name in ("LOCAL_RANK", "HICMAE_CHECKPOINT", "TORCHELASTIC_RUN_ID", "SLURM_STEP_ID"):
        monkeypatch.setenv(name, "")  # so that it is taken back, whoever sets it
        monkeypatch.delenv(name)
    for name, value in ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"} | process).items():
        monkeypatch.setenv(name, value)
    digested = []

    def digest(path: Path) -> str:
        digested.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr("pretrain.checkpoints.file_sha256", digest)
    config = PretrainConfig(
        data=DataConfig(shards=shards, batch_size=4),
        out=tmp_path,
        model=tiny_model_config,
        hardware=HardwareConfig(devices=2),
        steps=9,
        optimizer=OptimizerConfig(warmup_steps=0),
        device="cpu",
    )
    plan = make_plan(config, resume=True)
    assert (len(digested), plan.resumption.step) == (read, step)
    told = make_plan(config, resume=True, chosen="step-000005.ckpt")
    assert (len(digested), told.resumption.step) == (read, 5)


def test_when_every_checkpoint_is_damaged_nothing_is_begun_over_it(tmp_path: Path) -> None:
    save_steps(tmp_path, make_files(), 5, 7)
    for path in step_files(tmp_path / "checkpoints"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"step-000007\.ckpt: damaged .*every older one") as caught:
        newest_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_a_killed_writer_left_is_cleared(tmp_path: Path) -> None:
    save_steps(tmp_path, make_files(), 5)
    folder = tmp_path / "checkpoints"
    (folder / ".step-000007.part").write_bytes(b"half")
    (folder / ".step-000006.part").mkdir()  # as older runs made it
    (folder / "step-000007.json").write_text("{}")
    (folder / "step-000007.shards").mkdir()
    path, lines = newest_checkpoint(tmp_path)
    clear_leftovers(tmp_path, newest=path)
    assert not lines
    assert {entry.name for entry in folder.iterdir()} == {"step-000005.ckpt", "step-000005.json"}


def test_a_failure_to_write_is_told_and_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    def full(weights: Any, step: int) -> None:
        if step == 7:
            raise OSError(28, "No space left on device")

    files = make_files(portable=full)
    save_steps(tmp_path, files, 5)
    files.save_checkpoint(state(7), tmp_path / "checkpoints" / "step-000007.ckpt")
    error = files.finish()
    assert isinstance(error, OSError)
    assert error.errno == 28
    path, lines = newest_checkpoint(tmp_path)
    assert path is not None
    assert (path.name, lines) == ("step-000005.ckpt", [])
    left = {entry.name for entry in (tmp_path / "checkpoints").iterdir()}
    assert left == {"step-000005.ckpt", "step-000005.json"}, "nothing half-written"


def test_a_disk_that_gives_back_something_else_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pretrain.checkpoints as checkpoints

    force = checkpoints._force

    def lying(file: Any) -> None:
        file.seek(100)
        file.write(b"\0\1\2\3")
        force(file)

    monkeypatch.setattr(checkpoints, "_force", lying)
    with pytest.raises(OSError, match="just after it was written"):
        save_tensors(tmp_path / "a.pt", torch.ones(1000))


@pytest.mark.parametrize(
    ("batch_size", "world_size", "accumulate", "first_batch"),
    [(4, 1, 2, 10), (4, 2, 1, 10), (2, 2, 2, 20), (8, 1, 1, 5)],
)
def test_on_other_processes_a_step_takes_the_same_clips(
    batch_size: int,
    world_size: int,
    accumulate: int,
    first_batch: int,
    tmp_path: Path,
    tiny_model_config: ModelConfig,
) -> None:
    save_steps(tmp_path, make_files(), 5)  # ten batches of four clips
    found = resumed(
        tmp_path, tiny_model_config, batch_size=batch_size, accumulate=1, world_size=world_size
    )
    assert (found.accumulate, found.first_batch, found.step) == (accumulate, first_batch, 5)
    assert bool(found.lines) == (accumulate != 1)
    for batch_size, other in ((4, 3), (3, 2)):  # more clips at once, or some that are left over
        again = {"batch_size": batch_size, "accumulate": 1, "world_size": other}
        with pytest.raises(ValueError, match=rf"takes 8 clips, which {other} processes"):
            resumed(tmp_path, tiny_model_config, **again)


@pytest.fixture
def begun(tmp_path: Path, tiny_model_config: ModelConfig) -> PretrainConfig:
    """Settings whose config.yaml lies in the run folder."""
    stages = ObjectiveConfig(stages={"video": 1.0, "audio": 1.0})
    data = DataConfig(shards="shards")
    config = PretrainConfig(data=data, out=tmp_path, model=tiny_model_config, objective=stages)
    save_yaml(tmp_path / "config.yaml", config)
    return config


def test_stages_in_another_order_are_said(begun: PretrainConfig) -> None:
    assert compare_settings(begun) == []
    turned = replace(begun.objective, stages={"audio": 1.0, "video": 1.0})
    assert compare_settings(replace(begun, objective=turned)) == [
        "resumed with objective.stages in the order audio, video, was video, audio"
    ]


def test_a_run_of_other_modalities_is_not_gone_on_with(begun: PretrainConfig) -> None:
    """Other parameters are trained, to which the optimizer's state does not fit."""
    other = replace(begun, data=replace(begun.data, modalities="video"))
    with pytest.raises(ValueError, match=r"data\.modalities was audio-video, now video"):
        compare_settings(other)


@dataclass(frozen=True, kw_only=True)
class Fused:
    """Of a loss that reads what the fusion encoder gives."""

    fusion: bool = True


def test_without_reconstruction_a_loss_that_trains_the_fusion_encoder_is_not_added(
    begun: PretrainConfig,
) -> None:
    """Other parameters are trained again."""
    alone = ObjectiveConfig(reconstruction=False, contrast_layers=(1, 2))
    added = replace(alone, losses={"fused": {"weight": 0.5}})
    save_yaml(begun.out / "config.yaml", replace(begun, objective=alone))
    LOSSES.register("fused", settings=Fused)(lambda given, settings: LossOutput(torch.zeros(())))
    try:
        said = r"other parameters, or .* \(objective\.losses\.fused\.weight was None, now 0\.5"
        with pytest.raises(ValueError, match=said):
            compare_settings(replace(begun, objective=added))
        save_yaml(begun.out / "config.yaml", replace(begun, objective=added))
        heavier = replace(added, losses={"fused": {"weight": 0.7}})
        said = "resumed with objective.losses.fused.weight = 0.7, was 0.5"
        assert compare_settings(replace(begun, objective=heavier)) == [said]
    finally:
        LOSSES.unregister("fused")


def test_of_what_is_linked_the_link_is_replaced(tmp_path: Path) -> None:
    """Checkpoints may lie on another disk; what is there is not this run's alone."""
    out, elsewhere = tmp_path / "run", tmp_path / "disk"
    out.mkdir()
    (out / "config.yaml").write_text("seed: 0\n")
    (elsewhere / "step-000002.ckpt").mkdir(parents=True)
    (out / "checkpoints").symlink_to(elsewhere)
    prepare_folder(out, resume=False, overwrite=True).close()
    assert not (out / "checkpoints").is_symlink()
    assert list(elsewhere.iterdir()) == [elsewhere / "step-000002.ckpt"]
    assert not (out / "config.yaml").exists()


@pytest.mark.parametrize("is_there", [False, True])
def test_a_run_without_settings_has_a_remedy(begun: PretrainConfig, is_there: bool) -> None:
    path = begun.out / "config.yaml"
    path.unlink()
    if is_there:
        path.touch()
    with pytest.raises(ValueError, match=r"config.yaml: is missing or empty, .* --overwrite"):
        compare_settings(begun)


def test_a_run_that_older_code_began_goes_on_without_a_word(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    """Device and workers stood elsewhere in its config.yaml; a real change is still said."""
    config = PretrainConfig(
        data=DataConfig(shards="shards"),
        out=tmp_path,
        model=tiny_model_config,
        device="cuda",
        workers=3,
        hardware=HardwareConfig(devices=2),
    )
    older = to_dict(config)
    older["hardware"] = {"accelerator": "gpu", **older["hardware"], "devices": 4}
    older["data"]["workers"] = older.pop("workers")
    del older["device"], older["data"]["shuffle_shards"], older["data"]["modalities"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(older))
    assert compare_settings(config) == ["resumed with hardware.devices = 2, was 4"]
    older["data"]["shuffle_buffer"] = 1000
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(older))
    _, said = compare_settings(config)
    assert said.startswith("begun when samples were shuffled within a window (data.shuffle_buffer")
