"""Number formats of training, as Lightning's trainer is told them.

Names are Lightning's; ``hicmae.devices`` chooses one. Two of its formats are other than their
names promise and are made good here.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from pytorch_lightning.plugins.precision import HalfPrecision, MixedPrecision
from torch import nn


class NetworkInBf16(HalfPrecision):
    """``bf16-true``: weights and what the network computes are bf16, and nothing else.

    Lightning's own also makes bf16 of every floating-point number of a batch and of what is created
    in a step: filter banks, positions of crops, draws of masks, which have too few digits then.
    The transforms keep float32 (``FilterBank``), and the network casts what it is given.
    """

    def __init__(self) -> None:
        super().__init__("bf16-true")

    def convert_module(self, module: nn.Module) -> nn.Module:
        module.get_submodule("model").to(torch.bfloat16)  # not the scales of targets beside it
        return module

    def convert_input(self, data: Any) -> Any:
        return data

    def forward_context(self) -> AbstractContextManager:  # type: ignore[override]
        return nullcontext()


def trainer_precision(precision: str, device: torch.device) -> tuple[str | None, list[Any]]:
    """How Lightning's trainer is told a precision.

    On a CPU Lightning's own ``16-mixed`` quietly trains in bf16, though PyTorch scales losses
    there too (torch.amp.GradScaler, PyTorch 2.3); DeepSpeed scales by itself.

    Args:
        precision: Lightning's name.
        device: Where the trainer computes.

    Returns: its ``precision``, and the plug-ins that take its place.
    """
    if precision == "bf16-true":
        return None, [NetworkInBf16()]
    if precision == "16-mixed" and device.type == "cpu":
        return None, [MixedPrecision("16-mixed", device="cpu", scaler=torch.amp.GradScaler("cpu"))]
    return precision, []
