"""The cross-modal contrastive loss of encoder layers, with local or global negatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from hicmae.objective.gathering import all_rows, are_several, row_counts, shared_mean
from hicmae.objective.losses import LOSSES, LossInput, LossOutput

_NOT_THERE = -1e9  # a similarity that no clip has: its share of a softmax is exactly 0


class Contrast(NamedTuple):
    """What the contrast of one layer yields; B' counts the clips of all processes where the
    negatives are global."""

    loss: Tensor  # 0-d, symmetric cross-entropy
    logits: Tensor  # (B, B') video-to-audio similarities over the temperature
    accuracy: Tensor  # 0-d, share of clips whose own partner is the nearest, both directions
    absent: Tensor | None = None  # 0-d, 1 where fewer than two clips had both, else 0


def contrast(
    video: Tensor,
    audio: Tensor,
    *,
    temperature: float,
    negatives: Literal["local", "global"] = "local",
    there: Tensor | None = None,
) -> Contrast:
    """Contrast pooled features (B, D) of the two modalities of the same clips.

    With ``global`` negatives every process gathers the features of all, with gradients, and takes
    the rows of its own clips: the mean over processes of this loss, and of its gradients as data
    parallel training averages them, equals that of one process with all clips, if all
    processes bring equally many; otherwise each process's mean counts alike.

    Where some clips lack a modality, those that are ``there`` (B,) are contrasted with one another,
    and the mean is over those of all processes; fewer than two among those that share negatives
    have nothing to be told apart from, and add nothing.

    Source: HiCMAE, section 3.2 (InfoNCE on each layer); reference facts, objective section.
    """
    # Half precision has too few digits for similarities divided by 0.07.
    with torch.autocast(device_type=video.device.type, enabled=False):
        video = F.normalize(video.float(), dim=1)
        audio = F.normalize(audio.float(), dim=1)
        all_video, all_audio, first = video, audio, 0
        if negatives == "global" and are_several():
            counts = row_counts(len(video), video.device)
            all_video, all_audio = all_rows(video, counts), all_rows(audio, counts)
            first = sum(counts[: dist.get_rank()])
        if there is not None:
            return _contrast_of_some(video, audio, all_video, all_audio, first, there, temperature)
        partner = torch.arange(first, first + len(video), device=video.device)
        video_to_audio = video @ all_audio.T / temperature  # (B, B')
        audio_to_video = audio @ all_video.T / temperature
        loss = (
            F.cross_entropy(video_to_audio, partner) + F.cross_entropy(audio_to_video, partner)
        ) / 2
        hits = torch.cat(
            (video_to_audio.argmax(dim=1) == partner, audio_to_video.argmax(dim=1) == partner)
        )
    return Contrast(loss, video_to_audio, hits.float().mean())


def _contrast_of_some(
    video: Tensor,
    audio: Tensor,
    all_video: Tensor,
    all_audio: Tensor,
    first: int,
    there: Tensor,
    temperature: float,
) -> Contrast:
    """The same of those clips that are ``there``; shapes do not depend on how many they are."""
    columns = there if all_video is video else all_rows(there.float()) > 0  # (B')
    enough = columns.sum() >= 2
    partner = torch.arange(first, first + len(video), device=video.device)
    losses, hits = [], []
    for own, others in ((video, all_audio), (audio, all_video)):
        # Finite, as a row that has no partner must still have a gradient: of 0.
        logits = (own @ others.T / temperature).masked_fill(~columns, _NOT_THERE)
        losses.append(F.cross_entropy(logits, partner, reduction="none"))
        hits.append((logits.argmax(dim=1) == partner).float())
    used = there & enough
    loss, accuracy = (shared_mean((a + b) / 2, used) for a, b in (losses, hits))
    return Contrast(loss, video @ all_audio.T / temperature, accuracy, 1 - enough.float())


@dataclass(frozen=True, kw_only=True)
class ContrastSettings:
    """Of the contrast of several layers; see ``ObjectiveConfig``, which holds them."""

    layers: tuple[int, ...]
    temperature: float
    negatives: Literal["local", "global"]


@LOSSES.register("contrast", settings=ContrastSettings)
def hierarchical_contrast(given: LossInput, settings: ContrastSettings) -> LossOutput:
    """Sum of the layers' contrastive losses, with the accuracy and the logits of each.

    Of a mixture, ``contrast_absent`` is the share of batches in which it had nothing to contrast.

    Source: HiCMAE, section 3.2.
    """
    results = [
        contrast(
            given.video_layers[layer].mean(dim=1),
            given.audio_layers[layer].mean(dim=1),
            temperature=settings.temperature,
            negatives=settings.negatives,
            there=None if given.seen is None or given.heard is None else given.seen & given.heard,
        )
        for layer in settings.layers
    ]
    accuracies = {
        f"accuracy_layer{layer}": result.accuracy
        for layer, result in zip(settings.layers, results, strict=True)
    }
    if results[0].absent is not None:  # of every layer alike
        accuracies["absent"] = results[0].absent
    loss = torch.stack([result.loss for result in results]).sum()
    return LossOutput(loss, accuracies, tuple(result.logits for result in results))
