"""Cutting clips into tubelets and filter banks into patches, and putting them back together.

One order of the values inside a tubelet, (frame, row, column, channel), serves the projection
and the targets alike, so a clip is cut once. Token order: (time, height, width) and
(time, frequency).
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor


def tubelets(video: Tensor, tubelet_frames: int, patch_size: int) -> Tensor:
    """Cut video (B, C, T, H, W) into tubelets (B, N, P)."""
    return rearrange(
        video,
        "b c (t f) (h y) (w x) -> b (t h w) (f y x c)",
        f=tubelet_frames,
        y=patch_size,
        x=patch_size,
    )


def untubelets(
    tokens: Tensor, grid: tuple[int, int, int], tubelet_frames: int, patch_size: int
) -> Tensor:
    """Put tubelets (B, N, P) of a (time, height, width) grid together to video (B, C, T, H, W)."""
    time, height, width = grid
    return rearrange(
        tokens,
        "b (t h w) (f y x c) -> b c (t f) (h y) (w x)",
        t=time,
        h=height,
        w=width,
        f=tubelet_frames,
        y=patch_size,
        x=patch_size,
    )


def fbank_patches(fbank: Tensor, patch_size: int) -> Tensor:
    """Cut filter banks (B, S, F) into patches (B, N, P)."""
    return rearrange(fbank, "b (s y) (f x) -> b (s f) (y x)", y=patch_size, x=patch_size)


def unfbank_patches(tokens: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Put patches (B, N, P) of a (time, frequency) grid together to filter banks (B, S, F)."""
    return rearrange(
        tokens,
        "b (s f) (y x) -> b (s y) (f x)",
        s=grid[0],
        f=grid[1],
        y=patch_size,
        x=patch_size,
    )


def take_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Gather tokens (B, N, P) at index (B, K) along the token axis to (B, K, P)."""
    # Whole rows are copied; torch.gather looks up every value of them and takes twice as long.
    return tokens[torch.arange(len(tokens), device=tokens.device)[:, None], index]
