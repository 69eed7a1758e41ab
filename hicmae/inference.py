"""From clips to outputs: the one way in which a trained network is asked.

Shape letters: B clips, C outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hicmae.devices import autocast


@torch.inference_mode()
def clip_values(
    network: nn.Module,
    video: Tensor | None,
    fbank: Tensor | None,
    *,
    task: str,
    precision: str = "32-true",
    mean: Tensor | None = None,
    std: Tensor | None = None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Ask a network about clips.

    Args:
        network: An ``EmotionModel``, or what is called like one, in evaluation mode.
        video: Normalised frames (B, 3, T, H, W), or none.
        fbank: Normalised filter banks (B, S, F), or none.
        task: ``classification`` or ``regression``.
        precision: Of the arithmetic: ``32-true`` or ``bf16-mixed``.
        mean: (C,) of the real values that the network was trained on.
        std: (C,) their standard deviation.
        temperature: Of the softmax of classes.

    Returns: probabilities, or real values in the labels' own unit, and what the network gave
        before; both (B, C) float32.
    """
    given = video if video is not None else fbank
    assert given is not None, "a clip has picture or sound"
    with autocast(precision, given.device):
        outputs = network(video, fbank)
    scaled = outputs.float() / temperature if task == "classification" else outputs
    return outputs_to_values(scaled, task=task, mean=mean, std=std), outputs.float()


def outputs_to_values(
    outputs: Tensor, *, task: str, mean: Tensor | None = None, std: Tensor | None = None
) -> Tensor:
    """What outputs (B, C) of a network stand for: probabilities, or real values; float32."""
    outputs = outputs.float()
    if task == "classification":
        return outputs.softmax(dim=-1)
    if std is not None:
        outputs = outputs * std
    return outputs if mean is None else outputs + mean
