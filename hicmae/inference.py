"""From clips to outputs: the one way in which a trained network is asked.

Shape letters: B clips, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hicmae.devices import autocast, send
from hicmae.heads import HeadLabels, head_values, slices


def by_presence(
    network: Callable[[Tensor | None, Tensor | None], Tensor],
    video: Tensor | None,
    fbank: Tensor | None,
    seen: Tensor | None = None,
    heard: Tensor | None = None,
) -> Tensor:
    """Ask a network about clips, each with the modalities that it has.

    Clips of the same modalities go through the network together, and what a clip lacks is not
    computed: its output is exactly that of a call without the modality.

    Args:
        network: Gives (B, …) of frames (B, 3, T, H, W) and filter banks (B, S, F).
        video: Of no clip at all, None.
        fbank: Likewise.
        seen: (B,) boolean, whether a clip has its video; on the CPU, so that nothing waits. None:
            all have what is given.
        heard: The same of its sound; one of the two at least.
    """
    if seen is None or heard is None or bool((seen & heard).all()):
        return network(video, fbank)
    parts, places = [], []
    for has_video, has_sound in ((True, True), (True, False), (False, True), (False, False)):
        rows = ((seen == has_video) & (heard == has_sound)).nonzero().flatten()
        if not len(rows):
            continue
        pictures = sounds = None
        if has_video and video is not None:
            pictures = video[send(rows, video.device)]
        if has_sound and fbank is not None:
            sounds = fbank[send(rows, fbank.device)]
        parts.append(network(pictures, sounds))
        places.append(rows)
    return torch.cat(parts)[send(torch.cat(places).argsort(), parts[0].device)]


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
    heads: Sequence[HeadLabels] = (),
    temperature: float = 1.0,
    seen: Tensor | None = None,
    heard: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Ask a network about clips.

    Args:
        network: An ``EmotionModel``, or what is called like one, in evaluation mode.
        video: Normalised frames (B, 3, T, H, W), or none.
        fbank: Normalised filter banks (B, S, F), or none.
        task: ``classification``, ``regression`` or ``joint``.
        precision: Of the arithmetic: ``32-true`` or ``bf16-mixed``.
        mean: (C,) of the real values that the network was trained on.
        std: (C,) their standard deviation.
        heads: Of ``joint``, in the order of their outputs.
        temperature: Of the softmax of classes.
        seen: Where some lack a modality, as of ``by_presence``.
        heard: Likewise.

    Returns: probabilities, or real values in the labels' own unit, and what the network gave
        before; both (B, C) float32.
    """
    given = video if video is not None else fbank
    assert given is not None, "a clip has picture or sound"
    with autocast(precision, given.device):
        outputs = by_presence(network, video, fbank, seen, heard)
    scaled = outputs.float() / temperature if task == "classification" else outputs
    return outputs_to_values(scaled, task=task, mean=mean, std=std, heads=heads), outputs.float()


def outputs_to_values(
    outputs: Tensor,
    *,
    task: str,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    heads: Sequence[HeadLabels] = (),
) -> Tensor:
    """What outputs (B, C) of a network stand for: probabilities, or real values; float32."""
    outputs = outputs.float()
    if task == "classification":
        return outputs.softmax(dim=-1)
    if heads:
        parts = [head_values(outputs[:, place], head.kind) for head, place in slices(heads)]
        outputs = torch.cat(parts, dim=1)
    if std is not None:
        outputs = outputs * std
    return outputs if mean is None else outputs + mean
