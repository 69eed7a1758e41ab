"""The batched filter bank, against torchaudio's Kaldi one."""

import math

import pytest
import torch
from torchaudio.compliance import kaldi

from hicmae.settings import InputConfig
from hicmae.transforms import FilterBank

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
        assert torch.allclose(found[: len(expected)], expected, atol=2e-4)
        assert torch.allclose(found[len(expected) :], torch.tensor(pad_value), atol=1e-6)


def test_other_sizes_and_sample_rates_agree_with_kaldi() -> None:
    input = InputConfig(fbank_frames=32, mel_bins=32, sample_rate=8000)
    wave = _sound(6000)
    found = FilterBank(input)(wave[None], torch.tensor([6000]))[0]
    assert torch.allclose(found, _kaldi(wave, input)[:32], atol=2e-4)


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


def test_it_stays_in_float32_under_autocast() -> None:
    wave, num_samples = _batch([_sound(12000)])
    bank = FilterBank(INPUT)
    expected = bank(wave, num_samples)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = bank(wave, num_samples)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_checkpoints_carry_none_of_it() -> None:
    assert FilterBank(INPUT).state_dict() == {}


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
    bank = FilterBank(INPUT)
    expected = bank(wave, num_samples)
    found = bank.cuda()(wave.cuda(), num_samples.cuda()).cpu()
    assert torch.allclose(found, expected, atol=2e-4)
