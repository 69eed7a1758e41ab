"""What augmentation draws for a batch of clips, and RandAugment on the device.

Numbers are drawn on the device of the generator, by default the CPU's global one, and moved
afterwards: one seed gives the same crops on every device. A box is x0, y0, x1, y1 in pixels from
the frame's top left corner, edges and not centres: the whole frame of width W and height H is
(0, 0, W, H).

RandAugment is timm's ``rand-m7-n4-mstd0.5-inc1`` on uint8 batches: fifteen operations, of which
magnitudes grow with the level; a few random ones for each clip, the same for all of its frames.
Clips that drew the same operation go through it together. Colours are handled as Pillow does,
image by image and in whole levels.

Deviation: geometry is read bilinearly; the reference's code reads bicubically.

Shape letters: B batch, T frames, H W pixels, n operations of a clip.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from hicmae.devices import send

# Places of a multi-scale crop in quarters of the room that is left (across, down): the corners,
# the middles of the sides, the centre, and half-way from the centre to each corner.
# Source: the "more fixed crops" of temporal segment networks (arXiv 1608.00859).
CROP_PLACES = (
    *((x, y) for y in (0, 2, 4) for x in (0, 2, 4)),
    *((x, y) for y in (1, 3) for x in (1, 3)),
)

# What stands where a moved picture leaves nothing. Source: timm.
FILL = 128
# Chance that an operation that was drawn is carried out. Source: timm.
PROBABILITY = 0.5
# Levels end here.
LARGEST = 10.0

OPERATIONS = (
    "auto-contrast",
    "equalize",
    "invert",
    "rotate",
    "posterize",
    "solarize",
    "solarize-add",
    "colour",
    "contrast",
    "brightness",
    "sharpness",
    "shear-x",
    "shear-y",
    "translate-x",
    "translate-y",
)
_GEOMETRY = ("rotate", "shear-x", "shear-y", "translate-x", "translate-y")


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

    Returns: (B, N, 2) int64, first and one past the last.
    """
    draws = uniform(batch, number, 2, generator=generator)
    length = (draws[..., 0] * (min(largest, size) + 1)).long()
    start = (draws[..., 1] * (size - length + 1)).long()
    return torch.stack([start, start + length], dim=-1)


class Draws(NamedTuple):
    """What happens to each clip."""

    operation: Tensor  # (B, n) int64, place in ``OPERATIONS``; -1: nothing
    level: Tensor  # (B, n) float32 in 0..10; larger changes more
    sign: Tensor  # (B, n) float32, 1 or -1, for operations that have two directions


def draw_operations(
    batch: int,
    num_operations: int,
    magnitude: float,
    std: float,
    generator: torch.Generator | None = None,
) -> Draws:
    """Draw operations with replacement, each carried out with probability 1/2.

    Args:
        batch: B.
        num_operations: n.
        magnitude: Mean of the normally distributed level.
        std: Its standard deviation.

    Source: RandAugment (arXiv 1909.13719) in timm's variant with probability and deviation.
    """
    draws = uniform(batch, num_operations, 3, generator=generator)
    operation = (draws[..., 0] * len(OPERATIONS)).long()
    operation[draws[..., 1] >= PROBABILITY] = -1
    device = draws.device
    noise = torch.randn(batch, num_operations, generator=generator, device=device)
    level = (magnitude + std * noise).clamp(0, LARGEST)
    return Draws(operation, level, torch.where(draws[..., 2] < 0.5, -1.0, 1.0))


def rand_augment(frames: Tensor, draws: Draws) -> Tensor:
    """Carry out the operations of each clip one after another.

    Args:
        frames: (B, T, 3, H, W) uint8.
        draws: What happens to each clip, on any device.

    Returns: (B, T, 3, H, W) uint8; the input is not written to.
    """
    frames = frames.clone()
    for step in range(draws.operation.shape[1]):
        chosen = draws.operation[:, step].tolist()
        groups: dict[str, list[int]] = {}
        for clip, number in enumerate(chosen):
            if number >= 0:
                name = OPERATIONS[number]
                groups.setdefault("geometry" if name in _GEOMETRY else name, []).append(clip)
        for name, clips in groups.items():
            level, sign = draws.level[clips, step], draws.sign[clips, step]
            rows = send(torch.tensor(clips), frames.device)
            images = frames[rows]  # (b, T, 3, H, W)
            if name == "geometry":
                names = [OPERATIONS[chosen[clip]] for clip in clips]
                images = move(images, matrices(names, level, sign, *images.shape[-2:]))
            else:
                images = _COLOURS[name](images, level, sign)
            frames[rows] = images
    return frames


def matrices(names: list[str], level: Tensor, sign: Tensor, height: int, width: int) -> Tensor:
    """Where each pixel of the result is read, as affine maps of (x, y) in pixels, edges.

    Args:
        names: Of geometric operations, b of them.
        level: (b,) of each.
        sign: (b,) of each.

    Returns: (b, 2, 3) float32, on the CPU.
    Source: timm: up to 30 degrees about the centre, shear up to 0.3 from the top left corner,
        translation up to 0.45 of the side.
    """
    share = (sign * level / LARGEST).tolist()
    rows = []
    for name, value in zip(names, share, strict=True):
        angle = math.radians(30 * value)
        cos, sin = math.cos(angle), math.sin(angle)
        x, y = width / 2, height / 2
        rows.append(
            {
                # Turned counter-clockwise, as Pillow does.
                "rotate": [[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]],
                "shear-x": [[1, 0.3 * value, 0], [0, 1, 0]],
                "shear-y": [[1, 0, 0], [0.3 * value, 1, 0]],
                "translate-x": [[1, 0, 0.45 * value * width], [0, 1, 0]],
                "translate-y": [[1, 0, 0], [0, 1, 0.45 * value * height]],
            }[name]
        )
    return torch.tensor(rows, dtype=torch.float32)


def move(images: Tensor, maps: Tensor) -> Tensor:
    """Read images elsewhere, bilinearly; what lies outside of them is grey.

    Args:
        images: (b, T, 3, H, W) uint8.
        maps: (b, 2, 3), of the result's pixels (x, y, 1) to the image's, edges.

    Returns: (b, T, 3, H, W) uint8.
    """
    height, width = images.shape[-2:]
    device = images.device
    x = torch.arange(width, device=device, dtype=torch.float32) + 0.5
    y = torch.arange(height, device=device, dtype=torch.float32) + 0.5
    places = torch.stack(
        [x.expand(height, width), y[:, None].expand(height, width), torch.ones_like(x + y[:, None])]
    )  # (3, H, W)
    with torch.autocast(device.type, enabled=False):
        source = torch.einsum("bij,jhw->bhwi", send(maps, device), places)
        across, down = source.unbind(-1)  # (b, H, W) each
        inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
        moved = torch.nn.functional.grid_sample(
            rearrange(images, "b t c h w -> b (t c) h w").float(),
            torch.stack((across * (2 / width) - 1, down * (2 / height) - 1), dim=-1),
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )
    # A thousandth more, because what rounding took from a whole level must not cost the level.
    levels = torch.where(inside[:, None], moved + 1e-3, float(FILL)).to(torch.uint8)
    return rearrange(levels, "b (t c) h w -> b t c h w", c=images.shape[2])


@functools.cache
def _torchvision() -> Any:
    """Its operations on images, whose import takes two seconds that only this training waits."""
    from torchvision.transforms.v2 import functional

    return functional


def _blend(images: Tensor, plain: Tensor | float, level: Tensor, sign: Tensor) -> Tensor:
    """Move images away from their plain version, or towards it: factors 0.1 to 1.9."""
    factor = (1 + sign * 0.9 * level / LARGEST).clamp(min=0.1)
    factor = _each(factor, images)
    return (plain + (images.float() - plain) * factor).clamp(0, 255).to(torch.uint8)


def _each(values: Tensor, images: Tensor) -> Tensor:
    """One value a clip, (b,), on the device of the images and in their shape."""
    return send(values.view(-1, 1, 1, 1, 1), images.device)


def _posterize(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Keep 4 bits of each colour, or fewer, at least 1."""
    bits = (4 - (level / LARGEST * 4).int()).clamp(min=1)
    return images & _each(256 - 2 ** (8 - bits), images).to(torch.uint8)


def _solarize(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Invert what is as bright as a threshold, 256 at level 0 and 0 at level 10."""
    threshold = _each(256 - (level / LARGEST * 256).int(), images)
    return torch.where(images >= threshold, _torchvision().invert_image(images), images)


def _solarize_add(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Make the darker half brighter by up to 110 levels."""
    more = _each((level / LARGEST * 110).int(), images)
    return torch.where(images < 128, (images + more).clamp(max=255).to(torch.uint8), images)


def _colour(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Less or more colour."""
    return _blend(images, _torchvision().adjust_saturation_image(images, 0.0).float(), level, sign)


def _contrast(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Nearer to the image's mean grey, or further from it."""
    grey = _torchvision().rgb_to_grayscale_image(images).float()  # (b, T, 1, H, W)
    mean = (grey.mean(dim=(-2, -1), keepdim=True) + 0.5).floor()
    return _blend(images, mean, level, sign)


def _sharpness(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Softer or sharper than with each pixel inside a mean of its neighbours and five of itself.

    Torchvision's sends its filter to the device, which the host waits for.
    """
    values = images.flatten(0, 1).float()  # (b T, 3, H, W)
    kernel = torch.full((3, 1, 3, 3), 1 / 13, device=images.device)
    kernel[:, :, 1, 1].fill_(5 / 13)
    values[..., 1:-1, 1:-1] = torch.nn.functional.conv2d(values, kernel, groups=3).round()
    return _blend(images, values.view(images.shape), level, sign)


def _auto_contrast(images: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Spread each colour over all levels; torchvision's asks the device which are plain."""
    values = images.float()
    lowest, highest = (
        extreme(values, dim=(-2, -1), keepdim=True) for extreme in (torch.amin, torch.amax)
    )
    plain = lowest == highest
    scale = torch.where(plain, 1.0, (highest - lowest) * (1 / 255))
    spread = (values - torch.where(plain, 0.0, lowest)) / scale
    return spread.clamp(0, 255).to(torch.uint8)


# Operation on (b, T, 3, H, W) uint8 with (b,) levels and signs.
_COLOURS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "auto-contrast": _auto_contrast,
    "equalize": lambda images, level, sign: _torchvision().equalize_image(images),
    "invert": lambda images, level, sign: _torchvision().invert_image(images),
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize-add": _solarize_add,
    "colour": _colour,
    "contrast": _contrast,
    "brightness": lambda images, level, sign: _blend(images, 0.0, level, sign),
    "sharpness": _sharpness,
}
