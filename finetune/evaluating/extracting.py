"""Features of clips: of layers, fused, or as the head reads them.

For: ``hicmae embed``, from pretrained and fine-tuned checkpoints. Not for: writing them
(``embedding.py``).

Shape letters: B clips, N tokens, D width of the encoder.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from finetune.evaluating.features import feature_network
from finetune.evaluating.machine import Running
from finetune.evaluating.settings import MachineConfig, What
from hicmae.checkpoint import Checkpoint
from hicmae.emotion import EmotionModel


class Extractor:
    """Gives named features of clips.

    Args:
        checkpoint: Pretrained or fine-tuned.
        what: ``pooled``: what the head reads, or would (all layers weighted alike) of a pretrained
            network: (B, 4·D), or (B, 2·D) of a network of one modality. ``layers``: the mean token
            of each encoder layer, (B, D) each, after the encoder's final norm as in training.
            ``fused``: the mean token after fusion, (B, D) each.
        layers: ``all``, or numbers of encoder layers from 1 separated by commas.
        modalities: What the network is given; none: all that it reads.
        machine: On what it runs.

    Attributes:
        modalities: What the network is given.
        widths: Name of each feature and its width.

    Raises: ValueError: a layer or a modality that the network does not have; layers of something
        else than ``layers``.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        what: What,
        layers: str,
        modalities: str | None,
        machine: MachineConfig,
    ) -> None:
        self.network: EmotionModel = feature_network(checkpoint)
        reads = self.network.emotion.modalities
        self.modalities = modalities or reads
        if not set(self.modalities.split("-")) <= set(reads.split("-")):
            raise ValueError(f"modalities = {modalities}: {checkpoint.path} reads {reads} alone")
        self.what = what
        self.input = self.network.config.input
        depth, width = self.network.config.encoder_depth, self.network.config.encoder_dim
        if what != "layers" and layers != "all":
            raise ValueError(f"layers = {layers} is for --what layers (this is {what})")
        self.layers = tuple(range(1, depth + 1)) if layers == "all" else _layers(layers, depth)
        present = [name for name in ("video", "audio") if name in self.modalities.split("-")]
        if what == "pooled":
            self.widths = {"pooled": self.network.head.in_features}
        elif what == "fused":
            self.widths = {f"{name}_fused": width for name in present}
        else:
            self.widths = {
                f"{name}_layer_{layer}": width for name in present for layer in self.layers
            }
            self.network.encoder.layers = self.layers
        self.running = Running(self.network, self.input, self.modalities, machine)

    @torch.no_grad()
    def __call__(self, video: Tensor | None, fbank: Tensor | None) -> dict[str, np.ndarray]:
        """Features of a batch of clips, float32 (B, width) by name.

        Args:
            video: (B, 3, T, H, W) on the device, or None.
            fbank: (B, S, F) on the device, or None.
        """
        with self.running.autocast():
            if self.what == "pooled":
                found = {"pooled": self.network.features(video, fbank)}
            else:
                found = self._means(video, fbank)
        return {name: values.float().cpu().numpy() for name, values in found.items()}

    def _means(self, video: Tensor | None, fbank: Tensor | None) -> dict[str, Tensor]:
        """Mean tokens of layers or of the fusion, (B, D) each."""
        encoded = self.network.encoder(video, fbank)
        found = {}
        for name, tokens in (("video", encoded.video), ("audio", encoded.audio)):
            if tokens is None:
                continue
            if self.what == "fused":
                found[f"{name}_fused"] = tokens.fused.mean(dim=1)
            else:
                for layer, of_layer in zip(self.layers, tokens.layers, strict=True):
                    found[f"{name}_layer_{layer}"] = of_layer.mean(dim=1)
        return found


def _layers(text: str, depth: int) -> tuple[int, ...]:
    """Numbers of layers, ascending."""
    words = [word.strip() for word in text.split(",")]
    numbers = [int(word) for word in words if word.isdecimal()]
    if (
        len(numbers) < len(words)
        or len(set(numbers)) < len(numbers)
        or not all(1 <= number <= depth for number in numbers)
    ):
        raise ValueError(f"layers = {text} (all, or numbers from 1 to {depth}, each once)")
    return tuple(sorted(numbers))
