"""A network, its input, its objective and its augmentations, as frozen dataclasses.

Sizes, geometry and normalisation of the input, and the pretraining objective travel in every
checkpoint. Recipes (learning rates, epochs, data) belong to the rooms that train. No PyTorch is
imported here: verbs have these as their options, and help must be quick.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# Mean and standard deviation of ImageNet's training images, RGB in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# What a stage of pretraining trains: all of it, or what may come before (``ObjectiveConfig``).
WHOLE, APART = "audio-video", "apart"
STAGES = (APART, "audio", "video")


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """One clip as the network sees it; the same settings build, train and predict.

    Args:
        image_size: Side of the square face crop, pixels.
        num_frames: Frames of a clip.
        frame_stride: Distance of neighbouring frames of a clip, in frames of the source.
        fps: Frame rate of the source after resampling by time, frames per second.
        sample_rate: Sound, Hz.
        fbank_frames: Length of the filter bank, frames of 10 ms.
        mel_bins: Height of the filter bank.
        pad: Filter-bank frames after the end of the sound: ``zeros`` before normalisation, as the
            published weights were trained, or ``silence`` (the floor of the logarithm).
        fbank_mean: Mean of the log-mel values. Source: HiCMAE's published code.
        fbank_std: Standard deviation of the log-mel values; inputs are divided by twice this.
        image_mean: Mean of each colour channel, in [0, 1].
        image_std: Standard deviation of each colour channel.
    """

    image_size: int = 160
    num_frames: int = 16
    frame_stride: int = 4
    fps: float = 25.0
    sample_rate: int = 16000
    fbank_frames: int = 256
    mel_bins: int = 128
    pad: Literal["zeros", "silence"] = "zeros"
    fbank_mean: float = -4.2677393
    fbank_std: float = 4.5689974
    image_mean: tuple[float, float, float] = IMAGENET_MEAN
    image_std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        names = "image_size num_frames frame_stride fps sample_rate fbank_frames mel_bins fbank_std"
        problems = outside(self, {"positive": names})
        if min(self.image_std) <= 0:
            problems.append(f"image_std = {self.image_std} (each must be positive)")
        raise_all("input", problems)

    @property
    def clip_seconds(self) -> float:
        """Time that one clip covers, seconds: every frame stands for ``frame_stride`` frames."""
        return self.num_frames * self.frame_stride / self.fps

    @property
    def clip_samples(self) -> int:
        """Sound samples of the same span."""
        return round(self.clip_seconds * self.sample_rate)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of the network. A size is one YAML in ``configs/model/``.

    Args:
        input: The clip it takes.
        tubelet_frames: Frames of a tubelet.
        patch_size: Side of a tubelet and of a filter-bank patch.
        encoder_dim: Width of both encoders and of the fusion.
        encoder_heads: Attention heads of the same.
        encoder_depth: Layers of each encoder.
        fusion_depth: Layers of the fusion encoder.
        decoder_dim: Width of both reconstruction decoders.
        decoder_heads: Attention heads of the decoders.
        decoder_depth: Layers of each decoder.
        feature_layers: Encoder layers (counted from 1) whose tokens are contrasted and handed to
            the decoders; a decoder of depth d takes at most d - 1 of them.
        mlp_ratio: Hidden width of an MLP over its width.
        layer_norm_eps: Epsilon of every layer norm.
    """

    input: InputConfig = field(default_factory=InputConfig)
    tubelet_frames: int = 2
    patch_size: int = 16
    encoder_dim: int = 512
    encoder_heads: int = 8
    encoder_depth: int = 10
    fusion_depth: int = 2
    decoder_dim: int = 384
    decoder_heads: int = 6
    decoder_depth: int = 4
    feature_layers: tuple[int, ...] = (4, 7, 10)
    mlp_ratio: float = 4.0
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        problems = []
        for name, size, part in (
            ("input.num_frames", self.input.num_frames, self.tubelet_frames),
            ("input.image_size", self.input.image_size, self.patch_size),
            ("input.fbank_frames", self.input.fbank_frames, self.patch_size),
            ("input.mel_bins", self.input.mel_bins, self.patch_size),
            ("encoder_dim", self.encoder_dim, self.encoder_heads),
            ("decoder_dim", self.decoder_dim, self.decoder_heads),
        ):
            if part <= 0 or size % part:
                problems.append(f"{name} = {size} is no multiple of {part}")
        bounds = {"1 or more": "encoder_depth decoder_depth", "0 or more": "fusion_depth"}
        problems += outside(self, bounds)
        layers = self.feature_layers
        if list(layers) != sorted(set(layers)) or not all(
            1 <= layer <= self.encoder_depth for layer in layers
        ):
            problems.append(
                f"feature_layers = {layers} (must ascend within 1..{self.encoder_depth})"
            )
        raise_all("model", problems)

    @property
    def video_grid(self) -> tuple[int, int, int]:
        """Tubelets along time, height and width."""
        side = self.input.image_size // self.patch_size
        return self.input.num_frames // self.tubelet_frames, side, side

    @property
    def audio_grid(self) -> tuple[int, int]:
        """Filter-bank patches along time and frequency."""
        return self.input.fbank_frames // self.patch_size, self.input.mel_bins // self.patch_size

    @property
    def num_video_tokens(self) -> int:
        """Tubelets of a clip."""
        time, height, width = self.video_grid
        return time * height * width

    @property
    def num_audio_tokens(self) -> int:
        """Filter-bank patches of a clip."""
        time, frequency = self.audio_grid
        return time * frequency

    @property
    def tubelet_values(self) -> int:
        """Numbers in one tubelet: frames x rows x columns x 3 colours."""
        return self.tubelet_frames * self.patch_size**2 * 3

    @property
    def patch_values(self) -> int:
        """Numbers in one filter-bank patch."""
        return self.patch_size**2


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The pretraining objective; the defaults are the published recipe.

    Args:
        video_mask_ratio: Share of the spatial cells hidden in every tubelet row.
        audio_mask_ratio: Share of the filter-bank patches hidden.
        video_weight: Weight of the video reconstruction loss.
        audio_weight: Weight of the filter-bank reconstruction loss.
        contrast: Whether the layers of the two encoders are contrasted.
        contrast_weight: Weight of the contrastive loss (a sum over layers). 0.1 collapsed in the
            paper.
        contrast_layers: Encoder layers (from 1) to contrast; none given: the feature layers.
        temperature: Divisor of the cosine similarities.
        negatives: ``local``: the clips of this process, as published (the objective then changes
            with the number of devices); ``global``: of all processes, gathered with gradients.
        decoder_keep: Share of the hidden tokens that is decoded in training, cells that run over
            time; the paper decodes all, a half saves about a third of the step.
        skip_connections: Whether decoders read the features of the encoder's layers.
        frame_difference: Whether the second frame of a tubelet's target is its difference from
            the first.
        losses: Further losses by their registered names (``hicmae/objective/losses.py``): the
            ``weight`` of each in the sum, 1 if left out, and its own settings.
        reconstruction: Whether hidden tokens are predicted. Without, decoders are there and not
            trained, nor is the fusion encoder unless a further loss reads it.
        stages: Epochs of what comes before training on all of it, in this order: ``apart`` (each
            modality learns as if it were alone, both at once), ``audio`` or ``video`` (that one
            alone). The losses of several modalities, and the layers in which one reads the other,
            wait until after the last. DeepSpeed decays what waits and counts its steps, so weights
            end elsewhere than with single or ddp.
    """

    video_mask_ratio: float = 0.9
    audio_mask_ratio: float = 0.8
    video_weight: float = 1.0
    audio_weight: float = 1.0
    contrast: bool = True
    contrast_weight: float = 0.0025
    contrast_layers: tuple[int, ...] | None = None
    temperature: float = 0.07
    negatives: Literal["local", "global"] = "local"
    decoder_keep: float = 1.0
    skip_connections: bool = True
    frame_difference: bool = True
    losses: dict[str, dict[str, Any]] = field(
        default_factory=dict, hash=False, metadata={"omit_default": True}
    )
    reconstruction: bool = field(default=True, metadata={"omit_default": True})
    stages: dict[str, float] = field(
        default_factory=dict, hash=False, metadata={"omit_default": True}
    )

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {getattr(self, name)} (must lie between 0 and 1)"
            for name in ("video_mask_ratio", "audio_mask_ratio")
            if not 0 < getattr(self, name) < 1
        ]
        bounds = {
            "0 or more, and finite": "video_weight audio_weight contrast_weight",
            "in (0, 1]": "decoder_keep",
            "positive and finite": "temperature",
        }
        problems += outside(self, bounds)
        if self.contrast_layers is not None and not self.contrast_layers:
            problems.append("contrast_layers is empty (leave it out, or set contrast: false)")
        for name, given in self.losses.items():
            weight = given.get("weight", 1.0)
            is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
            if not is_number or not 0 <= weight < math.inf:
                problems.append(f"losses.{name}.weight = {weight!r} (must be 0 or more)")
        for name, epochs in self.stages.items():
            if name not in STAGES:
                problems.append(f"stages: '{name}' is none of {', '.join(STAGES)}")
            if isinstance(epochs, bool) or not 0 < epochs < math.inf:
                problems.append(f"stages.{name} = {epochs} epochs (must be positive)")
        if self.stages and not self.reconstruction:
            problems.append(
                "stages: a modality alone has its reconstruction to learn from, and"
                " reconstruction is false"
            )
        raise_all("objective", problems)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentations of one clip; everything is off unless asked for.

    Every clip has its own draw, and all frames of a clip share it.

    Args:
        crop: ``none``; ``multi-scale``: width and height are equal or neighbouring sides of
            ``crop_scales``, at one of thirteen fixed places (HiCMAE's pretraining);
            ``random-resized``: a random share of the area, shape and place (its fine-tuning).
        crop_scales: Sides of a multi-scale crop over the side of the frame, descending.
        crop_area: Smallest and largest share of the frame's area in a random resized crop.
        crop_aspect: Smallest and largest width over height of the same.
        flip: Probability that a clip is mirrored left to right.
        rand_operations: Operations of RandAugment drawn for each clip (colours, geometry), each
            carried out with probability 1/2; 0: none.
        rand_magnitude: Their mean strength, 0 to 10.
        rand_deviation: Standard deviation of the strength.
        erase: Probability that one rectangle of a clip is replaced by normal noise, the same
            noise in every frame.
        erase_area: Smallest and largest share of the frame's area that is erased.
        erase_aspect: Smallest and largest width over height of the same.
        gain: Whether the waveform is multiplied by 0.5 + Beta(c, c), between 0.5 and 1.5.
        gain_concentration: The c of that distribution; larger stays closer to 1.
        roll_seconds: Largest circular shift of the sound to either side, seconds; 0 for none. It
            moves the sound away from the picture by as much.
        time_masks: Spans of time of the filter bank that are replaced by its mean, in each clip;
            0 for none.
        time_mask_seconds: Longest such span, seconds; the length is uniform from 0.
        frequency_masks: The same for bands of mel bins.
        frequency_mask_bins: Widest such band, bins.
    """

    crop: Literal["none", "multi-scale", "random-resized"] = "none"
    crop_scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    crop_area: tuple[float, float] = (0.5, 1.0)
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    rand_operations: int = 0
    rand_magnitude: float = 7.0
    rand_deviation: float = 0.5
    erase: float = 0.0
    erase_area: tuple[float, float] = (0.02, 1 / 3)
    erase_aspect: tuple[float, float] = (0.3, 1 / 0.3)
    gain: bool = False
    gain_concentration: int = 10
    roll_seconds: float = 0.0
    time_masks: int = 0
    time_mask_seconds: float = 0.5
    frequency_masks: int = 0
    frequency_mask_bins: int = 24

    def __post_init__(self) -> None:
        problems = []
        if self.crop not in ("none", "multi-scale", "random-resized"):
            problems.append(f"crop = {self.crop!r} (none, multi-scale or random-resized)")
        scales = self.crop_scales
        if (
            not scales
            or max(scales) > 1
            or min(scales) <= 0
            or list(scales) != sorted(set(scales), reverse=True)
        ):
            problems.append(f"crop_scales = {scales} (must descend within 0..1, 0 excluded)")
        for name in ("flip", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                problems.append(f"{name} = {getattr(self, name)} (must lie between 0 and 1)")
        for name in ("crop_area", "erase_area"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                problems.append(f"{name} = {(low, high)} (must be 0 < smallest <= largest <= 1)")
        for name in ("crop_aspect", "erase_aspect"):
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf:
                problems.append(
                    f"{name} = {(low, high)} (must be 0 < smallest <= largest, and finite)"
                )
        if not 0 <= self.rand_magnitude <= 10:
            problems.append(f"rand_magnitude = {self.rand_magnitude} (must lie between 0 and 10)")
        bounds = {
            # Each is a number of draws a clip, which have to fit into memory.
            "in 1..100000": "gain_concentration",
            "in 0..1000": "rand_operations time_masks frequency_masks",
            "0 or more": "rand_deviation",
            "0 or more, and finite": "roll_seconds",
            "positive": "frequency_mask_bins",
            "positive and finite": "time_mask_seconds",
        }
        problems += outside(self, bounds)
        raise_all("augment", problems)

    @classmethod
    def pretraining(cls) -> AugmentConfig:
        """The published pretraining recipe: multi-scale crop and gain, no flip.

        Deviation: the reference also sets a roll of the sound that never rolls; it is off.
        """
        return cls(crop="multi-scale", gain=True)

    @classmethod
    def finetuning(cls) -> AugmentConfig:
        """RandAugment ``rand-m7-n4-mstd0.5-inc1``, random resized crop, flip, erasing; no gain.

        Deviation: at least half of the face stays in the crop here, so that eyes and mouth are in
        one picture, and the sound keeps its level; ``configs/finetune/paper_base.yaml`` has the
        published area, 0.08 to 1, and gain.
        """
        return cls(crop="random-resized", flip=0.5, rand_operations=4, erase=0.25)


def outside(settings: object, bounds: Mapping[str, str]) -> list[str]:
    """Problems of fields, whose names stand by their bound with spaces between; null is within."""
    return [
        f"{name} = {value} (must {'lie' if bound.startswith(('in', 'within')) else 'be'} {bound})"
        for bound, names in bounds.items()
        for name in names.split()
        if (value := getattr(settings, name)) is not None and not _holds(bound, value)
    ]


def raise_all(what: str, problems: list[str]) -> None:
    """Report every problem of a settings group at once."""
    if problems:
        raise ValueError((f"{what}: " if what else "") + "; ".join(problems))


def _holds(bound: str, value: float) -> bool:
    if least := re.fullmatch(r"([\d.]+) or more", bound):
        return value >= float(least[1])
    if ends := re.fullmatch(r"(?:with)?in (\d+)\.\.(\d+)", bound):
        return float(ends[1]) <= value <= float(ends[2])
    return _BOUNDS[bound](value)


_BOUNDS: dict[str, Callable[[float], bool]] = {
    "positive": lambda value: value > 0,
    "0 or more, and finite": lambda value: 0 <= value < math.inf,
    "positive and finite": lambda value: 0 < value < math.inf,
    "in [0, 1)": lambda value: 0 <= value < 1,
    "in (0, 1]": lambda value: 0 < value <= 1,
    "a finite number": math.isfinite,
}
