"""What a process is under SLURM, by the variables that a real one sets, and how tasks meet."""

from __future__ import annotations

import importlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch.distributed import HashStore

from pretrain import cluster
from pretrain.cluster import StepTask, lone_task, step_task
from pretrain.processes import Processes, check_gpus, check_port, find_processes
from pretrain.settings import HardwareConfig
from pretrain.zero import load_engine, trainer_settings


def step(
    *, tasks: int, each: str, nodes: str = "n1", rank: int = 0, local: int = 0, **more: str
) -> dict[str, str]:
    """What srun gives to a task; the job's own wishes are among ``more``."""
    number = each.count(",") + 1
    return {
        "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(local), "SLURM_NODEID": "0", "SLURM_NTASKS": str(tasks),
        "SLURM_STEP_NUM_TASKS": str(tasks), "SLURM_STEP_TASKS_PER_NODE": each,
        "SLURM_STEP_NODELIST": nodes, "SLURM_STEP_NUM_NODES": str(number),
        "SLURM_JOB_NUM_NODES": "2", "SLURM_NODELIST": "n[1-2]",
    } | more  # fmt: skip


def seen(environ: dict[str, str]) -> tuple[int, int, int, str] | None:
    task = step_task(environ)
    return task and (task.rank, task.devices, task.num_nodes, task.first_node)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({}, None, id="no SLURM"),
        pytest.param(
            step(tasks=2, each="2", rank=1, SLURM_JOB_NAME="interactive"),
            (1, 2, 1, "n1"),
            id="salloc, then srun",
        ),
        pytest.param(step(tasks=2, each="2"), (0, 2, 1, "n1"), id="no --ntasks-per-node"),
        pytest.param(
            step(tasks=2, each="2", nodes="n2", SLURM_NTASKS_PER_NODE="4"),
            (0, 2, 1, "n2"),
            id="fewer than the job's tasks, on its second node",
        ),
        pytest.param(
            step(tasks=12, each="4(x3)", nodes="gpu[007-008],big1", rank=11),
            (11, 4, 3, "gpu007"),
            id="several nodes",
        ),
        pytest.param(
            step(tasks=1, each="1", SLURM_NTASKS_PER_NODE="2"), None, id="a step of one task"
        ),
        pytest.param(
            {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "interactive"},
            None,
            id="a shell in an allocation",
        ),
        pytest.param(
            {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"},
            None,
            id="a batch script",
        ),
        pytest.param(
            step(tasks=2, each="2", SLURM_STEP_ID=str(0xFFFFFFFA)), None, id="an interactive step"
        ),
        pytest.param(
            step(tasks=2, each="2", SLURM_NTASKS="1"), None, id="a job submitted within a step"
        ),
    ],
)
def test_a_step_of_several_tasks_is_one_run_and_all_else_is_a_run_of_its_own(
    environ: dict[str, str], expected: tuple[int, int, int, str] | None
) -> None:
    assert seen(environ) == expected


def test_nodes_with_different_numbers_of_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"SLURM step 7\.0: started 5 processes, 2, 2, 1 on its"):
        step_task(step(tasks=5, each="2(x2),1"))


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({}, ""),
        (step(tasks=1, each="1"), "SLURM step 7.0, of one task: a run of its own, of 1 process"),
        (
            {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"},
            "SLURM job 7, outside srun: a run of its own, of 1 process; srun makes one run of the "
            "job's 4 tasks",
        ),
    ],
)
def test_a_run_of_its_own_says_so(environ: dict[str, str], line: str) -> None:
    assert lone_task(environ, 1) == line


def started_as(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)


def test_the_run_is_what_the_step_says_and_says_so_first(monkeypatch: pytest.MonkeyPatch) -> None:
    started_as(monkeypatch, step(tasks=4, each="2(x2)", rank=3, local=1))
    found = find_processes(HardwareConfig(devices=8), "cpu")
    assert (found.rank, found.devices, found.num_nodes, found.launcher) == (3, 2, 2, "slurm")
    first, second = found.note.split("; slurm")
    assert first == "SLURM step 7.0: one run of 4 processes on 2 nodes (2 each)"
    assert "not used: hardware.devices = 8 (found 2)" in second


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, True),
        ({"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}, False),
        ({"TORCHELASTIC_MAX_RESTARTS": "0"}, False),
        ({"TORCHELASTIC_USE_AGENT_STORE": "False"}, False),  # which that variable is for
    ],
)
def test_restarts_of_torchrun_that_would_dial_the_dead_are_said(
    more: dict[str, str], said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", raising=False)
    torchrun = {
        "TORCHELASTIC_RUN_ID": "x", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_MAX_RESTARTS": "3",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    for name, value in (torchrun | more).items():
        monkeypatch.setenv(name, value)
    note = find_processes(HardwareConfig(), "cpu").note
    assert ("TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in note) == said


@pytest.mark.parametrize("engine", ["ddp", "zero1"])
def test_a_task_that_sees_one_gpu_takes_it(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would look for a GPU of the task's number."""
    importlib.import_module("deepspeed")  # which, up to 0.19.4, asks the GPUs that are pretended
    started_as(monkeypatch, step(tasks=8, each="8", rank=5, local=5))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for module in ("lightning_fabric", "pytorch_lightning"):
        monkeypatch.setattr(f"{module}.accelerators.cuda.num_cuda_devices", lambda: 1)
    monkeypatch.setattr("lightning_fabric.utilities.device_parser._get_all_visible_gpu_types",
                        lambda: {"0"}, raising=False)  # fmt: skip
    monkeypatch.setattr(
        "lightning_fabric.utilities.device_parser._get_all_available_cuda_gpus",
        lambda: [0],
        raising=False,
    )
    found = find_processes(HardwareConfig(), "auto")
    check_gpus(found, 1)
    trainer = pl.Trainer(
        **trainer_settings(
            load_engine(engine, world_size=8),
            processes=found,
            device=torch.device("cuda", 0),
            precision="32-true",
            batch_size=2,
            timeout_seconds=60,
            checkpoint_io=TorchCheckpointIO(),
        ),
    )
    assert trainer.strategy.root_device == torch.device("cuda", 0)
    trainer.strategy.set_world_ranks()
    assert (trainer.global_rank, trainer.world_size) == (5, 8)


@pytest.mark.parametrize(
    ("launcher", "visible", "message"),
    [
        ("slurm", 3, r"slurm: started 4 processes on this node, which see 3 GPUs"),
        ("torchrun", 2, r"torchrun: started 4 .* see 2 GPUs"),
        ("own", 1, r"hardware.devices = 4: .* 1 can be used here; take --hardware.devices 1"),
    ],
)
def test_too_few_gpus_are_refused(launcher: str, visible: int, message: str) -> None:
    processes = Processes(rank=0, devices=4, num_nodes=1, launcher=launcher)  # type: ignore[arg-type]
    check_gpus(processes, 4)
    with pytest.raises(ValueError, match=message):
        check_gpus(processes, visible)


@contextmanager
def listening(port: int = 0) -> Iterator[int]:
    """A program that has a port."""
    with socket.socket() as server:
        server.bind(("", port))
        server.listen()
        yield int(server.getsockname()[1])


def test_a_main_port_that_is_taken_is_said_before_anything_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    processes = Processes(rank=0, devices=2, num_nodes=1)
    with listening() as port:
        monkeypatch.setenv("MASTER_PORT", str(port))
        with pytest.raises(ValueError, match=f"MASTER_PORT = {port}: cannot be used"):
            check_port(processes)
    check_port(processes)


def task(rank: int, *, job: str = "7", number: str = "0") -> StepTask:
    return StepTask(
        job=job, step=number, restart=0, rank=rank, local_rank=rank, node_rank=0, devices=2,
        num_nodes=1, first_node="n1",
    )  # fmt: skip


@pytest.fixture
def first_ports(monkeypatch: pytest.MonkeyPatch) -> int:
    """Ports that nobody has, from which the tasks choose; the first one is job 0's."""
    monkeypatch.delenv("MASTER_PORT", raising=False)
    for port in range(21_000, 30_000, 7):
        with suppress(OSError), listening(port):
            break
    monkeypatch.setattr(cluster, "_FIRST_PORT", port - 7 * 61)
    return port


def together(tasks: list[StepTask], seconds: int = 20) -> list[int | str]:
    """What came of each task of one machine: the port of its store, or the error."""
    told = threading.Barrier(len(tasks))

    def one(who: StepTask) -> int | str:
        try:
            if who.rank:
                return int(cluster.find(who, "127.0.0.1", seconds).port)
            with cluster.serve(who, "127.0.0.1") as store:
                told.wait(seconds)
                return int(store.port)
        except ValueError as error:
            return str(error)
        finally:
            if who.rank:
                told.wait(seconds)

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(one, tasks))


@pytest.mark.slow
def test_tasks_meet_behind_a_port_that_is_taken_and_beside_another_step(first_ports: int) -> None:
    """Whoever has the port does not speak as a store does, or is the store of another run."""
    with listening(first_ports):
        behind = together([task(1), task(0)])
    assert behind[0] == behind[1]
    # The second job's ports begin where the first one's are, as if numbers had met by chance.
    other = [task(rank, job="20018") for rank in (1, 0)]
    assert cluster.step_ports(other[0])[0] == cluster.step_ports(task(0))[0]
    found = together([task(0), *other, task(1)])
    assert found[0] == found[3] != found[1] == found[2]


@pytest.mark.slow
def test_a_main_port_of_the_users_that_is_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as port:
        monkeypatch.setenv("MASTER_PORT", str(port))
        with pytest.raises(ValueError, match=f"MASTER_PORT = {port}: cannot be used"):
            cluster.serve(task(0), "127.0.0.1").__enter__()
        with pytest.raises(ValueError, match=rf"process 1 of 2 found no .* \(ports {port}\)"):
            cluster.find(task(1), "127.0.0.1", 1)


def agreed(*mine: dict[str, Any]) -> list[str]:
    """What each process of a run gets told, or its error."""
    store = HashStore()
    store.set_timeout(timedelta(seconds=10))
    usual = cluster.Start(out="run", data="all", settings={}, checkpoint="")

    def one(rank: int) -> str:
        try:
            start = replace(usual, **mine[rank])
            return cluster.agree(store, start, name="a", rank=rank, world_size=len(mine))
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(len(mine)) as pool:
        return list(pool.map(one, range(len(mine))))


def test_all_go_on_from_the_checkpoint_of_the_first_which_alone_has_read_it() -> None:
    newest = {"checkpoint": "step-000004.ckpt"}
    damaged = newest | {"checkpoint": "step-000002.ckpt"}
    assert agreed(damaged, newest, newest) == ["step-000002.ckpt"] * 3


def test_tasks_of_a_step_with_folders_of_their_own_are_refused_by_all() -> None:
    found = agreed(*({"out": out} for out in "ABA"))
    assert len(found) == 3
    for error in found:
        assert error.startswith("a: its 3 tasks are one run, and have 2 run folders (A, B); give")


def test_processes_that_read_different_shards_are_refused_by_all() -> None:
    found = agreed(*({"data": data} for data in "AAB"))
    assert len(found) == 3
    for error in found:
        assert "read 2 different collections (process 0: A; process 2: B)" in error


def test_processes_with_different_settings_are_refused_by_all() -> None:
    """As where a configuration was edited on one node; folders and readers are a node's own."""
    same = {"seed": 1, "optimizer.betas": [0.9, 0.95], "workers": 2, "data.shards": "/a"}
    assert agreed(*({"settings": same | {"workers": n}} for n in (2, 8))) == ["", ""]
    found = agreed(*({"settings": same | {"seed": seed}} for seed in (1, 1, 2)))
    assert len(found) == 3
    for error in found:
        assert "different settings (process 2: seed = 2, the first has 1); give all" in error


def test_steps_and_jobs_side_by_side_have_ports_of_their_own() -> None:
    near = {(str(job), str(number)) for job in range(1000, 1050) for number in range(60)}
    alike = {(str(10_000 * k + 1234), "0") for k in range(50)}
    for group in (near, alike):
        ports = {cluster.step_ports(task(0, job=job, number=number))[0] for job, number in group}
        assert len(ports) == len(group)
