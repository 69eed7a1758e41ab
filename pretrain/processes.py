"""Which process of how many this is, known before any process group exists.

For: the plan of a run (its global batch), who writes records, and Lightning's view of the same.
Not for: how processes train together (``pretrain/engines.py``).

One command works in three ways, and where the rank comes from differs:

- on one machine, ``hicmae pretrain … --hardware.devices 2`` is the first process and starts the
  others itself; they find ``LOCAL_RANK`` (and, over several machines without a cluster manager,
  everyone needs ``NODE_RANK`` and ``MASTER_ADDR`` from whoever starts them);
- under torchrun, ``RANK`` and ``LOCAL_WORLD_SIZE`` say it;
- under SLURM, with ``srun``, ``SLURM_PROCID`` and ``SLURM_NTASKS`` say it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning_fabric.plugins import ClusterEnvironment
from lightning_fabric.plugins.environments import (
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning_fabric.utilities.distributed import _set_num_threads_if_needed
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from pretrain.settings import HardwareConfig

# Jobs of these names are sessions in which a person starts things by hand.
_INTERACTIVE = ("bash", "interactive")


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Who is there.

    Attributes:
        rank: Of this process, over all nodes.
        devices: Processes on each node.
        num_nodes: Nodes.
        launcher: Who starts the processes: ``own``, ``torchrun`` or ``slurm``.
        note: A line for the user where the settings said otherwise than the launcher, or empty.
    """

    rank: int
    devices: int
    num_nodes: int
    launcher: Literal["own", "torchrun", "slurm"] = "own"
    note: str = ""

    @property
    def world_size(self) -> int:
        """Processes over all nodes."""
        return self.devices * self.num_nodes

    def environment(self) -> ClusterEnvironment:
        """The same for Lightning. Its own requeueing is off: a run is saved and ends first."""
        if self.launcher == "torchrun":
            return TorchElasticEnvironment()
        if self.launcher == "slurm":
            return SLURMEnvironment(auto_requeue=False)
        return LightningEnvironment()


def find_processes(hardware: HardwareConfig) -> Processes:
    """Find out from the environment and the settings.

    Raises: ValueError: torchrun or SLURM started different numbers of processes on its nodes.
    """
    if TorchElasticEnvironment.detect():
        world, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
        return _started(hardware, "torchrun", int(os.environ["RANK"]), world, here)
    if "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in _INTERACTIVE:
        world = int(os.environ["SLURM_NTASKS"])
        nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", os.environ.get("SLURM_NNODES", "1")))
        here = int(os.environ.get("SLURM_NTASKS_PER_NODE", world // nodes))
        return _started(hardware, "slurm", int(os.environ.get("SLURM_PROCID", "0")), world, here)
    devices = _devices(hardware)
    nodes = 1 if hardware.num_nodes == "auto" else hardware.num_nodes
    environment = LightningEnvironment()
    rank = environment.node_rank() * devices + environment.local_rank()
    return Processes(rank=rank, devices=devices, num_nodes=nodes)


class Launcher(_SubprocessScriptLauncher):
    """Starts the other processes of this machine; each runs the same command.

    Lightning's kills this process without a word when another one has died. Here the others find
    out by themselves, at the latest after ``hardware.timeout_seconds``, say so and end.
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


def _started(
    hardware: HardwareConfig,
    launcher: Literal["torchrun", "slurm"],
    rank: int,
    world_size: int,
    devices: int,
) -> Processes:
    """Processes that somebody else started; their counts hold, whatever the settings say."""
    if world_size % devices:
        raise ValueError(
            f"{launcher}: started {world_size} processes, {devices} of them on this node; start "
            "the same number on every node"
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


def _devices(hardware: HardwareConfig) -> int:
    """Processes on this node, where nobody has started them yet."""
    if hardware.devices != "auto":
        return hardware.devices
    on_cpu = hardware.accelerator == "cpu" or not torch.cuda.is_available()
    return 1 if on_cpu else torch.cuda.device_count()
