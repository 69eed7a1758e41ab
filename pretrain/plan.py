"""What a run will be, settled before its first step, and what ``--dry_run`` says of it.

Nothing here writes anything.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from hicmae import __version__
from hicmae.bench import step_flops
from hicmae.blocks import set_bf16_residual, set_grad_checkpointing
from hicmae.config import to_dict
from hicmae.devices import choose_device, cuda_problem, resolve_precision
from hicmae.masks import num_hidden
from hicmae.pretraining import HiCMAE
from hicmae.run_logging import wandb_mode
from hicmae.settings import raise_all
from pretrain.checkpoints import Resumption, compare_settings, find_resumption, foreign, held_run
from pretrain.data import Survey, mixing_notes, open_stream, survey
from pretrain.footprint import footprint, measure_network, reader_bytes
from pretrain.probes import ProbeData, probe_data
from pretrain.processes import Processes, find_processes
from pretrain.settings import Counts, PretrainConfig, count_steps
from pretrain.zero import EngineConfig, check_engine, load_engine
from shards.index import read_index
from shards.reading.streaming import ClipStream

_ENGINES = ("single", "ddp", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")
_SHARED = Path("/dev/shm")
_CHOSEN = "HICMAE_CHECKPOINT"  # of the first process, for those that it starts
_RESUMABLE = 12  # bytes a parameter: fp32 weights and AdamW's two means
_PORTABLE = 8  # bytes a parameter: fp32 weights, and those that they replace


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will be."""

    config: PretrainConfig  # a resumed run may have changed ``accumulate``
    device: torch.device  # of this process
    precision: str  # Lightning's name
    processes: Processes
    engine: EngineConfig
    found: Survey
    resumption: Resumption
    counts: Counts
    probed: ProbeData | None
    stream: ClipStream  # as one process would read it that does all of the work

    @property
    def is_first(self) -> bool:
        """Whether this is the process that speaks and writes records."""
        return self.processes.rank == 0

    @property
    def sections(self) -> dict[str, Any]:
        """What the portable checkpoint says of itself."""
        modalities = self.config.data.modalities
        return {
            "model": self.config.model,
            "objective": self.config.objective,
            **({} if modalities == "audio-video" else {"modalities": modalities}),
            "pretraining": to_dict(self.config),
            **({"data": {"build": self.found.build}} if self.found.build else {}),
            "version": __version__,
        }

    @property
    def reader_bytes(self) -> int:
        """Shared memory that the readers of a node fill."""
        return reader_bytes(self.config, self.processes.devices)

    def notes(self) -> Iterator[str]:
        """What the user should know before anything begins."""
        yield from filter(None, (self.processes.note, *self.resumption.lines))
        then, now = self.resumption.data, self.stream.content()
        if then and then != now:
            yield (
                f"warning: resumed on other samples than step {self.resumption.step} was trained "
                f"on ({now}; were {then}): shards were rebuilt, or others are named; clips of this "
                "epoch may come twice or not at all"
            )
        if self.is_first:  # the others would count the same speakers
            yield from mixing_notes(self.stream, self.config.data)

    def lack(self) -> str:
        """A line where readers would fill more shared memory than this machine has, or nothing."""
        there = _shared_memory()
        if there is None or there >= self.reader_bytes:
            return ""
        return (
            f"shared memory: readers fill up to {_gib(self.reader_bytes)} of a node's, {_SHARED} "
            f"has {_gib(there)}: they may be killed (bus error); give it more (mount -o "
            "remount,size=…, docker run --shm-size), or lower workers or data.batch_size"
        )


def make_plan(config: PretrainConfig, *, resume: bool, chosen: str | None = None) -> Plan:
    """Settle what a run will be; ``resume``: on from the newest whole checkpoint of its folder.

    ``chosen`` is the name of the one that the first process has chosen, where that is known.

    Raises:
        ValueError: Settings that do not go together, no such device, or shards that cannot be
            used.
        FileNotFoundError: No such folder of shards.
    """
    wandb_mode(config.wandb.mode)
    device = choose_device(config.device)
    if config.device == "auto" and device.type == "cpu" and (problem := cuda_problem()):
        raise ValueError(f"device = auto: {problem}; or pretrain on the CPU with --device cpu")
    precision = resolve_precision(config.precision, device)
    processes = find_processes(config.hardware, config.device)
    if ":" in config.device and processes.world_size > 1:
        raise ValueError(
            f"device = {config.device}: is one device, and there are {processes.world_size} "
            "processes; take --device cuda, or --hardware.devices 1"
        )
    engine = load_engine(config.hardware.strategy, world_size=processes.world_size)
    check_engine(engine, config.hardware, precision=precision, device=device)
    found = survey(config.data)
    resumption = Resumption(accumulate=config.accumulate)
    if resume:
        # One process reads a checkpoint to compare its digest. Those that it starts are told by the
        # environment, others when they meet.
        starts = processes.launcher == "own" and processes.world_size > 1
        if starts and "LOCAL_RANK" in os.environ and chosen is None:
            chosen = os.environ.get(_CHOSEN)
        resumption = find_resumption(
            config,
            world_size=processes.world_size,
            chosen=chosen,
            digests=processes.rank == 0 or processes.launcher == "own",
        )
        if starts and "LOCAL_RANK" not in os.environ:
            os.environ[_CHOSEN] = resumption.name
        config = dataclasses.replace(config, accumulate=resumption.accumulate)
    if config.hardware.cuda_graphs and config.hardware.compile and config.accumulate > 1:
        raise ValueError(
            f"hardware.cuda_graphs = true with hardware.compile and accumulate = "
            f"{config.accumulate}: the next batch's gradients would overwrite the sum; take "
            "accumulate 1, or one of the two alone"
        )
    return Plan(
        config=config,
        device=device,
        precision=precision,
        processes=processes,
        engine=engine,
        found=found,
        resumption=resumption,
        counts=count_steps(config, num_clips=found.num_clips, world_size=processes.world_size),
        probed=probe_data(config.probe, config.data, config.model.input),
        stream=open_stream(config, world_size=processes.world_size),
    )


def show(plan: Plan, console: Console, *, clips_per_second: float | None, may_exist: bool) -> None:
    """Check every path first, then print the plan.

    ``may_exist``: a run that is in the folder is gone on with or deleted.

    Raises: ValueError: paths that will not do, all of them at once; a run to go on with that has
        another network.
    """
    with torch.device("meta"):
        num_parameters = sum(item.numel() for item in _network(plan).parameters())
    needed = _bytes_on_disk(plan, num_parameters)
    out, log = plan.config.out, plan.config.log
    probed = plan.config.probe.folders if plan.probed else ()
    problems = [
        *_shard_problems((*plan.config.data.folders, *probed)),
        *_folder_problems(out, needed=needed, may_exist=may_exist),
    ]
    raise_all("dry run", problems)
    changed = compare_settings(plan.config) if plan.resumption.checkpoint else []
    console.print(f"dry run: nothing is written. {out} would be this run:")
    for line in changed:
        console.print(line)
    for line in _plan_lines(plan, num_parameters, clips_per_second):
        console.print(line)
    console.print(_memory_table(plan))
    there = _shared_memory()
    away = sum(
        corpus.files[folder].remote is not None
        for corpus in plan.stream.corpora
        for folder, _ in corpus.shards
    )
    console.print(
        f"shared memory: readers fill up to {_gib(plan.reader_bytes)} of a node's "
        f"({plan.processes.devices} processes x {plan.config.workers} workers)"
        + ("" if there is None else f"; {_SHARED} has {_gib(there)} here")
    )
    console.print(
        f"disk: up to {_gib(needed)} in {out} (free: {_gib(_free_bytes(out))}): "
        f"{log.keep} checkpoints that are kept and one being written, the portable one twice"
        + (f", and one for good every {log.keep_every} steps" if log.keep_every else "")
    )
    console.print(
        f"checked: {sum(1 for _ in _tars(plan.config.data.folders))} shards to train on"
        + (f", {sum(1 for _ in _tars(probed))} to probe on" if probed else "")
        + ", all there, whole in size and readable"
        + (f"; {away} elsewhere were not looked at" if away else "")
        + "; the run folder can be written"
    )


def _plan_lines(plan: Plan, num_parameters: int, clips_per_second: float | None) -> Iterator[str]:
    counts, model, objective = plan.counts, plan.config.model, plan.config.objective
    yield (
        f"data: {plan.found.num_clips} clips, {plan.found.hours:.2f} hours; "
        f"{counts.global_batch} clips a step ({plan.config.data.batch_size} x "
        f"{plan.config.accumulate} accumulated x {plan.processes.world_size} processes), "
        f"{counts.steps_per_epoch} steps an epoch"
    )
    yield f"speakers: {plan.stream.speakers() or 'not known'}"
    yield from _fetches(plan.stream)
    total, done = counts.num_steps * counts.global_batch, plan.resumption.step
    left = max(0, counts.num_steps - done)
    peak = plan.config.optimizer.learning_rate * counts.global_batch / 256
    yield (
        f"steps: {counts.num_steps} ({total / plan.found.num_clips:.1f} epochs, "
        f"{total} clips), warm-up {counts.warmup_steps}, peak learning rate {peak:.2e}"
        + (f"; {done} are done, {left} to go" if done else "")
    )
    _, height, width = model.video_grid
    cells = height * width
    video = (cells - num_hidden(cells, objective.video_mask_ratio)) * model.video_grid[0]
    audio = model.num_audio_tokens - num_hidden(model.num_audio_tokens, objective.audio_mask_ratio)
    tokens = {
        name: (total, seen)
        for name, total, seen in (
            ("video", model.num_video_tokens, video),
            ("audio", model.num_audio_tokens, audio),
        )
        if name in plan.config.data.modalities
    }
    said = "; ".join(f"{name} {n}, of which {seen} are seen" for name, (n, seen) in tokens.items())
    decoded = counts.global_batch * sum(n for n, _ in tokens.values())
    yield f"tokens a clip: {said}; a step decodes {decoded}"
    flops = step_flops(model, objective, modalities=plan.config.data.modalities)
    yield (
        f"network: {num_parameters / 1e6:.1f} M parameters, {plan.precision}; {flops / 1e9:.1f} "
        f"GFLOP a clip forward and backward, {flops * counts.global_batch / 1e12:.2f} TFLOP a "
        f"step, {flops * total / 1e18:.3g} EFLOP in all"
    )
    if clips_per_second is None:
        yield (
            "time: not known; give --clips_per_second of one device (`hicmae bench step` "
            "measures it)"
        )
    else:
        rate = clips_per_second * plan.processes.world_size
        each = clips_per_second * flops / 1e12
        yield (
            f"time: {left * counts.global_batch / rate / 3600:.1f} h at {clips_per_second:g} clips "
            f"a second and device ({rate:g} over all; {each:.2f} TFLOP/s a device), if the loader "
            "keeps up"
        )


def _fetches(stream: ClipStream) -> Iterator[str]:
    """What has to be fetched before the first batch is whole."""
    for corpus, lanes in zip(stream.corpora, stream.order.lanes, strict=True):
        if corpus.is_remote:
            num_shards = len(corpus.shards)
            at_once = num_shards if lanes is None else min(max(lanes, 1), num_shards)
            each = corpus.shard_bytes / num_shards
            yield (
                f"fetching: {at_once} of {num_shards} shards are read at once, "
                f"{at_once * each / 1e9:.1f} of {corpus.shard_bytes / 1e9:.1f} GB; the first steps "
                "wait for them"
            )


def _memory_table(plan: Plan) -> Table:
    size = measure_network(lambda: _network(plan), precision=plan.precision)
    table = Table(
        title=f"memory of a device at the peak of a step of {plan.config.data.batch_size} clips, "
        "GiB (estimated)"
    )
    table.add_column("engine")
    parts = ("weights", "gradients", "optimizer", "buckets", "activations", "batch", "device")
    for name in (*parts, "host"):
        table.add_column(name, justify="right")
    engines: dict[str, EngineConfig] = {}
    for name in _ENGINES:
        if (name == "single") == (plan.processes.world_size == 1) or name.startswith("zero"):
            engines[name] = load_engine(name, world_size=plan.processes.world_size)
    if plan.engine not in engines.values():
        engines[plan.config.hardware.strategy] = plan.engine
    for name, engine in engines.items():
        found = footprint(
            size,
            engine,
            precision=plan.precision,
            world_size=plan.processes.world_size,
            batch_size=plan.config.data.batch_size,
        )
        chosen = engine == plan.engine
        table.add_row(
            f"{name} (chosen)" if chosen else name,
            *(f"{getattr(found, part) / 2**30:.2f}" for part in (*parts, "host")),
            style="bold" if chosen else None,
        )
    return table


def _network(plan: Plan) -> HiCMAE:
    network = HiCMAE(plan.config.model, plan.config.objective, plan.config.data.modalities)
    set_grad_checkpointing(network, plan.config.hardware.recompute)
    set_bf16_residual(network, plan.config.hardware.bf16_residual)
    return network


def _bytes_on_disk(plan: Plan, num_parameters: int) -> int:
    """What the checkpoints of a run take at most."""
    log = plan.config.log
    kept = log.keep + 1
    if log.keep_every:
        kept += plan.counts.num_steps // log.keep_every
    return num_parameters * (kept * _RESUMABLE + _PORTABLE)


def _shard_problems(folders: Iterable[Path | str]) -> Iterator[str]:
    """Shards that are absent, unreadable or of another size than the index says."""
    for path, size in _tars(folders):
        if not path.is_file():
            yield f"{path}: no such shard, though the index has it; rebuild or copy it"
        elif not os.access(path, os.R_OK):
            yield f"{path}: cannot be read (permission; its owner can allow it with `chmod`)"
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


def _folder_problems(out: Path, *, needed: int, may_exist: bool) -> Iterator[str]:
    """Reasons why the run folder could not be written, with the bytes it will hold at most."""
    if problem := foreign(out):
        yield problem
        return
    there = held_run(out)
    if there and not may_exist:
        yield (
            f"{out}: holds a run already ({', '.join(there)}); pass --resume, --overwrite or "
            "another --out"
        )
    if needed - _held_bytes(out) > _free_bytes(out):
        yield (
            f"{out}: {_gib(_free_bytes(out))} free, checkpoints take up to {_gib(needed)}; keep "
            "fewer (log.keep, log.keep_every) or choose another --out"
        )


def _shared_memory() -> int | None:
    """Size of this machine's, where it can be seen."""
    return shutil.disk_usage(_SHARED).total if _SHARED.is_dir() else None


def _held_bytes(out: Path) -> int:
    """Of the checkpoints that a run which is resumed or overwritten replaces."""
    files = (path for path in (out / "checkpoints").rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files)


def _free_bytes(out: Path) -> int:
    return shutil.disk_usage(_nearest_folder(out)).free


def _nearest_folder(path: Path) -> Path:
    path = path.resolve()
    return next(candidate for candidate in (path, *path.parents) if candidate.exists())


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
