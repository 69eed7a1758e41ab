"""Masks hide what they should, evenly, and the same cells over time."""

from __future__ import annotations

import pytest
import torch

from hicmae.masks import masks_from_hidden, num_hidden, random_masks, tube_masks


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
    assert num_hidden(100, 0.29) == 29  # 28.999… in floating point


@pytest.mark.parametrize(("tokens", "ratio"), [(10, 0.05), (10, 0.0), (10, 1.0), (1, 0.5)])
def test_a_ratio_that_hides_nothing_or_all_is_refused(tokens: int, ratio: float) -> None:
    with pytest.raises(ValueError, match="mask ratio"):
        num_hidden(tokens, ratio)


def test_a_boolean_mask_becomes_ascending_indices() -> None:
    hidden = torch.tensor([[True, False, True], [False, True, True]])
    masks = masks_from_hidden(hidden)
    assert masks.keep.tolist() == [[1], [0]]
    assert masks.masked.tolist() == [[0, 2], [1, 2]]
    with pytest.raises(ValueError, match="equally many"):
        masks_from_hidden(torch.tensor([[True, False], [True, True]]))
