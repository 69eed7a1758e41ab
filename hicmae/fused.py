"""The layers' arithmetic for training in bfloat16 on a CPU, with backward passes of our own.

For speed and memory only: ``hicmae/blocks.py`` says what a layer computes and uses these where
``suits`` allows it. The residual stream, norms and gradients of weights are float32, everything
between them bfloat16, and what a backward pass can compute again cheaply is not kept.

Shape letters: B batch, N tokens, M context tokens, D width, E output width, h heads, d head width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_BF16 = torch.bfloat16
# Scores of attention held in one piece, bytes. The C library takes pieces of over 32 MB from the
# system anew each time, which clears every page of them: softmax of 4 clips of 800 tokens in 10
# layers of 8 heads, forward and backward, took 1.43 s in one piece and 0.32 s clip by clip.
SCORES_BYTES = 16 * 2**20
# Heads are padded with zeros to this width, where products of many tokens take half the time with
# AMX (6 heads of 800 tokens, one core: 1.3 ms at a width of 128, 2.4 at 64), and there is room for
# what is to be subtracted from every row of a product, which then costs nothing.
_PADDED = 128


def suits(network: nn.Module, tokens: Tensor) -> bool:
    """Whether a layer may be computed here: it trains on a CPU under autocast to bfloat16.

    Not where somebody looks into the layer (hooks), has replaced a part of it (LoRA), has its
    weights elsewhere (ZeRO 3), or compiles or exports it.
    """
    if (
        tokens.device.type != "cpu"
        or not torch.is_grad_enabled()
        or not torch.is_autocast_enabled("cpu")
        or torch.get_autocast_dtype("cpu") != _BF16
        or torch.compiler.is_compiling()
        or type(tokens) is not Tensor
    ):
        return False
    for part in network.modules():
        if isinstance(part, nn.Linear) and type(part) is not nn.Linear:
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
    """Norm and linear map of float32 (B, N, D), to bfloat16 (B, N, E)."""
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


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of bfloat16 (B, h, N, d) to (B, h, M, d), which may be views: (B, N, h * d)."""
    out: Tensor = _Attend.apply(query, key, value)
    return out.transpose(1, 2).flatten(2)


def squared_errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error (B,) of each clip: bfloat16 (B, M, P) from float32 (B, M, P).

    The gradient is kept in bfloat16, and no difference of a batch in float32.
    """
    out: Tensor = _SquaredErrors.apply(prediction, target)
    return out


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
                grad @ weight.to(_BF16), tokens, mean, scale, norm_weight, norm_bias
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
            return grad, (rows @ weight.to(_BF16)).view_as(inner), of_weight, of_bias, None


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
            inner = rows @ second_weight.to(_BF16)
            torch.ops.aten.gelu_backward.grad_input(inner, _rows(hidden), grad_input=inner)
            of_weight = _of_weight(inner, normed) if needed[3] else None
            of_bias = _of_bias(inner) if needed[4] else None
            of_tokens, *of_norm = _of_norm(
                inner @ weight.to(_BF16), tokens, mean, scale, norm_weight, norm_bias
            )
            of_tokens += grad
        return of_tokens, *of_norm, of_weight, of_bias, of_second, of_second_bias, None, None


class _Attend(torch.autograd.Function):
    """PyTorch's fused forward, and a backward of plain products a few clips at a time.

    PyTorch's fused backward took 188 ms of one core for 8 clips of 800 tokens with 6 heads.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # (B, h, N, d) that lies as (B, N, h, d), and the logarithms (B, h, N) of the sums.
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, sums = fused(query, key, value)
        ctx.save_for_backward(query, key, value, out, sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, out, sums = ctx.saved_tensors
        batch, heads, tokens, width = query.shape
        context = key.shape[2]
        of_query, of_key, of_value = _like(query, key, value)
        # With probabilities P = exp(S - sums) of scores S = scale * query key', and Δ of each row
        # the product of the output and its gradient: dS = P ∘ (dO value' - Δ). P is held times a
        # power of two about as large as the number of tokens, so that even attention is near 1,
        # where bfloat16 is fine; dO and Δ are divided by it.
        power = 2.0 ** round(math.log2(context))
        scale = width**-0.5
        clips = max(1, SCORES_BYTES // (heads * tokens * context * query.itemsize))
        with torch.autocast("cpu", enabled=False):
            delta = (grad * out).sum(-1, dtype=torch.float32).neg_().div_(power)
            shift = math.log(power) - sums
            for first in range(0, batch, clips):
                part = slice(first, first + clips)
                query_, key_ = _padded(query[part], shift[part], scale), _padded(key[part])
                grad_, value_ = _padded(grad[part], delta[part], 1 / power), _padded(value[part])
                weights = torch.bmm(query_, key_.mT).exp_()  # (b h, N, M), power * P
                slopes = torch.bmm(grad_, value_.mT).mul_(weights)  # dS
                for whole, product in (
                    (of_value, torch.bmm(weights.mT, grad_[..., :width])),
                    (of_key, torch.bmm(slopes.mT, query_[..., :width])),
                    (of_query, torch.bmm(slopes, key_[..., :width]).mul_(scale)),
                ):
                    whole[part].copy_(product.view_as(whole[part]))
        return of_query, of_key, of_value


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


def _padded(part: Tensor, extra: Tensor | None = None, factor: float = 1.0) -> Tensor:
    """(b, h, N, d) times a factor as (b h, N, d + …), with a number for each row behind it.

    In a product with one that was given none, the number (b, h, N) is added to its row: it is held
    as the sum of two of bfloat16, and the other has ones there.
    """
    *shape, width = part.shape
    room = part.new_zeros(*shape, max(_PADDED, width + 2))
    torch.mul(part, factor, out=room[..., :width])
    if extra is None:
        room[..., width : width + 2] = 1
    else:
        room[..., width] = extra
        room[..., width + 1] = extra - room[..., width].float()
    return room.flatten(0, 1)


def _like(*parts: Tensor) -> list[Tensor]:
    """Room for the gradients of (B, h, N, d), which lies as (B, N, h, d)."""
    return [part.new_empty(part.transpose(1, 2).shape).transpose(1, 2) for part in parts]


def _norm(tokens: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
    """Normed tokens in bfloat16, their means, and one over their deviations."""
    normed, mean, scale = torch.native_layer_norm(tokens, tokens.shape[-1:], weight, bias, eps)
    return normed.to(_BF16), mean, scale


def _of_norm(
    grad: Tensor, tokens: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of tokens, weight and bias of a norm, float32."""
    grad = grad.view_as(tokens).float()
    found: tuple[Tensor, ...] = torch.ops.aten.native_layer_norm_backward(
        grad, tokens, tokens.shape[-1:], mean, scale, weight, bias, [True, True, True]
    )
    return found


def _rows(tokens: Tensor) -> Tensor:
    return tokens.reshape(-1, tokens.shape[-1]).to(_BF16)


def _linear(inner: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """In bfloat16. The cast weight is not kept: casting it again costs 1 % of a step's time."""
    return F.linear(inner, weight.to(_BF16), None if bias is None else bias.to(_BF16))


def _of_weight(grad: Tensor, inner: Tensor) -> Tensor:
    return (grad.T @ _rows(inner)).float()


def _of_bias(grad: Tensor) -> Tensor:
    return grad.sum(
        0
    ).float()  # sums float32 inside; asked for as float32 it takes five times as long


def _added(tokens: Tensor, branch: Tensor, share: Tensor | None) -> Tensor:
    return tokens + (branch if share is None else branch * share)
