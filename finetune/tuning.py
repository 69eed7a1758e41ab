"""Which weights of an emotion network are trained: all, a probe, the fusion, low-rank updates."""

from __future__ import annotations

import dataclasses

from torch import nn

from finetune.settings import RecipeConfig
from hicmae.emotion import EmotionModel
from hicmae.lora import add_lora, merge_lora


def apply_tuning(model: EmotionModel, recipe: RecipeConfig) -> list[nn.Module]:
    """Freeze what is not trained; the weights of the encoder must be loaded already.

    Returns: the parts that stay as they are at test time (no drop path).
    Raises: ValueError: a rank that a matrix does not have.
    """
    encoder = model.encoder
    if recipe.tuning == "probe":
        frozen: list[nn.Module] = [encoder]
    elif recipe.tuning == "fusion":
        frozen = [encoder.video, encoder.audio]
    else:
        frozen = []
    for part in frozen:
        part.requires_grad_(False)
    if recipe.tuning == "lora":
        add_lora(encoder, **dataclasses.asdict(recipe.lora))
    return frozen


def merge_tuning(model: EmotionModel) -> None:
    """Make the network a plain one again: low-rank updates become part of the weights."""
    merge_lora(model.encoder)


def tuning_sentence(recipe: RecipeConfig) -> str | None:
    """What was trained, for the reader of the numbers; none for everything."""
    lora = recipe.lora
    return {
        "full": None,
        "probe": "the encoder was frozen: head and layer weights alone were trained",
        "fusion": "the encoders of both modalities were frozen: fusion encoder, layer weights and"
        " head were trained",
        "lora": f"the encoder was frozen but for low-rank updates of rank {lora.rank} (alpha"
        f" {lora.alpha:g}, dropout {lora.dropout:g}) of {', '.join(lora.projections)}, which are"
        " merged into the saved weights; layer weights and head were trained",
    }[recipe.tuning]
