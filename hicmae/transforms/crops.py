"""Test-time crops of clips, on the device.

For: every crop of a batch in one call, so that a clip is read once however often it is shown. Not
for: which crops there are (``hicmae/views.py``), nor the random ones of training (``draws.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hicmae.transforms.video import crop_video
from hicmae.views import CROPS


def crop_views(video: Tensor, crops: Sequence[str]) -> Tensor:
    """Show each clip in every crop, the crops of a clip one after another.

    Crops are cut from the picture at the network's size and enlarged to it, as in training; the
    order of cropping and colour normalisation does not matter, both being linear.

    Args:
        video: (B, 3, T, S, S), floating point.
        crops: C names out of ``hicmae.views.CROPS``.

    Returns: (B·C, 3, T, S, S).
    """
    if tuple(crops) == ("whole",):
        return video
    return torch.stack([_crop(video, name) for name in crops], dim=1).flatten(0, 1)


def _crop(video: Tensor, name: str) -> Tensor:
    """One crop of every clip: (B, 3, T, S, S) to the same."""
    crop = CROPS[name]
    if crop.side == 1:
        return video.flip(-1) if crop.mirrored else video
    size = video.shape[-1]
    edges = [crop.left, crop.top, crop.left + crop.side, crop.top + crop.side]
    box = torch.tensor(edges) * size
    flip = torch.tensor(crop.mirrored)
    return crop_video(video, box.expand(len(video), 4), flip.expand(len(video)))
