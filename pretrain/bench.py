"""How fast a pretraining step is on this machine: the command ``hicmae bench step``.

For: clips a second of the step that training takes (transforms, forward, backward, optimizer), by
part, and how much of the machine's matrix-product speed it reaches, measured in the same run. Not
for: reading clips (``hicmae bench loader``), nor how engines share the step between processes
(``pretrain/bench_engines.py``, which this command calls for ``--engines``).
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from hicmae.benchmarking.flops import step_flops
from hicmae.benchmarking.records import print_parts, random_clips, write_figures
from hicmae.benchmarking.speed import (
    MatrixPeak,
    check_precision,
    choose_device,
    device_name,
    median_parts,
    peak_memory_bytes,
    timed,
)
from hicmae.masks import random_masks, tube_masks
from hicmae.objective import audio_target, video_target
from hicmae.parameters import parameter_groups
from hicmae.patches import take_tokens
from hicmae.precision import Precision, resolve_precision
from hicmae.pretraining import HiCMAE
from hicmae.settings import ObjectiveConfig
from hicmae.transforms import AugmentConfig, ClipTransform
from pretrain.bench_engines import EngineBench, bench_engines, print_engines
from pretrain.sizes import choose_model

_OBJECTIVE = ObjectiveConfig()
_AUGMENT = AugmentConfig.pretraining()
_PARTS = ("transforms", "forward", "backward", "optimizer")


def bench_step(
    *,
    model: str | dict[str, Any] = "base",
    batch_size: int = 8,
    steps: int = 10,
    warmup: int = 3,
    precision: Precision = "auto",
    accelerator: str = "auto",
    compile: bool = False,
    batch_sizes: tuple[int, ...] = (),
    engines: str = "",
    processes: int = 2,
    objective: ObjectiveConfig = _OBJECTIVE,
    augment: AugmentConfig = _AUGMENT,
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
        accelerator: auto, cpu or gpu.
        compile: Whether the network is compiled; give a longer warm-up then.
        batch_sizes: Other numbers of clips to measure too, to see how a step's time grows.
        engines: Engines to measure too, separated by commas: names out of configs/engines (single,
            ddp, zero1, zero2, zero3, …) or YAML files, each in processes of its own on this
            machine: time of a step, bytes kept and sent by a process, and what both should be.
            Take a small model on a CPU.
        processes: Processes of each of these engines but single; batch_size is of each process.
        objective: Masks, weights and ablations.
        augment: Random changes to the clips.
        json: File for the figures.

    Returns: The figures; among them ``clips_per_second``, ``step_seconds``, ``flops_per_clip``,
        ``matmul_peak_flops``, ``fraction_of_peak``, ``peak_memory_bytes`` and ``seconds`` by part;
        with ``batch_sizes`` also ``scaling``: ``step_seconds`` of each (the smallest of its steps,
        which other work on the machine disturbs least), and the straight line through them:
        ``seconds_per_clip``, ``fixed_seconds`` and ``r_squared``, 1 where it is straight; with
        ``engines`` also ``engines``, see ``pretrain.bench_engines.bench_engines``.

    Raises:
        ValueError: A number is out of range, there is no such device or engine, or an engine did
            not run.
    """
    if min((batch_size, steps, *batch_sizes)) < 1 or warmup < 0 or processes < 2:
        raise ValueError(
            f"batch_size = {batch_size}, batch_sizes = {list(batch_sizes)}, steps = {steps}, "
            f"warmup = {warmup}, processes = {processes} (batch sizes and steps must be 1 or "
            "more, warmup 0 or more, processes 2 or more)"
        )
    device = choose_device(accelerator)
    number_format = resolve_precision(precision, accelerator=device.type)
    check_precision(number_format, "bench step")
    sizes = choose_model(model)
    shared = EngineBench(
        model=sizes,
        objective=objective,
        augment=augment,
        batch_size=batch_size,
        steps=steps,
        warmup=max(1, warmup),
        precision=number_format,
        accelerator=device.type,
    )
    names = [name.strip() for name in engines.split(",") if name.strip()]
    shared.check(names, processes)  # before minutes have passed
    torch.manual_seed(0)
    network = HiCMAE(sizes, objective).to(device)
    transform = ClipTransform(sizes.input, augment).to(device).train()
    flops = step_flops(sizes, objective)
    if compile:
        network.compile()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    peak = MatrixPeak(number_format, device)
    fastest: dict[int, float] = {}
    for clips in (batch_size, *sorted(set(batch_sizes) - {batch_size})):
        batch = random_clips(sizes.input, clips, device)
        rows = _time_steps(network, transform, batch, number_format, steps, warmup, peak)
        fastest[clips] = min(sum(row) for row in rows)
        if clips == batch_size:
            seconds = median_parts(_PARTS, rows)
            memory = peak_memory_bytes(device)
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
        "steps": steps,
        "device": device_name(device),
        "torch": torch.__version__,
    }
    if len(fastest) > 1:
        figures["scaling"] = _straight_line(fastest)
    console = Console(highlight=False, soft_wrap=True)
    _print(figures, console)
    if names:
        del network
        figures["engines"] = bench_engines(shared, names, processes=processes)
        print_engines(figures["engines"], console)
    write_figures(figures, json)
    return figures


def _time_steps(
    network: HiCMAE,
    transform: ClipTransform,
    batch: dict[str, Any],
    precision: str,
    steps: int,
    warmup: int,
    peak: MatrixPeak,
) -> list[tuple[float, ...]]:
    """Seconds of each part of each step, with a matrix product before every step and at the end."""
    device = batch["frames"].device
    optimizer = torch.optim.AdamW(
        parameter_groups(network, learning_rate=1e-4, weight_decay=0.05), fused=True
    )

    def forward() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss: Tensor = network(video, fbank).loss
        return loss

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad()

    rows: list[tuple[float, ...]] = []
    for step in range(warmup + steps):
        if step >= warmup:
            peak.measure()
        transforming, (video, fbank) = timed(lambda: transform(batch), device)
        forwarding, loss = timed(forward, device)
        backwarding, _ = timed(loss.backward, device)
        updating, _ = timed(update, device)
        rows.append((transforming, forwarding, backwarding, updating))
    peak.measure()
    return rows[warmup:]


def _straight_line(seconds: dict[int, float]) -> dict[str, Any]:
    """Fit seconds by clips with a straight line (least squares)."""
    clips = sorted(seconds)
    slope, fixed = statistics.linear_regression(clips, [seconds[count] for count in clips])
    return {
        "step_seconds": {str(count): seconds[count] for count in clips},
        "seconds_per_clip": slope,
        "fixed_seconds": fixed,
        "r_squared": statistics.correlation(clips, [seconds[count] for count in clips]) ** 2,
    }


@torch.no_grad()
def _time_targets(
    network: HiCMAE, transform: ClipTransform, batch: dict[str, Any], steps: int
) -> float:
    """Median seconds of making masks and targets, which the forward pass includes.

    Not of cutting the clips into tokens, which the encoder would need without them.
    """
    sizes, objective, size = network.config, network.objective, network.config.input
    video, fbank = transform(batch)
    assert video is not None
    assert fbank is not None
    video_patches, audio_patches = network.encoder.cut(video, fbank)
    assert video_patches is not None
    assert audio_patches is not None
    device = video.device

    def targets() -> None:
        ratio = objective.video_mask_ratio
        cells = tube_masks(len(video), sizes.video_grid, ratio, device=device)
        patches = random_masks(
            len(video), sizes.num_audio_tokens, objective.audio_mask_ratio, device=device
        )
        video_target(
            take_tokens(video_patches, cells.masked),
            tubelet_frames=sizes.tubelet_frames,
            image_std=size.image_std,
            frame_difference=objective.frame_difference,
        )
        audio_target(take_tokens(audio_patches, patches.masked))

    return statistics.median(timed(targets, device)[0] for _ in range(steps))


def _print(figures: dict[str, Any], console: Console) -> None:
    """Show the figures of one device."""
    print_parts(
        f"Pretraining step: {figures['model']}, {figures['batch_size']} clips, "
        f"{figures['precision']}, {figures['device']}",
        figures,
        console,
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
