"""The losses against NumPy, and global negatives on two processes against one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from hicmae.objective.contrast import ContrastSettings, contrasts, hierarchical_contrast
from hicmae.objective.losses import LossInput, Presence, all_rows, find_presence
from hicmae.objective.reconstruction import audio_target, reconstruction, video_target
from hicmae.pretraining import HiCMAE
from hicmae.processes import forking
from hicmae.settings import ModelConfig, ObjectiveConfig
from pretrain.health import spread
from tests.hicmae.test_encoder import clip

TEMPERATURE = 0.07


def numpy_contrast(video: np.ndarray, audio: np.ndarray) -> float:
    video = video / np.linalg.norm(video, axis=1, keepdims=True)
    audio = audio / np.linalg.norm(audio, axis=1, keepdims=True)
    logits = video @ audio.T / TEMPERATURE

    def cross_entropy(rows: np.ndarray) -> float:
        return float(np.mean(np.log(np.exp(rows).sum(axis=1)) - np.diag(rows)))

    return (cross_entropy(logits) + cross_entropy(logits.T)) / 2


def features() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(6, 5, generator=generator)
    return video, video + torch.randn(6, 5, generator=generator)


def test_contrast_is_the_symmetric_cross_entropy() -> None:
    video, audio = features()
    result, same, swapped = contrasts(
        [(video, audio), (video, video), (video, video.roll(1, 0))], temperature=TEMPERATURE
    )
    assert result.loss.item() == pytest.approx(numpy_contrast(video.numpy(), audio.numpy()))
    assert same.accuracy.item() == 1
    assert swapped.accuracy.item() == 0
    # Each video's nearest is its own sound; the second sound's nearest is the first video.
    corners = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.1]])
    for pair in (corners, corners[::-1]):
        assert contrasts([pair], temperature=TEMPERATURE)[0].accuracy.item() == 0.75


def test_contrast_has_all_the_digits_of_float32_also_where_a_network_computes_in_bfloat16() -> None:
    video, audio = (part.bfloat16() for part in features())
    with torch.autocast("cpu", torch.bfloat16):
        (half,) = contrasts([(video, audio)], temperature=TEMPERATURE)
    wanted = numpy_contrast(video.float().numpy(), audio.float().numpy())
    assert half.loss.item() == pytest.approx(wanted)


def test_clips_that_are_not_there_are_nobodys_negatives_and_have_no_gradient() -> None:
    video, audio = (part.requires_grad_() for part in features())
    there = torch.tensor([True, False, True, True, False, True])
    padded, none = (
        contrasts([(video, audio)], temperature=TEMPERATURE, presence=presence)[0]
        for presence in (find_presence(there, there), find_presence(there, ~there))
    )
    (alone,) = contrasts([(video[there], audio[there])], temperature=TEMPERATURE)
    torch.testing.assert_close(padded.loss, alone.loss)
    torch.testing.assert_close(padded.accuracy, alone.accuracy)
    wanted = torch.autograd.grad(alone.loss, (video, audio))
    found = torch.autograd.grad(padded.loss, (video, audio))
    torch.testing.assert_close(found, wanted)
    assert none.loss == none.accuracy == 0
    assert not any(part.any() for part in torch.autograd.grad(none.loss, (video, audio)))


def test_of_accumulated_batches_each_contrasted_clip_weighs_alike() -> None:
    video, audio = features()
    there = torch.tensor([[True, True, True], [True, False, True], [False, False, True]])
    step = there[:, None].expand(-1, 2, -1)
    found, wanted = torch.zeros(2), torch.zeros(2)
    for number, here in enumerate(there):
        pairs = [(video[number : number + 3], audio[number : number + 3])]
        presence = find_presence(here, here, step, number)
        assert presence.counts.tolist() == [2.0] * 3
        assert torch.equal(presence.everyone, here)
        (part,) = contrasts(pairs, temperature=TEMPERATURE, presence=presence)
        found += torch.stack((part.loss, part.accuracy)) / 3
        if number < 2:  # the last has nothing to tell its clip apart from
            (alone,) = contrasts([(pairs[0][0][here], pairs[0][1][here])], temperature=TEMPERATURE)
            wanted += torch.stack((alone.loss, alone.accuracy)) * (3 - number) / 5
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(("negatives", "absent"), [("local", 1), ("global", 0)])
def test_one_clip_with_both_in_each_of_two_processes_is_contrasted_if_they_share_negatives(
    negatives: str, absent: int
) -> None:
    video, audio = (part.view(3, 2, 5) for part in features())
    both = torch.tensor([True, False, False])
    everyone, ones = both.repeat(2), torch.ones(3)
    presence = Presence(both, both.clone(), everyone, everyone[None], ones, 0 * ones)
    given = LossInput(presence=presence, video_layers={1: video}, audio_layers={1: audio})
    settings = ContrastSettings(layers=(1,), temperature=TEMPERATURE, negatives=negatives)
    assert hierarchical_contrast(given, settings).terms["absent"] == absent


def _two_ranks(rank: int, folder: str, config: ModelConfig) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank,
                            world_size=2)  # fmt: skip
    for split in (3, 2, 0):  # of three places, the second process has so many clips
        begin, count = ((0, 3), (3, split))[rank]
        video, audio = (part[begin : begin + 3] for part in features())
        present = torch.arange(3) < count
        weight = torch.eye(5, requires_grad=True)  # shared, as in data parallel training
        (result,) = contrasts(
            [(video @ weight, audio @ weight)],
            temperature=TEMPERATURE,
            negatives="global",
            presence=find_presence(present, present),
        )
        result.loss.backward()
        assert weight.grad is not None
        assert result.logits.shape == (3, 6)
        found = torch.stack((result.loss.detach(), result.accuracy))
        for sums in (found, weight.grad):
            dist.all_reduce(sums)
        whole_video, whole_audio = (part[: 3 + split] for part in features())
        alone = torch.eye(5, requires_grad=True)
        pair = (whole_video @ alone, whole_audio @ alone)
        (wanted,) = contrasts([pair], temperature=TEMPERATURE)
        wanted.loss.backward()
        torch.testing.assert_close(found / 2, torch.stack((wanted.loss.detach(), wanted.accuracy)))
        torch.testing.assert_close(weight.grad / 2, alone.grad)
    _whole_step(rank, config)
    _unequal(rank)


def _whole_step(rank: int, config: ModelConfig) -> None:
    """All losses, of a batch of two clips and one of two of which one is there."""
    torch.manual_seed(0)
    network = HiCMAE(config, ObjectiveConfig(negatives="global"))
    video, fbank = clip(config, batch=3)
    hidden = torch.zeros(3, config.num_video_tokens, dtype=torch.bool)
    hidden[:, ::2] = True
    bank = torch.zeros(3, config.num_audio_tokens, dtype=torch.bool)
    bank[:, ::2] = True
    present = torch.tensor([True, not rank])
    # The third clip's place is taken by noise.
    mine = [part[2 * rank : 2 * rank + 2] for part in (video, fbank, hidden, bank)]
    mine = [torch.cat((part, part[:1] * 2))[:2] if rank else part for part in mine]
    mine[2:] = [part.bool() for part in mine[2:]]
    presence = find_presence(present, present)
    found = network(*mine[:2], video_mask=mine[2], fbank_mask=mine[3], presence=presence)
    found.loss.backward()
    terms = torch.stack([found.loss.detach(), *found.terms.values()])
    gradients = {n: p.grad.clone() for n, p in network.named_parameters()}
    for sums in (terms, *gradients.values()):
        dist.all_reduce(sums)
    network.zero_grad()
    object.__setattr__(network.losses[-1].settings, "negatives", "local")
    wanted = network(video, fbank, video_mask=hidden, fbank_mask=bank)
    wanted.loss.backward()
    expected = torch.stack([wanted.loss.detach(), *wanted.terms.values()])
    torch.testing.assert_close(terms / 2, expected)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(gradients[name] / 2, parameter.grad, msg=name)


def _unequal(rank: int) -> None:
    """Processes that have other numbers of clips."""
    video, audio = features()
    for split in (5, 6):  # 5 and 1; 6 and none
        begin, end = ((0, split), (split, 6))[rank]
        weight = torch.eye(5, requires_grad=True)
        rows = all_rows(video[begin:end] @ weight)
        torch.testing.assert_close(rows, video)
        (rows**3).sum().backward()
        gradient, whole = weight.grad, torch.eye(5, requires_grad=True)
        assert gradient is not None
        ((video @ whole) ** 3).sum().backward()
        dist.all_reduce(gradient)
        torch.testing.assert_close(gradient / 2, whole.grad)
    levels = torch.stack((video, audio), dim=1)
    begin, end = ((0, 5), (5, 6))[rank]
    torch.testing.assert_close(all_rows(levels[begin:end]), levels)
    # What health exchanges is sums, of the clips that are there.
    both = levels.transpose(0, 1)  # (2, 6, 5)
    mine = both[:, 2 * rank : 2 * rank + 4]  # the first has two of four, and the second all
    found = spread(mine, torch.tensor([True, True, bool(rank), bool(rank)]))
    dist.destroy_process_group()
    for ours, wanted in zip(found, spread(both, torch.ones(6, dtype=torch.bool)), strict=True):
        torch.testing.assert_close(ours, wanted)


@pytest.mark.slow
def test_global_negatives_on_two_processes_equal_one_process_with_all_clips(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    """Also where the second process lacks some of its clips, or all."""
    arguments, method = (str(tmp_path), tiny_model_config), forking().get_start_method()
    mp.start_processes(_two_ranks, args=arguments, nprocs=2, start_method=method)


@pytest.mark.parametrize("frames", [2, 4])
@pytest.mark.parametrize("spread", [1.0, 3e-6], ids=["picture", "plain"])  # of it, that of epsilon
def test_video_target_standardises_each_channel_and_takes_the_difference(
    frames: int, spread: float
) -> None:
    rng = np.random.default_rng(0)
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.4])
    # (B, M, frames, cell, channel), each channel about its mean
    pixels = mean + spread * rng.uniform(-0.4, 0.4, (1, 2, frames, 8 // frames, 3))
    normalised = torch.tensor((pixels - mean) / std, dtype=torch.float32).reshape(1, 2, 24)
    flat = pixels.reshape(1, 2, 8, 3)
    wanted = (flat - flat.mean(axis=2, keepdims=True)) / (
        flat.std(axis=2, keepdims=True, ddof=1) + 1e-6
    )
    settings = {"tubelet_frames": frames, "image_std": tuple(std)}
    plain = video_target(normalised, frame_difference=False, **settings)
    np.testing.assert_allclose(plain.numpy(), wanted.reshape(1, 2, 24), atol=1e-4)
    difference = video_target(normalised, frame_difference=True, **settings)
    wanted = wanted.reshape(1, 2, frames, -1)
    wanted[:, :, 1:] = np.diff(wanted, axis=2)
    np.testing.assert_allclose(difference.numpy(), wanted.reshape(1, 2, 24), atol=1e-4)


def test_audio_target_and_reconstruction_match_numpy() -> None:
    values = np.random.default_rng(1).normal(size=(2, 3, 16)).astype(np.float32)
    wanted = (values - values.mean(2, keepdims=True)) / (values.std(2, ddof=1, keepdims=True))
    target = audio_target(torch.from_numpy(values))
    np.testing.assert_allclose(target.numpy(), wanted, atol=1e-4)
    guess = torch.zeros_like(target)
    assert reconstruction(guess, target).item() == pytest.approx(np.mean(wanted**2), rel=1e-4)


def test_a_constant_patch_has_a_finite_target() -> None:
    assert torch.equal(audio_target(torch.full((1, 1, 16), 3.0)), torch.zeros(1, 1, 16))
