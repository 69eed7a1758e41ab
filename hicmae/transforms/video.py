"""Frames on the device: size, crop, flip, erasing and normalisation, in batches.

From uint8 frames (B, T, H, W, 3) of faces to the network's video (B, 3, T, S, S), S the image size.

How a frame gets its size, in training and evaluation alike: the largest centred square of it (the
whole frame, if it is square) is resized to ``image_size``, bilinearly, and with a filter as wide
as the reduction when it shrinks, so that nothing aliases. Evaluation stops there. Crops of
training are then cut from that picture and enlarged to its size, so they never alias either.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from hicmae.devices import send
from hicmae.settings import InputConfig
from hicmae.views import CROPS


def resize_video(frames: Tensor, size: int) -> Tensor:
    """Centred square of every frame at the asked-for size.

    Args:
        frames: (B, T, H, W, 3) uint8, RGB.
        size: Side of the result, pixels.

    Returns: (B, 3, T, size, size) float32, 0 to 255.
    Raises: ValueError: frames of another type or shape.
    """
    if frames.dtype != torch.uint8 or frames.ndim != 5 or frames.shape[-1] != 3:
        raise ValueError(
            f"frames: shape {tuple(frames.shape)}, {frames.dtype} "
            "(must be (batch, frames, height, width, 3) uint8)"
        )
    batch, _, height, width, _ = frames.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = frames[:, :, top : top + side, left : left + side]
    video = rearrange(square, "b t h w c -> b c t h w").to(
        torch.float32, memory_format=torch.contiguous_format
    )
    if side == size:
        return video
    with torch.autocast(video.device.type, enabled=False):
        images = functional.interpolate(
            rearrange(video, "b c t h w -> b (c t) h w"),
            size=(size, size),
            mode="bilinear",
            antialias=True,
        )
    return rearrange(images, "b (c t) h w -> b c t h w", b=batch, c=3)


def crop_video(video: Tensor, boxes: Tensor, flip: Tensor) -> Tensor:
    """Cut one box out of all frames of a clip and enlarge it to the size of the frame.

    Args:
        video: (B, C, T, H, W) floating point.
        boxes: (B, 4) x0, y0, x1, y1 in pixels, edges; fractions are fine.
        flip: (B,) boolean, whether the crop is mirrored left to right.

    Returns: (B, C, T, H, W); bilinear between pixel centres, the border repeated.
    """
    height, width = video.shape[-2:]
    boxes = send(boxes.float(), video.device)
    flip = send(flip, video.device)
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)  # (B, 1) each
    left, right = torch.where(flip[:, None], x1, x0), torch.where(flip[:, None], x0, x1)
    across = left + (right - left) * _pixel_centres(width, video.device)  # (B, W) pixels
    down = y0 + (y1 - y0) * _pixel_centres(height, video.device)  # (B, H)
    grid = torch.stack(
        torch.broadcast_tensors(
            across[:, None, :] * (2 / width) - 1, down[:, :, None] * (2 / height) - 1
        ),
        dim=-1,
    )  # (B, H, W, 2) from -1 to 1, edge to edge
    with torch.autocast(video.device.type, enabled=False):
        # Frames ride as channels, so a clip's grid is made once and read once a pixel.
        images = functional.grid_sample(
            rearrange(video, "b c t h w -> b (c t) h w"),
            grid,
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )
    return rearrange(images, "b (c t) h w -> b c t h w", c=video.shape[1])


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


def standardise_colours_(video: Tensor, input: InputConfig) -> Tensor:
    """Colours 0 to 255 to (x / 255 - mean) / std, in place: (B, 3, T, H, W) floating point.

    In place because a fresh copy of the batch costs more than the arithmetic on a processor; colour
    by colour, because a tensor of their means would have to be sent to the device.
    """
    mean, std = torch.tensor(input.image_mean), torch.tensor(input.image_std)
    factors, less = (1 / (255 * std)).tolist(), (mean / std).tolist()
    for colour, channel in enumerate(video.unbind(1)):
        channel.mul_(factors[colour]).sub_(less[colour])
    return video


def erase_(video: Tensor, boxes: Tensor, chosen: Tensor, noise: Tensor) -> Tensor:
    """Replace one box in all frames of the chosen clips, in place.

    Args:
        video: (B, 3, T, H, W), normalised.
        boxes: (B, 4) x0, y0, x1, y1 in pixels, edges; a pixel goes if its centre is inside.
        chosen: (B,) boolean.
        noise: (B, 3, 1, H, W), what stands there instead, the same in every frame.

    Returns: (B, 3, T, H, W).
    Source: random erasing (arXiv 1708.04896), with noise for each pixel.
    """
    height, width = video.shape[-2:]
    boxes = send(boxes.float(), video.device)
    chosen = send(chosen, video.device)
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)  # (B, 1) each
    x = width * _pixel_centres(width, video.device)
    y = height * _pixel_centres(height, video.device)
    inside_x, inside_y = (x0 <= x) & (x < x1), (y0 <= y) & (y < y1)  # (B, W), (B, H)
    hidden = inside_y[:, :, None] & inside_x[:, None, :] & chosen[:, None, None]  # (B, H, W)
    hidden = hidden[:, None, None]  # (B, 1, 1, H, W)
    return video.mul_(~hidden).add_(noise * hidden)


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


def _pixel_centres(size: int, device: torch.device) -> Tensor:
    """Centres of a row of pixels as fractions of its length: (size,)."""
    return (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size
