"""Random numbers, boxes and gains for a batch of clips: one draw a clip.

Everything random about augmentation, so that it can be tested without a picture. Numbers are
drawn on the device of the generator, by default the CPU's global one, and moved afterwards: one
seed gives the same crops on every device.

A box is x0, y0, x1, y1 in pixels from the frame's top left corner, edges and not centres: the
whole frame of width W and height H is (0, 0, W, H).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Places of a multi-scale crop in quarters of the room that is left (across, down): the corners,
# the middles of the sides, the centre, and half-way from the centre to each corner.
# Source: the "more fixed crops" of temporal segment networks (arXiv 1608.00859).
CROP_PLACES = (
    *((x, y) for y in (0, 2, 4) for x in (0, 2, 4)),
    *((x, y) for y in (1, 3) for x in (1, 3)),
)


def uniform(*shape: int, generator: torch.Generator | None = None) -> Tensor:
    """Uniform numbers in [0, 1), float32, on the generator's device (default: the CPU)."""
    device = generator.device if generator is not None else torch.device("cpu")
    return torch.rand(*shape, generator=generator, device=device)


def multi_scale_boxes(
    batch: int,
    height: int,
    width: int,
    scales: tuple[float, ...],
    generator: torch.Generator | None = None,
) -> Tensor:
    """Crops whose width and height are equal or neighbouring scales, at one of thirteen places.

    Sides are scale · min(height, width) and the steps between places are rounded down to whole
    pixels. Pairs of scales are equally likely, and so are the places.

    Returns: (B, 4) boxes, float32, whole numbers.
    Source: temporal segment networks (arXiv 1608.00859), as in HiCMAE's pretraining.
    """
    draws = uniform(batch, 2, generator=generator)
    sides = [int(min(height, width) * scale) for scale in scales]
    pairs = [
        (across, down)
        for i, across in enumerate(sides)
        for j, down in enumerate(sides)
        if abs(i - j) <= 1
    ]
    sizes = torch.tensor(pairs, device=draws.device)
    places = torch.tensor(CROP_PLACES, device=draws.device)
    size = sizes[(draws[:, 0] * len(sizes)).long()]  # (B, 2) width, height
    place = places[(draws[:, 1] * len(places)).long()]  # (B, 2)
    room = torch.tensor([width, height], device=draws.device) - size
    start = place * (room // 4)
    return torch.cat([start, start + size], dim=1).float()


def random_boxes(
    batch: int,
    height: int,
    width: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    generator: torch.Generator | None = None,
) -> Tensor:
    """Boxes of random area, shape and place inside the frame.

    The share of the area is uniform, width over height uniform in its logarithm, the place
    uniform. A side longer than the frame is cut to it (nothing is drawn again), so the area can
    come out below the smallest asked for when the shape is extreme.

    Returns: (B, 4) boxes, float32, with fractions of pixels.
    """
    draws = uniform(batch, 4, generator=generator)
    share = area[0] + (area[1] - area[0]) * draws[:, 0]
    low, high = math.log(aspect[0]), math.log(aspect[1])
    shape = torch.exp(low + (high - low) * draws[:, 1])
    frame = torch.tensor([width, height], dtype=torch.float32, device=draws.device)
    pixels = share * height * width
    size = torch.stack([(pixels * shape).sqrt(), (pixels / shape).sqrt()], dim=1)  # (B, 2)
    size = torch.minimum(size, frame)
    start = draws[:, 2:] * (frame - size)
    return torch.cat([start, start + size], dim=1)


def whole_boxes(batch: int, height: int, width: int) -> Tensor:
    """The whole frame for every clip: (B, 4), float32, on the CPU."""
    return torch.tensor([0.0, 0.0, width, height]).expand(batch, 4)


def gains(batch: int, concentration: int, generator: torch.Generator | None = None) -> Tensor:
    """Factors 0.5 + Beta(c, c), one a clip.

    The c-th smallest of 2c - 1 uniform numbers, their median, has exactly the distribution
    Beta(c, c); unlike a sampler of gamma variates it takes a generator.

    Returns: (B,) float32 in [0.5, 1.5).
    Source: HiCMAE's published code draws Beta(10, 10) + 0.5.
    """
    return 0.5 + uniform(batch, 2 * concentration - 1, generator=generator).median(dim=1).values


def spans(
    batch: int, number: int, size: int, largest: int, generator: torch.Generator | None = None
) -> Tensor:
    """Spans of an axis for each clip; length and place uniform, whole numbers.

    Args:
        batch: B.
        number: N, spans of each clip; they may overlap.
        size: Of the axis.
        largest: Longest span; a span as long as the axis leaves nothing.
        generator: Source of the draws.

    Returns: (B, N, 2) int64, first and one past the last.
    """
    draws = uniform(batch, number, 2, generator=generator)
    length = (draws[..., 0] * (min(largest, size) + 1)).long()
    start = (draws[..., 1] * (size - length + 1)).long()
    return torch.stack([start, start + length], dim=-1)
