"""Settings of mixup and cutmix.

For: options of a verb, whose help needs no PyTorch. Not for: the mixing (``finetune/mixing.py``).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MixingConfig:
    """How clips of a batch are blended; the defaults are the published recipe.

    One blend is drawn a batch, and every clip is blended with its neighbour. Of an audio-video
    network's input, only the video is mixed unless ``audio`` says so; a network that only hears
    has nothing else, so without ``audio`` its batches stay unmixed. Where processes share a batch,
    each draws a blend of its own for its part and finds neighbours there alone; one clip a process
    has no neighbour and stays unmixed.

    Args:
        mixup: Both parameters of the Beta distribution of mixup's share; 0: no mixup.
        cutmix: The same of cutmix; 0: no cutmix.
        switch: Probability of cutmix where both are on.
        probability: Share of the batches that are mixed.
        audio: Whether sound is mixed in the same share: filter banks blended under mixup, a span
            of time replaced under cutmix. The published recipe leaves sound unmixed while it
            mixes the labels.
        regression: Whether batches with real-valued targets are mixed, their targets linearly.
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    switch: float = 0.5
    probability: float = 1.0
    audio: bool = False
    regression: bool = False

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {getattr(self, name)} (must be 0 or more)"
            for name in ("mixup", "cutmix")
            if getattr(self, name) < 0
        ]
        problems += [
            f"{name} = {getattr(self, name)} (must lie in 0..1)"
            for name in ("switch", "probability")
            if not 0 <= getattr(self, name) <= 1
        ]
        if problems:
            raise ValueError(f"mixing: {'; '.join(problems)}")
