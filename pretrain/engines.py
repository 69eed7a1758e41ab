"""Engines: how several devices train one network, as data out of ``configs/engines``.

For: reading such a file, and the strategy that Lightning's trainer is given. Not for: DeepSpeed's
own affairs (``pretrain/zero.py``), nor how many devices there are (``pretrain/processes.py``).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.strategies import DDPStrategy, Strategy

from hicmae.config import config_path, config_root, from_dict, load_yaml
from pretrain.processes import Launcher, Processes


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How several devices train one network.

    Args:
        kind: ``single``: one device; ``ddp``: every device holds everything; ``deepspeed``: they
            share what ``stage`` says.
        stage: Of ZeRO: 1 shares the optimizer's state, 2 the gradients too, 3 the weights too.
        offload_optimizer: Whether the optimizer's state, and its step, are on the CPU.
        offload_parameters: Whether weights that are not in use are on the CPU; stage 3 only.
        bucket_elements: Numbers that are sent at once; twice as many take memory.
        overlap: Whether gradients are sent while the backward pass goes on.
        persistent_elements: Weights of fewer numbers stay whole on every device; stage 3 only.
        gathered_elements: Numbers of shared weights that are whole at once, those of the next
            layers among them; stage 3 only. One layer's are whole however many they are.
        shards: Whether each process also writes its own part of a checkpoint in DeepSpeed's
            format, from which a run on the same number of processes goes on. The consolidated
            checkpoint, which goes on anywhere, is always written.

    Source: ZeRO, arXiv 1910.02054; offloading, arXiv 2101.06840.
    """

    kind: Literal["single", "ddp", "deepspeed"]
    stage: int = 0
    offload_optimizer: bool = False
    offload_parameters: bool = False
    bucket_elements: int = 50_000_000
    overlap: bool = True
    persistent_elements: int = 100_000
    gathered_elements: int = 10_000_000
    shards: bool = True

    def __post_init__(self) -> None:
        problems = []
        stages = (1, 2, 3) if self.kind == "deepspeed" else (0,)
        if self.stage not in stages:
            allowed = ", ".join(map(str, stages))
            problems.append(f"stage = {self.stage} (kind {self.kind} allows {allowed})")
        if self.offload_optimizer and self.kind != "deepspeed":
            problems.append(f"offload_optimizer with kind {self.kind} (needs deepspeed)")
        if self.offload_parameters and self.stage != 3:
            problems.append(f"offload_parameters at stage {self.stage} (needs stage 3)")
        if self.bucket_elements < 1:
            problems.append(f"bucket_elements = {self.bucket_elements} (must be 1 or more)")
        for name in ("persistent_elements", "gathered_elements"):
            if getattr(self, name) < 0:
                problems.append(f"{name} = {getattr(self, name)} (must be 0 or more)")
        if problems:
            raise ValueError(f"engine: {'; '.join(problems)}")


def load_engine(name_or_path: str, *, world_size: int) -> EngineConfig:
    """Read an engine: a name out of ``configs/engines``, a YAML file, or ``auto``.

    Raises:
        ValueError: No such engine, a file that is none, or ``single`` for several processes.
        FileNotFoundError: No such file.
    """
    name = name_or_path
    if name == "auto":
        name = "single" if world_size == 1 else "zero1"
    if re.fullmatch(r"[\w-]+", name) and not Path(name).is_file():
        known = sorted(file.stem for file in (config_root() / "engines").glob("*.yaml"))
        if name not in known:
            raise ValueError(
                f"hardware.strategy = {name}: no such engine (engines: auto, {', '.join(known)}; "
                "or give a YAML file)"
            )
        name = f"configs/engines/{name}.yaml"
    path = config_path(name)
    engine = from_dict(EngineConfig, load_yaml(path), str(path))
    if engine.kind == "single" and world_size > 1:
        raise ValueError(
            f"hardware.strategy = {name_or_path}: trains on one device, there are {world_size}; "
            "take auto, ddp or zero1, or --hardware.devices 1"
        )
    return engine


def make_strategy(
    engine: EngineConfig,
    *,
    processes: Processes,
    on_cpu: bool,
    precision: str,
    batch_size: int,
    timeout_seconds: int,
    checkpoint_io: CheckpointIO,
) -> tuple[Strategy | str, list[Any]]:
    """The strategy of an engine, and the plugins that the trainer is given besides.

    Args:
        engine: What to make.
        processes: Who takes part.
        on_cpu: Whether it computes on CPUs.
        precision: Lightning's name.
        batch_size: Clips that one process handles at once.
        timeout_seconds: Longest that a process waits for another.
        checkpoint_io: Writes and reads checkpoints.
    """
    if engine.kind == "single":
        # The environment is told for what it turns off: Lightning's own requeueing.
        started = [] if processes.launcher == "own" else [processes.environment()]
        return "auto", [checkpoint_io, *started]
    settings: dict[str, Any] = {
        "cluster_environment": processes.environment(),
        "process_group_backend": "gloo" if on_cpu else None,
        "timeout": timedelta(seconds=timeout_seconds),
    }
    if engine.kind == "ddp":
        # Buffers are constants (positions, windows): sending them each step would be for nothing.
        ddp = _DDP(gradient_as_bucket_view=True, broadcast_buffers=False, **settings)
        return ddp, [checkpoint_io]
    if on_cpu:
        # DeepSpeed asks the machine what it computes on; one with GPUs would say otherwise.
        os.environ["DS_ACCELERATOR"] = "cpu"
    from pretrain.zero import ZeroPrecision, ZeroStrategy, zero_config

    config = zero_config(engine, precision=precision, batch_size=batch_size, on_cpu=on_cpu)
    strategy = ZeroStrategy(config, keep_shards=engine.shards, **settings)
    return strategy, [checkpoint_io, ZeroPrecision(precision)]  # type: ignore[arg-type]


class _DDP(DDPStrategy):
    """Lightning's, with our launcher."""

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = Launcher(self.cluster_environment, self.num_processes, self.num_nodes)
