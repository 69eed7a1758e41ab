"""Engines as data, and who takes part in a run, before anything is started."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from hicmae.config import config_root
from pretrain.processes import Processes, find_processes, lost_process
from pretrain.settings import HardwareConfig
from pretrain.zero import (
    EngineConfig,
    load_engine,
    scatter_optimizer,
    trainer_settings,
    zero_config,
)

VARIABLES = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK",
    "TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_PROCID",
    "SLURM_LOCALID", "SLURM_NODEID", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS",
    "SLURM_STEP_TASKS_PER_NODE",
)  # fmt: skip


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def start_as(monkeypatch: pytest.MonkeyPatch, **variables: int | str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("name", [path.stem for path in (config_root() / "engines").glob("*.yaml")])
def test_an_engine_is_one_and_means_what_its_name_says(name: str) -> None:
    engine = load_engine(name, world_size=1)
    stage = int(name[4]) if name.startswith("zero") else 0
    assert engine.stage == stage
    assert engine.kind == ("deepspeed" if stage else name)
    assert engine.offload_optimizer == name.endswith("offload")


def test_auto_is_one_device_alone_and_zero1_for_several() -> None:
    assert load_engine("auto", world_size=1).kind == "single"
    assert load_engine("auto", world_size=2) == EngineConfig(kind="deepspeed", stage=1)


@pytest.mark.parametrize(
    ("name", "message"),
    [("zero4", r"no such engine \(engines: auto, ddp, single"), ("single", "there are 2")],
)
def test_an_engine_that_cannot_be_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_engine(name, world_size=2)
    assert "\n" not in str(caught.value)


def test_an_engine_of_ones_own_is_checked_whole(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("kind: ddp\nstage: 2\noffload_optimizer: true\noffload_parameters: true\n")
    with pytest.raises(ValueError, match=r"stage = 2 .*offload_optimizer .*offload_parameters"):
        load_engine(str(path), world_size=2)


def test_deepspeed_is_told_stage_offloading_and_precision() -> None:
    engine = EngineConfig(
        kind="deepspeed", stage=3, offload_optimizer=True, offload_parameters=True
    )
    config = zero_config(engine, precision="16-mixed", batch_size=5, on_cpu=False)
    assert config["zero_optimization"]["offload_param"] == {"device": "cpu", "pin_memory": True}
    assert config["fp16"]["enabled"]
    assert not config["bf16"]["enabled"]
    config = zero_config(engine, precision="bf16-mixed", batch_size=5, on_cpu=True)
    # Autocast over fp32 weights, as with one device.
    assert not config["bf16"]["enabled"]
    assert not config["zero_optimization"]["offload_optimizer"]["pin_memory"]


def test_deepspeed_is_told_what_its_defaults_would_change() -> None:
    """Its gradient clipping, its timer, which waits for the device, and what it sends in."""
    engine = EngineConfig(kind="deepspeed", stage=2)
    for clip_norm in (None, 0.5):
        config = zero_config(
            engine, precision="bf16-mixed", batch_size=5, on_cpu=False, clip_norm=clip_norm
        )
        assert config["gradient_clipping"] == (clip_norm or 0)
        assert config["timers"] == {"throughput": {"enabled": False}}
        assert "communication_data_type" not in config
        assert "use_multi_rank_bucket_allreduce" not in config["zero_optimization"]
    config = zero_config(
        EngineConfig(kind="deepspeed", stage=2, communication="bf16"),
        precision="bf16-mixed",
        batch_size=5,
        on_cpu=True,
    )
    assert config["communication_data_type"] == "bf16"
    assert config["zero_optimization"]["use_multi_rank_bucket_allreduce"] is False
    with pytest.raises(ValueError, match="communication with kind ddp"):
        EngineConfig(kind="ddp", communication="bf16")


def test_a_command_that_nobody_started_is_the_first_of_its_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hardware = HardwareConfig(devices=2, num_nodes=3)
    assert find_processes(hardware, "cpu") == Processes(rank=0, devices=2, num_nodes=3)
    start_as(monkeypatch, NODE_RANK=2, LOCAL_RANK=1)
    assert find_processes(hardware, "cpu").rank == 5
    with pytest.raises(ValueError, match="LOCAL_RANK = 1, NODE_RANK = 2 do not fit"):
        find_processes(HardwareConfig(), "cpu")  # every one of them would be a run of its own


def test_torchrun_and_slurm_say_who_is_there_and_settings_that_differ_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start_as(monkeypatch, SLURM_JOB_ID=7, SLURM_STEP_ID=0, SLURM_STEP_NUM_TASKS=6)
    start_as(monkeypatch, SLURM_STEP_TASKS_PER_NODE="3(x2)", SLURM_PROCID=4, SLURM_NTASKS=6)
    found = find_processes(HardwareConfig(), "cpu")
    assert (found.rank, found.devices, found.num_nodes) == (4, 3, 2)
    assert found.launcher == "slurm"
    assert found.note == "SLURM step 7.0: one run of 6 processes on 2 nodes (3 each)"
    # torchrun inside of SLURM is who started the processes.
    start_as(monkeypatch, TORCHELASTIC_RUN_ID="x", RANK=5, LOCAL_RANK=1, GROUP_RANK=1)
    start_as(monkeypatch, WORLD_SIZE=8, LOCAL_WORLD_SIZE=4)
    found = find_processes(HardwareConfig(devices=2), "cpu")
    assert (found.rank, found.devices, found.num_nodes) == (5, 4, 2)
    assert "hardware.devices = 2 (found 4)" in found.note
    start_as(monkeypatch, LOCAL_WORLD_SIZE=3)
    with pytest.raises(ValueError, match="the same number on every node"):
        find_processes(HardwareConfig(), "cpu")


@pytest.mark.parametrize(
    ("error", "world_size", "lost"),
    [
        ("[pair.cc:547] Connection closed by peer [127.0.0.1]:1", 2, True),
        ("Timed out waiting 600000ms for recv operation to complete", 2, True),
        ("Connection closed by peer", 1, False),
        ("mat1 and mat2 shapes cannot be multiplied", 2, False),
    ],
)
def test_a_lost_process_is_told_from_a_bug(error: str, world_size: int, lost: bool) -> None:
    processes = Processes(rank=0, devices=world_size, num_nodes=1)
    line: Any = lost_process(RuntimeError(error), processes, timeout_seconds=600)
    assert (line is not None) == lost


@pytest.mark.parametrize(("before", "scale"), [("bf16-mixed", 2.0**16), ("16-mixed", 4.0)])
def test_fp16_begins_with_a_scale_of_its_own_behind_another_precision(
    before: str, scale: float
) -> None:
    """With the 1 of a scaler that scales nothing, small gradients would be zero for long."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler

    saved, found = (DynamicLossScaler(2.0**16, 1000, 1, 2, False) for _ in range(2))
    saved.cur_scale = 4.0
    saved = LossScaler() if before == "bf16-mixed" else saved
    whole = {"state": {}, "param_groups": [], "loss_scaler": dict(vars(saved))}
    optimizer = SimpleNamespace(
        loss_scaler=found, optimizer=None, single_partition_of_fp32_groups=[]
    )
    checkpoint = {"optimizer_states": [whole]}
    scatter_optimizer(SimpleNamespace(optimizer=optimizer), torch.nn.Module(), checkpoint)
    assert (found.cur_scale, found.dynamic) == (scale, True)


def test_one_of_several_gpus_is_the_one_that_lightning_is_told() -> None:
    def told(device: str) -> dict[str, Any]:
        return trainer_settings(
            EngineConfig(kind="single"),
            processes=find_processes(HardwareConfig(), device),
            device=torch.device(device),
            precision="32-true",
            batch_size=2,
            timeout_seconds=60,
            checkpoint_io=TorchCheckpointIO(),
        )

    assert (told("cuda:3")["accelerator"], told("cuda:3")["devices"]) == ("gpu", [3])
    assert (told("cpu")["accelerator"], told("cpu")["devices"]) == ("cpu", 1)
