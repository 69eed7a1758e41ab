"""Reconstruction: what the decoders are asked to predict, and how far they are from it.

The targets are the standardised values of the hidden tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from hicmae import fused
from hicmae.objective.losses import LOSSES, LossInput, LossOutput, Presence
from hicmae.registry import NoSettings

EPSILON = 1e-6  # added to a patch's standard deviation; reference facts, objective section


class Standardised(NamedTuple):
    """Values minus their mean over their standard deviation, and what undoes it."""

    values: Tensor  # (…, P)
    mean: Tensor  # broadcastable to ``values``
    std: Tensor  # broadcastable to ``values``; epsilon included


def standardise(values: Tensor, dim: int, epsilons: Sequence[float] = ()) -> Standardised:
    """Subtract the mean and divide by the unbiased standard deviation + epsilon along ``dim``.

    ``epsilons``: one for each place of the last axis, ``EPSILON`` if none are given.

    Targets ask for no gradient: this works in place on its own copy, and has none to give.
    """
    mean = values.mean(dim=dim, keepdim=True)
    centred = values - mean
    # Not Tensor.std, which takes five times as long along a dimension that is not the last.
    norm = torch.linalg.vector_norm(centred, dim=dim, keepdim=True)
    std = norm / math.sqrt(values.shape[dim] - 1)
    if epsilons:
        for place, epsilon in enumerate(epsilons):  # a tensor of them would have to be sent
            std[..., place] += epsilon
    else:
        std += EPSILON
    return Standardised(centred.div_(std), mean, std)


def video_target(
    tubelets: Tensor,
    *,
    tubelet_frames: int,
    image_std: tuple[float, ...],
    frame_difference: bool,
) -> Tensor:
    """Targets of hidden tubelets (B, M, P), cut from normalised video.

    Each colour channel, in [0, 1], is standardised over the tubelet; with ``frame_difference``
    every frame after the first then gives way to its difference from the one before.

    Returns: (B, M, P) float32, P in order (frame, row, column, channel).
    Source: HiCMAE, section 3.4; reference facts, objective section.
    """
    # Standardising s·x + m with epsilon is standardising x with epsilon / s.
    epsilons = [EPSILON / std for std in image_std]
    pixels = rearrange(tubelets.float(), "b m (p c) -> b m p c", c=len(image_std))
    values = rearrange(
        standardise(pixels, dim=2, epsilons=epsilons).values,
        "b m (f p) c -> b m f (p c)",
        f=tubelet_frames,
    )
    if frame_difference:
        for frame in range(tubelet_frames - 1, 0, -1):  # each of these is a frame of all tubelets
            values[:, :, frame] -= values[:, :, frame - 1]
    return rearrange(values, "b m f q -> b m (f q)")


def audio_target(patches: Tensor) -> Tensor:
    """Targets of hidden filter-bank patches (B, M, P): standardised over each patch, float32."""
    return standardise(patches.float(), dim=2).values


def reconstruction(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over all elements of hidden tokens (B, M, P), 0-d float32.

    Source: HiCMAE, equation of the reconstruction loss; reference facts, objective section.
    """
    return F.mse_loss(prediction.float(), target.float())


def _of_present(
    prediction: Tensor, target: Tensor, present: Tensor, presence: Presence, which: int
) -> LossOutput:
    """The mean over the clips that are there, which the others meet exactly.

    ``which`` of the presence's counts is theirs. Of clips that may lack a modality, ``…_absent`` is
    the share of batches in which all did.
    """
    count = presence.counts[which]
    terms = {"absent": presence.absent[which]} if presence.is_mixed else {}
    if prediction.device.type == "cpu" and prediction.dtype == torch.bfloat16:
        errors = fused.squared_errors(prediction, target).masked_fill(~present, 0)
        return LossOutput(errors.sum() / count, terms)
    met = torch.where(present[:, None, None], prediction.float(), target)
    return LossOutput(reconstruction(met, target) * (len(present) / count), terms)


@LOSSES.register("video")
def _video_loss(given: LossInput, settings: NoSettings) -> LossOutput:
    there = given.presence.video
    return _of_present(given.video_prediction, given.video_target, there, given.presence, 0)


@LOSSES.register("audio")
def _audio_loss(given: LossInput, settings: NoSettings) -> LossOutput:
    there = given.presence.audio
    return _of_present(given.audio_prediction, given.audio_target, there, given.presence, 1)
