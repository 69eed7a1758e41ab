"""Which tokens pretraining hides, as index tensors of fixed shape made on the device."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Masks(NamedTuple):
    """Visible and hidden tokens of each clip, ascending int64 indices.

    Attributes:
        keep: (B, K) visible tokens.
        masked: (B, M) hidden tokens.
    """

    keep: Tensor
    masked: Tensor


def tube_masks(
    batch: int,
    grid: tuple[int, int, int],
    ratio: float,
    *,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> Masks:
    """Hide the same spatial cells in every tubelet row.

    Args:
        batch: Number of clips; each draws its own cells.
        grid: Tubelets along (time, height, width).
        ratio: Share of the cells to hide, rounded down to whole cells.
        device: Where the indices are made.
        generator: Source of randomness on that device; the device's default if none.

    Returns: keep (B, K) and masked (B, M) token indices, int64, ascending.
    Raises: ValueError: ratio outside (0, 1), or nothing left to keep or to hide.
    Source: HiCMAE, section 3 (tube masking of VideoMAE).
    """
    time, height, width = grid
    cells = random_masks(batch, height * width, ratio, device=device, generator=generator)
    rows = torch.arange(time, device=device)[None, :, None] * (height * width)
    keep, masked = ((rows + cell[:, None, :]).flatten(1) for cell in cells)
    return Masks(keep, masked)


def random_masks(
    batch: int,
    num_tokens: int,
    ratio: float,
    *,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> Masks:
    """Hide tokens at random, the same number in each clip.

    Returns: keep (B, K) and masked (B, M) token indices, int64, ascending.
    Raises: ValueError: ratio outside (0, 1), or nothing left to keep or to hide.
    Source: HiCMAE, section 3.
    """
    num_masked = num_hidden(num_tokens, ratio)
    noise = torch.rand(batch, num_tokens, device=device, generator=generator)
    order = noise.argsort(dim=1)
    return Masks(
        keep=order[:, num_masked:].sort(dim=1).values,
        masked=order[:, :num_masked].sort(dim=1).values,
    )


def running_cells(tubes: Masks, num_rows: int, share: float) -> Masks:
    """Choose the share of hidden tubelets that is decoded: cells that run on from row to row.

    Each clip draws an order of its hidden cells; every row of tubelets takes the next of them in
    that order, and begins anew after the last, so that the rows together see every cell equally
    often (within one).

    Args:
        tubes: Of ``tube_masks``: the same cells hidden in every row.
        num_rows: Rows of tubelets along time.
        share: Of the hidden cells of a row, rounded down, at least one.

    Returns: the same keep (B, K), and masked (B, M'): the hidden tubelets to decode, ascending.
    Source: running cell masking of VideoMAE V2 (arXiv 2303.16727, section 3.2), here with an
        order of its own for each clip.
    """
    cells = tubes.masked.unflatten(1, (num_rows, -1))  # (B, rows, cells)
    batch, _, num_cells = cells.shape
    count = num_shared(num_cells, share)
    device = cells.device
    order = torch.rand(batch, num_cells, device=device).argsort(dim=1)
    start = torch.arange(num_rows, device=device)[:, None] * count
    turn = (start + torch.arange(count, device=device)) % num_cells  # (rows, count)
    chosen = order[:, turn].sort(dim=2).values  # (B, rows, count)
    return Masks(tubes.keep, cells.gather(2, chosen).flatten(1))


def random_share(masks: Masks, share: float) -> Masks:
    """Choose a random share of the hidden tokens, rounded down, at least one.

    Returns: the same keep (B, K), and masked (B, M') of the hidden tokens, ascending.
    """
    masked = masks.masked
    count = num_shared(masked.shape[1], share)
    noise = torch.rand(masked.shape, device=masked.device)
    chosen = noise.argsort(dim=1)[:, :count].sort(dim=1).values
    return Masks(masks.keep, masked.gather(1, chosen))


def num_shared(num_tokens: int, share: float) -> int:
    """Tokens that a share of them is: rounded down, at least one."""
    return max(1, math.floor(share * num_tokens + 1e-9))


def num_hidden(num_tokens: int, ratio: float) -> int:
    """Tokens that a mask ratio hides: the share, rounded down.

    Raises: ValueError: ratio outside (0, 1), or nothing left to keep or to hide.
    """
    # The tolerance keeps 0.29 x 100 at 29, which floating point puts just below it.
    num_masked = math.floor(ratio * num_tokens + 1e-9)
    if not 0 < num_masked < num_tokens:
        raise ValueError(
            f"mask ratio {ratio} hides {num_masked} of {num_tokens} tokens: "
            "at least one must be hidden and one kept"
        )
    return num_masked


def masks_from_hidden(hidden: Tensor) -> Masks:
    """Turn a boolean mask (B, N; True = hidden) into index tensors.

    Raises: ValueError: clips that hide different numbers of tokens.
    """
    counts = hidden.sum(dim=1)
    if not bool((counts == counts[0]).all()):
        raise ValueError(
            f"a mask must hide equally many tokens in each clip (found {counts.tolist()})"
        )
    order = hidden.int().argsort(dim=1, stable=True)  # visible ascending, then hidden ascending
    num_visible = hidden.shape[1] - int(counts[0])
    return Masks(keep=order[:, :num_visible], masked=order[:, num_visible:])


def hidden_from_masks(masks: Masks, num_tokens: int) -> Tensor:
    """Turn index tensors into a boolean mask (B, N; True = hidden), on their device."""
    hidden = torch.zeros(len(masks.keep), num_tokens, dtype=torch.bool, device=masks.keep.device)
    return hidden.scatter(1, masks.masked, True)
