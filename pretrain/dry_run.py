"""What a run would be, said beforehand: the plan that ``hicmae pretrain --dry_run`` prints.

For: counts, memory of each engine, operations and hours; and every path and permission that the
run will need, checked. Not for: running anything, nor writing anything at all.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from hicmae.masks import num_hidden
from hicmae.pretraining import HiCMAE
from hicmae.settings import ModelConfig, ObjectiveConfig
from pretrain.data import Survey
from pretrain.engines import EngineConfig, load_engine
from pretrain.flops import step_flops
from pretrain.footprint import footprint, measure_network
from pretrain.plan import Plan
from pretrain.probe_settings import ProbeConfig
from pretrain.settings import DataConfig, HardwareConfig, LogConfig, OptimizerConfig
from shards.index import read_index

_ENGINES = ("single", "ddp", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")
_RESUMABLE = 12  # bytes a parameter: fp32 weights and AdamW's two means
_PORTABLE = 4  # bytes a parameter


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a run is to be, as far as it is settled before the first step.

    Attributes:
        out: The run folder.
        data: Shards that are trained on, and clips of a batch.
        probe: Shards that are probed on; None: there are no probes.
        may_exist: Whether a run that is in the folder is gone on with or deleted.
        found: What the shards hold.
        plan: Counts.
        model: Sizes.
        objective: Masks and ablations.
        optimizer: For its learning rate.
        precision: Lightning's name.
        engine: How devices share.
        hardware: What is asked for.
        world_size: Processes.
        accumulate: Batches of one optimizer step.
        log: How many checkpoints are kept.
        clips_per_second: Speed of one device, if it is known.
    """

    out: Path
    data: DataConfig
    probe: ProbeConfig | None
    may_exist: bool
    found: Survey
    plan: Plan
    model: ModelConfig
    objective: ObjectiveConfig
    optimizer: OptimizerConfig
    precision: str
    engine: EngineConfig
    hardware: HardwareConfig
    world_size: int
    accumulate: int
    log: LogConfig
    clips_per_second: float | None


def show(run: DryRun, console: Console) -> None:
    """Check every path first, then print the plan.

    Raises: ValueError: paths that will not do, all of them at once.
    """
    num_parameters = sum(item.numel() for item in _meta_network(run).parameters())
    needed = _bytes_on_disk(run, num_parameters)
    probed = run.probe.folders if run.probe else ()
    problems = [
        *_shard_problems((*run.data.folders, *probed)),
        *_out_problems(run, needed),
    ]
    if problems:
        raise ValueError(f"dry run: {'; '.join(problems)}")
    console.print(f"dry run: nothing is written. {run.out} would be this run:")
    for line in _plan_lines(run, num_parameters):
        console.print(line)
    console.print(_memory_table(run))
    console.print(
        f"disk: up to {_gib(needed)} in {run.out} (free: {_gib(_free(run.out))}): "
        f"{run.log.keep} checkpoints that are kept and one being written, the portable one"
        + (f", and one for good every {run.log.keep_every} steps" if run.log.keep_every else "")
    )
    console.print(
        f"checked: {sum(1 for _ in _tars(run.data.folders))} shards to train on"
        + (f", {sum(1 for _ in _tars(probed))} to probe on" if probed else "")
        + ", all there, whole in size and readable; the run folder can be written"
    )
    found = torch.cuda.device_count()
    if run.hardware.accelerator in ("gpu", "cuda") and not found:
        console.print(
            f"note: no GPU is visible here, so precision auto was settled without one "
            f"({run.precision}); name it with --precision to plan for another machine"
        )


def _plan_lines(run: DryRun, num_parameters: int) -> Iterator[str]:
    """Counts, tokens, operations and hours."""
    plan, model, objective = run.plan, run.model, run.objective
    yield (
        f"data: {run.found.num_clips} clips, {run.found.hours:.1f} h of video; "
        f"{plan.global_batch} clips a step ({run.data.batch_size} x {run.accumulate} accumulated "
        f"x {run.world_size} processes), {plan.steps_per_epoch} steps an epoch"
    )
    total = plan.num_steps * plan.global_batch
    peak = run.optimizer.learning_rate * plan.global_batch / 256
    yield (
        f"steps: {plan.num_steps} ({plan.num_steps / plan.steps_per_epoch:.1f} epochs, {total} "
        f"clips), warm-up {plan.warmup_steps}, peak learning rate {peak:.2e}"
    )
    _, height, width = model.video_grid
    cells = height * width
    video = (cells - num_hidden(cells, objective.video_mask_ratio)) * model.video_grid[0]
    audio = model.num_audio_tokens - num_hidden(model.num_audio_tokens, objective.audio_mask_ratio)
    yield (
        f"tokens a clip: video {model.num_video_tokens}, of which {video} are seen; audio "
        f"{model.num_audio_tokens}, of which {audio} are seen; a step decodes "
        f"{plan.global_batch * (model.num_video_tokens + model.num_audio_tokens)}"
    )
    flops = step_flops(model, objective)
    yield (
        f"network: {num_parameters / 1e6:.1f} M parameters, {run.precision}; {flops / 1e9:.1f} "
        f"GFLOP a clip forward and backward, {flops * plan.global_batch / 1e12:.2f} TFLOP a step, "
        f"{flops * total / 1e18:.3g} EFLOP in all"
    )
    if run.clips_per_second is None:
        yield (
            "time: not known; give --clips_per_second of one device (`hicmae bench step` "
            "measures it)"
        )
    else:
        rate = run.clips_per_second * run.world_size
        yield (
            f"time: {total / rate / 3600:.1f} h at {run.clips_per_second:g} clips a second and "
            f"device ({rate:g} over all; {rate * flops / run.world_size / 1e12:.2f} TFLOP/s a "
            "device), if the loader keeps up"
        )


def _memory_table(run: DryRun) -> Table:
    """Peak memory of a device, engine by engine."""
    size = measure_network(lambda: _network(run), precision=run.precision)
    table = Table(
        title=f"memory of a device at the peak of a step of {run.data.batch_size} clips, GiB "
        "(estimated)"
    )
    table.add_column("engine")
    parts = ("weights", "gradients", "optimizer", "buckets", "activations", "batch", "device")
    for name in (*parts, "host"):
        table.add_column(name, justify="right")
    engines: dict[str, EngineConfig] = {}
    for name in _ENGINES:
        if (name == "single") == (run.world_size == 1) or name.startswith("zero"):
            engines[name] = load_engine(name, world_size=run.world_size)
    if run.engine not in engines.values():
        engines[run.hardware.strategy] = run.engine
    for name, engine in engines.items():
        found = footprint(
            size,
            engine,
            precision=run.precision,
            world_size=run.world_size,
            batch_size=run.data.batch_size,
        )
        chosen = engine == run.engine
        table.add_row(
            f"{name} (chosen)" if chosen else name,
            *(f"{getattr(found, part) / 2**30:.2f}" for part in (*parts, "host")),
            style="bold" if chosen else None,
        )
    return table


def _network(run: DryRun) -> HiCMAE:
    """The network as it will be trained."""
    network = HiCMAE(run.model, run.objective)
    network.set_grad_checkpointing(run.hardware.recompute)
    return network


def _shard_problems(folders: Iterable[Path | str]) -> Iterator[str]:
    """Shards that are absent, unreadable or of another size than the index says."""
    for path, size in _tars(folders):
        if not path.is_file():
            yield f"{path}: no such shard, though the index has it; rebuild or copy it"
        elif not os.access(path, os.R_OK):
            yield f"{path}: cannot be read (permission)"
        elif path.stat().st_size != size:
            yield f"{path}: has {path.stat().st_size} bytes, the index says {size}; copy it again"


def _tars(folders: Iterable[Path | str]) -> Iterator[tuple[Path, int]]:
    """Every shard of the folders on this machine, with its size in bytes as the index has it."""
    for folder in folders:
        if not isinstance(folder, Path):
            continue
        index = read_index(folder)
        for shard in index.info["shards"]:
            yield folder / shard["name"], int(shard["bytes"])


def _out_problems(run: DryRun, needed: int) -> Iterator[str]:
    """Reasons why the run folder could not be written."""
    out = run.out
    if out.exists() and not out.is_dir():
        yield f"{out}: is a file; give a folder for the run with --out"
        return
    there = [
        name for name in ("config.yaml", "metrics.csv", "checkpoints") if (out / name).exists()
    ]
    if there and not run.may_exist:
        yield (
            f"{out}: holds a run already ({', '.join(there)}); pass --resume, --overwrite or "
            "another --out"
        )
    nearest = _nearest_folder(out)
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        yield f"{nearest}: cannot be written (permission), so {out} could not be made"
    elif needed > _free(out):
        yield (
            f"{out}: {_gib(_free(out))} free, checkpoints take up to {_gib(needed)}; keep fewer "
            "(log.keep, log.keep_every) or choose another --out"
        )


def _bytes_on_disk(run: DryRun, num_parameters: int) -> int:
    """What the checkpoints of a run take at most."""
    kept = run.log.keep + 1
    if run.log.keep_every:
        kept += run.plan.num_steps // run.log.keep_every
    # A consolidated file, and beside it the shards of DeepSpeed's engine.
    copies = 2 if run.engine.kind == "deepspeed" and run.engine.shards else 1
    return num_parameters * (kept * copies * _RESUMABLE + _PORTABLE)


def _free(out: Path) -> int:
    """Bytes free where the run folder is or would be."""
    return shutil.disk_usage(_nearest_folder(out)).free


def _nearest_folder(path: Path) -> Path:
    """The path, or the nearest thing above it that exists."""
    path = path.resolve()
    return next(candidate for candidate in (path, *path.parents) if candidate.exists())


def _meta_network(run: DryRun) -> HiCMAE:
    """The network without content."""
    with torch.device("meta"):
        return HiCMAE(run.model, run.objective)


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
