"""From a checkpoint to the network it is of, ready to predict."""

from __future__ import annotations

from hicmae.checkpoint import CONFIG, WEIGHTS, Checkpoint, load_weights
from hicmae.emotion import EmotionConfig, EmotionModel
from hicmae.plain import from_dict
from hicmae.pretraining import HiCMAE
from hicmae.settings import ObjectiveConfig


def build_network(checkpoint: Checkpoint) -> HiCMAE | EmotionModel:
    """The network of a checkpoint, in evaluation mode, on the CPU.

    Raises: ValueError: its configuration is damaged, or its weights do not fit it.
    """
    where = checkpoint.path / CONFIG
    sizes = checkpoint.model_config()
    network: HiCMAE | EmotionModel
    if checkpoint.kind == "pretraining":
        objective = checkpoint.config.get("objective", {})
        network = HiCMAE(sizes, from_dict(ObjectiveConfig, objective, where=f"{where}: objective"))
    else:
        if "emotion" not in checkpoint.config:
            raise ValueError(f"{where}: damaged configuration (no section 'emotion')")
        head = from_dict(EmotionConfig, checkpoint.config["emotion"], where=f"{where}: emotion")
        network = EmotionModel(sizes, head)
    load_weights(network, checkpoint.tensors, where=str(checkpoint.path / WEIGHTS))
    return network.eval()
