"""Random boxes and gains: what may come out, how often, and that each clip has its own."""

import numpy as np
import pytest
import torch
from scipy import stats

from hicmae.transforms import draws
from hicmae.transforms.draws import CROP_PLACES, gains, multi_scale_boxes, random_boxes

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
        draws.whole_boxes(2, height, width),
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
        lambda generator: draws.uniform(64, generator=generator),
    ):
        first = draw(_generator(6))
        assert len(torch.unique(first, dim=0)) > 30
        assert torch.equal(first, draw(_generator(6)))
        assert not torch.equal(first, draw(_generator(7)))
