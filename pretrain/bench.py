"""How fast a pretraining step is on this machine: the command ``hicmae bench step``.

For: clips a second of the step that training takes (transforms, forward, backward, optimizer), by
part, and how much of the machine's matrix-product speed it reaches, measured in the same run. Not
for: reading clips (``hicmae bench loader``), nor Lightning's own cost.
"""

from __future__ import annotations

import json as jsonlib
import platform
import statistics
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from hicmae.masks import random_masks, tube_masks
from hicmae.objective import audio_target, video_target
from hicmae.parameters import parameter_groups
from hicmae.patches import fbank_patches, take_tokens, tubelets
from hicmae.precision import Precision, resolve_precision
from hicmae.pretraining import HiCMAE
from hicmae.settings import InputConfig, ObjectiveConfig
from hicmae.transforms import AugmentConfig, ClipTransform
from pretrain.flops import matmul_peak_flops, step_flops, timed
from pretrain.meter import peak_memory_bytes
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
    objective: ObjectiveConfig = _OBJECTIVE,
    augment: AugmentConfig = _AUGMENT,
    json: Path | None = None,
) -> dict[str, Any]:
    """Measure a pretraining step on random clips, and print a table.

    Times are medians over the steps. The share of the peak is what the network has to compute
    (counted forward and backward, transforms and optimizer left out) a second of the whole step,
    over the speed of a large matrix product in the same precision.

    Args:
        model: Size of the network, as in pretraining.
        batch_size: Clips of a step.
        steps: Steps that are measured.
        warmup: Steps before them that are not.
        precision: As in pretraining; 16-mixed is not measured here.
        accelerator: auto, cpu or gpu.
        compile: Whether the network is compiled; give a longer warm-up then.
        batch_sizes: Other numbers of clips to measure too, to see how a step's time grows.
        objective: Masks, weights and ablations.
        augment: Random changes to the clips.
        json: File for the figures.

    Returns: The figures; among them ``clips_per_second``, ``step_seconds``, ``flops_per_clip``,
        ``matmul_peak_flops``, ``fraction_of_peak``, ``peak_memory_bytes`` and ``seconds`` by part;
        with ``batch_sizes`` also ``scaling``: ``step_seconds`` of each (the smallest of its steps,
        which other work on the machine disturbs least), and the straight line through them:
        ``seconds_per_clip``, ``fixed_seconds`` and ``r_squared``, 1 where it is straight.

    Raises:
        ValueError: A number is out of range, or there is no such device.
    """
    if min((batch_size, steps, *batch_sizes)) < 1 or warmup < 0:
        raise ValueError(
            f"batch_size = {batch_size}, batch_sizes = {list(batch_sizes)}, steps = {steps}, "
            f"warmup = {warmup} (batch sizes and steps must be 1 or more, warmup 0 or more)"
        )
    device = _device(accelerator)
    number_format = resolve_precision(precision, accelerator=device.type)
    if number_format not in ("bf16-mixed", "32-true"):
        raise ValueError(f"precision = {number_format} (bench step knows bf16-mixed and 32-true)")
    sizes = choose_model(model)
    torch.manual_seed(0)
    network = HiCMAE(sizes, objective).to(device)
    transform = ClipTransform(sizes.input, augment).to(device).train()
    batch = _random_batch(sizes.input, batch_size, device)
    flops = step_flops(sizes, objective)
    if compile:
        network.compile()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds, memory = _time_steps(network, transform, batch, number_format, steps, warmup)
    fastest = {batch_size: seconds.pop("fastest")}
    for clips in sorted(set(batch_sizes) - {batch_size}):
        other = _random_batch(sizes.input, clips, device)
        times, _ = _time_steps(network, transform, other, number_format, steps, warmup)
        fastest[clips] = times["fastest"]
    seconds["of forward: targets"] = _time_targets(network, transform, batch, steps)
    dtype = torch.bfloat16 if number_format == "bf16-mixed" else torch.float32
    peak = matmul_peak_flops(dtype, device)
    step_seconds = seconds["step"]
    figures: dict[str, Any] = {
        "clips_per_second": batch_size / step_seconds,
        "step_seconds": step_seconds,
        "seconds": seconds,
        "flops_per_clip": flops,
        "matmul_peak_flops": peak,
        "fraction_of_peak": flops * batch_size / step_seconds / peak,
        "peak_memory_bytes": memory,
        "num_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "model": model if isinstance(model, str) else str(model.get("size", "own")) + " changed",
        "batch_size": batch_size,
        "precision": number_format,
        "compile": compile,
        "steps": steps,
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }
    if len(fastest) > 1:
        figures["scaling"] = _straight_line(fastest)
    _print(figures)
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        beside = json.with_name(f".{json.name}.part")
        beside.write_text(jsonlib.dumps(figures, indent=2) + "\n", encoding="utf-8")
        beside.replace(json)
    return figures


def _time_steps(
    network: HiCMAE,
    transform: ClipTransform,
    batch: dict[str, Any],
    precision: str,
    steps: int,
    warmup: int,
) -> tuple[dict[str, float], int]:
    """Median seconds of each part and of the ``step``, and the peak memory in bytes."""
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
    for _ in range(warmup + steps):
        transforming, (video, fbank) = timed(lambda: transform(batch), device)
        forwarding, loss = timed(forward, device)
        backwarding, _ = timed(loss.backward, device)
        updating, _ = timed(update, device)
        rows.append((transforming, forwarding, backwarding, updating))
    measured = rows[warmup:]
    seconds = {
        part: statistics.median(times)
        for part, times in zip(_PARTS, zip(*measured, strict=True), strict=True)
    }
    seconds["step"] = statistics.median(sum(row) for row in measured)
    seconds["fastest"] = min(sum(row) for row in measured)
    return seconds, peak_memory_bytes(device)


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
    """Median seconds of making masks and targets, which the forward pass includes."""
    sizes, objective, size = network.config, network.objective, network.config.input
    video, fbank = transform(batch)
    assert video is not None
    assert fbank is not None
    device = video.device

    def targets() -> None:
        ratio = objective.video_mask_ratio
        cells = tube_masks(len(video), sizes.video_grid, ratio, device=device)
        patches = random_masks(
            len(video), sizes.num_audio_tokens, objective.audio_mask_ratio, device=device
        )
        video_target(
            take_tokens(tubelets(video, sizes.tubelet_frames, sizes.patch_size), cells.masked),
            tubelet_frames=sizes.tubelet_frames,
            image_mean=size.image_mean,
            image_std=size.image_std,
            frame_difference=objective.frame_difference,
        )
        audio_target(take_tokens(fbank_patches(fbank, sizes.patch_size), patches.masked))

    return statistics.median(timed(targets, device)[0] for _ in range(steps))


def _random_batch(input: InputConfig, batch_size: int, device: torch.device) -> dict[str, Any]:
    """Clips of noise at the size of the network, already on the device."""
    shape = (batch_size, input.num_frames, input.image_size, input.image_size, 3)
    sound = torch.randint(-3000, 3000, (batch_size, input.clip_samples), dtype=torch.int16)
    return {
        "frames": torch.randint(0, 256, shape, dtype=torch.uint8).to(device),
        "waveform": sound.to(device),
        "num_samples": torch.full((batch_size,), input.clip_samples).to(device),
    }


def _device(accelerator: str) -> torch.device:
    if accelerator not in ("auto", "cpu", "gpu", "cuda"):
        raise ValueError(f"accelerator = {accelerator} (allowed: auto, cpu, gpu)")
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(f"accelerator = {accelerator}: no CUDA device found; use cpu or auto")
    return torch.device("cpu" if accelerator == "cpu" or not torch.cuda.is_available() else "cuda")


def _print(figures: dict[str, Any]) -> None:
    """Show the figures as a table."""
    table = Table(
        title=f"Pretraining step: {figures['model']}, {figures['batch_size']} clips, "
        f"{figures['precision']}, {figures['device']}"
    )
    table.add_column("part")
    table.add_column("milliseconds", justify="right")
    table.add_column("share", justify="right")
    for part, seconds in figures["seconds"].items():
        table.add_row(part, f"{1000 * seconds:.1f}", f"{seconds / figures['step_seconds']:.0%}")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(
        f"{figures['clips_per_second']:.1f} clips/s; {figures['flops_per_clip'] / 1e9:.1f} GFLOP a "
        f"clip; {figures['fraction_of_peak']:.0%} of {figures['matmul_peak_flops'] / 1e9:.0f} "
        f"GFLOP/s; peak memory {figures['peak_memory_bytes'] / 2**30:.2f} GiB"
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
