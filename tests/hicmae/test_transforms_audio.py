"""Gain and roll of batched waveforms."""

import numpy as np
import pytest
import torch

from hicmae.transforms.audio import apply_gain, float_waveform, roll


def test_sixteen_bit_samples_become_fractions() -> None:
    pcm = torch.tensor([[-32768, 0, 16384]], dtype=torch.int16)
    assert float_waveform(pcm).tolist() == [[-1.0, 0.0, 0.5]]
    assert float_waveform(torch.tensor([[0.25]], dtype=torch.float64)).dtype == torch.float32


def test_waveforms_of_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match=r"torch\.int32"):
        float_waveform(torch.zeros(1, 5, dtype=torch.int32))


def test_gain_belongs_to_the_clip() -> None:
    found = apply_gain(torch.ones(2, 3), torch.tensor([0.5, 1.5]))
    assert found.tolist() == [[0.5] * 3, [1.5] * 3]


def test_roll_shifts_the_sound_and_leaves_the_padding() -> None:
    rng = np.random.default_rng(0)
    num_samples = [10, 7, 1, 0, 10, 10]
    shift = [3, -2, 5, 4, 0, -23]
    wave = np.zeros((6, 10), dtype=np.float32)
    expected = wave.copy()
    for i, (length, by) in enumerate(zip(num_samples, shift, strict=True)):
        wave[i, :length] = rng.normal(size=length)
        expected[i, :length] = np.roll(wave[i, :length], by)
    found = roll(torch.as_tensor(wave), torch.tensor(num_samples), torch.tensor(shift))
    assert np.array_equal(found.numpy(), expected)
    assert not np.array_equal(found.numpy()[0], wave[0])
