"""Transformer layers of the network: attention, cross-attention, the two residual blocks.

Shape letters: B batch, N tokens, M context tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils.checkpoint import checkpoint

from hicmae import fused
from hicmae.fused import PackedLinear, can_pack


class SelfAttention(nn.Module):
    """Multi-head attention of tokens to one another; queries and values have a bias, keys none.

    Source: reference facts, network section (a key bias would cancel in the softmax).
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(dim))
        self.value_bias = nn.Parameter(torch.zeros(dim))
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, D) to (B, N, D)."""
        qkv = _projected(tokens, self.qkv, self.bias)
        query, key, value = fused.cut_heads(self.num_heads, qkv)
        attended = attend(query, key, value)  # (B, heads, N, D / heads)
        return self.out(rearrange(attended, "b h n d -> b n (h d)"))

    def bias(self) -> Tensor:
        """(3 * D,) of queries, keys and values."""
        return torch.cat((self.query_bias, torch.zeros_like(self.query_bias), self.value_bias))

    def added(self, tokens: Tensor, norm: nn.LayerNorm, share: Tensor | None) -> Tensor:
        """Tokens (B, N, D) and, times ``share``, the attention of the normed ones; ``fused``."""
        qkv = fused.norm_linear(tokens, norm, self.qkv.weight, self.bias())
        attended = fused.attention(self.num_heads, qkv)
        return fused.linear_add(tokens, attended, self.out, share)


class CrossAttention(nn.Module):
    """Multi-head attention of tokens to a context of the same width."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.value_bias = nn.Parameter(torch.zeros(dim))
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """Map tokens (B, N, D), reading context (B, M, D), to (B, N, D)."""
        key_value = _projected(context, self.key_value, self.bias)
        query, key, value = fused.cut_heads(self.num_heads, self.query(tokens), key_value)
        attended = attend(query, key, value)
        return self.out(rearrange(attended, "b h n d -> b n (h d)"))

    def bias(self) -> Tensor:
        """(2 * D,) of keys and values."""
        return torch.cat((torch.zeros_like(self.value_bias), self.value_bias))

    def added(
        self,
        tokens: Tensor,
        context: Tensor,
        norms: tuple[nn.LayerNorm, nn.LayerNorm],
        share: Tensor | None,
    ) -> Tensor:
        """Tokens (B, N, D) and, times ``share``, what they read of a context; ``fused``."""
        query = fused.norm_linear(tokens, norms[0], self.query.weight, self.query.bias)
        key_value = fused.norm_linear(context, norms[1], self.key_value.weight, self.bias())
        attended = fused.attention(self.num_heads, query, key_value)
        return fused.linear_add(tokens, attended, self.out, share)


class Mlp(nn.Module):
    """Two linear layers with GELU between them, the hidden one ``hidden`` wide."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act: nn.Module = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, D) to (B, N, D)."""
        return self.fc2(self.act(self.fc1(tokens)))


class DropPath(nn.Module):
    """Stochastic depth: in training a branch is left out for a share of the clips.

    What stays is divided by the share that stays, so that the mean is the same. timm has it too,
    and the MLP; importing it, all its models and torchvision's took three seconds of a prediction.

    Args: rate: Share that is left out, in [0, 1).
    Source: Huang et al., 2016, Deep Networks with Stochastic Depth.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """Of (B, ...), with one draw a clip."""
        if not self.training:
            return branch
        stays = branch.new_empty(len(branch), *(1,) * (branch.ndim - 1))
        return branch * stays.bernoulli_(1 - self.rate).div_(1 - self.rate)


class Block(nn.Module):
    """Pre-norm self-attention, then an MLP with GELU, each added to its input.

    Attributes:
        recompute: Whether activations are computed again in the backward pass, see
            ``set_grad_checkpointing``.
        draws: Whether it draws at random in training, as stochastic depth and LoRA's dropout do.
        bf16_residual: Whether the tokens that it adds to are bfloat16, see ``set_bf16_residual``.
    """

    recompute: bool = False
    bf16_residual: bool = False

    def __init__(
        self, dim: int, num_heads: int, *, mlp_ratio: float, eps: float, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attention = SelfAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.draws = drop_path > 0

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, D) to (B, N, D)."""
        if self.recompute and torch.is_grad_enabled():
            return self._recomputed(self._layer, tokens)
        return self._layer(tokens)

    def _layer(self, tokens: Tensor) -> Tensor:
        tokens = self._stream(tokens)
        if fused.suits(self, tokens):
            tokens = self.attention.added(tokens, self.norm1, self._share(tokens))
            layers = self.mlp.fc1, self.mlp.fc2
            return fused.mlp_add(tokens, self.norm2, *layers, self._share(tokens))
        tokens = tokens + self.drop_path(self.attention(self._normed(self.norm1, tokens)))
        return tokens + self.drop_path(self.mlp(self._normed(self.norm2, tokens)))

    def _recomputed(self, layer: Callable[..., Tensor], *given: Tensor | None) -> Tensor:
        # A CUDA graph cannot look at the state of the draws.
        return checkpoint(layer, *given, use_reentrant=False, preserve_rng_state=self.draws)

    def _stream(self, tokens: Tensor) -> Tensor:
        return tokens.to(torch.bfloat16) if self.bf16_residual else tokens

    def _normed(self, norm: nn.LayerNorm, tokens: Tensor) -> Tensor:
        """Norm tokens; of a bfloat16 stream to bfloat16, where autocast would give float32."""
        if not self.bf16_residual:
            return norm(tokens)
        with torch.autocast(tokens.device.type, enabled=False):
            weight, bias = (values.to(torch.bfloat16) for values in (norm.weight, norm.bias))
            return F.layer_norm(
                tokens.to(torch.bfloat16), norm.normalized_shape, weight, bias, norm.eps
            )

    def _share(self, tokens: Tensor) -> Tensor | None:
        """(B, 1, 1) what stochastic depth multiplies a branch with; none: nothing."""
        if isinstance(self.drop_path, nn.Identity) or not self.training:
            return None
        return self.drop_path(tokens.new_ones(len(tokens), 1, 1, dtype=torch.bfloat16))


class CrossBlock(Block):
    """A block that first reads a context by cross-attention, with a norm of its own for each side.

    Without a context that first branch adds nothing: so one modality runs alone.
    """

    def __init__(
        self, dim: int, num_heads: int, *, mlp_ratio: float, eps: float, drop_path: float = 0.0
    ) -> None:
        super().__init__(dim, num_heads, mlp_ratio=mlp_ratio, eps=eps, drop_path=drop_path)
        self.cross_norm = nn.LayerNorm(dim, eps=eps)
        self.context_norm = nn.LayerNorm(dim, eps=eps)
        self.cross_attention = CrossAttention(dim, num_heads)

    def forward(
        self, tokens: Tensor, context: Tensor | None = None, there: Tensor | None = None
    ) -> Tensor:
        """Map tokens (B, N, D), reading context (B, M, D) or nothing, to (B, N, D).

        Args: there: (B,) boolean, which clips have a context; all of them if none is given.
        """
        if self.recompute and torch.is_grad_enabled():
            return self._recomputed(self._cross_layer, tokens, context, there)
        return self._cross_layer(tokens, context, there)

    def _cross_layer(self, tokens: Tensor, context: Tensor | None, there: Tensor | None) -> Tensor:
        tokens = self._stream(tokens)
        if context is not None and there is None and fused.suits(self, tokens):
            norms = self.cross_norm, self.context_norm
            tokens = self.cross_attention.added(tokens, context, norms, self._share(tokens))
        elif context is not None:
            read = self.cross_attention(
                self._normed(self.cross_norm, tokens), self._normed(self.context_norm, context)
            )
            if there is not None:
                read = torch.where(there[:, None, None], read, 0.0)
            tokens = tokens + self.drop_path(read)
        return self._layer(tokens)


def set_grad_checkpointing(network: nn.Module, enable: bool = True) -> None:
    """Trade time for memory in every layer of a network.

    Each layer keeps only its input for the backward pass and computes the rest again there:
    about a third more time, activations of one layer at a time. Results are the same; updates of
    weights (LoRA) that draw must be there already.
    """
    for module in network.modules():
        if isinstance(module, Block):
            module.recompute = enable
            module.draws |= any(is_parametrized(part) for part in module.modules())


def norm_stream(norm: nn.LayerNorm, tokens: Tensor) -> Tensor:
    """Norm what layers made for whoever reads it, as exactly as the norm's weights are held."""
    return norm(tokens.to(norm.weight.dtype))


def set_bf16_residual(network: nn.Module, enable: bool = True) -> None:
    """Under autocast to bfloat16, hold the tokens that layers add to, and norms, in it too.

    What leaves a stack of layers is normed as float32 (``norm_stream``). Results differ within
    bfloat16's rounding; a layer keeps less for its backward pass and casts norms' weights where it
    would cast tokens.
    """
    for module in network.modules():
        if isinstance(module, Block):
            module.bf16_residual = enable


def prepare_for_bf16(network: nn.Module) -> None:
    """Hold the linear layers of a network in bfloat16, for prediction and nothing else.

    Weights are cast once, where autocast would for each batch. On a CPU those of the layers here
    are laid out for it too, with GELU computed in the product before it (``hicmae/fused.py``).
    """
    if can_pack() and all(weight.device.type == "cpu" for weight in network.parameters()):
        for block in list(network.modules()):
            if isinstance(block, Block):
                _pack(block)
    for part in network.modules():
        if isinstance(part, nn.Linear):
            part.bfloat16()


def _pack(block: Block) -> None:
    for part in list(block.modules()):
        for name, layer in list(part.named_children()):
            if type(layer) is not nn.Linear:
                continue
            bias: Tensor | None = layer.bias
            gelu = False
            if (isinstance(part, SelfAttention) and name == "qkv") or (
                isinstance(part, CrossAttention) and name == "key_value"
            ):
                bias = part.bias()
            elif isinstance(part, Mlp) and name == "fc1" and isinstance(part.act, nn.GELU):
                gelu, part.act = True, nn.Identity()
            setattr(part, name, PackedLinear(layer.weight, bias, gelu=gelu))


# Scores of attention held in one piece, bytes. The C library takes pieces of over 32 MB from the
# system anew each time, which clears every page of them: softmax of 4 clips of 800 tokens in 10
# layers of 8 heads, forward and backward, took 1.43 s in one piece and 0.32 s clip by clip.
_SCORES_BYTES = 16 * 2**20


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of (B, heads, N, d) to (B, heads, M, d): softmax(query key' / sqrt(d)) value.

    PyTorch's fused kernel, but for gradients in bfloat16 on a CPU, where forward and backward of
    two plain products took a third of its time (112 against 367 ms for 4 clips of 800 tokens with 8
    heads, 7 against 28 ms for 32 clips of 128 tokens with 4, on two cores with AVX-512 BF16). These
    go a few clips at a time, see ``_SCORES_BYTES``.
    """
    plain = query.device.type == "cpu" and query.dtype == torch.bfloat16
    if not plain or not (torch.is_grad_enabled() and query.requires_grad):
        return F.scaled_dot_product_attention(query, key, value)
    query = query * query.shape[-1] ** -0.5
    clip_bytes = query.shape[1] * query.shape[2] * key.shape[2] * query.itemsize
    parts = [tensor.split(max(1, _SCORES_BYTES // clip_bytes)) for tensor in (query, key, value)]
    attended = [
        (part @ keys.transpose(-2, -1)).softmax(dim=-1) @ values
        for part, keys, values in zip(*parts, strict=True)
    ]
    return attended[0] if len(attended) == 1 else torch.cat(attended)


def _projected(
    tokens: Tensor, linear: nn.Linear | PackedLinear, bias: Callable[[], Tensor]
) -> Tensor:
    """Map tokens by a layer whose bias is made of others."""
    if isinstance(linear, PackedLinear):
        return linear(tokens)  # made with it
    return F.linear(tokens, linear.weight, bias())


def sinusoid_positions(num_tokens: int, dim: int) -> Tensor:
    """Fixed positions of flattened tokens, (N, D) float32.

    angle(p, j) = p / 10000^(2 * floor(j / 2) / D); sine at even j, cosine at odd j.

    Source: reference facts, network section (positions over the flattened token index).
    """
    column = torch.arange(dim, dtype=torch.float64)
    divisor = 10000.0 ** (2 * torch.div(column, 2, rounding_mode="floor") / dim)
    angle = torch.arange(num_tokens, dtype=torch.float64)[:, None] / divisor
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


def xavier_linears(module: nn.Module) -> None:
    """Initialise one module for pretraining: Xavier-uniform linears with zero biases.

    For ``Module.apply``. Source: reference facts, network section.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def truncated_normal_linears(module: nn.Module) -> None:
    """Initialise one module for training from scratch: linears truncated normal 0.02, biases zero.

    For ``Module.apply``. Source: reference facts, network section.
    """
    if isinstance(module, nn.Linear):
        truncated_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def truncated_normal_(weight: Tensor) -> Tensor:
    """Fill a weight in place with normal values of deviation 0.02, none beyond six, and return it.

    From one seed the same values with every PyTorch, those of ``nn.init.trunc_normal_`` up to 2.11:
    2.14 draws others, and looks at them, which weights without content do not allow. That function
    is asked for a cut at 2, which is no cut at 0.02; and where its uniform draw is at its end (once
    in 17 million) it answers 2, a hundred deviations. Here that value is six.
    """
    with torch.no_grad():
        weight.uniform_(-1, 1).erfinv_().mul_(0.02 * math.sqrt(2.0))
        return weight.clamp_(-0.12, 0.12)
