"""The one definition of the network that pretraining, fine-tuning and prediction share.

Clips are cut once: one order of the values inside a tubelet, (frame, row, column, channel), serves
the projection and the targets alike. Token order: (time, height, width) and (time, frequency).

Shape letters: B batch, C channels, T frames, H W pixels, S filter-bank frames, F mel bins,
N tokens, P values of one, K kept tokens, D width, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from hicmae.blocks import Block, CrossBlock, norm_stream, sinusoid_positions
from hicmae.settings import ModelConfig


class ModalityTokens(NamedTuple):
    """What the encoder says of one modality, (B, K, D) each; K = N where nothing was hidden."""

    last: Tensor  # output of the last encoder layer, normed
    layers: tuple[Tensor, ...]  # of each asked-for layer, through the same norm, shallow first
    fused: Tensor  # output of the fusion encoder, normed


class EncoderOutput(NamedTuple):
    """Tokens of each modality; ``None`` for one that was absent."""

    video: ModalityTokens | None
    audio: ModalityTokens | None


class AudioVisualEncoder(nn.Module):
    """Encodes a clip's tubelets and filter-bank patches, each alone, then with one another.

    Args:
        config: Sizes.
        layers: Encoder layers (from 1) whose tokens are returned; the feature layers if none
            are given.
        drop_path: Rate of stochastic depth in the last layer of each encoder and of the fusion
            encoder; it rises linearly from 0 in the first.

    Source: HiCMAE, section 3; reference facts, network section.
    """

    def __init__(
        self, config: ModelConfig, *, layers: Sequence[int] | None = None, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.config = config
        self.layers = tuple(config.feature_layers if layers is None else layers)
        self.video = ModalityEncoder(
            config, config.num_video_tokens, config.tubelet_values, drop_path
        )
        self.audio = ModalityEncoder(
            config, config.num_audio_tokens, config.patch_values, drop_path
        )
        self.fusion = FusionEncoder(config, drop_path)

    def forward(
        self,
        video: Tensor | None,
        fbank: Tensor | None,
        *,
        video_keep: Tensor | None = None,
        fbank_keep: Tensor | None = None,
    ) -> EncoderOutput:
        """Encode what is seen of each modality; an absent modality leaves the other alone.

        Args:
            video: Normalised frames (B, 3, T, H, W).
            fbank: Normalised filter banks (B, S, F).
            video_keep: Visible tubelets (B, K), ascending; everything is seen if none is given.
            fbank_keep: Visible filter-bank patches (B, K), ascending.

        Raises: ValueError: both modalities absent, or a shape that is not the configuration's.
        """
        video_patches, audio_patches = self.cut(video, fbank)
        return self.encode(
            video_patches, audio_patches, video_keep=video_keep, fbank_keep=fbank_keep
        )

    def cut(
        self, video: Tensor | None, fbank: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Cut clips into tubelets (B, N, P) and filter-bank patches (B, N, P).

        Args and Raises, as in ``forward``.
        """
        self._check(video, fbank)
        frames, patch = self.config.tubelet_frames, self.config.patch_size
        return (
            None if video is None else tubelets(video, frames, patch),
            None if fbank is None else fbank_patches(fbank, patch),
        )

    def encode(
        self,
        video_patches: Tensor | None,
        audio_patches: Tensor | None,
        *,
        video_keep: Tensor | None = None,
        fbank_keep: Tensor | None = None,
        seen: Tensor | None = None,
        heard: Tensor | None = None,
    ) -> EncoderOutput:
        """Encode clips that are cut, so that who needs the pieces too need not cut them again.

        Args:
            video_patches: Tubelets (B, N, P), as ``cut`` gives them.
            audio_patches: Filter-bank patches (B, N, P), as ``cut`` gives them.
            video_keep: As in ``forward``.
            fbank_keep: As in ``forward``.
            seen: (B,) boolean, which clips have their picture: the others' sound reads none, and
                what comes out of their picture means nothing. All of them if none is given.
            heard: The same of the sound.
        """
        video_last = audio_last = None
        video_layers: tuple[Tensor, ...] = ()
        audio_layers: tuple[Tensor, ...] = ()
        if video_patches is not None:
            video_last, video_layers = self.video(video_patches, video_keep, self.layers)
        if audio_patches is not None:
            audio_last, audio_layers = self.audio(audio_patches, fbank_keep, self.layers)
        video_fused, audio_fused = self.fusion(video_last, audio_last, seen, heard)
        return EncoderOutput(
            video=_bundle(video_last, video_layers, video_fused),
            audio=_bundle(audio_last, audio_layers, audio_fused),
        )

    def freeze_absent(self, modalities: str) -> None:
        """Freeze what one modality alone never runs, so that no optimizer waits for it.

        Args: modalities: ``audio-video`` (nothing), ``video`` or ``audio``.
        """
        for module in self.idle_parts(modalities):
            module.requires_grad_(False)

    def idle_parts(self, stage: str) -> list[nn.Module]:
        """What a stage of training has no use for: layers that read the other modality, and what
        is of a modality that is left out.

        Args: stage: ``audio-video`` (nothing is idle), ``apart``, ``video`` or ``audio``.
        """
        fusion = self.fusion
        idle: list[nn.Module] = []
        if stage == "video":
            idle = [self.audio, fusion.audio, fusion.audio_norm]
        elif stage == "audio":
            idle = [self.video, fusion.video, fusion.video_norm]
        for block in (*fusion.video, *fusion.audio) if stage != "audio-video" else ():
            idle += [block.cross_norm, block.context_norm, block.cross_attention]
        return idle

    def _check(self, video: Tensor | None, fbank: Tensor | None) -> None:
        size = self.config.input
        if video is None and fbank is None:
            raise ValueError("a clip needs frames or sound: both modalities are absent")
        picture = (3, size.num_frames, size.image_size, size.image_size)
        bank = (size.fbank_frames, size.mel_bins)
        for name, given, wanted in (("video", video, picture), ("fbank", fbank, bank)):
            if given is not None and tuple(given.shape[1:]) != wanted:
                expected = f"(B, {', '.join(map(str, wanted))})"
                raise ValueError(f"{name} has shape {tuple(given.shape)}, expected {expected}")


class ModalityEncoder(nn.Module):
    """The encoder of one modality. Hidden patches are dropped before the projection: they cost
    nothing."""

    positions: Tensor

    def __init__(
        self, config: ModelConfig, num_tokens: int, num_values: int, drop_path: float
    ) -> None:
        super().__init__()
        self.project = nn.Linear(num_values, config.encoder_dim)
        self.register_buffer(
            "positions", sinusoid_positions(num_tokens, config.encoder_dim), persistent=False
        )
        self.blocks = _stack(Block, config, config.encoder_depth, drop_path)
        self.norm = nn.LayerNorm(config.encoder_dim, eps=config.layer_norm_eps)

    def forward(
        self, patches: Tensor, keep: Tensor | None, layers: Sequence[int]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Encode patches (B, N, P), of which keep (B, K) are seen.

        Returns: the last layer (B, K, D) and each asked-for layer (B, K, D), all normed.
        """
        positions = self.positions
        if keep is not None:
            patches = take_tokens(patches, keep)  # (B, K, P)
            positions = positions[keep]  # (B, K, D)
        # Of a network in bf16 the input is float32 up to here.
        tokens = self.project(patches.to(positions.dtype)) + positions
        asked: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks, start=1):
            tokens = block(tokens)
            if number in layers or number == len(self.blocks):
                asked[number] = norm_stream(self.norm, tokens)
        return asked[len(self.blocks)], tuple(asked[number] for number in layers)


class FusionEncoder(nn.Module):
    """Two stacks of cross blocks: in each layer both modalities read the other's input to it."""

    def __init__(self, config: ModelConfig, drop_path: float) -> None:
        super().__init__()
        self.video = _stack(CrossBlock, config, config.fusion_depth, drop_path)
        self.audio = _stack(CrossBlock, config, config.fusion_depth, drop_path)
        self.video_norm = nn.LayerNorm(config.encoder_dim, eps=config.layer_norm_eps)
        self.audio_norm = nn.LayerNorm(config.encoder_dim, eps=config.layer_norm_eps)

    def forward(
        self,
        video: Tensor | None,
        audio: Tensor | None,
        seen: Tensor | None = None,
        heard: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Fuse tokens (B, K, D) of both modalities; an absent one stays absent.

        Of clips that lack one, ``seen`` and ``heard`` tell, as in ``AudioVisualEncoder.encode``.
        """
        for video_block, audio_block in zip(self.video, self.audio, strict=True):
            video, audio = (
                None if video is None else video_block(video, audio, heard),
                None if audio is None else audio_block(audio, video, seen),
            )
        return (
            None if video is None else norm_stream(self.video_norm, video),
            None if audio is None else norm_stream(self.audio_norm, audio),
        )


def rising_rates(last: float, depth: int) -> list[float]:
    """Rates of stochastic depth that rise linearly from 0 to ``last`` over ``depth`` layers."""
    return [last * layer / max(depth - 1, 1) for layer in range(depth)]


def tubelets(video: Tensor, tubelet_frames: int, patch_size: int) -> Tensor:
    """Cut video (B, C, T, H, W) into tubelets (B, N, P)."""
    return rearrange(
        video,
        "b c (t f) (h y) (w x) -> b (t h w) (f y x c)",
        f=tubelet_frames,
        y=patch_size,
        x=patch_size,
    )


def untubelets(
    tokens: Tensor, grid: tuple[int, int, int], tubelet_frames: int, patch_size: int
) -> Tensor:
    """Put tubelets (B, N, P) of a (time, height, width) grid together to video (B, C, T, H, W)."""
    time, height, width = grid
    return rearrange(
        tokens,
        "b (t h w) (f y x c) -> b c (t f) (h y) (w x)",
        t=time,
        h=height,
        w=width,
        f=tubelet_frames,
        y=patch_size,
        x=patch_size,
    )


def fbank_patches(fbank: Tensor, patch_size: int) -> Tensor:
    """Cut filter banks (B, S, F) into patches (B, N, P)."""
    return rearrange(fbank, "b (s y) (f x) -> b (s f) (y x)", y=patch_size, x=patch_size)


def unfbank_patches(tokens: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Put patches (B, N, P) of a (time, frequency) grid together to filter banks (B, S, F)."""
    return rearrange(
        tokens,
        "b (s f) (y x) -> b (s y) (f x)",
        s=grid[0],
        f=grid[1],
        y=patch_size,
        x=patch_size,
    )


def take_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Gather tokens (B, N, P) at index (B, K) along the token axis to (B, K, P)."""
    # Whole rows are copied; torch.gather looks up every value of them and takes twice as long.
    return tokens[torch.arange(len(tokens), device=tokens.device)[:, None], index]


def _stack(kind: type[Block], config: ModelConfig, depth: int, drop_path: float) -> nn.ModuleList:
    return nn.ModuleList(
        kind(
            config.encoder_dim,
            config.encoder_heads,
            mlp_ratio=config.mlp_ratio,
            eps=config.layer_norm_eps,
            drop_path=rate,
        )
        for rate in rising_rates(drop_path, depth)
    )


def _bundle(
    last: Tensor | None, layers: tuple[Tensor, ...], fused: Tensor | None
) -> ModalityTokens | None:
    if last is None or fused is None:
        return None
    return ModalityTokens(last, layers, fused)
