"""``hicmae`` with its third step watched: what a process sends in it, and keeps after the backward.

A module that ``Runs.in_turn`` imports. Each process leaves ``traffic-<rank>.json`` in the folder of
its run.

Sent bytes are counted as the ZeRO paper counts them: what one process sends for a collective over
many processes. That is the bytes of the tensor for a reduce-scatter, an all-gather, a reduce or a
broadcast, and twice those for an all-reduce, which is the first two one after the other.

Source: ZeRO, arXiv 1910.02054, sections 5 and 7.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain.module import PretrainModule

_STEP = 2  # steps that are done when it begins
_original = PretrainModule.optimizer_step


class Traffic(TorchDispatchMode):
    """Counts the bytes of every collective call while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.sent_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace == "c10d" and func._opname != "barrier":
            # A result and its parts are two arguments; the larger is what is spoken of.
            size = max((sum(map(_nbytes, _tensors(arg))) for arg in args), default=0)
            self.sent_bytes += 2 * size if func._opname.startswith("allreduce") else size
        return func(*args, **(kwargs or {}))


def kept_bytes(network: nn.Module, optimizer: Any) -> dict[str, int]:
    """What this process keeps between the backward pass and the optimizer's step.

    Storage that is shared counts once, with the first; DeepSpeed's own copy of the weights counts
    with the optimizer's running means.
    """
    counted: set[int] = set()

    def total(tensors: Iterable[Tensor | None]) -> int:
        size = 0
        for tensor in tensors:
            if tensor is None or not tensor.numel():
                continue
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in counted:
                counted.add(storage.data_ptr())
                size += storage.nbytes()
        return size

    parameters = list(network.parameters())
    base = getattr(optimizer, "optimizer", optimizer)
    masters = [parameter for group in base.param_groups for parameter in group["params"]]
    whole = [parameter.data for parameter in parameters]
    parts = [getattr(parameter, "ds_tensor", None) for parameter in parameters]
    gradients = [parameter.grad for parameter in (*parameters, *masters)]
    for name in ("averaged_gradients", "grad_partitions_flat_buffer"):
        gradients += _tensors(getattr(optimizer, name, None))
    copies = _tensors(getattr(optimizer, "fp32_partitioned_groups_flat", None))
    return {
        "weights": total([*whole, *parts]),
        "gradients": total(gradients),
        "optimizer": total([*masters, *copies, *_tensors(list(base.state.values()))]),
    }


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _tensors(value)


def _nbytes(tensor: Tensor) -> int:
    return tensor.numel() * torch.empty((), dtype=tensor.dtype).element_size()


def _watched(
    self: PretrainModule, epoch: int, batch_idx: int, optimizer: Any, closure: Any
) -> None:
    if self.global_step != _STEP:
        _original(self, epoch, batch_idx, optimizer, closure)
        return
    found: dict[str, int] = {}

    def forward_and_backward() -> Any:
        output = closure()
        found.update(kept_bytes(self, self.trainer.strategy.optimizers[0]))
        return output

    with Traffic() as traffic:
        _original(self, epoch, batch_idx, optimizer, forward_and_backward)
    figures = {"sent": traffic.sent_bytes, "kept": found}
    path = self.config.out / f"traffic-{self.global_rank}.json"
    path.write_text(json.dumps(figures), encoding="utf-8")


PretrainModule.optimizer_step = _watched  # type: ignore[assignment,method-assign]
