"""Cutting is undone by putting together, in the documented order."""

from __future__ import annotations

import torch

from hicmae.patches import fbank_patches, take_tokens, tubelets, unfbank_patches, untubelets


def test_tubelets_are_ordered_by_time_row_column_and_inside_by_frame_row_column_channel() -> None:
    video = torch.arange(2 * 3 * 4 * 8 * 12, dtype=torch.float32).view(2, 3, 4, 8, 12)
    cut = tubelets(video, 2, 4)
    assert cut.shape == (2, 2 * 2 * 3, 2 * 4 * 4 * 3)
    # token (1, 0, 2), value (frame 1, row 3, column 2, channel 1)
    assert cut[1, 1 * 6 + 0 * 3 + 2, ((1 * 4 + 3) * 4 + 2) * 3 + 1] == video[1, 1, 3, 3, 10]
    assert torch.equal(untubelets(cut, (2, 2, 3), 2, 4), video)


def test_fbank_patches_are_ordered_by_time_then_frequency() -> None:
    fbank = torch.arange(2 * 8 * 12, dtype=torch.float32).view(2, 8, 12)
    cut = fbank_patches(fbank, 4)
    assert cut.shape == (2, 6, 16)
    assert cut[0, 1 * 3 + 2, 2 * 4 + 1] == fbank[0, 6, 9]
    assert torch.equal(unfbank_patches(cut, (2, 3), 4), fbank)


def test_take_tokens_gathers_each_clips_own() -> None:
    tokens = torch.arange(12.0).view(2, 3, 2)
    taken = take_tokens(tokens, torch.tensor([[0, 2], [1, 2]]))
    assert taken.tolist() == [[[0, 1], [4, 5]], [[8, 9], [10, 11]]]
