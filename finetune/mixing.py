"""Mixup and cutmix: each clip of a batch is blended with its neighbour, and so are their targets.

The other augmentations, which see one clip at a time, are those of ``hicmae.transforms``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from finetune.settings import MixingConfig


def mix_batch(
    video: Tensor | None,
    fbank: Tensor | None,
    targets: Tensor,
    config: MixingConfig,
    *,
    neighbour: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Blend every clip of a batch with its neighbour, and their targets in the same share.

    Args:
        video: (B, 3, T, H, W), or nothing.
        fbank: (B, S, F), or nothing.
        targets: (B, C) class probabilities or (B, D) real values.
        neighbour: (B,) which clip each is blended with; none given: the one before it.

    Returns: the three, mixed; tensors of the input are not written to. Each row of class
        probabilities keeps its sum.
    Source: mixup, arXiv 1710.09412; CutMix, arXiv 1905.04899 (box of area 1 - share at a uniform
        centre, share corrected for what the border cuts off), the box the same in every frame.
    """
    mixes_sound = fbank is not None and config.audio
    if (config.mixup == 0 and config.cutmix == 0) or (video is None and not mixes_sound):
        return video, fbank, targets
    if len(targets) < 2 or _uniform() >= config.probability:
        return video, fbank, targets
    if neighbour is None:
        neighbour = torch.arange(len(targets), device=targets.device).roll(1)
    cuts = config.cutmix > 0 and (config.mixup == 0 or _uniform() < config.switch)
    share = _beta(config.cutmix if cuts else config.mixup)
    if cuts and video is not None:
        video, share = _cut_box(video, share, neighbour)
    elif video is not None:
        video = _blend(video, share, neighbour)
    if fbank is not None and config.audio:
        if cuts:
            fbank, sound_share = _cut_span(fbank, share, neighbour)
            share = sound_share if video is None else share
        else:
            fbank = _blend(fbank, share, neighbour)
    return video, fbank, _blend(targets, share, neighbour)


def smoothed(shares: Any, smoothing: float) -> Any:
    """Shares of classes (B, C), a tensor or an array, of which a part is spread evenly over all.

    Args: smoothing: That part, in 0..1. Rows that sum to 1 go on to.
    Source: label smoothing of arXiv 1512.00567.
    """
    return shares * (1 - smoothing) + smoothing / shares.shape[1]


def alike(seen: Tensor, heard: Tensor) -> Tensor:
    """For each clip the one before it, cyclically, that has the same modalities; (B,) int64.

    Of a clip that lacks one, half of another one's would be nobody's picture or sound.

    Args: seen, heard: (B,) boolean, whether a clip has its picture and its sound.
    """
    kinds, found = 2 * seen.long() + heard.long(), torch.arange(len(seen))
    for kind in kinds.unique():
        rows = (kinds == kind).nonzero().flatten()
        found[rows] = rows.roll(1)
    return found


def _blend(batch: Tensor, share: float, neighbour: Tensor) -> Tensor:
    """Every row and its neighbour in the shares ``share``, ``1 - share``."""
    return batch * share + batch[neighbour] * (1 - share)


def _cut_box(video: Tensor, share: float, neighbour: Tensor) -> tuple[Tensor, float]:
    """Put a box of the neighbour into every frame; the share kept is that of the pixels."""
    height, width = video.shape[-2:]
    side = math.sqrt(1 - share)
    top, bottom = _span(height, side)
    left, right = _span(width, side)
    mixed = video.clone()
    mixed[..., top:bottom, left:right] = video[neighbour][..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def _cut_span(fbank: Tensor, share: float, neighbour: Tensor) -> tuple[Tensor, float]:
    """Put a span of time of the neighbour's sound, of length ``1 - share``, into every clip."""
    frames = fbank.shape[1]
    length = round((1 - share) * frames)
    start = int(_uniform() * (frames - length + 1))
    mixed = fbank.clone()
    mixed[:, start : start + length] = fbank[neighbour][:, start : start + length]
    return mixed, 1 - length / frames


def _span(size: int, part: float) -> tuple[int, int]:
    """A span of length ``part * size`` at a uniform centre, clipped at the border."""
    centre = int(_uniform() * size)
    half = int(part * size) // 2
    return max(centre - half, 0), min(centre + half, size)


def _uniform() -> float:
    """One draw in [0, 1), from PyTorch's generator on the CPU."""
    return float(torch.rand(()))


def _beta(parameter: float) -> float:
    """One draw of Beta(p, p), from two Gamma draws, which PyTorch keeps above 0."""
    both = torch.full((2,), parameter, dtype=torch.float64)
    first, second = torch._standard_gamma(both).tolist()
    return float(first / (first + second))
