"""What a process is under SLURM, and how the tasks of one step meet.

One run of several processes is told from several runs of one by the variables of the step
(``SLURM_STEP_…``); those of the job say only what was asked for.

- A step of several tasks (``srun -n8``) is one run, each task a process of it.
- A step of one task, a batch script outside ``srun``, and a shell in an allocation are runs of
  their own, which start their processes themselves.

Tasks meet at a port of the first one, which follows from the job and the step, so that steps and
jobs side by side have ports of their own; one that is taken gives way to the next. Who asks there
is told the name of the step and the port of its store: PyTorch's store has no name, takes whoever
comes for one of its own, and waits without end for a program that is none.

Source: srun(1), output environment variables; slurm.h for the numbers of steps that are no step.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric.plugins import ClusterEnvironment
from lightning_fabric.plugins.environments import SLURMEnvironment
from lightning_fabric.utilities.distributed import _get_default_process_group_backend_for_device
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch.distributed import DistError, Store, TCPStore, rendezvous

# Steps from here on are the batch script, an interactive shell and the like.
_NO_STEP = 0xFFFFFFF0
# Below the ports that Linux hands out itself. The number of ports is a prime, so that jobs whose
# numbers end alike differ, and so do up to 61 steps of a job.
_FIRST_PORT, _NUM_PORTS, _PORTS_PER_JOB = 12_000, 20_011, 61
_PORT_TRIES, _NEXT_TRY = 8, 7_919
_ANSWER_SECONDS = 2.0
# Settings that processes of one run may have each for itself; run folder and shards are compared
# by themselves.
_OF_A_MACHINE = ("out", "data.shards", "data.cache", "probe.shards", "workers", "device", "wandb")
_PAUSE_SECONDS = 0.1
# How much later than an exchange between hosts one of NCCL's gives up.
WATCHDOG_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Start:
    """What one process of a run would start with, which the others compare with theirs."""

    out: str  # the run folder, which must be the same for all
    data: str  # what is read, which must be the same too (``ClipStream.about``)
    settings: Mapping[str, Any]  # all others by their dotted names
    checkpoint: str  # name of the one to go on from; that of the first process counts


@dataclass(frozen=True, kw_only=True)
class StepTask:
    """One task of a step of several."""

    job: str
    step: str
    restart: int  # how often the job was requeued
    rank: int  # over all nodes
    local_rank: int
    node_rank: int
    devices: int  # tasks on each node
    num_nodes: int
    first_node: str

    @property
    def name(self) -> str:
        return f"SLURM step {self.job}.{self.step}"

    @property
    def world_size(self) -> int:
        return self.devices * self.num_nodes

    def __str__(self) -> str:
        where = "on this node" if self.num_nodes == 1 else f"on {self.num_nodes} nodes"
        each = "" if self.num_nodes == 1 else f" ({self.devices} each)"
        return f"{self.name}: one run of {self.world_size} processes {where}{each}"


def step_task(environ: Mapping[str, str]) -> StepTask | None:
    """The task that a process is; None: it is none of several, and makes a run of its own.

    Raises: ValueError: the nodes of the step have different numbers of tasks, or the variables do
        not fit each other.
    """
    step, total = environ.get("SLURM_STEP_ID", ""), environ.get("SLURM_STEP_NUM_TASKS", "")
    if not (step.isdigit() and int(step) < _NO_STEP and total.isdigit() and int(total) > 1):
        return None
    # A batch script that was submitted from within a step has kept the step's variables, but not
    # these two, which every step has anew.
    if environ.get("SLURM_NTASKS", total) != total or "SLURM_PROCID" not in environ:
        return None
    counts = list(_counts(environ.get("SLURM_STEP_TASKS_PER_NODE", total)))
    job = whole_number(environ, "SLURM_JOB_ID", 0)
    rank = whole_number(environ, "SLURM_PROCID")
    if len(set(counts)) > 1:
        raise ValueError(
            f"SLURM step {job}.{step}: started {total} processes, {', '.join(map(str, counts))} on "
            "its nodes; start the same number on every node (srun --ntasks-per-node)"
        )
    if not counts or sum(counts) != int(total) or rank >= int(total):
        raise ValueError(
            f"SLURM step {job}.{step}: this would be process {rank} of {total}, and its nodes have "
            f"{', '.join(map(str, counts)) or 'none'} (SLURM_PROCID, SLURM_STEP_NUM_TASKS, "
            "SLURM_STEP_TASKS_PER_NODE): start with srun, or unset what is left of them"
        )
    nodes = environ.get("SLURM_STEP_NODELIST", environ.get("SLURM_NODELIST", "127.0.0.1"))
    return StepTask(
        job=str(job),
        step=step,
        restart=whole_number(environ, "SLURM_RESTART_COUNT", 0),
        rank=rank,
        local_rank=whole_number(environ, "SLURM_LOCALID", 0),
        node_rank=whole_number(environ, "SLURM_NODEID", 0),
        devices=counts[0],
        num_nodes=len(counts),
        first_node=SLURMEnvironment.resolve_root_node_address(nodes),
    )


def whole_number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    """What a launcher has put into the environment; absent: ``default``.

    Raises: ValueError: it is no whole number, or absent without a default.
    """
    value = environ.get(name, default)
    if value is None or not re.fullmatch(r"\d+", str(value)):
        found = "is not set" if value is None else f"= {value!r} is no whole number"
        raise ValueError(
            f"environment: {name} {found}, so the launcher's other variables cannot be used; start "
            "with torchrun or srun, or unset what is left of them"
        )
    return int(value)


def lone_task(environ: Mapping[str, str], num_processes: int) -> str:
    """A line about a run of its own inside SLURM; nothing outside of it."""
    job, step = environ.get("SLURM_JOB_ID"), environ.get("SLURM_STEP_ID", "")
    if job is None:
        return ""
    is_step = step.isdigit() and int(step) < _NO_STEP
    is_step &= environ.get("SLURM_STEP_NUM_TASKS") == environ.get("SLURM_NTASKS") == "1"
    where = f"SLURM step {job}.{step}, of one task" if is_step else f"SLURM job {job}, outside srun"
    what = "1 process" if num_processes == 1 else f"{num_processes} processes, which it starts"
    wished = 1 if is_step else whole_number(environ, "SLURM_NTASKS", 1)
    remedy = f"; srun makes one run of the job's {wished} tasks" if wished > 1 else ""
    return f"{where}: a run of its own, of {what}{remedy}"


class StepEnvironment(ClusterEnvironment):
    """A step for Lightning; its own asks the job instead, and requeues it."""

    def __init__(self, task: StepTask) -> None:
        super().__init__()
        self.task = task

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        """Of the first node, as ``MASTER_ADDR`` says or SLURM names it."""
        if self.task.num_nodes == 1:
            return "127.0.0.1"
        return os.environ.get("MASTER_ADDR", self.task.first_node)

    @property
    def main_port(self) -> int:
        """``MASTER_PORT``, which ``meet`` has set."""
        return given_port(os.environ) or step_ports(self.task)[0]

    @staticmethod
    def detect() -> bool:
        return step_task(os.environ) is not None

    def world_size(self) -> int:
        return self.task.world_size

    def set_world_size(self, size: int) -> None:
        assert size == self.task.world_size, (size, self.task)

    def global_rank(self) -> int:
        return self.task.rank

    def set_global_rank(self, rank: int) -> None:
        assert rank == self.task.rank, (rank, self.task)
        rank_zero_only.rank = rank  # type: ignore[attr-defined]  # how Lightning keeps it

    def local_rank(self) -> int:
        return self.task.local_rank

    def node_rank(self) -> int:
        return self.task.node_rank


def given_port(environ: Mapping[str, str]) -> int | None:
    """``MASTER_PORT``; None where it is not set.

    Raises: ValueError: it is no port.
    """
    port = whole_number(environ, "MASTER_PORT", 0) if "MASTER_PORT" in environ else None
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"environment: MASTER_PORT = {port} (must be 1 to 65535); unset it")
    return port


def step_ports(task: StepTask) -> list[int]:
    """Where the tasks may meet, in the order of trying; ``MASTER_PORT`` alone where it is set."""
    if port := given_port(os.environ):
        return [port]
    first = int(task.job) * _PORTS_PER_JOB + int(task.step)
    return [
        _FIRST_PORT + (first + number * _NEXT_TRY) % _NUM_PORTS for number in range(_PORT_TRIES)
    ]


def meet(
    task: StepTask | None,
    start: Start,
    *,
    rank: int,
    world_size: int,
    device: torch.device,
    timeout_seconds: int,
) -> str:
    """Make the process group before anything is written; a collective call.

    Args:
        task: This process under SLURM; None: torchrun says where to meet.
        rank, world_size: Which process of how many this is.
        device: Which backend talks between the processes: gloo on CPUs, NCCL on GPUs.
        timeout_seconds: Longest that a process waits for another, here and later.

    Returns: the checkpoint of the first process.
    Raises: ValueError: no port is free, the first process cannot be found, or the tasks have
        folders of their own, or other shards or settings.
    """
    timeout = timedelta(seconds=timeout_seconds)
    name = "torchrun" if task is None else task.name
    with ExitStack() as stack:
        if task is None:
            store, *_ = next(rendezvous("env://", rank, world_size, timeout=timeout))
        else:
            address = StepEnvironment(task).main_address
            if rank == 0:
                served = stack.enter_context(serve(task, address))
            else:
                served = find(task, address, timeout_seconds)
            os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(served.port)}
            store = served
        store.set_timeout(timeout)
        first = agree(store, start, name=name, rank=rank, world_size=world_size)
    backend = _get_default_process_group_backend_for_device(device)
    torch.distributed.init_process_group(
        backend,
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=main_timeout(timeout_seconds, device),
    )
    if device.type == "cuda":  # as Lightning does: NCCL warns of groups that are left
        atexit.register(_end_group)
    return first


def main_timeout(timeout_seconds: int, device: torch.device) -> timedelta:
    """How long the group waits that gradients go through."""
    later = 0 if device.type == "cpu" else WATCHDOG_SECONDS
    return timedelta(seconds=timeout_seconds + later)


def agree(store: Store, start: Start, *, name: str, rank: int, world_size: int) -> str:
    """Compare run folders, what is read, and settings, and take the checkpoint of the first
    process; a collective call.

    That one has read it and compared its digest; the others do not read it too.

    Raises: ValueError: several folders, other shards or settings, or a process that is missing.
    """
    ranks = range(world_size)
    store.set(f"hicmae/out/{rank}", start.out)
    store.set(f"hicmae/data/{rank}", start.data)
    if rank == 0:
        store.set("hicmae/checkpoint", start.checkpoint)
        store.set("hicmae/settings", json.dumps(start.settings))
    try:
        of_first = json.loads(store.get("hicmae/settings"))
        store.set(f"hicmae/differs/{rank}", differences(start.settings, of_first))
        differs = [store.get(f"hicmae/differs/{other}").decode() for other in ranks]
        folders = [store.get(f"hicmae/out/{other}").decode() for other in ranks]
        readers = [store.get(f"hicmae/data/{other}").decode() for other in ranks]
        first = store.get("hicmae/checkpoint").decode()
        store.set(f"hicmae/read/{rank}", "")
        if rank == 0:  # which takes the store with it, if it ends
            store.wait([f"hicmae/read/{other}" for other in ranks])
    except DistError as error:
        raise ValueError(
            f"{name}: process {rank} of {world_size} waited for the others in vain "
            f"({str(error).splitlines()[0]}); see their messages"
        ) from None
    refuse_differences(name, folders, readers, differs)
    return first


@contextmanager
def serve(task: StepTask, address: str) -> Iterator[TCPStore]:
    """The store of a step, in its first process; whoever asks at its port is told where it is."""
    listener = _listener(task)
    try:
        store = TCPStore(address, 0, task.world_size, True, wait_for_workers=False)
    except DistError as error:
        listener.close()
        raise ValueError(
            f"{task.name}: cannot listen at {address}: {str(error).splitlines()[0]}; MASTER_ADDR "
            "must be a name of the first node"
        ) from None
    threading.Thread(
        target=_tell, args=(listener, f"{_greeting(task)} {store.port}\n"), daemon=True
    ).start()
    try:
        yield store
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        listener.close()


def find(task: StepTask, address: str, timeout_seconds: int) -> TCPStore:
    """The store of the first process, which is asked for it, and told from other programs."""
    deadline = time.monotonic() + timeout_seconds
    ports = step_ports(task)
    while time.monotonic() < deadline:
        for port in ports:
            with suppress(OSError, DistError):
                with socket.create_connection((address, port), timeout=_ANSWER_SECONDS) as asked:
                    answer = asked.makefile(errors="replace").readline(200)
                greeting, _, store_port = answer.rstrip().rpartition(" ")
                if greeting == _greeting(task):
                    return TCPStore(
                        address, int(store_port), task.world_size, False, wait_for_workers=False
                    )
        time.sleep(_PAUSE_SECONDS)
    raise ValueError(
        f"{task.name}: process {task.rank} of {task.world_size} found no first process at "
        f"{address} (ports {', '.join(map(str, ports))}) within {timeout_seconds} s "
        "(hardware.timeout_seconds); see the first one's message: its port may be taken"
    )


def _greeting(task: StepTask) -> str:
    return f"hicmae {task.name} start {task.restart}"


def _listener(task: StepTask) -> socket.socket:
    ports = step_ports(task)
    for port in ports:
        try:
            return socket.create_server(("", port))
        except OSError as error:
            why = str(error.strerror)
    if "MASTER_PORT" in os.environ:
        raise ValueError(port_taken(ports[0], why))
    raise ValueError(
        f"{task.name}: the ports {', '.join(map(str, ports))} of {socket.gethostname()} are all "
        f"taken ({why}); set MASTER_PORT to a free one"
    )


def differences(mine: Mapping[str, Any], of_first: Mapping[str, Any]) -> str:
    """The settings that differ from the first process's, of those that all must share."""
    return ", ".join(
        f"{name} = {mine.get(name)}, the first has {of_first.get(name)}"
        for name in dict.fromkeys((*of_first, *mine))
        if mine.get(name) != of_first.get(name) and not name.startswith(_OF_A_MACHINE)
    )


def refuse_differences(
    name: str, folders: Sequence[str], readers: Sequence[str], differs: Sequence[str]
) -> None:
    """Compare what the processes of a run have said: run folders, what is read, and which
    settings are not the first one's, each by rank.

    Raises: ValueError: they are not of one run.
    """
    world_size = len(folders)
    if len(set(folders)) > 1:
        some = ", ".join(sorted(set(folders))[:3])
        raise ValueError(
            f"{name}: its {world_size} tasks are one run, and have {len(set(folders))} run folders "
            f"({some}); give all the same --out, or make each a run of its own in a step of one "
            "task: srun -n1 --exact … &"
        )
    if len(kinds := dict.fromkeys(readers)) > 1:
        some = "; ".join(f"process {readers.index(what)}: {what}" for what in list(kinds)[:3])
        raise ValueError(
            f"{name}: its {world_size} processes are one run, and read {len(kinds)} different "
            f"collections ({some}); each takes its share of one order, so give all the same shards "
            "(a copy on a node may be old, or not whole)"
        )
    if any(differs):
        other, what = next((rank, what) for rank, what in enumerate(differs) if what)
        raise ValueError(
            f"{name}: its {world_size} processes are one run, and have different settings "
            f"(process {other}: {what}); give all the same words, and the same --config"
        )


def port_taken(port: int, why: str) -> str:
    """A line about a ``MASTER_PORT`` that another program has."""
    return (
        f"MASTER_PORT = {port}: cannot be used on {socket.gethostname()} ({why}); unset it, and a "
        "free one is found, or choose another"
    )


def _tell(listener: socket.socket, answer: str) -> None:
    with suppress(OSError):
        while True:
            asking, _ = listener.accept()
            with asking, suppress(OSError):
                asking.sendall(answer.encode())


def _end_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _counts(text: str) -> Iterator[int]:
    """Tasks of each node, of ``2(x3),1``."""
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        yield from [int(count)] * int(times or 1)
