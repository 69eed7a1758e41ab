"""The cross-modal contrastive loss of encoder layers, with local or global negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from hicmae.objective.losses import (
    LOSSES,
    LossInput,
    LossOutput,
    Presence,
    are_several,
    equal_rows,
    whole,
)


class Contrast(NamedTuple):
    """What the contrast of one layer yields; B' counts the clips of all processes where the
    negatives are global."""

    loss: Tensor  # 0-d, symmetric cross-entropy
    logits: Tensor  # (B, B') video-to-audio similarities over the temperature
    accuracy: Tensor  # 0-d, share of clips whose own partner is the nearest, both directions


def contrasts(
    pairs: Sequence[tuple[Tensor, Tensor]],
    *,
    temperature: float,
    negatives: Literal["local", "global"] = "local",
    presence: Presence | None = None,
) -> list[Contrast]:
    """Contrast pooled features (B, D) of the two modalities of the same clips, pair by pair.

    With ``global`` negatives every process gathers the features of all at once, with gradients, and
    takes the rows of its own clips: the mean over processes of this loss, and of its gradients as
    data parallel training averages them, equals that of one process with all clips.

    Args:
        pairs: Of video and audio, of each layer.
        presence: Which clips have both; the others are nobody's negatives. None given: all. Where
            fewer than two of those that share negatives have, they add nothing.

    Source: HiCMAE, section 3.2 (InfoNCE on each layer); reference facts, objective section.
    """
    device = pairs[0][0].device
    presence = presence or whole(len(pairs[0][0]), device)
    # Half precision has too few digits for similarities divided by 0.07.
    with torch.autocast(device_type=device.type, enabled=False):
        own = [
            (F.normalize(video.float(), dim=1), F.normalize(audio.float(), dim=1))
            for video, audio in pairs
        ]
        there, everyone, first = own, presence.both, 0
        if negatives == "global" and are_several():
            rows = torch.stack([row for pair in own for row in pair], dim=1)  # (B, 2 L, D)
            gathered = equal_rows(rows).unbind(1)
            there = list(zip(gathered[::2], gathered[1::2], strict=True))
            everyone, first = presence.everyone, dist.get_rank() * len(rows)
        enough, count, _ = presence.contrastable(shared=negatives == "global")
        counted = presence.both & enough
        return [
            _contrast(*mine, *others, counted, count, everyone, first, temperature)
            for mine, others in zip(own, there, strict=True)
        ]


def _contrast(
    video: Tensor,
    audio: Tensor,
    all_video: Tensor,
    all_audio: Tensor,
    counted: Tensor,
    count: Tensor,
    everyone: Tensor,
    first: int,
    temperature: float,
) -> Contrast:
    """Of features of length 1 (B, D) among all (B', D), of which ours begin at ``first``.

    The mean is over our ``counted`` (B,) of ``count`` a process.
    """
    partner = torch.arange(first, first + len(video), device=video.device)
    # The smallest number and not infinity, of which a clip without a partner would make none.
    lowest = torch.finfo(video.dtype).min
    video_to_audio, audio_to_video = (
        (rows @ others.T / temperature).masked_fill(~everyone, lowest)  # (B, B')
        for rows, others in ((video, all_audio), (audio, all_video))
    )
    target = torch.where(counted, partner, -100)  # which cross_entropy passes over
    loss = (
        F.cross_entropy(video_to_audio, target, reduction="sum") / count
        + F.cross_entropy(audio_to_video, target, reduction="sum") / count
    ) / 2
    hits = torch.stack(
        (video_to_audio.argmax(dim=1) == partner, audio_to_video.argmax(dim=1) == partner)
    )
    return Contrast(loss, video_to_audio, (hits & counted).sum() / (2 * count))


@dataclass(frozen=True, kw_only=True)
class ContrastSettings:
    """Of the contrast of several layers; see ``ObjectiveConfig``, which holds them."""

    layers: tuple[int, ...]
    temperature: float
    negatives: Literal["local", "global"]


@LOSSES.register("contrast", settings=ContrastSettings)
def hierarchical_contrast(given: LossInput, settings: ContrastSettings) -> LossOutput:
    """Sum of the layers' contrastive losses, with the accuracy and the logits of each.

    Of clips that may lack a modality, ``contrast_absent`` is the share of batches in which too few
    had both, in every process.

    Source: HiCMAE, section 3.2.
    """
    results = contrasts(
        [
            (given.video_layers[layer].mean(dim=1), given.audio_layers[layer].mean(dim=1))
            for layer in settings.layers
        ],
        temperature=settings.temperature,
        negatives=settings.negatives,
        presence=given.presence,
    )
    accuracies = {
        f"accuracy_layer{layer}": result.accuracy
        for layer, result in zip(settings.layers, results, strict=True)
    }
    if given.presence.is_mixed:
        shared = settings.negatives == "global"
        _, _, accuracies["absent"] = given.presence.contrastable(shared=shared)
    loss = torch.stack([result.loss for result in results]).sum()
    return LossOutput(loss, accuracies, tuple(result.logits for result in results))
