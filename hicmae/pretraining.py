"""HiCMAE: the encoder, two decoders and the objective that trains them together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from hicmae.blocks import (
    Block,
    CrossBlock,
    norm_stream,
    sinusoid_positions,
    truncated_normal_,
    xavier_linears,
)
from hicmae.checkpoints.portable import PortableModel
from hicmae.config import from_dict
from hicmae.encoder import AudioVisualEncoder, ModalityTokens, take_tokens
from hicmae.graphs import Recorded
from hicmae.masks import (
    Masks,
    hidden_from_masks,
    masks_from_hidden,
    num_hidden,
    random_masks,
    random_share,
    running_cells,
    tube_masks,
)
from hicmae.objective.losses import LossInput, LossOutput, Presence, choose_losses, whole
from hicmae.objective.reconstruction import audio_target, video_target
from hicmae.settings import WHOLE, ModelConfig, ObjectiveConfig

# Targets that a CPU makes at a time, bytes, or one clip's: they stay in its cache. Sixteen clips of
# 90 tubelets of 384 values took 7.1 ms one by one, 4.0 by eights; over 32 MB the C library takes a
# piece from the system anew at each step.
_TARGETS_BYTES = 2**20


class PretrainOutput(NamedTuple):
    """One pretraining step.

    Terms are ``video``, ``audio``, ``contrast`` (sum over layers, before its weight),
    ``contrast_accuracy_layer<l>``, and further losses by name; 0-d, without gradients.
    """

    loss: Tensor  # 0-d, weighted sum of the terms
    terms: dict[str, Tensor]
    contrast_logits: tuple[Tensor, ...]  # (B, B') of each contrasted layer, video to audio
    given: LossInput  # what the losses were given: predictions, targets, masks


class HiCMAE(PortableModel):
    """Hierarchical contrastive masked autoencoder.

    Args:
        config: Sizes.
        objective: Masks, losses and ablations.
        modalities: What it is trained on: ``audio-video``, ``video`` or ``audio``. The other one's
            part is there, frozen as it was drawn.

    Attributes: stage: What is trained at present: ``audio-video``, which is all, or a name out of
        ``ObjectiveConfig.stages``. Whoever trains moves it on.

    Raises: ValueError: unknown losses, layers outside the encoder, mask ratios that leave nothing.
    Source: HiCMAE, arXiv 2401.05698.
    """

    kind = "pretraining"

    def __init__(
        self,
        config: ModelConfig,
        objective: ObjectiveConfig | None = None,
        modalities: str = "audio-video",
    ) -> None:
        super().__init__()
        self.config = config
        self.objective = objective = objective or ObjectiveConfig()
        self.skip_layers = config.feature_layers if objective.skip_connections else ()
        self.modalities = modalities
        self.stage = WHOLE
        self._keeps_terms = True  # whether they may stay where they were computed
        self.losses = choose_losses(objective, config, modalities)
        _, height, width = config.video_grid
        num_hidden(height * width, objective.video_mask_ratio)
        num_hidden(config.num_audio_tokens, objective.audio_mask_ratio)

        layers = sorted({*self.skip_layers, *(n for loss in self.losses for n in loss.layers)})
        self.encoder = AudioVisualEncoder(config, layers=layers)
        projections = (self.encoder.video.project, self.encoder.audio.project)
        for block in self.encoder.modules():
            # The patch projections keep PyTorch's own initialisation: they are convolutions in
            # the reference, which its Xavier rule does not touch.
            if block not in projections:
                xavier_linears(block)
        self.video_decoder, self.audio_decoder = (
            ReconstructionDecoder(
                config, num_tokens=tokens, num_values=values, num_skips=len(self.skip_layers)
            )
            for tokens, values in (
                (config.num_video_tokens, config.tubelet_values),
                (config.num_audio_tokens, config.patch_values),
            )
        )
        self.encoder.freeze_absent(modalities)
        for name, decoder in (("video", self.video_decoder), ("audio", self.audio_decoder)):
            decoder.requires_grad_(name in modalities and objective.reconstruction)
        if not objective.reconstruction and not any(loss.reads_fusion for loss in self.losses):
            self.encoder.fusion.requires_grad_(False)

    def forward(
        self,
        video: Tensor | None,
        fbank: Tensor | None,
        *,
        video_mask: Tensor | None = None,
        fbank_mask: Tensor | None = None,
        presence: Presence | None = None,
    ) -> PretrainOutput:
        """Hide, encode and reconstruct a batch of clips, and sum the losses.

        A clip that lacks a modality adds the losses of what it has, computed as of the other alone.
        Shapes do not depend on how many do.

        Args:
            video: Normalised frames (B, 3, T, H, W); not looked at in training on sound alone.
            fbank: Normalised filter banks (B, S, F); likewise.
            video_mask: Boolean (B, N), True = hidden; drawn at random if none is given. Given
                masks are decoded whole, drawn ones by ``decoder_keep`` in training mode.
            fbank_mask: The same of the filter bank.
            presence: Which clips the losses count; all of them if none is given.
        """
        video = video if "video" in self.modalities else None
        fbank = fbank if "audio" in self.modalities else None
        clips = fbank if video is None else video
        assert clips is not None, "a batch has what the network is trained on"
        presence = presence or whole(len(clips), clips.device)
        given, results = self._compute(video, fbank, video_mask, fbank_mask, presence)
        for loss in self.losses:
            if loss.gathers:
                results[loss.name] = loss.compute(given, loss.settings)
        total, terms, logits = self._sum_losses(results)
        return PretrainOutput(total, terms, logits, given)

    def compile(self, *args: Any, cuda_graphs: bool = False, **kwargs: Any) -> None:
        """Compile the step as ``torch.compile`` does, less the losses that gather.

        What processes exchange stands between graphs: inside it would break them, and processes
        that compile at different moments would wait for each other in different calls.

        The network's ``rearrange`` goes into the graph as it is: to trace how einops (0.8.2) reads
        its patterns took half of the time that tracing takes. Each batch size is compiled for
        itself: PyTorch (2.14.1) cannot draw the masks of a size that it leaves open.

        Args: cuda_graphs: On a GPU, record the compiled forward and backward pass and launch each
            as a whole (PyTorch's CUDA graph trees), in training mode. What the step before gave,
            but its loss and terms, is then overwritten. Not where gradients of several batches are
            added up: the sum would lie where the next ones are written (pytorch/pytorch#169545,
            #96693).
        """
        torch.compiler.allow_in_graph(rearrange)
        plain = self._compute
        kwargs = {"dynamic": False} | kwargs
        if not cuda_graphs:
            self._compute = torch.compile(plain, *args, **kwargs)  # type: ignore[method-assign]
            return
        recorded = torch.compile(plain, *args, mode="reduce-overhead", **kwargs)

        def step(*given: Any) -> tuple[LossInput, dict[str, LossOutput]]:
            torch.compiler.cudagraph_mark_step_begin()
            return recorded(*given)

        self._replace(step)

    def record(self) -> None:
        """On a GPU, record forward and backward pass in training mode, less the losses that gather,
        and launch each as a whole (``hicmae/graphs.py``); nothing is compiled.

        What the step before gave, but its loss and terms, is then overwritten.
        """
        compute = self._compute
        # The stage decides what is computed, and so is one of the arguments.
        recorded = Recorded(lambda stage, *given: compute(*given), self, self._learns)
        self._replace(lambda *given: recorded(self.stage, *given))

    def _replace(self, step: Callable[..., tuple[LossInput, dict[str, LossOutput]]]) -> None:
        """Take another way to compute a step in training, which overwrites what it gave before."""
        compute = self._compute

        def either(*given: Any) -> tuple[LossInput, dict[str, LossOutput]]:
            return step(*given) if self.training else compute(*given)

        self._compute = either  # type: ignore[method-assign, assignment]
        self._keeps_terms = False

    def _learns(self, results: tuple[LossInput, dict[str, LossOutput]]) -> list[Tensor]:
        """What gradients come back through, of what ``_compute`` gives: its losses, and what the
        gathering ones read."""
        given, losses = results
        sources = [loss.loss for loss in losses.values()]
        for loss in self.losses:
            if loss.gathers and loss.layers:
                for layers in (given.video_layers, given.audio_layers):
                    sources += [layers[layer] for layer in loss.layers]
            elif loss.gathers:
                sources += [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
        return sources

    def _compute(
        self,
        video: Tensor | None,
        fbank: Tensor | None,
        video_mask: Tensor | None,
        fbank_mask: Tensor | None,
        presence: Presence,
    ) -> tuple[LossInput, dict[str, LossOutput]]:
        """All of a step that this process does alone: as ``forward``, and losses by name."""
        video_masks, audio_masks = self._masks(video, fbank, video_mask, fbank_mask)
        # The encoder takes the visible ones of these, the targets the hidden ones.
        video_patches, audio_patches = self.encoder.cut(video, fbank)
        seen, heard = (presence.video, presence.audio) if presence.is_mixed else (None, None)
        if self.stage != WHOLE:  # neither modality reads the other
            seen = heard = torch.zeros_like(presence.video)
        encoded = self.encoder.encode(
            video_patches,
            audio_patches,
            video_keep=None if video_masks is None else video_masks.keep,
            fbank_keep=None if audio_masks is None else audio_masks.keep,
            seen=seen,
            heard=heard,
        )
        # What nobody learns from is made for pictures and probes alone.
        decodes = self.objective.reconstruction or not self.training
        parts: dict[str, Any] = {"video_masks": video_masks, "audio_masks": audio_masks}
        for name, tokens, decoder, masks in (
            ("video", encoded.video, self.video_decoder, video_masks),
            ("audio", encoded.audio, self.audio_decoder, audio_masks),
        ):
            if tokens is not None:
                layers = self._layers(tokens)
                if decodes:
                    skips = [layers[layer] for layer in self.skip_layers]
                    parts[f"{name}_prediction"] = decoder(tokens.fused, skips, masks)
                parts |= {f"{name}_layers": layers, f"{name}_fused": tokens.fused}
        if decodes:
            parts["video_target"], parts["audio_target"] = self.targets(
                video_patches, audio_patches, video_masks, audio_masks
            )
        given = LossInput(presence=presence, **parts)
        alone = [loss for loss in self.losses if not loss.gathers]
        return given, {loss.name: loss.compute(given, loss.settings) for loss in alone}

    def draw_masks(self, batch: int, *, device: torch.device | str = "cpu") -> tuple[Masks, Masks]:
        """Draw what is hidden of a batch of clips, as the next step would: tubelets, patches.

        In training mode a share of the hidden tokens is decoded, see ``decoder_keep``.
        """
        return self._video_masks(batch, device), self._audio_masks(batch, device)

    def whole_masks(self, batch: int, generator: torch.Generator) -> tuple[Masks, Masks]:
        """The same from a generator, on the CPU; all that is hidden is decoded, always."""
        config, objective = self.config, self.objective
        video, audio = objective.video_mask_ratio, objective.audio_mask_ratio
        return (
            tube_masks(batch, config.video_grid, video, generator=generator),
            random_masks(batch, config.num_audio_tokens, audio, generator=generator),
        )

    def hidden(self, masks: tuple[Masks, Masks]) -> tuple[Tensor, Tensor]:
        """Masks of both modalities as ``forward`` takes them: boolean (B, N), True = hidden."""
        video, audio = masks
        return (
            hidden_from_masks(video, self.config.num_video_tokens),
            hidden_from_masks(audio, self.config.num_audio_tokens),
        )

    @torch.no_grad()
    def targets(
        self,
        video_patches: Tensor | None,
        audio_patches: Tensor | None,
        video_masks: Masks | None,
        audio_masks: Masks | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """What the decoders shall predict, of the hidden tubelets and patches only.

        Args:
            video_patches: All tubelets (B, N, P), as ``encoder.cut`` gives them.
            audio_patches: All filter-bank patches (B, N, P).
            video_masks: Which tubelets are hidden, (B, M) of them.
            audio_masks: Which filter-bank patches are hidden.

        Returns: (B, M, P) of the picture and of the sound, float32, without gradients; None of what
            there is none of.
        """
        return (
            None if video_patches is None else self._video_targets(video_patches, video_masks),
            None
            if audio_patches is None or audio_masks is None
            else audio_target(take_tokens(audio_patches, audio_masks.masked)),
        )

    def _video_targets(self, patches: Tensor, masks: Masks | None) -> Tensor | None:
        if masks is None:
            return None
        masked = masks.masked
        video = patches.new_empty(*masked.shape, patches.shape[-1], dtype=torch.float32)
        step = len(masked)
        if masked.device.type == "cpu" and not torch.compiler.is_compiling():
            step = _TARGETS_BYTES // max(1, video[:1].nbytes)
        step = max(1, step)  # one clip's may be more
        for first in range(0, len(masked), step):
            part = slice(first, first + step)
            video[part] = video_target(
                take_tokens(patches[part], masked[part]),
                tubelet_frames=self.config.tubelet_frames,
                image_std=self.config.input.image_std,
                frame_difference=self.objective.frame_difference,
            )
        return video

    def idle_parameters(self) -> Iterator[nn.Parameter]:
        """What the stage does not train; its gradients are zero, and no optimizer may decay it."""
        idle = self.encoder.idle_parts(self.stage)
        for name, decoder in (("video", self.video_decoder), ("audio", self.audio_decoder)):
            if self.stage in ("video", "audio") and name != self.stage:
                idle.append(decoder)
        for part in idle:
            yield from part.parameters()

    def sections(self) -> dict[str, Any]:
        own = {"model": self.config, "objective": self.objective}
        return own | ({"modalities": self.modalities} if self.modalities != "audio-video" else {})

    @classmethod
    def from_sections(cls, sections: Mapping[str, Any], where: str) -> HiCMAE:
        """As the base has it; a checkpoint without an objective has the paper's."""
        sizes = from_dict(ModelConfig, sections["model"], where=f"{where}: model")
        objective = sections.get("objective", {})
        modalities = sections.get("modalities", "audio-video")
        if modalities not in ("audio-video", "video", "audio"):
            raise ValueError(f"{where}: damaged configuration (modalities {modalities!r})")
        losses = from_dict(ObjectiveConfig, objective, where=f"{where}: objective")
        return cls(sizes, losses, modalities)

    def probe_masks(self, generator: torch.Generator) -> dict[str, Tensor]:
        video, audio = self.hidden(self.whole_masks(1, generator))
        return {"input.video_mask": video, "input.fbank_mask": audio}

    def probe_output(self, probe: Mapping[str, Tensor]) -> dict[str, Tensor]:
        given = self(
            probe["input.video"],
            probe["input.fbank"],
            video_mask=probe["input.video_mask"],
            fbank_mask=probe["input.fbank_mask"],
        ).given
        predictions = {"video": given.video_prediction, "audio": given.audio_prediction}
        return {
            f"output.{name}_prediction": values
            for name, values in predictions.items()
            if name in self.modalities
        }

    def _masks(
        self,
        video: Tensor | None,
        fbank: Tensor | None,
        video_mask: Tensor | None,
        fbank_mask: Tensor | None,
    ) -> tuple[Masks | None, Masks | None]:
        """The masks of what there is: those given, else drawn."""
        found: list[Masks | None] = []
        for clips, given, draw in (
            (video, video_mask, self._video_masks),
            (fbank, fbank_mask, self._audio_masks),
        ):
            drawn = draw(len(clips), clips.device) if clips is not None and given is None else None
            found.append(drawn if given is None else masks_from_hidden(given))
        return found[0], found[1]

    def _video_masks(self, batch: int, device: torch.device | str) -> Masks:
        grid, share = self.config.video_grid, self._decoded_share()
        masks = tube_masks(batch, grid, self.objective.video_mask_ratio, device=device)
        return running_cells(masks, grid[0], share) if share < 1 else masks

    def _audio_masks(self, batch: int, device: torch.device | str) -> Masks:
        num_tokens, share = self.config.num_audio_tokens, self._decoded_share()
        masks = random_masks(batch, num_tokens, self.objective.audio_mask_ratio, device=device)
        return random_share(masks, share) if share < 1 else masks

    def _decoded_share(self) -> float:
        return self.objective.decoder_keep if self.training else 1.0

    def _layers(self, tokens: ModalityTokens) -> dict[int, Tensor]:
        return dict(zip(self.encoder.layers, tokens.layers, strict=True))

    def _sum_losses(
        self, results: Mapping[str, LossOutput]
    ) -> tuple[Tensor, dict[str, Tensor], tuple[Tensor, ...]]:
        """The weighted sum of the losses, their terms for the log, and the contrast's logits."""
        total: Tensor | None = None
        terms: dict[str, Tensor] = {}
        logits: tuple[Tensor, ...] = ()
        for loss in self.losses:
            result = results[loss.name]
            # One after another, so that the sum is the same to the bit. What is not in the stage
            # is computed all the same: the log has it, and processes gather in one order.
            weighted = (loss.weight if loss.is_in(self.stage) else 0.0) * result.loss
            total = weighted if total is None else total + weighted
            terms[loss.name] = result.loss.detach()
            terms |= {f"{loss.name}_{key}": part.detach() for key, part in result.terms.items()}
            logits += result.logits
        assert total is not None
        if not self._keeps_terms:
            together = torch.stack([term.float() for term in terms.values()])
            terms = dict(zip(terms, together.unbind(), strict=True))
        return total, terms, logits


class ReconstructionDecoder(nn.Module):
    """Predicts the values of hidden tokens of one modality.

    The first layer is a plain block; layer i >= 1 is a cross block that reads the i-th skip
    feature counted from the deepest, as long as there are any; further layers are plain.

    Args:
        config: Sizes.
        num_tokens: Tokens of the modality.
        num_values: Numbers to predict for each hidden token.
        num_skips: Skip features that ``forward`` will be given.

    Raises: ValueError: more skip features than layers to read them.
    Source: HiCMAE, section 3.3; reference facts, network section.
    """

    positions: Tensor

    def __init__(
        self, config: ModelConfig, *, num_tokens: int, num_values: int, num_skips: int
    ) -> None:
        super().__init__()
        if num_skips >= config.decoder_depth:
            raise ValueError(
                f"model: decoder_depth = {config.decoder_depth} reads at most "
                f"{config.decoder_depth - 1} feature layers, found {num_skips}; "
                "choose fewer feature_layers, or a deeper decoder"
            )
        dim = config.decoder_dim
        self.from_encoder = nn.Linear(config.encoder_dim, dim, bias=False)
        self.mask_token = nn.Parameter(torch.empty(dim))
        self.register_buffer("positions", sinusoid_positions(num_tokens, dim), persistent=False)
        self.blocks = nn.ModuleList(
            (CrossBlock if 1 <= layer <= num_skips else Block)(
                dim,
                config.decoder_heads,
                mlp_ratio=config.mlp_ratio,
                eps=config.layer_norm_eps,
            )
            for layer in range(config.decoder_depth)
        )
        self.norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.head = nn.Linear(dim, num_values)
        self.apply(xavier_linears)
        truncated_normal_(self.mask_token)

    def forward(self, tokens: Tensor, skips: Sequence[Tensor], masks: Masks) -> Tensor:
        """Predict hidden values.

        Args:
            tokens: Fused visible tokens (B, K, D).
            skips: Visible tokens of encoder layers (B, K, D), shallow first.
            masks: Which tokens are visible and hidden.

        Returns: (B, M, P) values of the hidden tokens, in the order of ``masks.masked``.
        """
        visible_positions = self.positions[masks.keep]  # (B, K, d)
        visible = self.from_encoder(tokens) + visible_positions
        hidden = self.mask_token + self.positions[masks.masked]  # (B, M, d)
        sequence = torch.cat((visible, hidden.to(visible.dtype)), dim=1)  # (B, N, d)
        contexts = [self.from_encoder(skip) + visible_positions for skip in reversed(skips)]
        for layer, block in enumerate(self.blocks):
            if isinstance(block, CrossBlock):
                sequence = block(sequence, contexts[layer - 1])
            else:
                sequence = block(sequence)
        return self.head(norm_stream(self.norm, sequence[:, masks.keep.shape[1] :]))
