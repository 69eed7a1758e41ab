"""How fast a pretraining step is on this machine: the command ``hicmae bench step``.

Clips a second of the step that training takes (transforms, forward, backward, optimizer), by part,
and how much of the machine's matrix-product speed it reaches, measured in the same run; and with
``--engines`` what each engine's step costs. Reading is ``hicmae bench loader``.
"""

from __future__ import annotations

import dataclasses
import json as json_format
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hicmae.devices import Precision
from hicmae.processes import forking, num_cores
from hicmae.settings import AugmentConfig, ObjectiveConfig
from hicmae.terminal import plain_console
from pretrain.settings import PretrainConfig
from shards.reading.settings import DataConfig

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from hicmae.bench import MatrixPeak
    from hicmae.pretraining import HiCMAE
    from hicmae.transforms import ClipTransform
    from pretrain.zero import EngineConfig

_PARTS = ("transforms", "forward", "backward", "optimizer")
_TIMEOUT_SECONDS = 120


def bench_step(
    *,
    model: str | dict[str, Any] = "base",
    batch_size: int = 8,
    steps: int = 10,
    warmup: int = 3,
    precision: Precision = "auto",
    device: str = "auto",
    compile: bool = False,
    cuda_graphs: bool = False,
    bf16_residual: bool = False,
    batch_sizes: tuple[int, ...] = (),
    engines: str = "",
    processes: int = 2,
    against: Path | None = None,
    objective: ObjectiveConfig = PretrainConfig.objective,
    augment: AugmentConfig = PretrainConfig.augment,
    json: Path | None = None,
) -> dict[str, Any]:
    """Measure a pretraining step on random clips, and print a table.

    Times are medians over the steps. The share of the peak is what the network has to compute
    (counted forward and backward, transforms and optimizer left out) a second of the whole step,
    over the speed of a large matrix product in the same precision: the median of one product
    before each step and one after the last, so that other work on the machine slows both.

    Args:
        model: Size of the network, as in pretraining.
        batch_size: Clips of a step.
        steps: Steps that are measured.
        warmup: Steps before them that are not.
        precision: As in pretraining; 16-mixed is not measured here.
        device: auto, cpu, cuda or cuda:1.
        compile: Whether the network is compiled; give a longer warm-up then.
        cuda_graphs: As hardware.cuda_graphs in pretraining.
        bf16_residual: As hardware.bf16_residual in pretraining.
        batch_sizes: Other numbers of clips to measure too, to see how a step's time grows.
        engines: Engines to measure too, separated by commas: names out of configs/engines (single,
            ddp, zero1, zero2, zero3, …) or YAML files, each in processes of its own on this
            machine: time of a step and peak memory (`pretrain --dry_run` has what it should be).
            Take a small model on a CPU.
        processes: Processes of each of these engines but single; batch_size is of each process.
        against: A checkout of the authors' code (github.com/sunlicai/HiCMAE): the step of their
            network is timed turn about with ours, without transforms; small and base.
        objective: Masks, weights and ablations.
        augment: Random changes to the clips.
        json: File for the figures.

    Returns: The figures; among them ``clips_per_second``, ``step_seconds``, ``flops_per_clip``,
        ``matmul_peak_flops``, ``fraction_of_peak``, ``peak_memory_bytes`` and ``seconds`` by part;
        with ``batch_sizes`` also ``scaling``: ``step_seconds`` of each (the smallest of its steps,
        which other work on the machine disturbs least), and the straight line through them:
        ``seconds_per_clip``, ``fixed_seconds`` and ``r_squared``, 1 where it is straight; with
        ``against`` also ``against``: their time over ours, see ``pretrain/against.py``; with
        ``engines`` also ``engines``: of each ``processes``, ``step_seconds`` (median, of the
        slowest process) and ``peak_memory_bytes`` (of the process with most).

    Raises:
        ValueError: A number is out of range, there is no such device or engine, or an engine did
            not run.
    """
    import torch

    from hicmae.bench import (
        MatrixPeak,
        check_precision,
        median_parts,
        random_clips,
        step_flops,
        write_figures,
    )
    from hicmae.blocks import set_bf16_residual
    from hicmae.config import choose_model
    from hicmae.devices import choose_device, device_name, resolve_precision
    from hicmae.pretraining import HiCMAE
    from hicmae.transforms import ClipTransform
    from pretrain.against import check_checkout, time_against

    if min((batch_size, steps, *batch_sizes)) < 1 or warmup < 0 or processes < 2:
        raise ValueError(
            f"batch_size = {batch_size}, batch_sizes = {list(batch_sizes)}, steps = {steps}, "
            f"warmup = {warmup}, processes = {processes} (batch sizes and steps must be 1 or "
            "more, warmup 0 or more, processes 2 or more)"
        )
    place = choose_device(device)
    number_format = resolve_precision(precision, place)
    check_precision(number_format, "bench step")
    if bf16_residual and number_format != "bf16-mixed":
        raise ValueError(
            f"bf16_residual = true with precision = {number_format} (is for bf16-mixed)"
        )
    sizes = choose_model(model)
    names = [name.strip() for name in engines.split(",") if name.strip()]
    chosen = _load_engines(names, processes, place.type)  # before minutes have passed
    if against is not None:
        check_checkout(against)
    torch.manual_seed(0)
    network = HiCMAE(sizes, objective).to(place)
    transform = ClipTransform(sizes.input, augment).to(place).train()
    flops = step_flops(sizes, objective)
    set_bf16_residual(network, bf16_residual)
    if compile:
        network.compile(cuda_graphs=cuda_graphs)
    elif cuda_graphs:
        network.record()
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
    peak = MatrixPeak(number_format, place)
    fastest: dict[int, float] = {}
    for clips in (batch_size, *sorted(set(batch_sizes) - {batch_size})):
        batch = random_clips(sizes.input, clips, place)
        parts = step_parts(network, transform, batch, number_format)
        rows = _time_steps(parts, place, steps, warmup, peak)
        fastest[clips] = min(sum(row) for row in rows)
        if clips == batch_size:
            seconds = median_parts(_PARTS, rows)
            memory = peak.other_memory_bytes()
            seconds["of forward: targets"] = _time_targets(network, transform, batch, steps)
            matmul, best = peak.flops, peak.best_flops
    step_seconds = seconds["step"]
    figures: dict[str, Any] = {
        "clips_per_second": batch_size / step_seconds,
        "step_seconds": step_seconds,
        "seconds": seconds,
        "flops_per_clip": flops,
        "matmul_peak_flops": matmul,
        "matmul_best_flops": best,
        "fraction_of_peak": flops * batch_size / step_seconds / matmul,
        "peak_memory_bytes": memory,
        "num_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "model": model if isinstance(model, str) else str(model.get("size", "own")) + " changed",
        "batch_size": batch_size,
        "precision": number_format,
        "compile": compile,
        "cuda_graphs": cuda_graphs,
        "bf16_residual": bf16_residual,
        "steps": steps,
        "device": device_name(place),
        "torch": torch.__version__,
    }
    if against is not None:
        batch = random_clips(sizes.input, batch_size, place)
        with torch.no_grad():
            clips_there = transform(batch)
        figures["against"] = time_against(
            against, network, *clips_there, precision=number_format, steps=steps, warmup=warmup
        )
    if len(fastest) > 1:
        figures["scaling"] = _straight_line(fastest)
    console = plain_console()
    _print(figures, console)
    if names:
        del network
        config = PretrainConfig(
            data=DataConfig(shards="noise", batch_size=batch_size),
            out=Path("noise"),
            model=sizes,
            objective=objective,
            augment=augment,
            device=place.type,
            precision=number_format,  # type: ignore[arg-type]  # resolved
        )
        figures["engines"] = {
            name: _measure_engine(name, *engine, config, steps, max(1, warmup))
            for name, engine in chosen.items()
        }
        _print_engines(figures["engines"], console)
    write_figures(figures, json)
    return figures


def step_parts(
    network: HiCMAE, transform: ClipTransform, batch: dict[str, Any], precision: str
) -> list[Callable[[], None]]:
    """The parts of a training step, ``_PARTS``, each to be called after the one before it."""
    import torch

    from hicmae.devices import autocast
    from hicmae.optimization import parameter_groups

    groups = parameter_groups(network, learning_rate=1e-4, weight_decay=0.05)
    optimizer = torch.optim.AdamW(groups, fused=True)
    made: dict[str, Any] = {}

    def prepare() -> None:
        made["clips"] = transform(batch)

    def forward() -> None:
        with autocast(precision, batch["frames"].device):
            made["loss"] = network(*made["clips"]).loss

    def backward() -> None:
        made["loss"].backward()

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad()

    return [prepare, forward, backward, update]


def _time_steps(
    parts: Sequence[Callable[[], None]],
    device: torch.device,
    steps: int,
    warmup: int,
    peak: MatrixPeak,
) -> list[tuple[float, ...]]:
    """Seconds of each part of each step; products of matrices are measured between steps."""
    from hicmae.bench import timed

    rows: list[tuple[float, ...]] = []
    for step in range(warmup + steps):
        if step >= warmup:
            peak.measure()
        rows.append(tuple(timed(part, device)[0] for part in parts))
    peak.measure()
    return rows[warmup:]


def _straight_line(seconds: dict[int, float]) -> dict[str, Any]:
    """Fit seconds by clips with a straight line (least squares)."""
    clips, times = zip(*sorted(seconds.items()), strict=True)
    slope, fixed = statistics.linear_regression(clips, times)
    return {
        "step_seconds": {str(count): each for count, each in zip(clips, times, strict=True)},
        "seconds_per_clip": slope,
        "fixed_seconds": fixed,
        "r_squared": statistics.correlation(clips, times) ** 2,
    }


def _time_targets(
    network: HiCMAE, transform: ClipTransform, batch: dict[str, Any], steps: int
) -> float:
    """Median seconds of making masks and targets (not of cutting the clips into tokens)."""
    import torch

    from hicmae.bench import timed

    with torch.no_grad():
        video, fbank = transform(batch)
        video_patches, audio_patches = network.encoder.cut(video, fbank)
        assert video_patches is not None
        assert audio_patches is not None

        def targets() -> None:
            masks = network.draw_masks(len(video), device=video.device)
            network.targets(video_patches, audio_patches, *masks)

        return statistics.median(timed(targets, video.device)[0] for _ in range(steps))


def _load_engines(
    names: Sequence[str], processes: int, device: str
) -> dict[str, tuple[EngineConfig, int]]:
    """The engines, each with its number of processes; ValueError where there are fewer GPUs."""
    import torch

    from pretrain.zero import load_engine

    found = {}
    for name in names:
        engine = load_engine(name, world_size=processes if name == "auto" else 1)
        world_size = 1 if engine.kind == "single" else processes
        found[name] = engine, world_size
        if device == "cuda" and torch.cuda.device_count() < world_size:
            raise ValueError(
                f"engines: {world_size} processes need as many GPUs (found "
                f"{torch.cuda.device_count()}); take --device cpu, or fewer with --processes"
            )
    return found


def _measure_engine(
    name: str,
    engine: EngineConfig,
    world_size: int,
    config: PretrainConfig,
    steps: int,
    warmup: int,
) -> dict[str, float]:
    """Train on noise in processes of their own; ValueError with the last words of one."""
    from lightning_fabric.plugins.environments.lightning import find_free_network_port
    from torch import multiprocessing

    with tempfile.TemporaryDirectory(prefix="hicmae-bench-") as folder:
        config = dataclasses.replace(config, out=Path(folder))
        try:
            # A fork has everything imported, and could not use CUDA.
            forked = forking(("pretrain.module", "pretrain.zero")).get_start_method()
            multiprocessing.start_processes(
                _work,
                (engine, world_size, find_free_network_port(), config, steps, warmup),
                nprocs=world_size,
                daemon=True,
                start_method=forked if config.device == "cpu" else "spawn",
            )
        except (
            multiprocessing.ProcessRaisedException,
            multiprocessing.ProcessExitedException,
        ) as error:
            last = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"engine {name}: process {error.error_index} of {world_size}: {last}"
            ) from error
        parts = [json_format.loads(path.read_text()) for path in Path(folder).glob("*.json")]
    most = {key: max(part[key] for part in parts) for key in parts[0]}
    return {"processes": world_size, **most}


def _work(
    rank: int,
    engine: EngineConfig,
    world_size: int,
    port: int,
    config: PretrainConfig,
    steps: int,
    warmup: int,
) -> None:
    """One process: trains with Lightning as a run does, measures, writes its figures."""
    import pytorch_lightning as pl
    import torch
    from pytorch_lightning.callbacks import LambdaCallback
    from pytorch_lightning.plugins.io import TorchCheckpointIO
    from torch.utils.data import DataLoader

    from hicmae.bench import random_clips
    from hicmae.devices import choose_device, peak_memory_bytes
    from hicmae.processes import keep_freed_memory
    from pretrain.module import PretrainModule
    from pretrain.processes import find_processes
    from pretrain.settings import Counts
    from pretrain.zero import trainer_settings

    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):  # what libraries say; an error is raised
        os.dup2(silent, stream.fileno())
    warnings.filterwarnings("ignore")
    ranks = dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
    sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(world_size))
    os.environ.update(ranks | sizes, GROUP_RANK="0", TORCHELASTIC_RUN_ID="bench")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    device = choose_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
        torch.set_num_threads(max(1, num_cores() // world_size))
    clips, num_steps = config.data.batch_size, warmup + steps
    counts = Counts(
        num_steps=num_steps,
        warmup_steps=1,
        global_batch=clips * world_size,
        steps_per_epoch=num_steps,
    )
    ended: list[float] = []

    def end(trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, number: int) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        ended.append(time.perf_counter())

    trainer = pl.Trainer(
        **trainer_settings(
            engine,
            processes=find_processes(config.hardware, config.device),
            device=device,
            precision=config.precision,
            batch_size=clips,
            timeout_seconds=_TIMEOUT_SECONDS,
            checkpoint_io=TorchCheckpointIO(),
        ),
        max_steps=num_steps,
        callbacks=[LambdaCallback(on_train_batch_end=end)],
        default_root_dir=config.out,
    )
    batch = random_clips(config.model.input, clips, torch.device("cpu"))
    batch["keys"] = [f"noise-{rank}-{number}" for number in range(clips)]
    batches: Any = [batch] * num_steps
    trainer.fit(PretrainModule(config, counts), DataLoader(batches, batch_size=None))
    seconds = [now - before for before, now in pairwise(ended)]
    figures = {
        "step_seconds": statistics.median(seconds[warmup - 1 :]),
        "peak_memory_bytes": peak_memory_bytes(device),
    }
    (config.out / f"process-{rank}.json").write_text(json_format.dumps(figures), encoding="utf-8")


def _print(figures: dict[str, Any], console: Console) -> None:
    from hicmae.bench import print_parts

    print_parts(
        f"Pretraining step: {figures['model']}, {figures['batch_size']} clips, "
        f"{figures['precision']}, {figures['device']}",
        figures,
        console,
    )
    if "against" in figures:
        turns = figures["against"]
        console.print(
            f"the authors' network turn about with ours: its step takes {turns['ratio']:.2f} times "
            f"as long ({turns['processor_ratio']:.2f} times the processor time)"
        )
    if "scaling" in figures:
        line = figures["scaling"]
        each = ", ".join(
            f"{clips} clips {1000 * seconds:.0f} ms"
            for clips, seconds in line["step_seconds"].items()
        )
        console.print(
            f"time over clips: {each}; {1000 * line['seconds_per_clip']:.1f} ms a clip and "
            f"{1000 * line['fixed_seconds']:.0f} ms besides (R² {line['r_squared']:.4f})"
        )


def _print_engines(found: Mapping[str, Mapping[str, float]], console: Console) -> None:
    from hicmae.bench import figures_table

    rows = [
        (
            Path(name).stem,
            str(row["processes"]),
            f"{1000 * row['step_seconds']:.0f}",
            f"{row['peak_memory_bytes'] / 2**20:.0f}",
        )
        for name, row in found.items()
    ]
    heads = ("engine", "processes", "step ms", "peak memory, MiB")
    console.print(figures_table("engines", heads, rows))
    console.print("Processes on one CPU share its cores: their steps take as many times one's.")
