"""How much a step has to compute, and how fast this machine computes.

For: the two numbers whose ratio says how well a step uses its machine. Not for: timing steps
(``pretrain/bench.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hicmae.pretraining import HiCMAE
from hicmae.settings import ModelConfig, ObjectiveConfig

_PEAK_SECONDS = 1.0  # that the large matrix product is repeated


def step_flops(model: ModelConfig, objective: ObjectiveConfig, *, backward: bool = True) -> float:
    """Operations (a multiply-add is two) that the network needs for one clip of a training step.

    Counted on tensors without content. Attention and matrix products count, the rest does not.

    Args:
        model: Sizes.
        objective: Masks and ablations.
        backward: Whether the backward pass is counted too.
    """
    size, clips = model.input, 2
    with torch.device("meta"):
        # The contrast is left out: it is next to nothing, and autocast refuses such tensors.
        network = HiCMAE(model, replace(objective, contrast=False))
        video = torch.empty(clips, 3, size.num_frames, size.image_size, size.image_size)
        fbank = torch.empty(clips, size.fbank_frames, size.mel_bins)
    # The counter knows no fused attention on CPUs; in the plain form it is matrix products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss = network(video, fbank).loss
        if backward:
            loss.backward()
    return counter.get_total_flops() / clips


def matmul_peak_flops(dtype: torch.dtype, device: torch.device) -> float:
    """Speed of the largest sensible matrix product here, operations a second (best of many)."""
    side = 8192 if device.type == "cuda" else 2048
    left = torch.randn(side, side, device=device, dtype=dtype)
    right = torch.randn(side, side, device=device, dtype=dtype)
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < _PEAK_SECONDS:
        best = min(best, timed(lambda: left @ right, device)[0])
    return 2 * side**3 / best


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds that some work takes, the device's part included, and what it returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, result
