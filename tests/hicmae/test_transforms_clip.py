"""The transform of a whole batch: recipes, modes, randomness."""

import dataclasses
from typing import Any

import pytest
import torch
from scipy import stats

from hicmae.settings import AugmentConfig, InputConfig
from hicmae.transforms import ClipTransform, FilterBank
from hicmae.transforms.augmentation import CROP_PLACES
from hicmae.transforms.video import resize_video, standardise_colours_
from tests.hicmae.test_transforms_audio import assert_same_energies

INPUT = InputConfig(image_size=32, num_frames=4, fbank_frames=64, mel_bins=32)
EVERYTHING = dataclasses.replace(
    AugmentConfig.finetuning(),
    gain=True,
    roll_seconds=0.2,
    erase=1.0,
    time_masks=1,
    frequency_masks=1,
)


def _batch(batch: int, *, same: bool = False, size: int = 32) -> dict[str, Any]:
    """A batch as readers make it; ``same`` repeats one clip of one frame."""
    generator = torch.Generator().manual_seed(0)
    count, length = (1, 1) if same else (batch, 4)
    frames = torch.randint(
        0, 256, (count, length, size, size, 3), generator=generator, dtype=torch.uint8
    )
    wave = torch.randint(-9000, 9000, (count, 12000), generator=generator, dtype=torch.int16)
    return {
        "frames": frames.expand(batch, 4, -1, -1, -1).contiguous(),
        "waveform": wave.expand(batch, -1).contiguous(),
        "num_samples": torch.full((batch,), 12000),
        "keys": [f"clip-{i}" for i in range(batch)],
    }


def _transformed(
    transform: ClipTransform, batch: dict[str, Any], seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    video, fbank = transform(batch, torch.Generator().manual_seed(seed))
    assert video is not None
    assert fbank is not None
    return video, fbank


def test_evaluation_draws_nothing_and_only_normalises() -> None:
    transform = ClipTransform(INPUT, EVERYTHING).eval()
    batch = _batch(3, size=40)
    state = torch.get_rng_state()
    video, fbank = transform(batch)
    assert torch.equal(torch.get_rng_state(), state)
    resized = resize_video(batch["frames"], INPUT.image_size)
    assert torch.equal(video, standardise_colours_(resized, INPUT))
    assert torch.equal(fbank, FilterBank(INPUT)(batch["waveform"], batch["num_samples"]))
    again, fbank_again = transform(batch)
    assert torch.equal(video, again)
    assert torch.equal(fbank, fbank_again)


def test_training_without_augmentation_is_evaluation() -> None:
    batch = _batch(2)
    plain = ClipTransform(INPUT)
    trained = _transformed(plain.train(), batch)
    evaluated = _transformed(plain.eval(), batch)
    assert torch.equal(trained[0], evaluated[0])
    assert torch.equal(trained[1], evaluated[1])


@pytest.mark.parametrize(
    "augment", [AugmentConfig.pretraining(), AugmentConfig.finetuning(), EVERYTHING]
)
@pytest.mark.parametrize("size", [32, 40])
def test_all_frames_of_a_clip_share_one_draw_and_clips_have_their_own(
    augment: AugmentConfig, size: int
) -> None:
    transform = ClipTransform(INPUT, augment).train()
    video, fbank = _transformed(transform, _batch(16, same=True, size=size))
    assert video.shape == (16, 3, 4, 32, 32)
    assert fbank.shape == (16, 64, 32)
    assert torch.allclose(video, video[:, :, :1].expand_as(video), atol=1e-6)
    assert len(torch.unique(video, dim=0)) > 12
    if augment.gain:
        assert len(torch.unique(fbank, dim=0)) == 16


def test_draws_repeat_for_a_seed_and_change_with_it() -> None:
    transform = ClipTransform(INPUT, EVERYTHING).train()
    batch = _batch(4)
    first, second, other = (_transformed(transform, batch, seed) for seed in (1, 1, 2))
    for k in (0, 1):
        assert torch.equal(first[k], second[k])
        assert not torch.equal(first[k], other[k])
    torch.manual_seed(5)
    first_global = transform(batch)
    torch.manual_seed(5)
    second_global = transform(batch)
    assert torch.equal(first_global[0], second_global[0])
    assert torch.equal(first_global[1], second_global[1])


def test_a_batch_is_not_changed() -> None:
    batch = _batch(2)
    kept = {name: value.clone() for name, value in batch.items() if name != "keys"}
    _transformed(ClipTransform(INPUT, EVERYTHING).train(), batch)
    for name, value in kept.items():
        assert torch.equal(batch[name], value)


def test_pretraining_never_flips_and_fine_tuning_flips_half_of_the_clips() -> None:
    # Brightness rises to the right, so the sign of its slope tells a flip.
    ramp = torch.linspace(0, 255, 32).to(torch.uint8)
    frames = ramp[None, None, None, :, None].expand(2000, 4, 32, 32, 3)

    def flipped(augment: AugmentConfig) -> int:
        video, fbank = ClipTransform(INPUT, augment).train()(
            {"frames": frames}, torch.Generator().manual_seed(0)
        )
        assert fbank is None
        return int((video[..., -1].mean((1, 2, 3)) < video[..., 0].mean((1, 2, 3))).sum())

    assert flipped(AugmentConfig.pretraining()) == 0
    count = flipped(dataclasses.replace(AugmentConfig.finetuning(), erase=0.0, rand_operations=0))
    assert stats.binomtest(count, 2000, 0.5).pvalue > 1e-4
    assert flipped(AugmentConfig(flip=1.0)) == 2000


def test_pretraining_cuts_the_published_crops_out_of_the_frame() -> None:
    # Red tells the column of a pixel and green its row, so the corners tell the crop.
    size = 160
    place = torch.arange(size, dtype=torch.uint8)
    frame = torch.stack([place.expand(size, size), place[:, None].expand(size, size)], dim=-1)
    frame = torch.cat([frame, torch.zeros(size, size, 1, dtype=torch.uint8)], dim=-1)
    input = dataclasses.replace(INPUT, image_size=size, num_frames=1)
    video, _ = ClipTransform(input, AugmentConfig.pretraining()).train()(
        {"frames": frame.expand(60, 1, size, size, 3)}, torch.Generator().manual_seed(0)
    )
    assert video is not None
    mean, std = torch.tensor(input.image_mean), torch.tensor(input.image_std)
    levels = (video[:, :, 0].permute(0, 2, 3, 1) * std + mean) * 255  # (B, H, W, 3)
    # A line through two inner columns (rows), continued to the edges of the picture.
    column, row = levels[:, 80, :, 0], levels[:, :, 80, 1]
    found = []
    for line in (column, row):
        slope = (line[:, 120] - line[:, 40]) / 80
        start = line[:, 40] + 0.5 - 40.5 * slope
        found.append(torch.stack([start, slope * size], dim=-1))
    (x0, width), (y0, height) = (values.round().int().unbind(-1) for values in found)
    sides = [160, 140, 120, 105]
    assert len(set(width.tolist())) == 4
    for x, y, w, h in zip(*(v.tolist() for v in (x0, y0, width, height)), strict=True):
        assert abs(sides.index(w) - sides.index(h)) <= 1
        step_x, step_y = (size - w) // 4, (size - h) // 4
        quarters = (x // step_x if step_x else 0, y // step_y if step_y else 0)
        assert (x, y) == (quarters[0] * step_x, quarters[1] * step_y)
        if step_x and step_y:
            assert quarters in CROP_PLACES


def test_fine_tuning_erases_a_quarter_of_the_clips() -> None:
    frames = torch.full((2000, 4, 32, 32, 3), 128, dtype=torch.uint8)
    augment = dataclasses.replace(AugmentConfig.finetuning(), rand_operations=0)
    video, _ = ClipTransform(INPUT, augment).train()(
        {"frames": frames}, torch.Generator().manual_seed(0)
    )
    flat = standardise_colours_(resize_video(frames[:1], INPUT.image_size), INPUT)
    touched = (video - flat).abs().amax(dim=(1, 2)) > 1e-3  # (B, H, W)
    share = touched.float().mean((1, 2))
    assert stats.binomtest(int((share > 0).sum()), 2000, 0.25).pvalue > 1e-4
    erased = share[share > 0]
    assert erased.max() < 0.4
    # Mean of uniform areas between 0.02 and 1/3, less what extreme shapes lose at the border.
    assert 0.14 < erased.mean() < 0.19


def test_gain_is_heard_as_a_shift_of_the_logarithm() -> None:
    batch = _batch(64, same=True)
    batch["num_samples"] = torch.full((64,), 5000)  # 29 of 64 frames
    transform = ClipTransform(INPUT, AugmentConfig.pretraining())
    plain = _transformed(transform.eval(), batch)[1]
    changed = _transformed(transform.train(), batch)[1]
    assert torch.equal(changed[:, 29:], plain[:, 29:])
    # Power goes with the square of the gain, and the filter bank is divided by 2·std.
    gain = ((changed - plain)[:, :29] * INPUT.fbank_std).exp()  # (B, 29, F)
    assert (gain - gain.mean((1, 2), keepdim=True)).abs().max() < 1e-3
    assert gain.min() >= 0.5
    assert gain.max() <= 1.5
    # Beta(10, 10) has the standard deviation sqrt(1 / 84) = 0.109.
    assert 0.07 < gain.mean((1, 2)).std() < 0.15


def test_masks_of_time_and_of_bins_have_lengths_of_their_own() -> None:
    masks = {"time_masks": 1, "time_mask_seconds": 0.05}
    masks |= {"frequency_masks": 1, "frequency_mask_bins": 12}
    transform = ClipTransform(INPUT, AugmentConfig(**masks)).train()
    hidden = _transformed(transform, _batch(200, same=True))[1] == 0
    assert hidden.all(dim=2).sum(dim=1).max() == 5
    assert hidden.all(dim=1).sum(dim=1).max() == 12


def test_roll_goes_as_far_one_way_as_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    shifts: list[int] = []

    def seen(sound: torch.Tensor, num_samples: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        shifts.extend(shift.tolist())
        return sound

    monkeypatch.setattr("hicmae.transforms.audio.roll", seen)
    transform = ClipTransform(INPUT, AugmentConfig(roll_seconds=2 / INPUT.sample_rate)).train()
    _transformed(transform, _batch(200, same=True))
    assert set(shifts) == {-2, -1, 0, 1, 2}


def test_roll_moves_the_sound_in_time() -> None:
    wave = torch.zeros(200, 12000)
    wave[:, 6000] = 1.0
    batch = {"waveform": wave, "num_samples": torch.full((200,), 12000)}
    _, fbank = ClipTransform(INPUT, AugmentConfig(roll_seconds=0.2)).train()(
        batch, torch.Generator().manual_seed(0)
    )
    place = fbank.mean(-1).argmax(1)  # (B,) frame of the click, 10 ms each, centre near 36
    assert place.min() < 20
    assert place.max() > 52
    assert (place - 36).abs().max() <= 21


@pytest.mark.parametrize("missing", ["frames", "waveform"])
def test_a_modality_that_is_missing_comes_back_as_none(missing: str) -> None:
    batch = _batch(2)
    del batch[missing]
    video, fbank = ClipTransform(INPUT, EVERYTHING).train()(batch)
    assert (video is None) == (missing == "frames")
    assert (fbank is None) == (missing == "waveform")


def test_a_batch_with_a_silent_clip_is_transformed_without_nan() -> None:
    batch = _batch(3)
    batch["num_samples"] = torch.tensor([12000, 0, 100])
    transform = ClipTransform(
        INPUT, dataclasses.replace(EVERYTHING, time_masks=0, frequency_masks=0)
    ).train()
    _, fbank = _transformed(transform, batch)
    assert torch.isfinite(fbank).all()
    assert torch.equal(fbank[1], torch.full_like(fbank[1], transform.filter_bank.pad_value))


def test_batches_that_do_not_fit_are_refused() -> None:
    transform = ClipTransform(INPUT)
    batch = _batch(2)
    with pytest.raises(ValueError, match=r"3 a clip \(input.num_frames is 4\)"):
        transform({"frames": batch["frames"][:, :3]})
    with pytest.raises(ValueError, match="no num_samples"):
        transform({"waveform": batch["waveform"]})


def test_it_stays_in_float32_under_autocast() -> None:
    transform = ClipTransform(INPUT, EVERYTHING).train()
    batch = _batch(2, size=40)
    expected = _transformed(transform, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = _transformed(transform, batch)
    assert all(value.dtype == torch.float32 for value in found)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_checkpoints_carry_none_of_it() -> None:
    assert ClipTransform(INPUT, EVERYTHING).state_dict() == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_cuts_the_same_crops_as_the_processor() -> None:
    augment = dataclasses.replace(EVERYTHING, erase=0.0)  # its noise differs between devices
    transform = ClipTransform(INPUT, augment).train()
    batch = _batch(4, size=40)
    expected = _transformed(transform, batch)
    on_gpu = {name: value.cuda() for name, value in batch.items() if name != "keys"}
    found = _transformed(transform.cuda(), on_gpu)
    assert torch.allclose(found[0].cpu(), expected[0], atol=1e-3)
    for ours, theirs in zip(found[1].cpu(), expected[1], strict=True):
        assert_same_energies(ours, theirs, INPUT)
