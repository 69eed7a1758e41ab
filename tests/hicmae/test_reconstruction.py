"""Undoing the standardisation of predictions: exact with the truth's statistics, blind without."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hicmae.masks import Masks
from hicmae.pretraining import HiCMAE, PretrainOutput
from hicmae.reconstruction import reconstruct, visible_statistics
from hicmae.settings import ModelConfig, ObjectiveConfig
from hicmae.transforms.video import resize_video, standardise_colours_


class Oracle(HiCMAE):
    """A network whose predictions are the targets themselves."""

    def forward(self, video: Tensor, fbank: Tensor, **masks: Tensor) -> PretrainOutput:
        output = super().forward(video, fbank, **masks)
        given = output.given
        return output._replace(
            given=given._replace(
                video_prediction=given.video_target, audio_prediction=given.audio_target
            )
        )


@pytest.fixture
def model(tiny_model_config: ModelConfig) -> ModelConfig:
    return replace(
        tiny_model_config, input=replace(tiny_model_config.input, image_size=64)
    )  # 4 x 4 cells


def clips(model: ModelConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Frames in [0, 1] (B, T, H, W, 3), and both inputs of the network."""
    size = model.input
    torch.manual_seed(0)
    shape = (2, size.num_frames, size.image_size, size.image_size, 3)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8)
    fbank = torch.randn(2, size.fbank_frames, size.mel_bins)
    video = standardise_colours_(resize_video(frames, size.image_size), size)
    return frames / 255, video, fbank


@pytest.mark.parametrize("frame_difference", [True, False])
def test_the_targets_with_the_truths_statistics_give_back_the_original(
    model: ModelConfig, frame_difference: bool
) -> None:
    frames, video, fbank = clips(model)
    oracle = Oracle(model, ObjectiveConfig(frame_difference=frame_difference))
    result = reconstruct(oracle, video, fbank, paper_style=True)
    torch.testing.assert_close(result.pictures.original, frames, rtol=0, atol=1e-5)
    torch.testing.assert_close(result.pictures.filled, frames, rtol=0, atol=1e-4)
    torch.testing.assert_close(result.banks.filled, fbank, rtol=0, atol=1e-4)
    assert result.paper_style
    hidden = (result.pictures.masked != result.pictures.original).any(dim=-1).float().mean()
    assert float(hidden) == pytest.approx(14 / 16, abs=0.01)  # 0.9 of 16 cells, rounded down
    assert float(result.banks.masked.isnan().float().mean()) == pytest.approx(0.75)  # 6 of 8


def test_without_them_nothing_of_the_hidden_truth_is_used(model: ModelConfig) -> None:
    """Brightness and contrast of what is hidden may change: the picture may not."""
    _, video, fbank = clips(model)
    oracle = Oracle(model, ObjectiveConfig())
    plain = reconstruct(oracle, video, fbank)
    visible = (plain.pictures.masked == plain.pictures.original).all(dim=-1)  # (B, T, H, W)
    assert (plain.pictures.masked[~visible] == 0.5).all(), "what is hidden is grey"
    assert plain.pictures.filled.aminmax() == (0, 1), "a guess beyond what a picture holds is cut"
    other_video = torch.where(visible[:, None], video, 0.5 * video + 0.1)
    other_fbank = torch.where(plain.banks.masked.isnan(), 3 * fbank - 1, fbank)
    other = reconstruct(oracle, other_video, other_fbank)
    torch.testing.assert_close(other.pictures.filled, plain.pictures.filled, rtol=0, atol=1e-3)
    torch.testing.assert_close(other.banks.filled, plain.banks.filled, rtol=0, atol=1e-3)
    peeking = reconstruct(oracle, other_video, other_fbank, paper_style=True)
    assert (peeking.banks.filled - plain.banks.filled).abs().max() > 0.5
    # What is visible is shown as it is.
    assert torch.equal(plain.pictures.filled[visible], plain.pictures.original[visible])


def test_the_same_cells_are_hidden_every_time(model: ModelConfig) -> None:
    _, video, fbank = clips(model)
    network = HiCMAE(model)
    one = reconstruct(network, video, fbank)
    torch.rand(7)
    assert torch.equal(one.pictures.masked, reconstruct(network, video, fbank).pictures.masked)
    other = reconstruct(network, video, fbank, seed=1)
    assert not torch.equal(one.pictures.masked, other.pictures.masked)


def test_statistics_between_two_visible_tokens_are_their_weighted_mean() -> None:
    """A row of four with both ends visible: distances 1 and 2, weights 1 and 1/16."""
    masks = Masks(keep=torch.tensor([[0, 3]]), masked=torch.tensor([[1, 2]]))
    known = torch.tensor([[[1.0], [99.0], [99.0], [2.0]]])
    guessed = visible_statistics(known, masks, (4,))
    expected = [(1 + 2 / 16) / (1 + 1 / 16), (2 + 1 / 16) / (1 + 1 / 16)]
    assert guessed[0, :, 0].tolist() == pytest.approx(expected)
