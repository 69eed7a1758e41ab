"""EmotionModel: the encoder, hierarchical feature fusion and a head for labels or real values.

``clip_values`` is the one way in which a trained one is asked, from clips to outputs.

Shape letters: B clips, N tokens, D width, L layers, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hicmae.blocks import truncated_normal_linears
from hicmae.checkpoints.portable import PortableModel
from hicmae.config import from_dict
from hicmae.devices import autocast, send
from hicmae.encoder import AudioVisualEncoder
from hicmae.heads import HeadLabels, head_values, slices
from hicmae.registry import Registry
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


# Of the layers of one modality. What makes one takes ``num_layers``, ``num_tokens`` of a clip, the
# width ``dim`` and its settings, and gives a module from tokens (B, N, D) of the layers, a tuple,
# shallow first, to (B, D); a method ``weights()`` -> (L,), summing to 1, is shown where it exists.
FUSIONS: Registry[Callable[..., nn.Module]] = Registry("feature fusion")


@FUSIONS.register("hierarchical")
class HierarchicalFusion(nn.Module):
    """Sums the pooled tokens of all encoder layers of one modality with softmax weights.

    Source: HiCMAE, section 3.5 (hierarchical feature fusion); weights equal at the start.
    """

    def __init__(self, num_layers: int, num_tokens: int, dim: int, settings: object) -> None:
        super().__init__()
        self.layer_logits = nn.Parameter(torch.zeros(num_layers))

    def weights(self) -> Tensor:
        """Weight of each layer (L,), summing to 1."""
        return self.layer_logits.softmax(dim=0)

    def forward(self, layers: tuple[Tensor, ...]) -> Tensor:
        """Pool tokens (B, N, D) of L layers to (B, D)."""
        pooled = torch.stack([tokens.mean(dim=1) for tokens in layers])  # (L, B, D)
        return torch.einsum("l,lbd->bd", self.weights().to(pooled.dtype), pooled)


@dataclass(frozen=True, kw_only=True)
class DepthwiseSettings:
    """Settings of the fusion below.

    Args:
        rate: How many times as fast as other parameters the weights of the places change.
    """

    rate: float = 16.0

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError(f"rate = {self.rate} (must be positive)")


@FUSIONS.register("global-depthwise", settings=DepthwiseSettings)
class DepthwiseFusion(HierarchicalFusion):
    """The same, but tokens are normed and pooled with a weight of each place in each channel.

    A mean over places, which it is at the start and decays to, forgets where something was; faces
    that were cut out alike have their mouths, and filter banks their frequencies, at one place.

    Source: global depthwise convolution in place of a mean, MobileFaceNets (Chen et al., 2018),
    section 3; over several layers, and its ``rate``, are ours (configs/demo_results.md).
    """

    def __init__(
        self, num_layers: int, num_tokens: int, dim: int, settings: DepthwiseSettings
    ) -> None:
        super().__init__(num_layers, num_tokens, dim, settings)
        self.rate = settings.rate
        self.places = nn.Parameter(torch.zeros(num_layers, num_tokens, dim))

    def forward(self, layers: tuple[Tensor, ...]) -> Tensor:
        """Pool tokens (B, N, D) of L layers, those of a whole clip, to (B, D)."""
        shares = self.weights()[:, None, None] * (self.rate * self.places + 1 / len(self.places[0]))
        pooled = [
            torch.einsum("bnd,nd->bd", nn.functional.layer_norm(tokens, tokens.shape[-1:]), share)
            for tokens, share in zip(layers, shares, strict=True)
        ]
        return torch.stack(pooled).sum(dim=0)


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
        self.video_fusion = self._fusion(config.num_video_tokens)
        self.audio_fusion = self._fusion(config.num_audio_tokens)
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

    def _fusion(self, num_tokens: int) -> nn.Module:
        entry = FUSIONS[self.emotion.fusion]
        settings = entry.configure(self.emotion.fusion_settings, "emotion: fusion_settings")
        return entry.make(
            num_layers=len(self.encoder.layers),
            num_tokens=num_tokens,
            dim=self.config.encoder_dim,
            settings=settings,
        )

    def _freeze_absent(self) -> None:
        """Freeze what a model of one modality never runs, so that no optimizer waits for it."""
        self.encoder.freeze_absent(self.emotion.modalities)
        for name, fusion in (("video", self.video_fusion), ("audio", self.audio_fusion)):
            fusion.requires_grad_(name in self.emotion.modalities)
        if not self.emotion.feature_fusion:  # one layer: its softmax weight is always 1
            self.video_fusion.requires_grad_(False)
            self.audio_fusion.requires_grad_(False)


def by_presence(
    network: Callable[[Tensor | None, Tensor | None], Tensor],
    video: Tensor | None,
    fbank: Tensor | None,
    seen: Tensor | None = None,
    heard: Tensor | None = None,
) -> Tensor:
    """Ask a network about clips, each with the modalities that it has.

    Clips of the same modalities go through the network together, and what a clip lacks is not
    computed: its output is exactly that of a call without the modality.

    Args:
        network: Gives (B, …) of frames (B, 3, T, H, W) and filter banks (B, S, F).
        video: Of no clip at all, None.
        fbank: Likewise.
        seen: (B,) boolean, whether a clip has its video; on the CPU, so that nothing waits. None:
            all have what is given.
        heard: The same of its sound; one of the two at least.

    Raises: ValueError: an ``EmotionModel`` is given a clip without what it reads.
    """
    if seen is None or heard is None or bool((seen & heard).all()):
        return network(video, fbank)
    parts, places = [], []
    for has_video, has_sound in ((True, True), (True, False), (False, True), (False, False)):
        rows = ((seen == has_video) & (heard == has_sound)).nonzero().flatten()
        if not len(rows):
            continue
        pictures = sounds = None
        if has_video and video is not None:
            pictures = video[send(rows, video.device)]
        if has_sound and fbank is not None:
            sounds = fbank[send(rows, fbank.device)]
        parts.append(network(pictures, sounds))
        places.append(rows)
    return torch.cat(parts)[send(torch.cat(places).argsort(), parts[0].device)]


@torch.inference_mode()
def clip_values(
    network: nn.Module,
    video: Tensor | None,
    fbank: Tensor | None,
    *,
    task: str,
    precision: str = "32-true",
    mean: Tensor | None = None,
    std: Tensor | None = None,
    heads: Sequence[HeadLabels] = (),
    temperature: float = 1.0,
    seen: Tensor | None = None,
    heard: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Ask a network about clips.

    Args:
        network: An ``EmotionModel``, or what is called like one, in evaluation mode.
        video: Normalised frames (B, 3, T, H, W), or none.
        fbank: Normalised filter banks (B, S, F), or none.
        task: ``classification``, ``regression`` or ``joint``.
        precision: Of the arithmetic: ``32-true`` or ``bf16-mixed``.
        mean: (C,) of the real values that the network was trained on.
        std: (C,) their standard deviation.
        heads: Of ``joint``, in the order of their outputs.
        temperature: Of the softmax of classes.
        seen: Where some lack a modality, as of ``by_presence``.
        heard: Likewise.

    Returns: probabilities, or real values in the labels' own unit, and what the network gave
        before; both (B, C) float32.
    """
    given = video if video is not None else fbank
    assert given is not None, "a clip has picture or sound"
    with autocast(precision, given.device):
        outputs = by_presence(network, video, fbank, seen, heard)
    scaled = outputs.float() / temperature if task == "classification" else outputs
    return outputs_to_values(scaled, task=task, mean=mean, std=std, heads=heads), outputs.float()


def outputs_to_values(
    outputs: Tensor,
    *,
    task: str,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    heads: Sequence[HeadLabels] = (),
) -> Tensor:
    """What outputs (B, C) of a network stand for: probabilities, or real values; float32."""
    outputs = outputs.float()
    if task == "classification":
        return outputs.softmax(dim=-1)
    if heads:
        parts = [head_values(outputs[:, place], head.kind) for head, place in slices(heads)]
        outputs = torch.cat(parts, dim=1)
    if std is not None:
        outputs = outputs * std
    return outputs if mean is None else outputs + mean
