"""A network whose pooled features are those of a checkpoint of either kind.

For: features before and after fine-tuning under one name. Not for: extracting them
(``extracting.py``).
"""

from __future__ import annotations

from hicmae.checkpoint import Checkpoint, load_encoder
from hicmae.checkpoints.networks import build_network
from hicmae.emotion import EmotionConfig, EmotionModel


def feature_network(checkpoint: Checkpoint) -> EmotionModel:
    """A network whose ``features`` are those of a checkpoint.

    A pretrained one has no head; its features are those that the head would read at its first
    step: all layers weighted alike, both modalities.

    Args:
        checkpoint: Pretrained or fine-tuned.
    """
    if checkpoint.kind == "emotion":
        network = build_network(checkpoint)
        assert isinstance(network, EmotionModel)
        return network
    network = EmotionModel(checkpoint.model_config(), EmotionConfig(num_outputs=1))
    load_encoder(network.encoder, checkpoint)
    return network.eval()
