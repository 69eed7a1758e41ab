"""The encoder: cutting and its order, shapes, hidden patches, absent modalities, positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hicmae.blocks import CrossBlock, SelfAttention, sinusoid_positions
from hicmae.encoder import (
    AudioVisualEncoder,
    fbank_patches,
    rising_rates,
    take_tokens,
    tubelets,
    unfbank_patches,
    untubelets,
)
from hicmae.settings import ModelConfig


def clip(config: ModelConfig, batch: int = 2) -> tuple[Tensor, Tensor]:
    size = config.input
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(batch, 3, size.num_frames, size.image_size, size.image_size,
                    generator=generator),
        torch.randn(batch, size.fbank_frames, size.mel_bins, generator=generator),
    )  # fmt: skip


def test_positions_follow_the_published_formula() -> None:
    found = sinusoid_positions(7, 6)
    for p in range(7):
        for j in range(6):
            angle = p / 10000 ** (2 * (j // 2) / 6)
            wanted = np.sin(angle) if j % 2 == 0 else np.cos(angle)
            assert found[p, j].item() == pytest.approx(wanted, abs=1e-6)


def test_attention_is_softmax_of_scaled_products() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(8, 2)
    torch.nn.init.normal_(attention.query_bias)
    torch.nn.init.normal_(attention.value_bias)
    tokens = torch.randn(3, 5, 8)
    q, k, v = (tokens @ part.T for part in attention.qkv.weight.chunk(3))
    heads = []
    for h in (slice(0, 4), slice(4, 8)):
        scores = (q + attention.query_bias)[..., h] @ k[..., h].transpose(1, 2) / 2
        heads.append(scores.softmax(-1) @ (v + attention.value_bias)[..., h])
    torch.testing.assert_close(attention(tokens), attention.out(torch.cat(heads, -1)))


def test_tokens_have_the_documented_shapes(tiny_model_config: ModelConfig) -> None:
    config = tiny_model_config
    encoder = AudioVisualEncoder(config)
    video, fbank = clip(config)
    output = encoder(video, fbank)
    assert output.video is not None
    assert output.audio is not None
    for tokens, count in (
        (output.video, config.num_video_tokens),
        (output.audio, config.num_audio_tokens),
    ):
        shape = (2, count, config.encoder_dim)
        assert tokens.last.shape == tokens.fused.shape == shape
        assert [layer.shape for layer in tokens.layers] == [shape] * len(config.feature_layers)
        assert torch.equal(tokens.layers[-1], tokens.last)  # the last feature layer is the last


def test_hidden_patches_have_no_influence(tiny_model_config: ModelConfig) -> None:
    encoder = AudioVisualEncoder(tiny_model_config)
    video, fbank = clip(tiny_model_config)
    keep = torch.tensor([[0, 5], [1, 6]])
    before = encoder(video, fbank, video_keep=keep, fbank_keep=keep)
    altered = video.clone()
    altered[:, :, :, 16:, 16:] += 1  # the cells 3 of each row: none of them kept
    after = encoder(altered, fbank, video_keep=keep, fbank_keep=keep)
    assert before.video.last.shape == (2, 2, tiny_model_config.encoder_dim)
    assert torch.equal(before.video.fused, after.video.fused)


def test_keeping_everything_in_any_order_is_the_same_as_no_mask(
    tiny_model_config: ModelConfig,
) -> None:
    """So a token that is kept has the position of its place, not of its number among the kept."""
    encoder = AudioVisualEncoder(tiny_model_config)
    video, fbank = clip(tiny_model_config)
    order = torch.arange(tiny_model_config.num_video_tokens).flip(0)
    kept = encoder(video, fbank, video_keep=order.expand(2, -1)).video.fused
    torch.testing.assert_close(kept, encoder(video, fbank).video.fused[:, order])


def test_an_absent_modality_leaves_the_other_alone(tiny_model_config: ModelConfig) -> None:
    encoder = AudioVisualEncoder(tiny_model_config)
    video, fbank = clip(tiny_model_config)
    alone = encoder(video, None)
    assert alone.audio is None
    torch.testing.assert_close(alone.video.last, encoder(video, fbank).video.last)
    assert not torch.allclose(alone.video.fused, encoder(video, fbank).video.fused)
    assert encoder(None, fbank).video is None
    with pytest.raises(ValueError, match="both modalities are absent"):
        encoder(None, None)


def test_both_modalities_read_the_others_input_to_the_layer(
    tiny_model_config: ModelConfig,
) -> None:
    encoder = AudioVisualEncoder(tiny_model_config)
    fusion = encoder.fusion
    assert isinstance(fusion.video[0], CrossBlock)
    video, audio = torch.randn(1, 3, 32), torch.randn(1, 4, 32)
    fused_video, fused_audio = fusion(video, audio)
    torch.testing.assert_close(fused_audio, fusion.audio_norm(fusion.audio[0](audio, video)))
    torch.testing.assert_close(fused_video, fusion.video_norm(fusion.video[0](video, audio)))


def test_a_wrong_shape_is_named(tiny_model_config: ModelConfig) -> None:
    encoder = AudioVisualEncoder(tiny_model_config)
    with pytest.raises(ValueError, match=r"has shape \(1, 3, 16, 8, 8\), expected \(B, 3, 16,"):
        encoder(torch.zeros(1, 3, 16, 8, 8), None)


def test_drop_path_rises_linearly() -> None:
    assert rising_rates(0.1, 5) == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])
    assert rising_rates(0.1, 1) == [0.0]


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
