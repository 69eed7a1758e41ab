"""fp16 with loss scaling on a CPU.

For: both trainers. Lightning's own quietly trains in bf16 there, though PyTorch scales losses on
CPUs too. Not for: speed (few CPUs multiply in fp16), or DeepSpeed, which scales by itself.

Source: torch.amp.GradScaler, PyTorch 2.3.
"""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning.plugins.precision import MixedPrecision


def trainer_precision(precision: str, *, on_cpu: bool) -> tuple[str | None, list[Any]]:
    """How Lightning's trainer is told a precision.

    Args:
        precision: Lightning's name.
        on_cpu: Whether the trainer computes on CPUs.

    Returns: its ``precision``, and the plug-ins that take its place.
    """
    if precision != "16-mixed" or not on_cpu:
        return precision, []
    return None, [MixedPrecision("16-mixed", device="cpu", scaler=torch.amp.GradScaler("cpu"))]
