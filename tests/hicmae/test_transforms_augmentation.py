"""Random boxes and gains: what may come out, how often, and that each clip has its own; RandAugment
on the device, against timm's operations on Pillow images.
"""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from timm.data import auto_augment
from torch import Tensor

from hicmae.transforms import augmentation
from hicmae.transforms.augmentation import (
    CROP_PLACES,
    OPERATIONS,
    Draws,
    draw_operations,
    gains,
    multi_scale_boxes,
    rand_augment,
    random_boxes,
)

SCALES = (1.0, 0.875, 0.75, 0.66)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _sizes(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]


def test_multi_scale_crops_pair_equal_or_neighbouring_sides_equally_often() -> None:
    boxes = multi_scale_boxes(20000, 160, 160, SCALES, _generator())
    sides = [160, 140, 120, 105]
    widths, heights = _sizes(boxes)
    found: dict[tuple[int, int], int] = {}
    for pair in zip(widths.int().tolist(), heights.int().tolist(), strict=True):
        found[pair] = found.get(pair, 0) + 1
    allowed = {(a, b) for i, a in enumerate(sides) for j, b in enumerate(sides) if abs(i - j) < 2}
    assert set(found) == allowed
    assert stats.chisquare(list(found.values())).pvalue > 1e-4


def test_multi_scale_crops_stand_at_thirteen_places_equally_often() -> None:
    assert len(set(CROP_PLACES)) == 13
    boxes = multi_scale_boxes(20000, 160, 160, SCALES, _generator(1))
    widths, heights = _sizes(boxes)
    small = (widths == 105) & (heights == 105)
    # (160 - 105) // 4 = 13 pixels a step.
    steps = boxes[small][:, :2] / 13
    assert torch.equal(steps, steps.round())
    places, counts = torch.unique(steps.int(), dim=0, return_counts=True)
    assert {tuple(place) for place in places.tolist()} == set(CROP_PLACES)
    assert {(0, 0), (4, 4), (2, 2), (1, 3), (0, 2)} <= set(CROP_PLACES)
    assert (1, 2) not in CROP_PLACES
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4


@pytest.mark.parametrize(("height", "width"), [(160, 160), (96, 128)])
def test_every_box_lies_inside_the_frame(height: int, width: int) -> None:
    for boxes in (
        multi_scale_boxes(500, height, width, SCALES, _generator(2)),
        random_boxes(500, height, width, (0.08, 1.0), (0.2, 5.0), _generator(3)),
        augmentation.whole_boxes(2, height, width),
    ):
        assert boxes[:, :2].min() >= 0
        assert boxes[:, 2].max() <= width + 1e-3
        assert boxes[:, 3].max() <= height + 1e-3
        assert min(side.min() for side in _sizes(boxes)) > 1


def test_random_boxes_have_the_area_and_shape_asked_for() -> None:
    boxes = random_boxes(5000, 100, 100, (0.2, 0.5), (0.5, 2.0), _generator(4))
    widths, heights = _sizes(boxes)
    # No side can reach the frame here (at most sqrt(0.5 * 2) of it), so nothing is cut.
    share, aspect = widths * heights / 1e4, widths / heights
    assert stats.kstest(share.numpy(), stats.uniform(0.2, 0.3).cdf).pvalue > 1e-4
    log_aspect = np.log(aspect.numpy())
    assert stats.kstest(log_aspect, stats.uniform(-np.log(2), 2 * np.log(2)).cdf).pvalue > 1e-4
    place = boxes[:, 0] / (100 - widths)
    assert stats.kstest(place.numpy(), "uniform").pvalue > 1e-4


@pytest.mark.parametrize("concentration", [1, 10])
def test_gains_follow_a_shifted_beta_distribution(concentration: int) -> None:
    values = gains(20000, concentration, _generator(5)).numpy() - 0.5
    assert stats.kstest(values, stats.beta(concentration, concentration).cdf).pvalue > 1e-4


def test_draws_differ_between_clips_and_repeat_for_a_seed() -> None:
    for draw in (
        lambda generator: multi_scale_boxes(64, 160, 160, SCALES, generator),
        lambda generator: random_boxes(64, 160, 160, (0.5, 1.0), (0.75, 1.3), generator),
        lambda generator: gains(64, 10, generator),
        lambda generator: augmentation.uniform(64, generator=generator),
    ):
        first = draw(_generator(6))
        assert len(torch.unique(first, dim=0)) > 30
        assert torch.equal(first, draw(_generator(6)))
        assert not torch.equal(first, draw(_generator(7)))


# Our operation -> timm's name of it.
TIMM = dict(zip(OPERATIONS, auto_augment._RAND_INCREASING_TRANSFORMS, strict=True))
# Largest difference in levels: how Pillow rounds the stretch is not how torchvision does; mean of
# the grey image may round to the other side.
TOLERANCE = {"auto-contrast": 1, "contrast": 1, "sharpness": 1, "colour": 1, "brightness": 1}


def clips(batch: int = 2, frames: int = 2, size: int = 40) -> Tensor:
    """Smooth pictures with noise, uint8 (B, T, 3, H, W), not the whole range of levels."""
    generator = torch.Generator().manual_seed(3)
    waves = torch.rand(batch, frames, 3, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(
        waves.flatten(0, 1), size=(size, size), mode="bilinear", align_corners=True
    ).view(batch, frames, 3, size, size)
    noise = torch.rand(smooth.shape, generator=generator)
    return (20 + 170 * smooth + 30 * noise).to(torch.uint8)


def by_timm(frames: Tensor, name: str, level: float, sign: float) -> Tensor:
    """One operation on every frame of a clip (T, 3, H, W) as timm does it."""
    arguments = auto_augment.LEVEL_TO_ARG[TIMM[name]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auto_augment, "_randomly_negate", lambda value: sign * value)
        given = arguments(level, {"translate_pct": 0.45}) if arguments else ()
    operation = auto_augment.NAME_TO_OP[TIMM[name]]
    images = []
    for frame in frames:
        picture = Image.fromarray(frame.permute(1, 2, 0).numpy())
        changed = operation(
            picture, *given, fillcolor=(128, 128, 128), resample=Image.Resampling.BILINEAR
        )
        images.append(torch.from_numpy(np.array(changed)).permute(2, 0, 1))
    return torch.stack(images)


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_timms_in_both_directions_and_at_several_levels(name: str) -> None:
    frames = clips()
    for level in (1.3, 6.6, 7.4, 9.9):
        draws = Draws(
            torch.full((2, 1), OPERATIONS.index(name)),
            torch.full((2, 1), level),
            torch.tensor([[1.0], [-1.0]]),
        )
        found = rand_augment(frames, draws)
        for clip, sign in enumerate((1.0, -1.0)):
            expected = by_timm(frames[clip], name, level, sign)
            gap = (found[clip].int() - expected.int()).abs()
            if name in ("rotate", "shear-x", "shear-y", "translate-x", "translate-y"):
                # Pillow rounds coordinates; a pixel on the border may fall to the other side.
                assert (gap > 1).float().mean() < 0.004, (name, level, sign)
            else:
                assert gap.max() <= TOLERANCE.get(name, 0), (name, level, sign)


def test_the_operations_of_a_clip_follow_one_another_and_other_clips_are_left_alone() -> None:
    frames = clips(batch=3)
    order = [OPERATIONS.index("posterize"), OPERATIONS.index("invert")]
    draws = Draws(
        torch.tensor([order, [-1, -1], order[::-1]]), torch.full((3, 2), 7.0), torch.ones(3, 2)
    )
    before = frames.clone()
    found = rand_augment(frames, draws)
    assert torch.equal(frames, before)
    assert torch.equal(found[1], frames[1])
    for clip, names in ((0, ("posterize", "invert")), (2, ("invert", "posterize"))):
        expected = frames[clip]
        for name in names:
            expected = by_timm(expected, name, 7.0, 1.0)
        assert torch.equal(found[clip], expected)
    assert not torch.equal(found[0][0], found[2][0])


def test_a_clip_has_its_own_draw_whoever_else_is_in_the_batch() -> None:
    frames = clips(batch=6)
    draws = draw_operations(6, 4, 7.0, 0.5, torch.Generator().manual_seed(1))
    together = rand_augment(frames, draws)
    for clip in range(6):
        own = Draws(*(values[clip : clip + 1] for values in draws))
        assert torch.equal(rand_augment(frames[clip : clip + 1], own)[0], together[clip])


def test_draws_have_timms_frequencies() -> None:
    operation, level, sign = draw_operations(5000, 4, 7.0, 0.5, torch.Generator().manual_seed(0))
    assert abs((operation < 0).float().mean() - 0.5) < 0.02
    counts = torch.bincount(operation[operation >= 0], minlength=15) / (operation >= 0).sum()
    assert (counts - 1 / 15).abs().max() < 0.01
    assert abs(level.mean() - 7) < 0.02
    assert abs(level.std() - 0.5) < 0.02
    assert abs(sign.mean()) < 0.03
    extreme = draw_operations(200, 4, 9.9, 3.0, torch.Generator().manual_seed(0)).level
    assert extreme.min() >= 0
    assert extreme.max() == 10


def test_one_seed_gives_one_draw() -> None:
    first, again, other = (
        draw_operations(8, 4, 7.0, 0.5, torch.Generator().manual_seed(s)) for s in (5, 5, 6)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.operation, other.operation)
