"""Steps on a GPU that is not there: which lines make the host wait for the device.

Tensors on ``CUDA`` have shapes and no content (PyTorch's ``FakeTensorMode``); those on the CPU are
real. Everything of a step can be run so but the backward pass: whoever needs gradients makes some.
"""

from __future__ import annotations

import math
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

CUDA = torch.device("cuda", 0)
_REPOSITORY = Path(__file__).parents[2]
_ROOMS = ("hicmae", "shards", "pretrain", "finetune")
# Operations whose result has a size, or a fate, that only the device knows.
_ANSWERS = {
    "aten::_local_scalar_dense": "a number",
    "aten::nonzero": "places",
    "aten::masked_select": "a selection",
    "aten::_linalg_eigh": "whether eigenvalues were found",
    "aten::_linalg_svd": "whether singular values were found",
    "aten::equal": "equality",
    "aten::unique_dim": "a selection",
    "aten::_unique2": "a selection",
}
_NO_KERNEL = {f"aten::{name}" for name in ("empty", "empty_like", "empty_strided", "new_empty")}
# Tensors of which PyTorch's fused AdamW updates parameter, gradient, means and step in one kernel;
# operations on fewer lists take more at a time.
_TOGETHER = 30


class Watch(TorchDispatchMode):
    """Runs operations, and notes what the host would wait for.

    Attributes:
        waits: By what was waited for and the line of ours that asked, such as ``a number:
            pretrain/guard.py:150``.
        launches: Kernels, by operation; of one on a list of tensors, one for each ``_TOGETHER``.
        on_host: Operations on the CPU, by operation: what a CUDA graph cannot record.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self.on_host: Counter[str] = Counter()
        self.pinned = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        there = any(isinstance(leaf, FakeTensor) or _is_cuda(leaf) for leaf in leaves)
        if not there:
            self.on_host[func._schema.name] += 1
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        name = func._schema.name
        if name in _ANSWERS:
            self._note(_ANSWERS[name])
            if name == "aten::_local_scalar_dense":
                return 1.0 if args[0].is_floating_point() else 1
        if name in ("aten::index", "aten::index_put_") and any(
            part is not None and part.dtype == torch.bool for part in args[1]
        ):
            self._note("places")
        out = func(*args, **kwargs)
        if name in ("aten::_to_copy", "aten::copy_"):
            source = args[1 if name == "aten::copy_" else 0]
            free = kwargs.get("non_blocking") or args[2:3] == (True,)
            if source.device.type == "cuda" and out.device.type == "cpu":
                self._note("a copy from the device")
            elif source.device != out.device and not (free and source in self.pinned):
                self._note("a copy to the device")
        if name.startswith("aten::") and not func.is_view and name not in _NO_KERNEL:
            together = next((len(part) for part in args if isinstance(part, list | tuple)), 1)
            self.launches[name] += math.ceil(together / _TOGETHER)
        return out

    def _note(self, what: str) -> None:
        for frame in reversed(traceback.extract_stack()):
            path = Path(frame.filename)
            if path.is_relative_to(_REPOSITORY):
                place = path.relative_to(_REPOSITORY)
                if place.parts[0] in _ROOMS:
                    self.waits[f"{what}: {place}:{frame.lineno}"] += 1
                    return
        self.waits[f"{what}: outside of the rooms"] += 1


@contextmanager
def pretended_cuda() -> Iterator[Watch]:
    """Within it, modules and tensors can be made on ``CUDA``."""
    watch = Watch()
    make_generator = torch.Generator

    def pin(values: Tensor) -> Tensor:
        values = values.clone()
        watch.pinned[values] = True
        return values

    with ExitStack() as stack:
        for name, value in (
            ("torch.cuda.is_bf16_supported", lambda *_, **__: True),
            ("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
            ("torch.cuda.max_memory_allocated", lambda *_: 0),
            ("torch.cuda.reset_peak_memory_stats", lambda *_: None),
            ("torch.Generator", lambda *_: make_generator()),
            ("torch.Tensor.pin_memory", pin),
        ):
            stack.enter_context(mock.patch(name, value))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(watch)


def _is_cuda(leaf: Any) -> bool:
    return isinstance(leaf, torch.device) and leaf.type == "cuda"
