"""What a run would be, said beforehand: the plan that ``hicmae pretrain --dry_run`` prints.

For: counts, memory of each engine, operations and hours. Not for: checking paths and permissions
(``pretrain/path_checks.py``), running anything, nor writing anything at all.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from rich.console import Console
from rich.table import Table

from hicmae.benchmarking.flops import step_flops
from hicmae.masks import num_hidden
from hicmae.pretraining import HiCMAE
from pretrain.engines import EngineConfig, load_engine
from pretrain.footprint import footprint, measure_network
from pretrain.path_checks import folder_problems, free_bytes, gib, shard_problems, tars
from pretrain.preparation import Prepared

_ENGINES = ("single", "ddp", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")
_RESUMABLE = 12  # bytes a parameter: fp32 weights and AdamW's two means
_PORTABLE = 4  # bytes a parameter


def show(run: Prepared, console: Console, *, clips_per_second: float | None) -> None:
    """Check every path first, then print the plan.

    Args:
        run: What it will be.
        console: Where.
        clips_per_second: Speed of one device, if it is known.

    Raises: ValueError: paths that will not do, all of them at once.
    """
    num_parameters = sum(item.numel() for item in _meta_network(run).parameters())
    needed = _bytes_on_disk(run, num_parameters)
    out, log = run.asked.out, run.asked.log
    probed = run.asked.probe.folders if run.probed else ()
    problems = [
        *shard_problems((*run.asked.data.folders, *probed)),
        *folder_problems(out, needed=needed, may_exist=run.asked.resume or run.asked.overwrite),
    ]
    if problems:
        raise ValueError(f"dry run: {'; '.join(problems)}")
    console.print(f"dry run: nothing is written. {out} would be this run:")
    for line in _plan_lines(run, num_parameters, clips_per_second):
        console.print(line)
    console.print(_memory_table(run))
    console.print(
        f"disk: up to {gib(needed)} in {out} (free: {gib(free_bytes(out))}): "
        f"{log.keep} checkpoints that are kept and one being written, the portable one"
        + (f", and one for good every {log.keep_every} steps" if log.keep_every else "")
    )
    console.print(
        f"checked: {sum(1 for _ in tars(run.asked.data.folders))} shards to train on"
        + (f", {sum(1 for _ in tars(probed))} to probe on" if probed else "")
        + ", all there, whole in size and readable; the run folder can be written"
    )
    found = torch.cuda.device_count()
    if run.asked.hardware.accelerator in ("gpu", "cuda") and not found:
        console.print(
            f"note: no GPU is visible here, so precision auto was settled without one "
            f"({run.precision}); name it with --precision to plan for another machine"
        )


def _plan_lines(
    run: Prepared, num_parameters: int, clips_per_second: float | None
) -> Iterator[str]:
    """Counts, tokens, operations and hours."""
    plan, model, objective = run.plan, run.sizes, run.asked.objective
    yield (
        f"data: {run.found.num_clips} clips, {run.found.hours:.1f} h of video; "
        f"{plan.global_batch} clips a step ({run.asked.data.batch_size} x {run.accumulate} "
        f"accumulated x {run.processes.world_size} processes), {plan.steps_per_epoch} steps an "
        "epoch"
    )
    total = plan.num_steps * plan.global_batch
    peak = run.asked.optimizer.learning_rate * plan.global_batch / 256
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
    if clips_per_second is None:
        yield (
            "time: not known; give --clips_per_second of one device (`hicmae bench step` "
            "measures it)"
        )
    else:
        rate = clips_per_second * run.processes.world_size
        each = clips_per_second * flops / 1e12
        yield (
            f"time: {total / rate / 3600:.1f} h at {clips_per_second:g} clips a second and "
            f"device ({rate:g} over all; {each:.2f} TFLOP/s a device), if the loader keeps up"
        )


def _memory_table(run: Prepared) -> Table:
    """Peak memory of a device, engine by engine."""
    size = measure_network(lambda: _network(run), precision=run.precision)
    table = Table(
        title=f"memory of a device at the peak of a step of {run.asked.data.batch_size} clips, GiB "
        "(estimated)"
    )
    table.add_column("engine")
    parts = ("weights", "gradients", "optimizer", "buckets", "activations", "batch", "device")
    for name in (*parts, "host"):
        table.add_column(name, justify="right")
    engines: dict[str, EngineConfig] = {}
    for name in _ENGINES:
        if (name == "single") == (run.processes.world_size == 1) or name.startswith("zero"):
            engines[name] = load_engine(name, world_size=run.processes.world_size)
    if run.engine not in engines.values():
        engines[run.asked.hardware.strategy] = run.engine
    for name, engine in engines.items():
        found = footprint(
            size,
            engine,
            precision=run.precision,
            world_size=run.processes.world_size,
            batch_size=run.asked.data.batch_size,
        )
        chosen = engine == run.engine
        table.add_row(
            f"{name} (chosen)" if chosen else name,
            *(f"{getattr(found, part) / 2**30:.2f}" for part in (*parts, "host")),
            style="bold" if chosen else None,
        )
    return table


def _network(run: Prepared) -> HiCMAE:
    """The network as it will be trained."""
    network = HiCMAE(run.sizes, run.asked.objective)
    network.set_grad_checkpointing(run.asked.hardware.recompute)
    return network


def _bytes_on_disk(run: Prepared, num_parameters: int) -> int:
    """What the checkpoints of a run take at most."""
    log = run.asked.log
    kept = log.keep + 1
    if log.keep_every:
        kept += run.plan.num_steps // log.keep_every
    # A consolidated file, and beside it the shards of DeepSpeed's engine.
    copies = 2 if run.engine.kind == "deepspeed" and run.engine.shards else 1
    return num_parameters * (kept * copies * _RESUMABLE + _PORTABLE)


def _meta_network(run: Prepared) -> HiCMAE:
    """The network without content."""
    with torch.device("meta"):
        return HiCMAE(run.sizes, run.asked.objective)
