"""Products in bfloat16 on a CPU with the weight laid out as the matrix units read it.

For prediction once (``PackedLinear``): base's products took 0.4 to 0.8 of the time (one core with
AMX, 100 to 6,400 rows, turn about). For training, where weights change, in each product of many
rows (``product``): what oneDNN does by itself in a plain one takes longer.

The operators are those that PyTorch's own compiler (inductor, with freezing) puts in the place of
linear layers; they are no public interface, so where they are missing layers stay as they are.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """A linear layer that cannot be trained, saved or moved any more.

    Args:
        weight: (E, D).
        bias: (E,), or none.
        gelu: Whether GELU is applied to what comes out, before it is rounded to bfloat16.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> None:
        super().__init__()
        # No buffers: what oneDNN laid out has no storage that could be saved or moved.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().bfloat16())
        self._bias = None if bias is None else bias.detach().bfloat16()
        self._after: tuple[str, list[float], str] = (
            ("gelu", [], "none") if gelu else ("none", [], "")
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., D) to bfloat16 (..., E)."""
        rows = tokens.to(torch.bfloat16)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self._weight, self._bias, *self._after
        )
        return out


def product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Map bfloat16 rows (..., D) by a weight (E, D) and a bias (E,), laid out for this call.

    The weight may be a transposed view. Without gradients; only where ``can_pack``.
    """
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, laid_out, bias, "none", [], "")
    return out


@functools.cache
def can_pack() -> bool:
    """Whether this PyTorch has the operators, for a CPU that computes in bfloat16."""
    operators = torch.ops.mkldnn
    wanted = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
    there = torch.backends.mkldnn.is_available() and all(hasattr(operators, op) for op in wanted)
    return bool(there and operators._is_mkldnn_bf16_supported())
