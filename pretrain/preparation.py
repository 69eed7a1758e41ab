"""From what the user asked for to what a run will be, settled before the first step.

For: checking settings against shards, processes and a run that is gone on with; what the dry run
shows and a run is made from. Not for: either of these (``pretrain/dry_run.py``,
``pretrain/run.py``), nor writing anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hicmae import __version__
from hicmae.plain import to_dict
from hicmae.precision import Precision, resolve_precision
from hicmae.settings import ModelConfig, ObjectiveConfig
from hicmae.transforms import AugmentConfig
from pretrain.data import Survey, survey
from pretrain.engines import EngineConfig, load_engine
from pretrain.plan import Plan, make_plan
from pretrain.probe_settings import ProbeConfig
from pretrain.probes import ProbeData, probe_data
from pretrain.processes import Processes, find_processes
from pretrain.resume import Resumption, find_resumption
from pretrain.settings import (
    DataConfig,
    HardwareConfig,
    LogConfig,
    OptimizerConfig,
    WandbConfig,
)
from pretrain.sizes import ModelChoice, choose_model


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for; the attributes are the arguments of ``pretrain.run.pretrain``."""

    data: DataConfig
    out: Path
    model: ModelChoice
    objective: ObjectiveConfig
    augment: AugmentConfig
    optimizer: OptimizerConfig
    steps: int | None
    epochs: float
    accumulate: int
    precision: Precision
    max_skipped_steps: int
    hardware: HardwareConfig
    log: LogConfig
    probe: ProbeConfig
    wandb: WandbConfig
    seed: int
    resume: bool
    overwrite: bool


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a run will be.

    Attributes:
        asked: For what.
        sizes: Of the network.
        precision: Lightning's name.
        processes: Who takes part.
        engine: How they share.
        found: What the shards hold.
        resumption: Where the run goes on.
        plan: Counts.
        probed: The clips of the probes; None: no probes.
    """

    asked: Request
    sizes: ModelConfig
    precision: str
    processes: Processes
    engine: EngineConfig
    found: Survey
    resumption: Resumption
    plan: Plan
    probed: ProbeData | None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that speaks and writes records."""
        return self.processes.rank == 0

    @property
    def accumulate(self) -> int:
        """Batches of each process in one optimizer step; a resumed run may have changed it."""
        return self.resumption.accumulate

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, as the run folder, the checkpoint and W&B keep it."""
        asked = self.asked
        return {
            "data": to_dict(asked.data),
            "out": str(asked.out),
            "model": to_dict(self.sizes),
            "objective": to_dict(asked.objective),
            "augment": to_dict(asked.augment),
            "optimizer": to_dict(asked.optimizer),
            "steps": asked.steps,
            "epochs": asked.epochs,
            "accumulate": self.accumulate,
            "precision": asked.precision,
            "max_skipped_steps": asked.max_skipped_steps,
            "hardware": to_dict(asked.hardware),
            "log": to_dict(asked.log),
            "probe": to_dict(asked.probe),
            "wandb": to_dict(asked.wandb),
            "seed": asked.seed,
        }

    @property
    def sections(self) -> dict[str, Any]:
        """What the portable checkpoint says of itself."""
        return {
            "model": self.sizes,
            "objective": self.asked.objective,
            "pretraining": self.config,
            "version": __version__,
        }

    def notes(self) -> Iterator[str]:
        """What the user should know before anything begins."""
        yield from filter(None, (self.processes.note, *self.resumption.lines))


def prepare(asked: Request) -> Prepared:
    """Settle what a run will be.

    Raises:
        ValueError: Settings that do not go together, or shards that cannot be used.
        FileNotFoundError: No such folder of shards or model file.
    """
    sizes = choose_model(asked.model)
    precision = resolve_precision(asked.precision, accelerator=asked.hardware.accelerator)
    processes = find_processes(asked.hardware)
    engine = load_engine(asked.hardware.strategy, world_size=processes.world_size)
    found = survey(asked.data)
    resumption = Resumption(accumulate=asked.accumulate)
    if asked.resume:
        resumption = find_resumption(
            asked.out,
            batch_size=asked.data.batch_size,
            accumulate=asked.accumulate,
            world_size=processes.world_size,
        )
    plan = make_plan(
        found.num_clips,
        batch_size=asked.data.batch_size,
        accumulate=resumption.accumulate,
        world_size=processes.world_size,
        steps=asked.steps,
        epochs=asked.epochs,
        optimizer=asked.optimizer,
    )
    return Prepared(
        asked=asked,
        sizes=sizes,
        precision=precision,
        processes=processes,
        engine=engine,
        found=found,
        resumption=resumption,
        plan=plan,
        probed=probe_data(asked.probe, asked.data, sizes.input),
    )
