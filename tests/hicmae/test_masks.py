"""Masks hide what they should, evenly, and the same cells over time."""

from __future__ import annotations

import pytest
import torch

from hicmae.masks import (
    Masks,
    hidden_from_masks,
    masks_from_hidden,
    num_hidden,
    num_shared,
    random_masks,
    random_share,
    running_cells,
    tube_masks,
)


def test_tube_masks_hide_the_same_cells_in_every_row() -> None:
    masks = tube_masks(5, (4, 3, 3), 0.7, generator=torch.Generator().manual_seed(0))
    hidden = torch.zeros(5, 36, dtype=torch.bool).scatter(1, masks.masked, True)
    rows = hidden.view(5, 4, 9)
    assert (rows == rows[:, :1]).all()
    assert (rows[:, 0].sum(dim=1) == 6).all()
    assert not torch.equal(rows[0, 0], rows[1, 0]) or not torch.equal(rows[0, 0], rows[2, 0])


@pytest.mark.parametrize("kind", ["tube", "random"])
def test_keep_and_masked_ascend_and_together_are_all_tokens(kind: str) -> None:
    masks = tube_masks(3, (2, 4, 5), 0.9) if kind == "tube" else random_masks(3, 40, 0.9)
    assert masks.keep.shape == (3, 4)
    assert masks.masked.shape == (3, 36)
    for part in masks:
        assert part.dtype == torch.int64
        assert (part.diff(dim=1) > 0).all()
    together = torch.cat(masks, dim=1).sort(dim=1).values
    assert torch.equal(together, torch.arange(40).expand(3, -1))


def test_every_token_is_hidden_equally_often() -> None:
    masks = random_masks(4000, 10, 0.8, generator=torch.Generator().manual_seed(1))
    share = torch.bincount(masks.masked.flatten(), minlength=10) / 4000
    assert (share - 0.8).abs().max() < 0.03  # 4.7 standard deviations


def test_published_mask_counts() -> None:
    assert num_hidden(100, 0.9) == 90
    assert num_hidden(128, 0.8) == 102
    assert num_hidden(10, 0.1) == 1  # the fewest
    assert num_hidden(100, 0.899) == num_shared(100, 0.899) == 89  # rounded down
    assert num_hidden(100, 0.29) == num_shared(100, 0.29) == 29  # 28.999… in floating point


@pytest.mark.parametrize(("tokens", "ratio"), [(10, 0.05), (10, 0.0), (10, 1.0), (1, 0.5)])
def test_a_ratio_that_hides_nothing_or_all_is_refused(tokens: int, ratio: float) -> None:
    with pytest.raises(ValueError, match="mask ratio"):
        num_hidden(tokens, ratio)


def test_a_boolean_mask_becomes_ascending_indices() -> None:
    hidden = torch.tensor([[True, False, True], [False, True, True]])
    masks = masks_from_hidden(hidden)
    assert masks.keep.tolist() == [[1], [0]]
    assert torch.equal(hidden_from_masks(masks, 3), hidden)
    assert masks.masked.tolist() == [[0, 2], [1, 2]]
    with pytest.raises(ValueError, match="equally many"):
        masks_from_hidden(torch.tensor([[True, False], [True, True]]))


@pytest.mark.parametrize(("share", "count"), [(0.5, 3), (0.34, 2), (0.01, 1), (1.0, 7)])
def test_running_cells_decode_every_cell_equally_often_over_the_rows(
    share: float, count: int
) -> None:
    tubes = tube_masks(6, (7, 2, 5), 0.7, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    decoded = running_cells(tubes, 7, share)
    assert torch.equal(decoded.keep, tubes.keep)
    assert decoded.masked.shape == (6, 7 * count)
    assert (decoded.masked.diff(dim=1) > 0).all()
    for clip, hidden in zip(decoded.masked, tubes.masked, strict=True):
        assert set(clip.tolist()) <= set(hidden.tolist())
        assert (torch.bincount(clip // 10) == count).all()  # so many in every row
        cells = hidden[hidden < 10]
        times = torch.bincount(clip % 10, minlength=10)[cells]
        assert times.max() - times.min() <= 1


def test_running_cells_differ_between_neighbouring_rows_and_between_clips() -> None:
    one = tube_masks(1, (8, 10, 10), 0.9)
    tubes = Masks(*(part.expand(40, -1) for part in one))  # so that the draws alone differ
    rows = running_cells(tubes, 8, 0.5).masked.view(40, 8, 45) % 100
    for earlier, later in zip(rows[0], rows[0][1:], strict=False):
        assert not set(earlier.tolist()) & set(later.tolist())  # half of them, then the other half
    orders = {tuple(clip[0].tolist()) for clip in rows}
    assert len(orders) == 40


def test_a_random_share_is_some_of_the_hidden_and_every_one_equally_often() -> None:
    masks = random_masks(3000, 10, 0.6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    share = random_share(masks, 0.5)
    assert share.masked.shape == (3000, 3)
    assert (share.masked.diff(dim=1) > 0).all()
    hidden = torch.zeros(3000, 10, dtype=torch.bool).scatter(1, masks.masked, True)
    assert hidden.gather(1, share.masked).all()
    often = torch.bincount(share.masked.flatten(), minlength=10) / 3000
    assert (often - 0.3).abs().max() < 0.04  # 4.8 standard deviations
