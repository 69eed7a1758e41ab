"""Attention by plain products, which stands in for PyTorch's kernel for bfloat16 on a CPU."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hicmae import blocks, fused


def _attended(scores_bytes: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, ...]:
    """Attention of 5 clips to fewer tokens, and the gradients of queries, keys and values."""
    monkeypatch.setattr(fused, "SCORES_BYTES", scores_bytes)
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, 2, 12, 8), (5, 2, 7, 8), (5, 2, 7, 8))
    inputs = [
        torch.randn(shape, generator=generator).bfloat16().requires_grad_() for shape in shapes
    ]
    attended = blocks.attend(inputs[0], inputs[1], inputs[2])
    attended.float().square().sum().backward()
    gradients = [tensor.grad for tensor in inputs]
    assert all(gradient is not None for gradient in gradients)
    return (attended.detach(), *(gradient for gradient in gradients if gradient is not None))


@pytest.mark.parametrize("clips", [0, 1, 2])
def test_clips_attend_alike_in_one_piece_and_in_several(
    clips: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip_bytes = 2 * 12 * 7 * 2  # less than one clip's scores is one clip's all the same
    whole = _attended(2**20, monkeypatch)
    for found, expected in zip(_attended(clips * clip_bytes, monkeypatch), whole, strict=True):
        # Where bfloat16 is computed in software, sums may be taken in another order.
        level = 2**-7 * float(expected.abs().max())
        torch.testing.assert_close(found, expected, atol=level, rtol=0)


def test_plain_products_are_the_fused_kernel_to_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    query, key, value = (
        torch.randn(3, 2, 40, 16, generator=generator).bfloat16() for _ in range(3)
    )
    monkeypatch.setattr(fused, "SCORES_BYTES", 2 * 40 * 40 * 2)
    exact = F.scaled_dot_product_attention(query.float(), key.float(), value.float())
    # bfloat16 has 8 bits: scores up to 6 or so are rounded to 1/64, and so on.
    torch.testing.assert_close(
        blocks.attend(query, key, value).float(), exact, atol=0.03, rtol=0.03
    )
