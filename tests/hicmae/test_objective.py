"""The losses against NumPy, and global negatives on two processes against one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from hicmae.objective import audio_target, contrast, reconstruction, video_target
from hicmae.objective.gathering import all_rows

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
    result = contrast(video, audio, temperature=TEMPERATURE)
    assert result.loss.item() == pytest.approx(numpy_contrast(video.numpy(), audio.numpy()))
    assert contrast(video, video, temperature=TEMPERATURE).accuracy.item() == 1
    swapped = contrast(video, video.roll(1, 0), temperature=TEMPERATURE)
    assert swapped.accuracy.item() == 0


def _two_ranks(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank,
                            world_size=2)  # fmt: skip
    video, audio = (part[3 * rank : 3 * rank + 3] for part in features())
    weight = torch.eye(5, requires_grad=True)  # a shared parameter, as in data parallel training
    result = contrast(video @ weight, audio @ weight, temperature=TEMPERATURE, negatives="global")
    result.loss.backward()
    gradient, loss = weight.grad, result.loss.detach()
    assert gradient is not None
    assert result.logits.shape == (3, 6)
    dist.all_reduce(gradient)
    dist.all_reduce(loss)
    if rank == 0:
        torch.save((loss / 2, gradient / 2), Path(folder) / "result.pt")
    _unequal(rank)
    dist.destroy_process_group()


def _unequal(rank: int) -> None:
    """Processes that have other numbers of clips, since bad ones were left out."""
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
    begin, end = ((0, 5), (5, 6))[rank]
    result = contrast(
        video[begin:end], audio[begin:end], temperature=TEMPERATURE, negatives="global"
    )
    alone = contrast(video, audio, temperature=TEMPERATURE)
    torch.testing.assert_close(result.logits, alone.logits[begin:end])
    levels = torch.stack((video, audio), dim=1)[begin:end]  # as health gathers several levels
    torch.testing.assert_close(all_rows(levels), torch.stack((video, audio), dim=1))


@pytest.mark.slow
def test_global_negatives_on_two_processes_equal_one_process_with_all_clips(
    tmp_path: Path,
) -> None:
    mp.start_processes(_two_ranks, args=(str(tmp_path),), nprocs=2, start_method="spawn")
    loss, gradient = torch.load(tmp_path / "result.pt")
    video, audio = features()
    weight = torch.eye(5, requires_grad=True)
    whole = contrast(video @ weight, audio @ weight, temperature=TEMPERATURE)
    whole.loss.backward()
    torch.testing.assert_close(loss, whole.loss.detach())
    torch.testing.assert_close(gradient, weight.grad)


def test_video_target_standardises_each_channel_and_takes_the_difference() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.random((1, 2, 2, 4, 3))  # (B, M, frames, cell, channel) in [0, 1]
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.4])
    normalised = torch.tensor((pixels - mean) / std, dtype=torch.float32).reshape(1, 2, 24)
    flat = pixels.reshape(1, 2, 8, 3)
    wanted = (flat - flat.mean(axis=2, keepdims=True)) / (
        flat.std(axis=2, keepdims=True, ddof=1) + 1e-6
    )
    settings = {"tubelet_frames": 2, "image_std": tuple(std)}
    plain = video_target(normalised, frame_difference=False, **settings)
    np.testing.assert_allclose(plain.numpy(), wanted.reshape(1, 2, 24), atol=1e-4)
    difference = video_target(normalised, frame_difference=True, **settings)
    wanted = wanted.reshape(1, 2, 2, 12)
    wanted[:, :, 1] -= wanted[:, :, 0]
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
