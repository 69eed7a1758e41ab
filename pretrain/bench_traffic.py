"""What a process sends and keeps in a training step: measured, and as it should be.

For: the comparison that ``hicmae bench step --engines`` prints. Not for: running the step
(``pretrain/bench_worker.py``).

Sent bytes are counted as the ZeRO paper counts them: what one process sends for a collective over
many processes. That is the bytes of the tensor for a reduce-scatter, an all-gather, a reduce or a
broadcast, and twice those for an all-reduce, which is the first two one after the other. With P
bytes of weights in use a step sends

- single: nothing;
- ddp: gradients all-reduced, 2·P;
- ZeRO 1 and 2: gradients reduced to who keeps them, new weights gathered, P + P;
- ZeRO 3: weights gathered in the forward and again in the backward pass, gradients reduced, 3·P;
  those too small to share are gathered once, after the optimizer's step, and those that are whole
  when the forward pass ends are still whole when the backward pass begins.

Source: ZeRO, arXiv 1910.02054, section 7. With few processes the wires carry less, (N - 1) / N.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain.engines import EngineConfig

_SENDS = {0: 2, 1: 2, 2: 2, 3: 3}  # times the weights, by stage; 0 is ddp


class Traffic(TorchDispatchMode):
    """Counts the bytes of every collective call while it is entered.

    Attributes:
        sent_bytes: So far, as the module's docstring counts.
        calls: Collective calls by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sent_bytes = 0
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Note a collective, and let everything pass."""
        if func.namespace == "c10d":
            name = func._opname
            # A result and its parts are two arguments; the larger is what is spoken of.
            size = max((sum(map(_nbytes, _tensors(arg))) for arg in args), default=0)
            if name != "barrier":
                self.sent_bytes += 2 * size if name.startswith("allreduce") else size
                self.calls[name] = self.calls.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def expected_sent_bytes(
    engine: EngineConfig,
    weight_bytes: float,
    *,
    whole_bytes: float = 0.0,
    gathered_bytes: float = 0.0,
) -> float:
    """Bytes that a process should send in a step with one batch; see the module's docstring.

    Args:
        engine: How processes share.
        weight_bytes: Of the whole network, as it is computed with.
        whole_bytes: Of those, of weights that stage 3 does not share.
        gathered_bytes: Of the shared ones, how much of them stage 3 has whole at once.
    """
    if engine.kind == "single":
        return 0.0
    once = 0.0
    if engine.stage == 3:
        once = whole_bytes + min(gathered_bytes, weight_bytes - whole_bytes)
    return _SENDS[engine.stage] * weight_bytes - once


def kept_bytes(network: nn.Module, optimizer: Any) -> dict[str, int]:
    """What this process keeps between the backward pass and the optimizer's step.

    Args:
        network: Its parameters may be shared out by DeepSpeed.
        optimizer: PyTorch's, or DeepSpeed's around it.

    Returns: bytes of ``weights``, ``gradients`` and ``optimizer`` (running means, and DeepSpeed's
        own copy of the weights), wherever they are; storage that is shared counts once, with the
        first of these.
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
    """Every tensor of nested lists and dictionaries."""
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
