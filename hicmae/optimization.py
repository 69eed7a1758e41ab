"""How a network is trained: parameter groups, batches of a step, the learning rate, number formats.

Pretraining and fine-tuning alike; whoever trains multiplies the schedule's value by each group's
``lr_scale``. Names of number formats are Lightning's; ``hicmae.devices`` chooses one. Two of its
formats are other than their names promise and are made good here.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any

import torch
from pytorch_lightning.plugins.precision import HalfPrecision, MixedPrecision
from torch import nn
from torch.utils.data import DataLoader

_ENCODER_LAYER = re.compile(r"encoder\.(?:video|audio)\.blocks\.(\d+)\.")
_FUSION_LAYER = re.compile(r"encoder\.fusion\.(?:video|audio)\.(\d+)\.")
_PROJECTION = re.compile(r"encoder\.(?:video|audio)\.project\.")


class StepLoader(DataLoader[Any]):
    """Batches; or, where their clips count by what the others of an optimizer step are, all of a
    step read before the first is given.

    Attributes:
        count: Batches of a step; none: nothing is read ahead.
        tell: Gives what the others of a step shall know of a batch.
    """

    count: int | None = None
    tell: Callable[[dict[str, Any]], Any]

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Batches; of steps, with "number", which of its step it is, and "step", what is told of
        each."""
        batches = super().__iter__()
        while self.count and (ahead := deque(islice(batches, self.count))):
            step = [self.tell(batch) for batch in ahead]
            for number in range(len(step)):
                yield ahead.popleft() | {"step": step, "number": number}
        yield from batches


def parameter_groups(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Group the trainable parameters of a model that holds an ``encoder``.

    Each group has ``params``, ``names``, ``lr`` (= learning_rate * lr_scale), ``lr_scale`` and
    ``weight_decay``; 1-D parameters have none.

    Args:
        learning_rate: Of the last layer.
        weight_decay: Of matrices.
        layer_decay: Factor of the learning rate from each layer to the one below; ``None``: one
            rate for all.

    Source: reference facts, recipes section (both encoders share layer numbers, then the fusion
    layers, then everything else; the patch projections are layer 0).
    """
    depth = {"encoder": 0, "fusion": 0}
    for name, _ in model.named_parameters():
        for part, pattern in (("encoder", _ENCODER_LAYER), ("fusion", _FUSION_LAYER)):
            if match := pattern.search(name):
                depth[part] = max(depth[part], int(match[1]) + 1)
    last = depth["encoder"] + depth["fusion"] + 1
    groups: dict[tuple[int, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = last if layer_decay is None else _layer_number(name, depth["encoder"], last)
        decay = 0.0 if parameter.ndim <= 1 else weight_decay
        scale = 1.0 if layer_decay is None else layer_decay ** (last - layer)
        group = groups.setdefault(
            (layer, decay),
            {
                "params": [],
                "names": [],
                "lr": learning_rate * scale,
                "lr_scale": scale,
                "weight_decay": decay,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def _layer_number(name: str, encoder_depth: int, last: int) -> int:
    """Layer of a parameter: 0 for projections, 1.. for encoder and fusion layers, else ``last``."""
    if _PROJECTION.search(name):
        return 0
    if match := _ENCODER_LAYER.search(name):
        return int(match[1]) + 1
    if match := _FUSION_LAYER.search(name):
        return encoder_depth + int(match[1]) + 1
    return last


def warmup_cosine(step: int, *, final: float, num_steps: int, warmup_steps: int) -> float:
    """Value of the schedule at one step, over its highest one.

    The warm-up is a straight line from 0 whose last step is already at 1; the cosine starts at 1 on
    the next step and would reach ``final`` at step ``num_steps``, one after the last. A warm-up of
    a single step stays at 0. Steps past the end keep ``final``.

    Args:
        step: Of the optimiser, counted from 0.
        num_steps: Steps of the run, warm-up included.
        warmup_steps: Steps of the warm-up; 0 for none.

    Raises: ValueError: a negative step, no steps at all, or a warm-up longer than the run.
    Source: the cosine is SGDR's (arXiv 1608.03983) without restarts; where exactly the warm-up
        ends was matched to the numbers of HiCMAE's published code.
    """
    if step < 0 or num_steps < 1 or not 0 <= warmup_steps <= num_steps:
        raise ValueError(
            f"schedule: step = {step}, num_steps = {num_steps}, warmup_steps = {warmup_steps} "
            "(must be step >= 0, num_steps >= 1 and 0 <= warmup_steps <= num_steps)"
        )
    if step < warmup_steps:
        return step / max(1, warmup_steps - 1)
    if step >= num_steps:
        return final
    progress = (step - warmup_steps) / (num_steps - warmup_steps)
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


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

    Args: precision: Lightning's name.
    Returns: its ``precision``, and the plug-ins that take its place.
    """
    if precision == "bf16-true":
        return None, [NetworkInBf16()]
    if precision == "16-mixed" and device.type == "cpu":
        return None, [MixedPrecision("16-mixed", device="cpu", scaler=torch.amp.GradScaler("cpu"))]
    return precision, []
