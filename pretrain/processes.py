"""The processes of a run: who takes part, how they agree, who is lost, and ending all on a signal.

Which process of how many this is, is known before any process group exists. One command works in
three ways, and where the rank comes from differs:

- on one machine, ``hicmae pretrain … --hardware.devices 2`` is the first process and starts the
  others itself; they find ``LOCAL_RANK`` (and, over several machines without a cluster manager,
  everyone needs ``NODE_RANK`` and ``MASTER_ADDR`` from whoever starts them);
- under torchrun, ``RANK`` and ``LOCAL_WORLD_SIZE`` say it;
- under SLURM, with ``srun``, the variables of the step say it (``pretrain.cluster``).

Processes agree over gloo, off the device (``SideGroup``). NCCL notices nothing of one that died:
its kernels spin on the device until a watchdog aborts the process, with a host that waits for them
and can say, save and close nothing any more. So every optimizer step has one exchange of a few
integers between hosts, and a thread watches the next process: its connection breaks when it dies.
Where the host does not come back, that thread says so and ends the process.

The times fit together, each below the next, or what is promised is cut off by what comes earlier:
``hardware.timeout_seconds`` (no answer in an exchange), ``+ GRACE_SECONDS`` (a host that is stuck
in a step), ``+ WATCHDOG_SECONDS`` (NCCL's abort), and ``srun --wait`` of ``slurm/*.sbatch``.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import ClusterEnvironment
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning_fabric.utilities.distributed import _set_num_threads_if_needed
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch import distributed

from hicmae.processes import speaks_of_another_process
from pretrain.cluster import (
    StepEnvironment,
    StepTask,
    given_port,
    lone_task,
    port_taken,
    step_task,
    whole_number,
)
from pretrain.settings import HardwareConfig

_OF_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
# What a process that has lost another one gets to end by itself.
GRACE_SECONDS = 10
_FOREVER = timedelta(days=3650)
_LOOK_SECONDS = 0.5
_OVER = -1


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Who is there."""

    rank: int  # of this process, over all nodes
    devices: int  # processes on each node
    num_nodes: int
    launcher: Literal["own", "torchrun", "slurm"] = "own"
    note: str = ""  # for the user: what SLURM makes of it, and settings that are not used
    task: StepTask | None = None  # of SLURM

    @property
    def world_size(self) -> int:
        return self.devices * self.num_nodes

    def environment(self) -> ClusterEnvironment:
        """The same for Lightning, which does not requeue: a run is saved and ends first."""
        if self.launcher == "torchrun":
            return TorchElasticEnvironment()
        if self.task is not None:
            return StepEnvironment(self.task)
        return LightningEnvironment()


def find_processes(hardware: HardwareConfig, device: str) -> Processes:
    """Find out from the environment and the settings; ``device`` is the option.

    Raises: ValueError: torchrun or SLURM started different numbers of processes on its nodes, or
        what a launcher left in the environment does not fit.
    """
    if TorchElasticEnvironment.detect():
        names = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        rank, world, here = (whole_number(os.environ, name) for name in names)
        whole_number(os.environ, "LOCAL_RANK")
        found = _started(hardware, "torchrun", rank, world, here)
        return replace(found, note="; ".join(filter(None, (found.note, _restarts(os.environ)))))
    task = step_task(os.environ)
    if task is not None:
        found = _started(hardware, "slurm", task.rank, task.world_size, task.devices)
        note = "; ".join(filter(None, (str(task), found.note)))
        return replace(found, task=task, note=note)
    devices = _devices(hardware, device)
    nodes = 1 if hardware.num_nodes == "auto" else hardware.num_nodes
    node = whole_number(os.environ, "NODE_RANK", whole_number(os.environ, "GROUP_RANK", 0))
    rank = node * devices + whole_number(os.environ, "LOCAL_RANK", 0)
    _check_leftovers(os.environ, rank, devices * nodes)
    return Processes(
        rank=rank, devices=devices, num_nodes=nodes, note=lone_task(os.environ, devices * nodes)
    )


def check_gpus(processes: Processes, num_visible: int) -> None:
    """Check that every process of this node has a GPU; ``num_visible``: those it can see.

    SLURM may show each task one of its own (``--gpus-per-task``); else all see all of the node.

    Raises: ValueError: there are not as many.
    """
    if num_visible >= processes.devices or (num_visible == 1 and processes.launcher != "own"):
        return
    if processes.launcher == "own":
        raise ValueError(
            f"hardware.devices = {processes.devices}: a process needs a GPU of its own, and "
            f"{num_visible} can be used here; take --hardware.devices {num_visible}, or --device "
            "cpu"
        )
    raise ValueError(
        f"{processes.launcher}: started {processes.devices} processes on this node, which see "
        f"{num_visible} GPUs; let each see one of its own or all see as many as there are "
        "processes (--gpus-per-task=1, or --gpus-per-node)"
    )


def check_port(processes: Processes) -> None:
    """Check ``MASTER_PORT`` where this process is the first and starts the others.

    Raises: ValueError: it is no port, or another program has it.
    """
    port = given_port(os.environ)
    first = processes.rank == 0 and processes.launcher == "own" and "LOCAL_RANK" not in os.environ
    if port is None or not first or processes.world_size == 1:
        return
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise ValueError(port_taken(port, str(error.strerror))) from None


class Launcher(_SubprocessScriptLauncher):
    """Starts the other processes of this machine; each runs the same command.

    Lightning's kills this process without a word when another one has died. Here the others find
    out by themselves (``SideGroup``), say so and end.
    """

    def launch(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Start them, then call the function here."""
        kwargs.pop("trainer", None)
        environment = self.cluster_environment
        environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not environment.creates_processes_externally:
            self._call_children_scripts()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)


def lost_process(
    error: RuntimeError | None, processes: Processes, *, timeout_seconds: int
) -> str | None:
    """One line about an error that comes of another process; None: it is something else.

    That one has died or hangs is noticed by the side group, at the latest after the timeout;
    without an ``error`` it is known already.
    """
    if error and (processes.world_size == 1 or not speaks_of_another_process(error)):
        return None
    return (
        f"process {processes.rank} of {processes.world_size} has lost another one, which died or "
        f"did not answer within {timeout_seconds} s (hardware.timeout_seconds); see its own "
        "message, then go on from the last checkpoint with --resume"
    )


class StopOnSignal(pl.Callback):
    """Ends training after the current optimizer step on a signal; the run is then saved.

    Ctrl-C, SIGTERM, the SIGUSR1 that clusters send ahead of a pre-emption or a time limit, and the
    SIGHUP of a terminal that is gone (not under ``nohup``, which has it ignored). A second Ctrl-C
    stops at once, unsaved; other signals change nothing any more, so this callback stands behind
    the one that saves. All processes stop after the same step, though only one may have got the
    signal.

    Attributes:
        received: The signal, if there was one; in every process.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._terminals: list[int] = []

    def seen(self) -> tuple[int, ...]:
        """One flag a signal."""
        return tuple(int(self.received == number) for number in _SIGNALS)

    def settle(self, trainer: pl.Trainer, totals: tuple[int, ...]) -> bool:
        arrived = [number for number, count in zip(_SIGNALS, totals, strict=True) if count]
        if arrived:
            self.received = arrived[0]
        return bool(arrived)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
            self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]

    def on_train_end(self, *_: Any) -> None:
        """Give the signals back: Lightning goes on to restore what it found itself."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def on_exception(self, *_: Any) -> None:
        self.on_train_end()

    def _note(self, number: int, frame: Any) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        for stream in self._terminals:
            if not os.isatty(stream):  # gone, and every write would be an error
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        self.received = self.received or signal.Signals(number)


class SideGroup(pl.Callback):
    """Sums between hosts, and the watch over the other processes; of one process, nothing.

    The last of a trainer's callbacks, so that it watches until the others are done.

    Attributes:
        lost: The process that has died, if one is known to have.

    Args:
        timeout_seconds: Longest that an exchange waits, and that a step may take once one has been
            taken: the first may compile.
        end: Says and closes what a process has to that is stuck; called once at most, in a thread,
            and the process ends after it.
    """

    def __init__(self, timeout_seconds: int, *, end: Callable[[], object]) -> None:
        self.lost: int | None = None
        self._timeout_seconds = timeout_seconds
        self._end = end
        self._group: Any = None
        self._ring: Any = None
        self._watchers: list[threading.Thread] = []
        self._done = threading.Event()
        self._trouble: float | None = None  # since when this process knows of a loss
        self._step: float | None = None  # when the step began that goes on
        self._first = True
        self._ending = threading.Lock()  # held by whoever ends the process

    def watch_start(self, launcher: Any) -> None:
        """Until the processes have met, end this one as soon as one ends that it has started.

        They meet in PyTorch, which waits for a missing one as long as for an answer.
        """
        if isinstance(launcher, Launcher):
            work = threading.Thread(target=self._watch_start, args=(launcher,), daemon=True)
            work.start()

    def sum(self, numbers: Sequence[int]) -> list[int]:
        """Add up over processes; a collective call at the end of a step.

        Raises: RuntimeError: another process is gone or does not answer.
        """
        if self._group is None:
            return list(numbers)
        if self.lost is not None:
            raise RuntimeError(f"process group: connection closed by process {self.lost}")
        totals = torch.tensor(numbers)
        distributed.all_reduce(totals, group=self._group)
        self._step, self._first = None, False
        return [int(total) for total in totals]

    def gather(self, value: Any) -> list[Any]:
        """What each process has, by rank; a collective call."""
        if self._group is None:
            return [value]
        found: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(found, value, group=self._group)
        return found

    def disarm(self) -> None:
        """Leave the end to the caller, who waits for it here where the thread is at it already."""
        self._done.set()
        self._ending.acquire()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the groups, and watch.

        Raises: ValueError: gloo finds no way between the hosts.
        """
        if trainer.world_size == 1:
            return
        ranks = list(range(trainer.world_size))
        timeout = timedelta(seconds=self._timeout_seconds)
        try:
            self._group = distributed.new_group(ranks, timeout=timeout, backend="gloo")
            # One of its own, as an exchange that nothing answers breaks a group.
            self._ring = distributed.new_group(ranks, timeout=_FOREVER, backend="gloo")
        except RuntimeError as error:
            raise ValueError(
                f"process {trainer.global_rank} of {trainer.world_size}: no connection to the "
                f"others over gloo ({str(error).splitlines()[0]}); see their messages, or name the "
                "network interface between the nodes with GLOO_SOCKET_IFNAME"
            ) from None
        for work in (self._listen, self._watch):
            self._watchers.append(threading.Thread(target=work, daemon=True, name="side group"))
            self._watchers[-1].start()

    def on_train_batch_start(self, *_: Any) -> None:
        """From here on to the exchange nothing is waited for but the device."""
        if self._step is None and not self._first:
            self._step = time.monotonic()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """All are done: from now on a connection that breaks means nothing."""
        if self._group is None:
            return
        self._step = None
        distributed.barrier(group=self._group)
        self._done.set()
        self._tell(_OVER)
        for thread in self._watchers:
            thread.join()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Lightning now empties the device, which never comes back where NCCL spins on it."""
        if isinstance(exception, RuntimeError) and speaks_of_another_process(exception):
            self._trouble = self._trouble or time.monotonic()
        else:
            self._done.set()

    def _watch_start(self, launcher: Launcher) -> None:
        while self._group is None and not self._done.wait(_LOOK_SECONDS):
            if any(process.poll() is not None for process in launcher.procs):
                self._leave()

    def _listen(self) -> None:
        """Wait for a word of the next process, which comes at the end or when another has died."""
        after = (distributed.get_rank() + 1) % distributed.get_world_size()
        word = torch.zeros(1, dtype=torch.int64)
        try:
            distributed.recv(word, src=after, group=self._ring)
            lost = int(word)
        except RuntimeError:
            lost = after
        if lost == _OVER or self._done.is_set():
            return
        self.lost, self._trouble = lost, time.monotonic()
        self._tell(lost)

    def _tell(self, word: int) -> None:
        """Send a word to the process that listens to this one, if it is still there."""
        before = (distributed.get_rank() - 1) % distributed.get_world_size()
        if before != self.lost:
            try:
                distributed.send(torch.tensor([word]), dst=before, group=self._ring)
            except RuntimeError:
                self.lost = before

    def _watch(self) -> None:
        """End this process where it knows of a loss, or is stuck in a step, and stays there."""
        while not self._done.wait(_LOOK_SECONDS):
            now, trouble, step = time.monotonic(), self._trouble, self._step
            stuck = step is not None and now - step > self._timeout_seconds + GRACE_SECONDS
            stuck |= trouble is not None and now - trouble > GRACE_SECONDS
            if stuck:
                self._leave()

    def _leave(self) -> None:
        """End this process from a thread, unless it is being ended."""
        if self._ending.acquire(blocking=False):
            try:
                self._end()
            finally:
                os._exit(1)


def _started(
    hardware: HardwareConfig,
    launcher: Literal["torchrun", "slurm"],
    rank: int,
    world_size: int,
    devices: int,
) -> Processes:
    """Processes that somebody else started; their counts hold, whatever the settings say."""
    if not devices or world_size % devices or rank >= world_size:
        raise ValueError(
            f"{launcher}: started {world_size} processes, {devices} of them on this node, of which "
            f"this is number {rank}; start the same number on every node"
        )
    nodes = world_size // devices
    wished = (hardware.devices, hardware.num_nodes)
    differs = [
        f"hardware.{name} = {wish} (found {found})"
        for name, wish, found in zip(
            ("devices", "num_nodes"), wished, (devices, nodes), strict=True
        )
        if wish not in ("auto", found)
    ]
    note = f"{launcher} started the processes; not used: {', '.join(differs)}" if differs else ""
    return Processes(rank=rank, devices=devices, num_nodes=nodes, launcher=launcher, note=note)


def _check_leftovers(environ: Mapping[str, str], rank: int, world_size: int) -> None:
    """Compare what another launcher has said, if one has, with a run that starts its own processes.

    Each of its processes would train alone otherwise, all into one folder.
    """
    said = {name: environ[name] for name in _OF_LAUNCHERS if name in environ}
    differs = {"RANK", "WORLD_SIZE"} <= said.keys() and (
        (said["RANK"], said["WORLD_SIZE"]) != (str(rank), str(world_size))
    )
    if rank < world_size and not differs:
        return
    listed = ", ".join(f"{name} = {value}" for name, value in said.items())
    raise ValueError(
        f"environment: {listed} do not fit a run of hardware.devices x num_nodes = {world_size} "
        "processes that starts them itself: start with torchrun or srun, set hardware.devices and "
        "num_nodes to what is started, or unset what is left of another launcher"
    )


def _restarts(environ: Mapping[str, str]) -> str:
    """A line where torchrun will restart processes that then find the addresses of dead ones.

    It hands the store of its own rendezvous to them, with what the first start left in it; only
    its own environment can change that.
    """
    restarts = environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    if restarts == "0" or environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return ""
    if environ.get("TORCH_DISABLE_SHARE_RDZV_TCP_STORE") == "1":
        return ""
    return (
        f"torchrun restarts up to {restarts} times (--max-restarts), and restarted processes would "
        "dial the addresses of the dead: start it with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"
    )


def _devices(hardware: HardwareConfig, device: str) -> int:
    if hardware.devices != "auto":
        return hardware.devices
    return 1 if device == "cpu" or ":" in device else max(1, torch.cuda.device_count())
