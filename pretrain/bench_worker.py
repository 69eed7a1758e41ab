"""One process of an engine's bench: trains on noise with Lightning as a run does, and measures.

For: ``pretrain/bench_engines.py``, which starts it. Not for: what is done with the figures.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch.utils.data import DataLoader

from hicmae.allocator import keep_freed_memory
from hicmae.benchmarking.records import random_clips
from hicmae.settings import ModelConfig, ObjectiveConfig
from hicmae.transforms import AugmentConfig
from pretrain.bench_traffic import Traffic, kept_bytes
from pretrain.engines import EngineConfig, make_strategy
from pretrain.module import PretrainModule
from pretrain.processes import find_processes
from pretrain.settings import HardwareConfig, OptimizerConfig

_TIMEOUT_SECONDS = 120
_OPTIMIZER = OptimizerConfig()


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a process is to do.

    Attributes:
        engine: How processes share.
        world_size: Processes.
        port: Where they meet on this machine.
        model: Sizes.
        objective: Masks and ablations.
        augment: Random changes to the clips.
        batch_size: Clips of this process.
        warmup: Steps before the measured ones.
        steps: Measured steps.
        precision: Lightning's name.
        accelerator: cpu or cuda.
        folder: For the log and the figures of each process.
    """

    engine: EngineConfig
    world_size: int
    port: int
    model: ModelConfig
    objective: ObjectiveConfig
    augment: AugmentConfig
    batch_size: int
    warmup: int
    steps: int
    precision: str
    accelerator: str
    folder: Path


def work(work: Work, rank: int) -> None:
    """Train, and write ``process-<rank>.json``; what is said goes to ``process-<rank>.log``."""
    _say_into(work.folder / f"process-{rank}.log")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        GROUP_RANK="0",
        WORLD_SIZE=str(work.world_size),
        LOCAL_WORLD_SIZE=str(work.world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(work.port),
        TORCHELASTIC_RUN_ID="bench",
    )
    warnings.filterwarnings("ignore")
    on_cpu = work.accelerator == "cpu"
    if on_cpu:
        keep_freed_memory()
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // work.world_size))
    processes = find_processes(HardwareConfig(accelerator="cpu" if on_cpu else "gpu"))
    total = work.warmup + work.steps + 1  # the last one is counted, which takes time
    module = PretrainModule(
        model=work.model,
        objective=work.objective,
        augment=work.augment,
        optimizer=_OPTIMIZER,
        num_steps=total,
        warmup_steps=1,
        global_batch=work.batch_size * work.world_size,
        seed=0,
    )
    strategy, plugins = make_strategy(
        work.engine,
        processes=processes,
        on_cpu=on_cpu,
        precision=work.precision,
        batch_size=work.batch_size,
        timeout_seconds=_TIMEOUT_SECONDS,
        checkpoint_io=TorchCheckpointIO(),
    )
    clock = _Clock(work.warmup, work.steps)
    trainer = pl.Trainer(
        accelerator="cpu" if on_cpu else "gpu",
        devices=processes.devices,
        strategy=strategy,
        plugins=plugins,
        precision=None if work.engine.kind == "deepspeed" else work.precision,  # type: ignore[arg-type]
        max_steps=total,
        max_epochs=-1,
        callbacks=[clock],
        logger=False,
        default_root_dir=work.folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
    )
    batch = random_clips(work.model.input, work.batch_size, torch.device("cpu"))
    batch["keys"] = [f"noise-{rank}-{number}" for number in range(work.batch_size)]
    batches: list[Any] = [batch] * total
    loader: DataLoader[Any] = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]  # a list
    trainer.fit(module, loader)
    figures = {
        "seconds": clock.seconds,
        "kept_bytes": clock.kept,
        "sent_bytes": clock.traffic.sent_bytes,
        "collectives": clock.traffic.calls,
    }
    (work.folder / f"process-{rank}.json").write_text(json.dumps(figures), encoding="utf-8")


class _Clock(pl.Callback):
    """Times steps from end to end, and looks at the last one more closely.

    Attributes:
        seconds: Of each measured step.
        kept: See ``kept_bytes``.
        traffic: Of the last step, which is not timed.
    """

    def __init__(self, warmup: int, steps: int) -> None:
        self.warmup = warmup
        self.steps = steps
        self.seconds: list[float] = []
        self.kept: dict[str, int] = {}
        self.traffic = Traffic()
        self._ended = 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the last step."""
        if batch_idx == self.warmup + self.steps:
            self.traffic.__enter__()

    def on_before_optimizer_step(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Look at what is kept when gradients are there."""
        if trainer.global_step == self.warmup + self.steps:
            self.kept = kept_bytes(pl_module, trainer.strategy.optimizers[0])

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Take the time."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        now = time.perf_counter()
        if self.warmup <= batch_idx < self.warmup + self.steps:
            self.seconds.append(now - self._ended)
        if batch_idx == self.warmup + self.steps:
            self.traffic.__exit__(None, None, None)
        self._ended = now


def _end_with_parent() -> None:
    """Leave nothing behind when the bench is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _say_into(path: Path) -> None:
    """Send what this process and its libraries print into a file."""
    file = path.open("wb")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(file.fileno(), stream.fileno())
