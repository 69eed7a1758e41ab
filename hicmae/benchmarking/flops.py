"""How much a network has to compute for a clip.

For: one half of the ratio that says how well a step uses its machine; the other is
``hicmae/benchmarking/speed.py``. Not for: timing anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hicmae.emotion import EmotionConfig, EmotionModel
from hicmae.pretraining import HiCMAE
from hicmae.settings import InputConfig, ModelConfig, ObjectiveConfig

_CLIPS = 2  # that are counted and divided by


def step_flops(model: ModelConfig, objective: ObjectiveConfig, *, backward: bool = True) -> float:
    """Operations (a multiply-add is two) that the network needs for one clip of a training step.

    Counted on tensors without content. Attention and matrix products count, the rest does not.

    Args:
        model: Sizes.
        objective: Masks and ablations.
        backward: Whether the backward pass is counted too.
    """
    with torch.device("meta"):
        # The contrast is left out: it is next to nothing, and autocast refuses such tensors.
        network = HiCMAE(model, replace(objective, contrast=False))
    return _count(lambda video, fbank: network(video, fbank).loss, model.input, backward)


def emotion_flops(model: ModelConfig, emotion: EmotionConfig, *, backward: bool = True) -> float:
    """The same of one clip that is fine-tuned on, or, without ``backward``, predicted."""
    with torch.device("meta"):
        network = EmotionModel(model, emotion)
    return _count(lambda video, fbank: network(video, fbank).sum(), model.input, backward)


def _count(run: Callable[[Any, Any], Tensor], size: InputConfig, backward: bool) -> float:
    """Operations of a clip, forward and perhaps backward."""
    with torch.device("meta"):
        video = torch.empty(_CLIPS, 3, size.num_frames, size.image_size, size.image_size)
        fbank = torch.empty(_CLIPS, size.fbank_frames, size.mel_bins)
    # The counter knows no fused attention on CPUs; in the plain form it is matrix products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        result = run(video, fbank)
        if backward:
            result.backward()
    return counter.get_total_flops() / _CLIPS
