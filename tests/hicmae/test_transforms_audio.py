"""Sound: waveforms, the batched filter bank against torchaudio's Kaldi one, and its masks."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torchaudio.compliance import kaldi

from hicmae.settings import AugmentConfig, InputConfig
from hicmae.transforms import ClipTransform, FilterBank, augmentation
from hicmae.transforms.audio import apply_gain, float_waveform, hide_spans, roll

INPUT = InputConfig(fbank_frames=64)
NEEDED = 63 * 160 + 400  # samples that fill 64 frames exactly


def _sound(num_samples: int, seed: int = 0) -> torch.Tensor:
    """Chirp with noise and an offset, so that every step of the filter bank matters: (n,)."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(num_samples) / 16000
    chirp = torch.sin(2 * math.pi * (100 + 900 * time * (1 + seed)) * time)
    return 0.3 * chirp + 0.05 * torch.randn(num_samples, generator=generator) + 0.1


def _kaldi(wave: torch.Tensor, input: InputConfig) -> torch.Tensor:
    """Independent reference, not padded: (frames, F)."""
    wave = wave - wave.mean()
    fbank = kaldi.fbank(
        wave[None],
        htk_compat=True,
        sample_frequency=input.sample_rate,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=input.mel_bins,
        dither=0.0,
        frame_shift=10,
    )
    return (fbank - input.fbank_mean) / (2 * input.fbank_std)


def assert_same_energies(found: torch.Tensor, expected: torch.Tensor, input: InputConfig) -> None:
    """Compare normalised filter banks (S, F) as what a Fourier transform is exact in.

    Its rounding is relative to the level of the window, and which way it rounds depends on the
    processor's instructions: an all but empty band may differ by any share of itself. So energies
    differ by 3e-5 of the loudest of their window at most, and where a band holds 1e-7 of that or
    more (19 of 20 do), its logarithm is the same to 2e-4.
    """
    ours, theirs = (
        (2 * input.fbank_std * fbank.double() + input.fbank_mean).exp()
        for fbank in (found, expected)
    )
    level = theirs.amax(dim=1, keepdim=True)
    assert ((ours - theirs).abs() / level).max() < 3e-5
    heard = theirs > 1e-7 * level
    torch.testing.assert_close(found[heard], expected[heard], atol=2e-4, rtol=0)


def _batch(waves: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    return padded, torch.tensor([len(wave) for wave in waves])


@pytest.mark.parametrize("pad", ["zeros", "silence"])
def test_it_agrees_with_kaldi_for_every_length_in_one_batch(pad: str) -> None:
    input = InputConfig(fbank_frames=64, pad=pad)  # type: ignore[arg-type]
    # One window, one sample less than two, two, a third short, exact, one frame long, very long.
    lengths = [400, 559, 560, 7000, NEEDED - 1, NEEDED, NEEDED + 160, 3 * NEEDED]
    waves = [_sound(length, seed) for seed, length in enumerate(lengths)]
    fbank = FilterBank(input)(*_batch(waves))
    assert fbank.shape == (len(waves), 64, 128)
    raw_pad = 0.0 if pad == "zeros" else math.log(torch.finfo(torch.float32).eps)
    pad_value = (raw_pad + 4.2677393) / (2 * 4.5689974)
    for found, wave in zip(fbank, waves, strict=True):
        expected = _kaldi(wave, input)[:64]
        assert_same_energies(found[: len(expected)], expected, input)
        assert torch.allclose(found[len(expected) :], torch.tensor(pad_value), atol=1e-6)


def test_other_sizes_and_sample_rates_agree_with_kaldi() -> None:
    input = InputConfig(fbank_frames=32, mel_bins=32, sample_rate=8000)
    wave = _sound(6000)
    found = FilterBank(input)(wave[None], torch.tensor([6000]))[0]
    assert_same_energies(found, _kaldi(wave, input)[:32], input)


def test_samples_beyond_the_valid_ones_are_never_heard() -> None:
    wave = torch.stack([_sound(9000), _sound(9000)])
    wave[1, 5000:] = 7.0
    num_samples = torch.tensor([5000, 5000])
    fbank = FilterBank(INPUT)(wave, num_samples)
    assert torch.equal(fbank[0], fbank[1])


@pytest.mark.parametrize("num_samples", [0, 1, 399])
def test_a_clip_with_less_sound_than_a_window_is_all_padding(num_samples: int) -> None:
    bank = FilterBank(INPUT)
    fbank = bank(_sound(9000)[None], torch.tensor([num_samples]))
    assert torch.equal(fbank, torch.full((1, 64, 128), bank.pad_value))
    assert bank(torch.zeros(1, 0), torch.tensor([0])).shape == (1, 64, 128)


def test_zero_padding_is_louder_than_silence_as_published() -> None:
    assert FilterBank(INPUT).pad_value == pytest.approx(0.467, abs=1e-3)
    quiet = FilterBank(InputConfig(pad="silence"))
    assert quiet.pad_value == pytest.approx(-1.2776, abs=1e-3)
    # Digital silence comes out at the same floor as padding with silence.
    silence = quiet(torch.zeros(1, 40960), torch.tensor([40960]))
    assert torch.allclose(silence, torch.tensor(quiet.pad_value), atol=1e-5)


def test_sixteen_bit_samples_and_fractions_give_the_same() -> None:
    pcm = (_sound(12000) * 20000).round().to(torch.int16)[None]
    num_samples = torch.tensor([12000])
    bank = FilterBank(INPUT)
    assert torch.equal(bank(pcm, num_samples), bank(pcm.float() / 32768, num_samples))


def test_the_number_of_frames_is_that_of_whole_windows() -> None:
    lengths = torch.tensor([0, 399, 400, 559, 560, 40960])
    assert FilterBank(INPUT).num_frames(lengths).tolist() == [0, 0, 1, 1, 2, 254]


@pytest.mark.parametrize(
    ("wave", "num_samples", "message"),
    [
        (torch.zeros(2, 500), torch.tensor([500]), "one number a clip"),
        (torch.zeros(2, 500, dtype=torch.int64), torch.tensor([1, 1]), "torch.int64"),
        (torch.zeros(2, 1, 500), torch.tensor([1, 1]), r"\(2, 1, 500\)"),
    ],
)
def test_waveforms_that_do_not_fit_are_refused(
    wave: torch.Tensor, num_samples: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        FilterBank(INPUT)(wave, num_samples)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_same_as_the_processor() -> None:
    wave, num_samples = _batch([_sound(length, length) for length in (5000, 12000)])
    expected = FilterBank(INPUT)(wave, num_samples)
    found = FilterBank(INPUT).cuda()(wave.cuda(), num_samples.cuda()).cpu()
    for ours, theirs, frames in zip(
        found, expected, FilterBank(INPUT).num_frames(num_samples), strict=True
    ):
        assert_same_energies(ours[:frames], theirs[:frames], INPUT)
        assert torch.equal(ours[frames:], theirs[frames:])


def test_sixteen_bit_samples_become_fractions() -> None:
    pcm = torch.tensor([[-32768, 0, 16384]], dtype=torch.int16)
    assert float_waveform(pcm).tolist() == [[-1.0, 0.0, 0.5]]
    assert float_waveform(torch.tensor([[0.25]], dtype=torch.float64)).dtype == torch.float32


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


MASKED_INPUT = InputConfig(fbank_frames=64, mel_bins=32, frame_stride=1, image_size=32)


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
    spans = augmentation.spans(2000, 2, 20, 7, torch.Generator().manual_seed(0))
    length = spans[..., 1] - spans[..., 0]
    assert spans.min() >= 0
    assert spans.max() == 20
    assert set(length.flatten().tolist()) == set(range(8))
    longer = augmentation.spans(200, 1, 5, 50, torch.Generator().manual_seed(0))
    assert longer.max() == 5


def test_training_clips_alone_are_masked_each_by_its_own_draw() -> None:
    augment = AugmentConfig(
        time_masks=2, time_mask_seconds=0.2, frequency_masks=1, frequency_mask_bins=8
    )
    transform = ClipTransform(MASKED_INPUT, augment)
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
    _, same = ClipTransform(MASKED_INPUT, without).train()(batch)
    assert torch.equal(same, plain)
