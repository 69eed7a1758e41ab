"""What the benches of the network share besides measuring: clips of noise, tables, files.

For: ``hicmae bench step``, ``bench finetune`` and ``bench evaluate``. Not for: the readers'
benches (``shards/bench.py``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from hicmae.settings import InputConfig


def random_clips(input: InputConfig, batch_size: int, device: torch.device) -> dict[str, Any]:
    """Clips of noise at the size of a network, as a reader hands them over, on the device.

    Returns: ``frames`` (B, T, H, W, 3) uint8, ``waveform`` (B, samples) int16, ``num_samples``
        (B,) int64.
    """
    shape = (batch_size, input.num_frames, input.image_size, input.image_size, 3)
    sound = torch.randint(-3000, 3000, (batch_size, input.clip_samples), dtype=torch.int16)
    return {
        "frames": torch.randint(0, 256, shape, dtype=torch.uint8).to(device),
        "waveform": sound.to(device),
        "num_samples": torch.full((batch_size,), input.clip_samples).to(device),
    }


def write_figures(figures: Mapping[str, Any], path: Path | None) -> None:
    """Write figures as JSON, whole or not at all; no path, no file."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    beside.replace(path)


def print_parts(title: str, figures: Mapping[str, Any], console: Console) -> None:
    """Show ``seconds`` by part, and the line of speed, share of the peak, and memory."""
    table = Table(title=title)
    table.add_column("part")
    table.add_column("milliseconds", justify="right")
    table.add_column("share", justify="right")
    for part, seconds in figures["seconds"].items():
        table.add_row(part, f"{1000 * seconds:.1f}", f"{seconds / figures['step_seconds']:.0%}")
    console.print(table)
    console.print(
        f"{figures['clips_per_second']:.1f} clips/s; {figures['flops_per_clip'] / 1e9:.1f} GFLOP a "
        f"clip; {figures['fraction_of_peak']:.0%} of {figures['matmul_peak_flops'] / 1e9:.3g} "
        f"GFLOP/s, the median of products between the steps (best "
        f"{figures['matmul_best_flops'] / 1e9:.3g}); peak memory "
        f"{figures['peak_memory_bytes'] / 2**30:.2f} GiB"
    )
    if figures["fraction_of_peak"] > 1:
        console.print(
            f"The share says nothing here: a large product of {figures['precision']} is slower "
            "than the network's smaller ones, as where a machine computes that format in software."
        )
