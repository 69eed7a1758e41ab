"""The layers' arithmetic under autocast to bfloat16 on a CPU, with backward passes of our own.

For speed and memory only: ``hicmae/blocks.py`` says what a layer computes and uses these where
``suits`` allows it. The residual stream (unless ``bf16_residual``), norms and gradients of weights
are float32, everything between them bfloat16, and what a backward pass can compute again cheaply is
not kept.

A product is faster with its weight laid out as the matrix units read it: once for prediction
(``PackedLinear``; base's products took 0.4 to 0.8 of the time, one core with AMX, 100 to 6,400
rows, turn about), and for training, where weights change, in each product of many rows
(``product``): what oneDNN does by itself in a plain one takes longer. The operators are those that
PyTorch's own compiler (inductor, with freezing) puts in the place of linear layers; they are no
public interface, so where they are missing layers stay as they are.

Shape letters: B batch, N tokens, D width, E output width.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_BF16 = torch.bfloat16

# From how many rows on a product is faster with its weight laid out for it, forward and backward
# (one core with AMX, turn about): 1.3 times at 1,280 rows of base, 1.8 to 2.2 at 6,400; 1.0 at 640.
# Backward, where the weight is transposed too, 1.0 at 2,560 and 1.2 to 1.5 at 6,400.
_MANY_ROWS, _MANY_ROWS_BACK = 1_000, 4_000

# Scores of attention that are worked on at a time, bytes: they stay in a core's cache.
_SCORES_BYTES = 4 * 2**20


def suits(network: nn.Module, tokens: Tensor) -> bool:
    """Whether a layer may be computed here: it is on a CPU under autocast to bfloat16.

    Not where somebody looks into the layer (hooks), has replaced a part of it (LoRA, prediction's
    own layers), has its weights elsewhere (ZeRO 3), or compiles or exports it.
    """
    if (
        tokens.device.type != "cpu"
        or not torch.is_autocast_enabled("cpu")
        or torch.get_autocast_dtype("cpu") != _BF16
        or torch.compiler.is_compiling()
        or type(tokens) is not Tensor
    ):
        return False
    for part in network.modules():
        if isinstance(part, nn.Linear | PackedLinear) and type(part) is not nn.Linear:
            return False
        if part is not network and (part._forward_hooks or part._forward_pre_hooks):
            return False
    return all(
        weight.dtype == torch.float32
        and type(weight) is nn.Parameter
        and not hasattr(weight, "ds_id")
        for weight in network.parameters()
    )


def norm_linear(tokens: Tensor, norm: nn.LayerNorm, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Norm and linear map of (B, N, D), to bfloat16 (B, N, E)."""
    out: Tensor = _NormLinear.apply(tokens, norm.weight, norm.bias, weight, bias, norm.eps)
    return out


def linear_add(
    tokens: Tensor, inner: Tensor, linear: nn.Linear, share: Tensor | None = None
) -> Tensor:
    """Add a linear map of bfloat16 (B, N, E) to tokens (B, N, D), times ``share`` (B, 1, 1)."""
    out: Tensor = _LinearAdd.apply(tokens, inner, linear.weight, linear.bias, share)
    return out


def mlp_add(
    tokens: Tensor, norm: nn.LayerNorm, first: nn.Linear, second: nn.Linear, share: Tensor | None
) -> Tensor:
    """Add the MLP with GELU of the normed tokens (B, N, D) to them, times ``share`` (B, 1, 1)."""
    weights = (norm.weight, norm.bias, first.weight, first.bias, second.weight, second.bias)
    out: Tensor = _MlpAdd.apply(tokens, *weights, norm.eps, share)
    return out


def attention(num_heads: int, *projected: Tensor) -> Tensor:
    """Attention of bfloat16 queries to keys and values, (B, N, D), its heads side by side.

    Args:
        num_heads: Of equal widths d.
        projected: Queries, keys and values in one tensor (B, N, 3 * D), or queries (B, N, D), then
            keys and values (B, M, 2 * D).
    """
    if not torch.is_grad_enabled():  # PyTorch's kernel is the faster one without gradients
        query, key, value = cut_heads(num_heads, *projected)
        attended = F.scaled_dot_product_attention(query, key, value)
        return attended.transpose(1, 2).flatten(2)
    out: Tensor = _Attention.apply(num_heads, *projected)
    return out


def cut_heads(num_heads: int, *projected: Tensor) -> list[Tensor]:
    """Queries, keys and values, views (B, heads, N, d) of what ``attention`` takes."""
    width = sum(part.shape[-1] for part in projected) // (3 * num_heads)
    # Cut where they lie: cutting the heads first would copy the gradient of it twice.
    cut = [part.unflatten(2, (-1, num_heads, width)).unbind(2) for part in projected]
    return [part.transpose(1, 2) for parts in cut for part in parts]


def squared_errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error (B,) of each clip: bfloat16 (B, M, P) from float32 (B, M, P).

    The gradient is kept in bfloat16, and no difference of a batch in float32.
    """
    out: Tensor = _SquaredErrors.apply(prediction, target)
    return out


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


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        tokens: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            normed, mean, scale = _norm(tokens, norm_weight, norm_bias, eps)
            ctx.save_for_backward(tokens, mean, scale, norm_weight, norm_bias, normed, weight)
            return _linear(normed, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tokens, mean, scale, norm_weight, norm_bias, normed, weight = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            grad = _rows(grad)
            of_weight = _of_weight(grad, normed) if ctx.needs_input_grad[3] else None
            of_bias = _of_bias(grad) if ctx.needs_input_grad[4] else None
            of_tokens = _of_norm(
                _of_rows(grad, weight), tokens, mean, scale, norm_weight, norm_bias
            )
        return *of_tokens, of_weight, of_bias, None


class _LinearAdd(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        tokens: Tensor,
        inner: Tensor,
        weight: Tensor,
        bias: Tensor,
        share: Tensor | None,
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            ctx.save_for_backward(inner, weight, share)
            return _added(tokens, _linear(inner, weight, bias), share)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inner, weight, share = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            rows = _rows(grad if share is None else grad * share)
            of_weight = _of_weight(rows, inner) if ctx.needs_input_grad[2] else None
            of_bias = _of_bias(rows) if ctx.needs_input_grad[3] else None
            return grad, _of_rows(rows, weight).view_as(inner), of_weight, of_bias, None


class _MlpAdd(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        tokens: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        weight: Tensor,
        bias: Tensor,
        second_weight: Tensor,
        second_bias: Tensor,
        eps: float,
        share: Tensor | None,
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            normed, mean, scale = _norm(tokens, norm_weight, norm_bias, eps)
            hidden = _linear(normed, weight, bias)
            ctx.save_for_backward(
                *(tokens, mean, scale, norm_weight, norm_bias, normed),
                *(hidden, weight, second_weight, share),
            )
            return _added(tokens, _linear(F.gelu(hidden), second_weight, second_bias), share)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tokens, mean, scale, norm_weight, norm_bias, normed, *rest = ctx.saved_tensors
        hidden, weight, second_weight, share = rest
        needed = ctx.needs_input_grad
        with torch.autocast("cpu", enabled=False):
            rows = _rows(grad if share is None else grad * share)
            of_second = _of_weight(rows, F.gelu(hidden)) if needed[5] else None
            of_second_bias = _of_bias(rows) if needed[6] else None
            inner = _of_rows(rows, second_weight)
            torch.ops.aten.gelu_backward.grad_input(inner, _rows(hidden), grad_input=inner)
            of_weight = _of_weight(inner, normed) if needed[3] else None
            of_bias = _of_bias(inner) if needed[4] else None
            of_tokens, *of_norm = _of_norm(
                _of_rows(inner, weight), tokens, mean, scale, norm_weight, norm_bias
            )
            of_tokens += grad
        return of_tokens, *of_norm, of_weight, of_bias, of_second, of_second_bias, None, None


class _Attention(torch.autograd.Function):
    """Two plain products a few heads at a time, the softmax between them where its scores lie.

    Keys and values are laid head by head first: products of heads that lie side by side took 2.5
    times as long (800 tokens, 6 heads of 64). Bits are those of the same products by autograd.
    """

    @staticmethod
    def forward(ctx: Any, num_heads: int, *projected: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            cut = cut_heads(num_heads, *projected)
            query, key, value = (_head_by_head(part) for part in cut)
            query = query * query.shape[-1] ** -0.5
            together = max(1, _SCORES_BYTES // (query.shape[1] * key.shape[1] * query.itemsize))
            out = torch.empty_like(query)
            shares = []
            parts = (part.split(together) for part in (query, key, value, out))
            for queries, keys, values, attended in zip(*parts, strict=True):
                scores = torch.bmm(queries, keys.mT)
                shares.append(torch.softmax(scores, dim=-1, out=scores))
                torch.bmm(scores, values, out=attended)
            ctx.save_for_backward(*projected, *shares)
            ctx.num_heads, ctx.num_projected = num_heads, len(projected)
            return out.view(cut[0].shape).transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        projected, shares = saved[: ctx.num_projected], saved[ctx.num_projected :]
        with torch.autocast("cpu", enabled=False):
            cut = cut_heads(ctx.num_heads, *projected)
            query, key, value = (_head_by_head(part) for part in cut)
            grad = _head_by_head(grad.unflatten(2, (ctx.num_heads, -1)).transpose(1, 2))
            scale = query.shape[-1] ** -0.5
            query = query * scale
            found = [torch.empty_like(part) for part in (query, key, value)]
            of_scores = torch.empty_like(shares[0])
            parts = (part.split(len(of_scores)) for part in (query, key, value, grad, *found))
            for share, *rest in zip(shares, *parts, strict=True):
                queries, keys, values, grads, of_queries, of_keys, of_values = rest
                slopes = of_scores[: len(share)]
                torch.bmm(share.mT, grads, out=of_values)
                torch.bmm(grads, values.mT, out=slopes)
                torch.ops.aten._softmax_backward_data.out(
                    slopes, share, -1, _BF16, grad_input=slopes
                )
                torch.bmm(slopes, keys, out=of_queries)
                torch.bmm(slopes.mT, queries, out=of_keys)
            found[0] *= scale
            of_projected = [torch.empty_like(part) for part in projected]
            for place, part in zip(cut_heads(ctx.num_heads, *of_projected), found, strict=True):
                place.copy_(part.view(place.shape))
        return None, *of_projected


class _SquaredErrors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, prediction: Tensor, target: Tensor) -> Tensor:
        slopes = torch.empty_like(prediction)
        errors = []
        for said, wanted, slope in zip(prediction, target, slopes, strict=True):
            difference = (said.float() - wanted).flatten()
            errors.append(difference.dot(difference) / difference.numel())
            torch.mul(difference.view_as(slope), 2 / difference.numel(), out=slope)
        ctx.save_for_backward(slopes)
        return torch.stack(errors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (slopes,) = ctx.saved_tensors
        scaled = torch.empty_like(slopes)
        for out, slope, of_clip in zip(scaled, slopes, grad, strict=True):
            torch.mul(slope, of_clip, out=out)
        return scaled, None


def _norm(tokens: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
    """Normed tokens in bfloat16, their means, and one over their deviations."""
    normed, mean, scale = torch.native_layer_norm(tokens, tokens.shape[-1:], weight, bias, eps)
    return normed.to(_BF16), mean, scale


def _of_norm(
    grad: Tensor, tokens: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of tokens, weight and bias of a norm, each as it is: float32 but for the tokens of
    a bfloat16 stream."""
    grad = grad.view_as(tokens).to(tokens.dtype)
    found: tuple[Tensor, ...] = torch.ops.aten.native_layer_norm_backward(
        grad, tokens, tokens.shape[-1:], mean, scale, weight, bias, [True, True, True]
    )
    return found


def _head_by_head(part: Tensor) -> Tensor:
    """(B, heads, N, d) as (B * heads, N, d), each head in one piece."""
    return part.contiguous().flatten(0, 1)


def _rows(tokens: Tensor) -> Tensor:
    return tokens.reshape(-1, tokens.shape[-1]).to(_BF16)


def _linear(inner: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """In bfloat16. The cast weight is not kept: casting it again costs 1 % of a step's time."""
    weight, bias = weight.to(_BF16), None if bias is None else bias.to(_BF16)
    if inner.numel() // inner.shape[-1] >= _MANY_ROWS and can_pack():
        return product(inner, weight, bias)
    return F.linear(inner, weight, bias)


def _of_rows(grad: Tensor, weight: Tensor) -> Tensor:
    """Gradient (rows, D) of what was mapped, from that of the result (rows, E)."""
    weight = weight.to(_BF16)
    if len(grad) >= _MANY_ROWS_BACK and can_pack():
        return product(grad, weight.T)
    return grad @ weight


def _of_weight(grad: Tensor, inner: Tensor) -> Tensor:
    return (grad.T @ _rows(inner)).float()


def _of_bias(grad: Tensor) -> Tensor:
    # It sums in float32; asked for float32 it takes five times as long.
    return grad.sum(0).float()


def _added(tokens: Tensor, branch: Tensor, share: Tensor | None) -> Tensor:
    return tokens + (branch if share is None else branch * share)
