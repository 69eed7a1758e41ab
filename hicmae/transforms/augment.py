"""What is done to a training clip, and never to a clip that is evaluated.

For: the settings of the device-side augmentations, with the two recipes. Not for: mixing of
clips and labels (mixup, cutmix), which belongs to fine-tuning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentations of one clip; everything is off unless asked for.

    Every clip has its own draw, and all frames of a clip share it.

    Args:
        crop: ``none``; ``multi-scale``: width and height are neighbouring sides of
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
        if not scales or max(scales) > 1 or min(scales) <= 0 or list(scales) != _descending(scales):
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
            if not 0 < low <= high:
                problems.append(f"{name} = {(low, high)} (must be 0 < smallest <= largest)")
        if self.gain_concentration < 1:
            problems.append(f"gain_concentration = {self.gain_concentration} (must be 1 or more)")
        if not 0 <= self.rand_magnitude <= 10:
            problems.append(f"rand_magnitude = {self.rand_magnitude} (must lie between 0 and 10)")
        problems += [
            f"{name} = {getattr(self, name)} (must be 0 or more)"
            for name in (
                "roll_seconds",
                "rand_operations",
                "rand_deviation",
                "time_masks",
                "frequency_masks",
            )
            if getattr(self, name) < 0
        ]
        problems += [
            f"{name} = {getattr(self, name)} (must be positive)"
            for name in ("time_mask_seconds", "frequency_mask_bins")
            if getattr(self, name) <= 0
        ]
        if problems:
            raise ValueError(f"augment: {'; '.join(problems)}")

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
        one picture.
        """
        return cls(crop="random-resized", flip=0.5, rand_operations=4, erase=0.25)


def _descending(scales: tuple[float, ...]) -> list[float]:
    return sorted(set(scales), reverse=True)
