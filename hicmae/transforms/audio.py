"""Waveforms on the device: integer PCM to float, gain, and a roll in time.

For: whole batches of zero-padded waveforms with the number of valid samples of each. Not for: the
filter bank (``fbank.py``) nor reading sound from files (``hicmae.media``).
"""

from __future__ import annotations

import torch
from torch import Tensor


def float_waveform(waveform: Tensor) -> Tensor:
    """Samples in [-1, 1): int16 divided by 32768; floating point is only cast.

    Args:
        waveform: (B, n) int16 or floating point.

    Returns: (B, n) float32.
    Raises: ValueError: another type or number of axes.
    """
    if waveform.ndim != 2 or not (waveform.dtype == torch.int16 or waveform.is_floating_point()):
        raise ValueError(
            f"waveform: shape {tuple(waveform.shape)}, {waveform.dtype} "
            "(must be (batch, samples), int16 or floating point)"
        )
    scale = 1 / 32768 if waveform.dtype == torch.int16 else 1.0
    return waveform.float() * scale


def apply_gain(waveform: Tensor, gain: Tensor) -> Tensor:
    """Multiply each clip by its own factor: (B, n) and (B,) to (B, n)."""
    return waveform * gain[:, None]


def roll(waveform: Tensor, num_samples: Tensor, shift: Tensor) -> Tensor:
    """Shift each clip circularly within its valid samples; the padding stays where it is.

    Args:
        waveform: (B, n), padded after each clip's end.
        num_samples: (B,) valid samples of each clip, 0 to n.
        shift: (B,) int64 samples; positive moves the sound to later times.

    Returns: (B, n).
    """
    position = torch.arange(waveform.shape[1], device=waveform.device).expand_as(waveform)
    length = num_samples[:, None]
    # Of a clip without sound nothing is valid; the 1 only keeps the remainder defined.
    source = (position - shift[:, None]) % length.clamp(min=1)
    return waveform.gather(1, torch.where(position < length, source, position))
