"""Sound on the device: waveforms, Kaldi's log-mel filter bank, and spans of it that are hidden.

Whole batches of zero-padded waveforms go with the number of valid samples of each. The filter bank
agrees with ``torchaudio.compliance.kaldi.fbank``, which takes one clip a call.

Shape letters: B batch, S filter-bank frames, F mel bins, n samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchaudio.compliance import kaldi

from hicmae.devices import send
from hicmae.settings import InputConfig

WINDOW_SECONDS = 0.025
HOP_SECONDS = 0.010
PREEMPHASIS = 0.97  # Kaldi's default
LOW_HZ = 20.0  # Kaldi's default lower edge of the lowest mel bin
# Kaldi floors mel energies at float32's epsilon before the logarithm.
FLOOR = torch.finfo(torch.float32).eps
# Windows that a CPU has at a time, bytes, or one clip's: they stay in its cache, where sixteen
# clips of 160 windows took 7 to 9 ms and all at once 13 to 20.
_WINDOWS_BYTES = 2**20


class FilterBank(nn.Module):
    """Waveforms to normalised log-mel filter banks (x - mean) / (2·std).

    Kaldi's steps with a symmetric Hann window, without dither and energy: 25 ms windows every
    10 ms that fit into the sound, each freed of its mean, pre-emphasised, windowed and transformed;
    power summed by F triangles on the mel scale; logarithm. The mean of the clip's valid
    samples is removed first; as each window loses its own mean anyway, that only keeps rounding
    small. Everything is float32, also under autocast. With TF32 matrix products
    allowed on a GPU the sum over triangles is good to about 1e-4 of the result.

    Args:
        input: Sample rate, size of the filter bank, its normalisation and padding.

    Source: the settings are those of HiCMAE's published code; the triangles are torchaudio's.
    """

    window: Tensor
    mel: Tensor

    def __init__(self, input: InputConfig) -> None:
        super().__init__()
        self.input = input
        self.window_samples = int(input.sample_rate * WINDOW_SECONDS)
        self.hop_samples = int(input.sample_rate * HOP_SECONDS)
        self.fft_samples = 1 << (self.window_samples - 1).bit_length()
        window = torch.hann_window(self.window_samples, periodic=False)
        triangles, _ = kaldi.get_mel_banks(
            input.mel_bins, self.fft_samples, input.sample_rate, LOW_HZ, 0.0, 100.0, -500.0, 1.0
        )
        # Zeros behind the window fill it up to the length of the transform.
        window = nn.functional.pad(window, (0, self.fft_samples - self.window_samples))
        mel = nn.functional.pad(triangles.T, (0, 0, 0, 1))  # no triangle holds the Nyquist bin
        # Both follow from the settings, so checkpoints do not carry them.
        self.register_buffer("window", window, persistent=False)  # (fft,)
        self.register_buffer("mel", mel, persistent=False)  # (fft / 2 + 1, F)
        raw_pad = 0.0 if input.pad == "zeros" else math.log(FLOOR)
        self.pad_value = (raw_pad - input.fbank_mean) / (2 * input.fbank_std)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FilterBank:
        """Move to a device, and stay float32 where a whole module becomes bf16."""
        kept = {"window": self.window, "mel": self.mel}
        super()._apply(fn, recurse)
        for name, values in kept.items():
            setattr(self, name, values.to(getattr(self, name).device))
        return self

    @torch.no_grad()
    def forward(self, waveform: Tensor, num_samples: Tensor) -> Tensor:
        """Compute the filter banks of a batch, without gradients.

        Args:
            waveform: (B, n) int16, or floating point in [-1, 1]; any n.
            num_samples: (B,) valid samples of each clip, from its start, 0 to n. Frames that do not
                lie within them are padding; with 0 the whole clip is.

        Returns: (B, S, F) float32, cut or padded to S = ``input.fbank_frames``.
        Raises: ValueError: shapes or types that do not fit.
        """
        if num_samples.shape != waveform.shape[:1]:
            raise ValueError(
                f"filter bank: num_samples {tuple(num_samples.shape)} for a waveform "
                f"{tuple(waveform.shape)} (must be one number a clip)"
            )
        together = len(waveform)
        if waveform.device.type == "cpu":
            clip_bytes = self.input.fbank_frames * self.fft_samples * self.window.itemsize
            together = _WINDOWS_BYTES // clip_bytes
        parts = (part.split(max(1, together)) for part in (waveform, num_samples))
        with torch.autocast(waveform.device.type, enabled=False):
            banks = [self._normalised(*some) for some in zip(*parts, strict=True)]
        return banks[0] if len(banks) == 1 else torch.cat(banks)

    def _normalised(self, waveform: Tensor, num_samples: Tensor) -> Tensor:
        """Of a few clips, as ``forward``."""
        log_mel = self._log_mel(self._centred(float_waveform(waveform), num_samples))  # (B, S, F)
        normalised = (log_mel - self.input.fbank_mean) / (2 * self.input.fbank_std)
        frame = torch.arange(self.input.fbank_frames, device=waveform.device)
        is_sound = frame < self.num_frames(num_samples)[:, None]  # (B, S)
        return torch.where(is_sound[:, :, None], normalised, self.pad_value)

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Whole windows in so many samples, not limited to S: any shape to the same, int64."""
        hops = (num_samples - self.window_samples).div(self.hop_samples, rounding_mode="floor")
        return (hops + 1).clamp(min=0).long()

    def _centred(self, waveform: Tensor, num_samples: Tensor) -> Tensor:
        """Remove each clip's mean, then cut or pad to what S frames need: (B, n) to (B, m)."""
        position = torch.arange(waveform.shape[1], device=waveform.device)
        is_valid = position < num_samples[:, None]
        total = torch.where(is_valid, waveform, 0.0).sum(1, keepdim=True)
        centred = waveform - total / num_samples[:, None].clamp(min=1)
        needed = (self.input.fbank_frames - 1) * self.hop_samples + self.window_samples
        return nn.functional.pad(centred, (0, needed - waveform.shape[1]))

    def _log_mel(self, waveform: Tensor) -> Tensor:
        """Log-mel energies of every window: (B, m) to (B, S, F)."""
        windows = waveform.unfold(1, self.window_samples, self.hop_samples)  # (B, S, window)
        offset = windows.mean(-1, keepdim=True)  # (B, S, 1)
        # Pre-emphasis commutes with removing a window's mean but for a factor, and can be done
        # once for all windows: only their first sample would differ, where the window is 0.
        emphasised = torch.sub(waveform[:, 1:], waveform[:, :-1], alpha=PREEMPHASIS)
        emphasised = nn.functional.pad(emphasised, (1, self.fft_samples - self.window_samples))
        frames = emphasised.unfold(1, self.fft_samples, self.hop_samples)  # (B, S, fft)
        frames = (frames - (1 - PREEMPHASIS) * offset).mul_(self.window)
        spectrum = torch.fft.rfft(frames)  # (B, S, fft / 2 + 1)
        power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
        return (power @ self.mel).clamp_(min=FLOOR).log_()


def float_waveform(waveform: Tensor) -> Tensor:
    """Samples in [-1, 1): int16 divided by 32768; floating point is only cast.

    Args: waveform: (B, n) int16 or floating point.
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


def hide_spans(fbank: Tensor, spans: Tensor, axis: int) -> Tensor:
    """Put the mean of all filter banks, which is 0 after normalisation, in place of spans.

    The network sees these patches, unlike those that pretraining hides (``hicmae.masks``).

    Args:
        fbank: (B, S, F), normalised.
        spans: (B, N, 2) first and one past the last along the axis, on any device.
        axis: 1: time, 2: frequency.

    Returns: (B, S, F).
    Source: SpecAugment, arXiv 1904.08779 (time and frequency masks; the value is the mean).
    """
    place = torch.arange(fbank.shape[axis], device=fbank.device)
    first, end = send(spans, fbank.device)[..., None].unbind(2)  # (B, N, 1)
    hidden = ((place >= first) & (place < end)).any(dim=1)  # (B, size)
    return fbank.masked_fill(hidden[:, :, None] if axis == 1 else hidden[:, None, :], 0.0)
