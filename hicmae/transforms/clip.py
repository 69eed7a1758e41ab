"""A batch as readers make it to what the network takes, on the device.

The one transform of pretraining, fine-tuning, evaluation and prediction. In training mode it
augments as its settings say; in evaluation mode it draws nothing.

Shape letters: B batch, T frames, H W pixels, S filter-bank frames, F mel bins, n samples.

Deviation: the reference changes the gain at validation and test too; here in training only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from hicmae.devices import send
from hicmae.settings import AugmentConfig, InputConfig
from hicmae.transforms import audio, augmentation, video
from hicmae.transforms.audio import HOP_SECONDS, FilterBank


class ClipTransform(nn.Module):
    """Frames and waveforms of a batch to normalised video and filter bank.

    Draws come from the generator given to ``forward``, by default from PyTorch's global CPU
    generator, whatever the device: seed it differently in each process of a distributed run, or
    all of them draw the same crops.

    Args:
        input: Geometry and normalisation of the network's input.
        augment: What training clips undergo; none given: nothing.
    """

    def __init__(self, input: InputConfig, augment: AugmentConfig | None = None) -> None:
        super().__init__()
        self.input = input
        self.augment = augment if augment is not None else AugmentConfig()
        self.filter_bank = FilterBank(input)

    @torch.no_grad()
    def forward(
        self, batch: Mapping[str, Any], generator: torch.Generator | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Transform a batch; a modality it does not hold comes back as None.

        Args:
            batch: ``frames`` (B, T, H, W, 3) uint8 and/or ``waveform`` (B, n) int16 or floating
                point with ``num_samples`` (B,); other entries are ignored.
            generator: Where random numbers come from, in training mode.

        Returns: video (B, 3, T, image_size, image_size) and filter bank (B, S, F), float32, on the
            device of the batch.
        Raises: ValueError: an entry of another shape or type, or a waveform without
            ``num_samples``.
        """
        frames, waveform = batch.get("frames"), batch.get("waveform")
        if waveform is not None and batch.get("num_samples") is None:
            raise ValueError(
                f"batch: has a waveform but no num_samples (found: {', '.join(sorted(batch))})"
            )
        return (
            None if frames is None else self._video(frames, generator),
            None if waveform is None else self._fbank(waveform, batch["num_samples"], generator),
        )

    def _video(self, frames: Tensor, generator: torch.Generator | None) -> Tensor:
        if frames.ndim == 5 and frames.shape[1] != self.input.num_frames:
            raise ValueError(
                f"frames: {frames.shape[1]} a clip (input.num_frames is {self.input.num_frames})"
            )
        clips = video.resize_video(frames, self.input.image_size)
        if self.training:
            clips = self._crop(self._rand_augment(clips, generator), generator)
        clips = video.standardise_colours_(clips, self.input)
        if self.training:
            clips = self._erase(clips, generator)
        return clips

    def _rand_augment(self, clips: Tensor, generator: torch.Generator | None) -> Tensor:
        """Change colours and geometry: (B, 3, T, H, W), 0 to 255, to the same."""
        augment = self.augment
        if augment.rand_operations == 0:
            return clips
        drawn = augmentation.draw_operations(
            len(clips),
            augment.rand_operations,
            augment.rand_magnitude,
            augment.rand_deviation,
            generator,
        )
        levels = rearrange(clips.round().to(torch.uint8), "b c t h w -> b t c h w")
        levels = augmentation.rand_augment(levels, drawn)
        return rearrange(levels, "b t c h w -> b c t h w").to(
            torch.float32, memory_format=torch.contiguous_format
        )

    def _crop(self, clips: Tensor, generator: torch.Generator | None) -> Tensor:
        """Crop and flip: (B, 3, T, H, W) to the same."""
        augment, size = self.augment, self.input.image_size
        if augment.crop == "none" and augment.flip == 0:
            return clips
        batch = len(clips)
        if augment.crop == "multi-scale":
            boxes = augmentation.multi_scale_boxes(
                batch, size, size, augment.crop_scales, generator
            )
        elif augment.crop == "random-resized":
            area, aspect = augment.crop_area, augment.crop_aspect
            boxes = augmentation.random_boxes(batch, size, size, area, aspect, generator)
        else:
            boxes = augmentation.whole_boxes(batch, size, size)
        flip = augmentation.uniform(batch, generator=generator) < augment.flip
        return video.crop_video(clips, boxes, flip)

    def _erase(self, clips: Tensor, generator: torch.Generator | None) -> Tensor:
        """Erase one rectangle of some clips: (B, 3, T, H, W) to the same."""
        augment = self.augment
        if augment.erase == 0:
            return clips
        batch, channels, _, height, width = clips.shape
        area, aspect = augment.erase_area, augment.erase_aspect
        boxes = augmentation.random_boxes(batch, height, width, area, aspect, generator)
        chosen = augmentation.uniform(batch, generator=generator) < augment.erase
        # The noise is too much to draw on the CPU and move; its seed is not.
        seed = int(augmentation.uniform(1, generator=generator).item() * 2**24)
        on_device = torch.Generator(clips.device).manual_seed(seed)
        noise = torch.randn(
            (batch, channels, 1, height, width), generator=on_device, device=clips.device
        )
        return video.erase_(clips, boxes, chosen, noise)

    def _fbank(
        self, waveform: Tensor, num_samples: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        augment, batch = self.augment, len(waveform)
        sound = audio.float_waveform(waveform)
        if self.training and augment.gain:
            gain = augmentation.gains(batch, augment.gain_concentration, generator)
            sound = audio.apply_gain(sound, send(gain, sound.device))
        if self.training and augment.roll_seconds > 0:
            largest = round(augment.roll_seconds * self.input.sample_rate)
            shift = augmentation.uniform(batch, generator=generator) * (2 * largest + 1)
            shift = send(shift.long(), sound.device) - largest
            sound = audio.roll(sound, num_samples, shift)
        fbank = self.filter_bank(sound, num_samples)
        return self._mask(fbank, generator) if self.training else fbank

    def _mask(self, fbank: Tensor, generator: torch.Generator | None) -> Tensor:
        """Hide spans of time and bands of mel bins: (B, S, F) to the same."""
        augment = self.augment
        longest = round(augment.time_mask_seconds / HOP_SECONDS)
        widest = augment.frequency_mask_bins
        for number, largest, axis in (
            (augment.time_masks, longest, 1),
            (augment.frequency_masks, widest, 2),
        ):
            if number > 0:
                spans = augmentation.spans(
                    len(fbank), number, fbank.shape[axis], largest, generator
                )
                fbank = audio.hide_spans(fbank, spans, axis)
        return fbank
