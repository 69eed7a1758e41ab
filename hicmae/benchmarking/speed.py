"""How fast this machine computes, and how long things take on it.

For: the speed of a large matrix product, measured again and again between the steps that are
compared with it, so that other work on the machine slows both alike. Not for: what a network
has to compute (``hicmae/benchmarking/flops.py``).
"""

from __future__ import annotations

import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

_DTYPES = {"bf16-mixed": torch.bfloat16, "32-true": torch.float32}


class MatrixPeak:
    """The speed of the largest sensible square matrix product in one number format.

    Args:
        precision: Lightning's name: bf16-mixed or 32-true.
        device: Where it is computed.
        side: Rows and columns; none: 8192 on a GPU, 2048 on a CPU.
    """

    def __init__(self, precision: str, device: torch.device, *, side: int | None = None) -> None:
        side = side or (8192 if device.type == "cuda" else 2048)
        dtype = _DTYPES[precision]
        self._device = device
        self._left = torch.randn(side, side, device=device).to(dtype)
        self._right = torch.randn(side, side, device=device).to(dtype)
        self._out = torch.empty_like(self._left)
        self._operations = 2 * side**3
        self._seconds: list[float] = []
        self._multiply()  # the first one also plans

    def measure(self) -> None:
        """Time one product more."""
        self._seconds.append(timed(self._multiply, self._device)[0])

    @property
    def flops(self) -> float:
        """Operations a second: the median of what was measured."""
        return self._operations / statistics.median(self._seconds)

    @property
    def best_flops(self) -> float:
        """Operations a second of the fastest one."""
        return self._operations / min(self._seconds)

    def _multiply(self) -> None:
        torch.mm(self._left, self._right, out=self._out)


def check_precision(precision: str, command: str) -> None:
    """Refuse a number format that no bench has a matrix product for.

    Raises: ValueError.
    """
    if precision not in _DTYPES:
        raise ValueError(f"precision = {precision} ({command} knows {', '.join(_DTYPES)})")


def choose_device(accelerator: str) -> torch.device:
    """The device of a setting.

    Raises: ValueError: an unknown name, or no such device.
    """
    if accelerator not in ("auto", "cpu", "gpu", "cuda"):
        raise ValueError(f"accelerator = {accelerator} (allowed: auto, cpu, gpu)")
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(f"accelerator = {accelerator}: no CUDA device found; use cpu or auto")
    return torch.device("cpu" if accelerator == "cpu" or not torch.cuda.is_available() else "cuda")


def device_name(device: torch.device) -> str:
    """What to call a device in a table."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds that some work takes, the device's part included, and what it returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, result


def median_parts(names: Sequence[str], rows: Sequence[Sequence[float]]) -> dict[str, float]:
    """Median of each part over steps, and of the whole ``step``; seconds."""
    parts = {
        name: statistics.median(times)
        for name, times in zip(names, zip(*rows, strict=True), strict=True)
    }
    return {**parts, "step": statistics.median(sum(row) for row in rows)}


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory used so far: of a CUDA device's allocator, else resident of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def resident_memory_bytes() -> int:
    """Memory of this process that is in RAM now; a number that only grows is a leak."""
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * resource.getpagesize()
