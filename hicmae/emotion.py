"""EmotionModel: the encoder, hierarchical feature fusion and a head for labels or real values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hicmae.blocks import truncated_normal_linears
from hicmae.checkpoints.portable import PortableModel
from hicmae.config import from_dict
from hicmae.encoder import AudioVisualEncoder
from hicmae.inference import by_presence
from hicmae.registry import NoSettings, Registry
from hicmae.settings import ModelConfig

Modalities = Literal["audio-video", "video", "audio"]


@dataclass(frozen=True, kw_only=True)
class EmotionConfig:
    """What a fine-tuned network puts on top of the encoder.

    Args:
        num_outputs: Classes, or real-valued targets.
        modalities: What it hears and sees.
        feature_fusion: Whether the tokens of all encoder layers are pooled and fused; else the
            last layer alone is pooled (an ablation of the paper).
        drop_path: Rate of stochastic depth in the last layers; it rises linearly from 0.
        fusion: How the layers are fused, a name out of ``FUSIONS``.
        fusion_settings: Settings of that fusion.
        constants: Outputs that are the same for every clip, and learned (borders of levels).
    """

    num_outputs: int
    modalities: Modalities = "audio-video"
    feature_fusion: bool = True
    drop_path: float = 0.1
    fusion: str = field(default="hierarchical", metadata={"omit_default": True})
    fusion_settings: dict[str, Any] = field(
        default_factory=dict, hash=False, metadata={"omit_default": True}
    )
    constants: tuple[int, ...] = field(default=(), metadata={"omit_default": True})

    def __post_init__(self) -> None:
        if self.num_outputs < 1:
            raise ValueError(f"emotion: num_outputs = {self.num_outputs} (must be 1 or more)")
        if not set(self.constants) <= set(range(self.num_outputs)):
            raise ValueError(f"emotion: constants = {self.constants} of {self.num_outputs} outputs")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"emotion: drop_path = {self.drop_path} (must lie in [0, 1))")
        FUSIONS[self.fusion].configure(self.fusion_settings, "emotion: fusion_settings")
        if not self.feature_fusion and self.fusion != "hierarchical":
            raise ValueError(
                f"emotion: feature_fusion = False leaves nothing to fuse by {self.fusion!r}"
            )


# Of the layers of one modality. What makes one takes ``num_layers``, the width ``dim`` and its
# settings, and gives a module from tokens (B, N, D) of the layers, a tuple, shallow first, to
# (B, D); a method ``weights()`` -> (L,), summing to 1, is shown where it exists.
FUSIONS: Registry[Callable[..., nn.Module]] = Registry("feature fusion")


@FUSIONS.register("hierarchical")
class HierarchicalFusion(nn.Module):
    """Sums the pooled tokens of all encoder layers of one modality with softmax weights.

    Source: HiCMAE, section 3.5 (hierarchical feature fusion); weights equal at the start.
    """

    def __init__(self, num_layers: int, dim: int, settings: NoSettings) -> None:
        super().__init__()
        self.layer_logits = nn.Parameter(torch.zeros(num_layers))

    def weights(self) -> Tensor:
        """Weight of each layer (L,), summing to 1."""
        return self.layer_logits.softmax(dim=0)

    def forward(self, layers: tuple[Tensor, ...]) -> Tensor:
        """Pool tokens (B, N, D) of L layers to (B, D)."""
        pooled = torch.stack([tokens.mean(dim=1) for tokens in layers])  # (L, B, D)
        return torch.einsum("l,lbd->bd", self.weights().to(pooled.dtype), pooled)


class HeadWithConstants(nn.Linear):
    """A linear layer some of whose outputs are their bias alone."""

    varies: Tensor

    def __init__(self, width: int, num_outputs: int, constants: tuple[int, ...]) -> None:
        super().__init__(width, num_outputs)
        varies = torch.ones(num_outputs, 1)
        varies[list(constants)] = 0
        self.register_buffer("varies", varies, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Outputs (B, C) of features (B, D)."""
        weight = self.weight * self.varies.to(self.weight.dtype)
        return nn.functional.linear(input, weight, self.bias)


class EmotionModel(PortableModel):
    """Predicts emotion from a clip.

    A model of both modalities has a head over four pooled vectors (video layers, audio layers,
    fused video, fused audio); where one modality is absent its two are zeros. A model of one
    modality has a head over its own two, and what belongs to the other is frozen.

    Args:
        config: Sizes of the encoder.
        emotion: Head and regularisation.

    Source: HiCMAE, section 3.5; reference facts, recipes section.
    """

    kind = "emotion"

    def __init__(self, config: ModelConfig, emotion: EmotionConfig) -> None:
        super().__init__()
        self.config = config
        self.emotion = emotion
        every_layer = range(1, config.encoder_depth + 1)
        layers = every_layer if emotion.feature_fusion else [config.encoder_depth]
        self.encoder = AudioVisualEncoder(config, layers=layers, drop_path=emotion.drop_path)
        self.encoder.apply(truncated_normal_linears)
        self.video_fusion = self._fusion()
        self.audio_fusion = self._fusion()
        width = config.encoder_dim * (4 if emotion.modalities == "audio-video" else 2)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.head = (
            HeadWithConstants(width, emotion.num_outputs, emotion.constants)
            if emotion.constants
            else nn.Linear(width, emotion.num_outputs)
        )
        self._freeze_absent()

    def forward(self, video: Tensor | None, fbank: Tensor | None) -> Tensor:
        """Logits or real values (B, num_outputs) of frames (B, 3, T, H, W), banks (B, S, F)."""
        return self.head(self.features(video, fbank))

    def forward_each(
        self, video: Tensor | None, fbank: Tensor | None, seen: Tensor, heard: Tensor
    ) -> Tensor:
        """As ``forward``, clip by clip with the modalities that it has; see ``by_presence``.

        Returns: (B, num_outputs).
        Raises: ValueError: a clip without both, or without what this model reads.
        """
        return by_presence(self, video, fbank, seen, heard)

    def features(self, video: Tensor | None, fbank: Tensor | None) -> Tensor:
        """Pooled features after the final norm: (B, 4D), or (B, 2D) of a single modality.

        Raises: ValueError: the modality that this model reads is absent.
        """
        wanted = self.emotion.modalities
        if (wanted == "video" and video is None) or (wanted == "audio" and fbank is None):
            raise ValueError(f"this model reads {wanted} alone, and the clip has none")
        video = None if wanted == "audio" else video
        fbank = None if wanted == "video" else fbank
        encoded = self.encoder(video, fbank)
        seen = [
            None if tokens is None else (fusion(tokens.layers), tokens.fused.mean(dim=1))
            for tokens, fusion in (
                (encoded.video, self.video_fusion),
                (encoded.audio, self.audio_fusion),
            )
        ]
        present = [pair for pair in seen if pair is not None]
        if wanted == "audio-video":
            zeros = torch.zeros_like(present[0][0])
            present = [pair if pair is not None else (zeros, zeros) for pair in seen]
        layered, fused = zip(*present, strict=True)
        return self.norm(torch.cat((*layered, *fused), dim=1))

    def sections(self) -> dict[str, Any]:
        return {"model": self.config, "emotion": self.emotion}

    @classmethod
    def from_sections(cls, sections: Mapping[str, Any], where: str) -> EmotionModel:
        sizes = from_dict(ModelConfig, sections["model"], where=f"{where}: model")
        if "emotion" not in sections:
            raise ValueError(f"{where}: damaged configuration (no section 'emotion')")
        head = from_dict(EmotionConfig, sections["emotion"], where=f"{where}: emotion")
        return cls(sizes, head)

    def probe_masks(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {}  # nothing is hidden from it

    def probe_output(self, probe: Mapping[str, Tensor]) -> dict[str, Tensor]:
        features = self.features(probe["input.video"], probe["input.fbank"])
        return {"output.features": features, "output.logits": self.head(features)}

    def layer_weights(self) -> dict[str, Tensor]:
        """Learned weight of each encoder layer, (L,) summing to 1, by modality.

        Of a fusion that has no such weights there is nothing.
        """
        learned: dict[str, Tensor] = {}
        for name in ("video", "audio"):
            if name not in self.emotion.modalities:
                continue
            weights = getattr(getattr(self, f"{name}_fusion"), "weights", None)
            if weights is not None:
                learned[name] = weights().detach()
        return learned

    def _fusion(self) -> nn.Module:
        entry = FUSIONS[self.emotion.fusion]
        settings = entry.configure(self.emotion.fusion_settings, "emotion: fusion_settings")
        return entry.make(
            num_layers=len(self.encoder.layers), dim=self.config.encoder_dim, settings=settings
        )

    def _freeze_absent(self) -> None:
        """Freeze what a model of one modality never runs, so that no optimizer waits for it."""
        self.encoder.freeze_absent(self.emotion.modalities)
        for name, fusion in (("video", self.video_fusion), ("audio", self.audio_fusion)):
            fusion.requires_grad_(name in self.emotion.modalities)
        if not self.emotion.feature_fusion:  # one layer: its softmax weight is always 1
            self.video_fusion.requires_grad_(False)
            self.audio_fusion.requires_grad_(False)
