"""HiCMAE: the encoder, two decoders and the objective that trains them together."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hicmae.blocks import set_grad_checkpointing, xavier_linears
from hicmae.checkpoints.hub import PortableModel
from hicmae.decoder import ReconstructionDecoder
from hicmae.encoder import AudioVisualEncoder, EncoderOutput, ModalityTokens
from hicmae.masks import (
    Masks,
    masks_from_hidden,
    num_hidden,
    random_masks,
    random_share,
    running_cells,
    tube_masks,
)
from hicmae.objective import audio_target, contrast, reconstruction, video_target
from hicmae.patches import take_tokens
from hicmae.settings import ModelConfig, ObjectiveConfig


class PretrainOutput(NamedTuple):
    """One pretraining step.

    Attributes:
        loss: 0-d, weighted sum of the terms.
        terms: ``video``, ``audio``, ``contrast`` (sum over layers, before its weight), and
            ``contrast_accuracy_layer<l>``; 0-d, without gradients.
        video_prediction: (B, M, P) hidden tubelets.
        audio_prediction: (B, M, P) hidden filter-bank patches.
        video_target: (B, M, P) what was asked for.
        audio_target: (B, M, P) what was asked for.
        contrast_logits: (B, B') of each contrasted layer, video to audio.
        video_masks: visible tubelets and the hidden ones that were decoded.
        audio_masks: visible filter-bank patches and the hidden ones that were decoded.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    video_prediction: Tensor
    audio_prediction: Tensor
    video_target: Tensor
    audio_target: Tensor
    contrast_logits: tuple[Tensor, ...]
    video_masks: Masks
    audio_masks: Masks


class HiCMAE(nn.Module, PortableModel):
    """Hierarchical contrastive masked autoencoder.

    Args:
        config: Sizes.
        objective: Masks, weights and ablations.

    Raises: ValueError: contrast layers outside the encoder, mask ratios that leave nothing.
    Source: HiCMAE, arXiv 2401.05698.
    """

    kind = "pretraining"

    def __init__(self, config: ModelConfig, objective: ObjectiveConfig | None = None) -> None:
        super().__init__()
        self.config = config
        self.objective = objective = objective or ObjectiveConfig()
        self.skip_layers = config.feature_layers if objective.skip_connections else ()
        self.contrast_layers = _contrast_layers(config, objective)
        _, height, width = config.video_grid
        num_hidden(height * width, objective.video_mask_ratio)
        num_hidden(config.num_audio_tokens, objective.audio_mask_ratio)

        layers = sorted({*self.skip_layers, *self.contrast_layers})
        self.encoder = AudioVisualEncoder(config, layers=layers)
        projections = (self.encoder.video.project, self.encoder.audio.project)
        for block in self.encoder.modules():
            # The patch projections keep PyTorch's own initialisation: they are convolutions in
            # the reference, which its Xavier rule does not touch.
            if block not in projections:
                xavier_linears(block)
        self.video_decoder = ReconstructionDecoder(
            config,
            num_tokens=config.num_video_tokens,
            num_values=config.tubelet_values,
            num_skips=len(self.skip_layers),
        )
        self.audio_decoder = ReconstructionDecoder(
            config,
            num_tokens=config.num_audio_tokens,
            num_values=config.patch_values,
            num_skips=len(self.skip_layers),
        )

    def forward(
        self,
        video: Tensor,
        fbank: Tensor,
        *,
        video_mask: Tensor | None = None,
        fbank_mask: Tensor | None = None,
    ) -> PretrainOutput:
        """Hide, encode, reconstruct and contrast a batch of clips.

        Args:
            video: Normalised frames (B, 3, T, H, W).
            fbank: Normalised filter banks (B, S, F).
            video_mask: Boolean (B, N), True = hidden; drawn at random if none is given. Given
                masks are decoded whole, drawn ones by ``decoder_keep`` in training mode.
            fbank_mask: The same of the filter bank.
        """
        video_masks, audio_masks = self._masks(video, video_mask, fbank_mask)
        # The encoder takes the visible ones of these, the targets the hidden ones.
        video_patches, audio_patches = self.encoder.cut(video, fbank)
        assert video_patches is not None
        assert audio_patches is not None
        encoded = self.encoder.encode(
            video_patches,
            audio_patches,
            video_keep=video_masks.keep,
            fbank_keep=audio_masks.keep,
        )
        assert encoded.video is not None
        assert encoded.audio is not None
        video_prediction = self.video_decoder(
            encoded.video.fused, self._take(encoded.video, self.skip_layers), video_masks
        )
        audio_prediction = self.audio_decoder(
            encoded.audio.fused, self._take(encoded.audio, self.skip_layers), audio_masks
        )
        target_video, target_audio = self._targets(
            video_patches, audio_patches, video_masks, audio_masks
        )
        weights = self.objective
        video_loss = reconstruction(video_prediction, target_video)
        audio_loss = reconstruction(audio_prediction, target_audio)
        loss = weights.video_weight * video_loss + weights.audio_weight * audio_loss
        terms = {"video": video_loss.detach(), "audio": audio_loss.detach()}
        logits: tuple[Tensor, ...] = ()
        if self.contrast_layers:
            contrast_loss, logits, accuracies = self._contrast(encoded)
            loss = loss + weights.contrast_weight * contrast_loss
            terms |= {"contrast": contrast_loss.detach()} | accuracies
        return PretrainOutput(
            loss=loss,
            terms=terms,
            video_prediction=video_prediction,
            audio_prediction=audio_prediction,
            video_target=target_video,
            audio_target=target_audio,
            contrast_logits=logits,
            video_masks=video_masks,
            audio_masks=audio_masks,
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the layers' activations again in the backward pass instead of keeping them."""
        set_grad_checkpointing(self, enable)

    def sections(self) -> dict[str, Any]:
        """The settings that this network is built from, by their names in a checkpoint."""
        return {"model": self.config, "objective": self.objective}

    def _masks(
        self, video: Tensor, video_mask: Tensor | None, fbank_mask: Tensor | None
    ) -> tuple[Masks, Masks]:
        """Tokens to show and to decode."""
        batch, device, objective = len(video), video.device, self.objective
        share = objective.decoder_keep if self.training else 1.0
        if video_mask is None:
            grid = self.config.video_grid
            video_masks = tube_masks(batch, grid, objective.video_mask_ratio, device=device)
            if share < 1:
                video_masks = running_cells(video_masks, grid[0], share)
        else:
            video_masks = masks_from_hidden(video_mask)
        if fbank_mask is None:
            audio_masks = random_masks(
                batch, self.config.num_audio_tokens, objective.audio_mask_ratio, device=device
            )
            if share < 1:
                audio_masks = random_share(audio_masks, share)
        else:
            audio_masks = masks_from_hidden(fbank_mask)
        return video_masks, audio_masks

    @torch.no_grad()
    def _targets(
        self, video_patches: Tensor, audio_patches: Tensor, video_masks: Masks, audio_masks: Masks
    ) -> tuple[Tensor, Tensor]:
        """Targets (B, M, P) of the hidden tubelets and patches only."""
        return (
            video_target(
                take_tokens(video_patches, video_masks.masked),
                tubelet_frames=self.config.tubelet_frames,
                image_std=self.config.input.image_std,
                frame_difference=self.objective.frame_difference,
            ),
            audio_target(take_tokens(audio_patches, audio_masks.masked)),
        )

    def _contrast(
        self, encoded: EncoderOutput
    ) -> tuple[Tensor, tuple[Tensor, ...], dict[str, Tensor]]:
        """Sum of the layers' contrastive losses, their logits, and their accuracies by name."""
        assert encoded.video is not None
        assert encoded.audio is not None
        results = [
            contrast(
                video.mean(dim=1),
                audio.mean(dim=1),
                temperature=self.objective.temperature,
                negatives=self.objective.negatives,
            )
            for video, audio in zip(
                self._take(encoded.video, self.contrast_layers),
                self._take(encoded.audio, self.contrast_layers),
                strict=True,
            )
        ]
        loss = torch.stack([result.loss for result in results]).sum()
        accuracies = {
            f"contrast_accuracy_layer{layer}": result.accuracy
            for layer, result in zip(self.contrast_layers, results, strict=True)
        }
        return loss, tuple(result.logits for result in results), accuracies

    def _take(self, tokens: ModalityTokens, layers: tuple[int, ...]) -> list[Tensor]:
        """The tokens of some of the layers that the encoder was asked for."""
        return [tokens.layers[self.encoder.layers.index(layer)] for layer in layers]


def _contrast_layers(config: ModelConfig, objective: ObjectiveConfig) -> tuple[int, ...]:
    if not objective.contrast:
        return ()
    layers = objective.contrast_layers or config.feature_layers
    wrong = [layer for layer in layers if not 1 <= layer <= config.encoder_depth]
    if wrong:
        raise ValueError(
            f"objective: contrast_layers = {layers} name layers {wrong} "
            f"of an encoder that has 1..{config.encoder_depth}"
        )
    return tuple(layers)
