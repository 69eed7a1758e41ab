"""From predictions of hidden tokens back to pixels and filter banks, without peeking.

A prediction is standardised per tubelet or patch: its mean and deviation were never asked for, so
they have to come from somewhere. By default they are interpolated from the visible tokens; with
``paper_style`` they are those of the hidden truth, which flatters the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from hicmae.encoder import fbank_patches, take_tokens, tubelets, unfbank_patches, untubelets
from hicmae.masks import Masks
from hicmae.objective.reconstruction import standardise
from hicmae.pretraining import HiCMAE

HIDDEN_GREY = 0.5


class Versions(NamedTuple):
    """The same of B clips three times."""

    original: Tensor
    masked: Tensor  # what is hidden stands out
    filled: Tensor  # what is hidden is predicted


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """A few clips as they were, as the network saw them, and as it filled them in.

    Of a network that was trained on one modality alone, there is nothing (None) of the other.
    """

    pictures: Versions | None  # (B, T, H, W, 3) each, in [0, 1]; hidden tubelets grey
    banks: Versions | None  # (B, S, F) each, normalised; hidden patches NaN
    paper_style: bool  # whether mean and deviation of the hidden truth were used


@torch.no_grad()
def reconstruct(
    model: HiCMAE,
    video: Tensor | None,
    fbank: Tensor | None,
    *,
    paper_style: bool = False,
    seed: int = 0,
) -> Reconstruction:
    """Hide part of some clips, let the network fill it in, and undo the standardisation.

    Args:
        video: Normalised frames (B, 3, T, H, W).
        fbank: Normalised filter banks (B, S, F).
        paper_style: Use mean and deviation of the hidden truth, as published figures do.
        seed: Of the masks, the same on every device.

    Returns: tensors on the CPU, float32.
    """
    clips = fbank if video is None else video
    assert clips is not None
    cells, patches = model.whole_masks(len(clips), torch.Generator().manual_seed(seed))
    seen, heard = (mask.to(clips.device) for mask in model.hidden((cells, patches)))
    given = model(video, fbank, video_mask=seen, fbank_mask=heard).given
    pictures = banks = None
    if video is not None and given.video_prediction is not None:
        pictures = _pictures(model, video.float().cpu(), given.video_prediction, cells, paper_style)
    if fbank is not None and given.audio_prediction is not None:
        banks = _banks(model, fbank.float().cpu(), given.audio_prediction, patches, paper_style)
    return Reconstruction(pictures=pictures, banks=banks, paper_style=paper_style)


def _pictures(
    model: HiCMAE, video: Tensor, prediction: Tensor, cells: Masks, paper_style: bool
) -> Versions:
    """Frames of normalised video (B, 3, T, H, W): as they were, masked, and filled in."""
    config, size = model.config, model.config.input
    mean, std = (torch.tensor(values)[:, None] for values in (size.image_mean, size.image_std))
    frames = video * std[..., None, None] + mean[..., None, None]
    # Each colour channel was standardised alone: (B, N, pixels, 3).
    tokens = rearrange(
        tubelets(frames, config.tubelet_frames, config.patch_size), "b n (q c) -> b n q c", c=3
    )
    values = rearrange(
        prediction.float().cpu(), "b m (f q c) -> b m f q c", f=config.tubelet_frames, c=3
    )
    if model.objective.frame_difference:
        values = values.cumsum(dim=2)  # first frame, then its differences added up
    predicted = _restore(
        rearrange(values, "b m f q c -> b m (f q) c"), tokens, cells, config.video_grid, paper_style
    )

    def assemble(hidden: Tensor) -> Tensor:
        filled = _put(tokens, cells.masked, hidden)
        return rearrange(
            untubelets(
                rearrange(filled, "b n q c -> b n (q c)"),
                config.video_grid,
                config.tubelet_frames,
                config.patch_size,
            ),
            "b c t h w -> b t h w c",
        ).clamp(0, 1)

    return Versions(
        rearrange(frames, "b c t h w -> b t h w c").clamp(0, 1),
        assemble(torch.full_like(predicted, HIDDEN_GREY)),
        assemble(predicted),
    )


def _banks(
    model: HiCMAE, fbank: Tensor, prediction: Tensor, patches: Masks, paper_style: bool
) -> Versions:
    """Filter banks (B, S, F): as they were, masked, and filled in."""
    config = model.config
    banks = fbank_patches(fbank, config.patch_size)[..., None]  # (B, N, P, 1)
    sounded = _restore(
        prediction.float().cpu()[..., None], banks, patches, config.audio_grid, paper_style
    )

    def assemble(hidden: Tensor) -> Tensor:
        filled = _put(banks, patches.masked, hidden)[..., 0]
        return unfbank_patches(filled, config.audio_grid, config.patch_size)

    return Versions(fbank, assemble(torch.full_like(sounded, torch.nan)), assemble(sounded))


def visible_statistics(statistics: Tensor, masks: Masks, grid: tuple[int, ...]) -> Tensor:
    """Guess what the hidden tokens' statistics are from those of the visible ones.

    Args:
        statistics: (B, N, C) of all tokens; those of hidden ones are not read.
        masks: Which tokens are visible.
        grid: Tokens along each axis.

    Returns: (B, M, C), averages weighted by distance on the grid to the minus fourth (Shepard's
        interpolation).
    """
    axes = torch.meshgrid(*(torch.arange(length) for length in grid), indexing="ij")
    places = torch.stack(axes, dim=-1).reshape(-1, len(grid)).float()  # (N, axes)
    weights = torch.cdist(places[masks.masked], places[masks.keep]) ** -4.0  # (B, M, K)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights @ take_tokens(statistics, masks.keep)


def _restore(
    values: Tensor, tokens: Tensor, masks: Masks, grid: tuple[int, ...], paper_style: bool
) -> Tensor:
    """Give standardised values (B, M, Q, C) of hidden tokens a mean and a deviation."""
    _, mean, std = standardise(tokens, dim=2)
    mean, std = mean[:, :, 0], std[:, :, 0]  # (B, N, C)
    if paper_style:
        mean, std = take_tokens(mean, masks.masked), take_tokens(std, masks.masked)
    else:
        mean, std = visible_statistics(mean, masks, grid), visible_statistics(std, masks, grid)
    return values * std[:, :, None] + mean[:, :, None]


def _put(tokens: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """A copy of tokens (B, N, …) with values (B, M, …) at index (B, M)."""
    where = index.reshape(*index.shape, *(1,) * (tokens.ndim - 2)).expand_as(values)
    return tokens.scatter(1, where, values)
