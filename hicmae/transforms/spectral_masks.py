"""Hiding spans of time and bands of frequency of a filter bank.

For: what SpecAugment masks, on normalised filter banks. Not for: the masks of pretraining
(``hicmae.masks``), whose patches the network does not see at all.
"""

from __future__ import annotations

import torch
from torch import Tensor


def hide_spans(fbank: Tensor, spans: Tensor, axis: int) -> Tensor:
    """Put the mean of all filter banks, which is 0 after normalisation, in place of spans.

    Args:
        fbank: (B, S, F), normalised.
        spans: (B, N, 2) first and one past the last along the axis, on any device.
        axis: 1: time, 2: frequency.

    Returns: (B, S, F).
    Source: SpecAugment, arXiv 1904.08779 (time and frequency masks; the value is the mean).
    """
    place = torch.arange(fbank.shape[axis], device=fbank.device)
    first, end = spans.to(fbank.device, non_blocking=True)[..., None].unbind(2)  # (B, N, 1)
    hidden = ((place >= first) & (place < end)).any(dim=1)  # (B, size)
    return fbank.masked_fill(hidden[:, :, None] if axis == 1 else hidden[:, None, :], 0.0)
