"""Masks of time and frequency on the filter bank."""

from __future__ import annotations

import dataclasses

import torch

from hicmae.settings import InputConfig
from hicmae.transforms import AugmentConfig, ClipTransform, draws
from hicmae.transforms.spectral_masks import hide_spans

INPUT = InputConfig(fbank_frames=64, mel_bins=32, frame_stride=1, image_size=32)


def test_spans_become_the_mean_and_nothing_else_changes() -> None:
    fbank = torch.rand(2, 10, 6) + 1
    spans = torch.tensor([[[2, 4], [3, 5]], [[0, 0], [9, 10]]])
    hidden = hide_spans(fbank, spans, 1)
    assert (hidden[0, 2:5] == 0).all()
    assert (hidden[1, 9] == 0).all()
    assert torch.equal(hidden[0, 5:], fbank[0, 5:])
    assert torch.equal(hidden[1, :9], fbank[1, :9])
    bands = hide_spans(fbank, torch.tensor([[[1, 3]], [[6, 6]]]), 2)
    assert (bands[0, :, 1:3] == 0).all()
    assert torch.equal(bands[0, :, 3:], fbank[0, :, 3:])
    assert torch.equal(bands[1], fbank[1])


def test_spans_lie_on_the_axis_and_have_every_length_up_to_the_largest() -> None:
    spans = draws.spans(2000, 2, 20, 7, torch.Generator().manual_seed(0))
    length = spans[..., 1] - spans[..., 0]
    assert spans.min() >= 0
    assert spans.max() == 20
    assert set(length.flatten().tolist()) == set(range(8))
    longer = draws.spans(200, 1, 5, 50, torch.Generator().manual_seed(0))
    assert longer.max() == 5


def test_training_clips_alone_are_masked_each_by_its_own_draw() -> None:
    augment = AugmentConfig(
        time_masks=2, time_mask_seconds=0.2, frequency_masks=1, frequency_mask_bins=8
    )
    transform = ClipTransform(INPUT, augment)
    noise = torch.randn(8, 16000, generator=torch.Generator().manual_seed(1)) * 0.1
    batch = {"waveform": noise, "num_samples": torch.full((8,), 16000)}
    _, plain = transform.eval()(batch)
    _, masked = transform.train()(batch, torch.Generator().manual_seed(2))
    assert plain is not None
    assert masked is not None
    hidden = masked == 0
    assert torch.equal(masked[~hidden], plain[~hidden])
    rows, columns = hidden.all(dim=2), hidden.all(dim=1)  # (B, S), (B, F)
    assert torch.equal(hidden, rows[:, :, None] | columns[:, None, :])
    assert 0 < rows.sum(dim=1).float().mean() <= 40  # two masks of up to 20 hops
    assert columns.sum(dim=1).max() <= 8
    assert len({tuple(row.tolist()) for row in rows}) > 4
    without = dataclasses.replace(augment, time_masks=0, frequency_masks=0)
    _, same = ClipTransform(INPUT, without).train()(batch)
    assert torch.equal(same, plain)
