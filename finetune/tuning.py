"""Which weights are trained, from which start: all, a probe, the fusion, low-rank updates.

Labels over time differ from annotator to annotator in lag and scale. From a network fine-tuned on
all of them, head and fusion are trained on one alone; what that gains is told beside what the
shared network reaches on the same labels.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from finetune.benchmark import Benchmark
from finetune.settings import FinetuneConfig, RecipeConfig
from hicmae.checkpoints.checkpoint import Checkpoint
from hicmae.checkpoints.networks import build_network
from hicmae.emotion import EmotionModel
from hicmae.lora import add_lora


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


def personal_config(
    config: FinetuneConfig, benchmark: Benchmark, weights: Checkpoint | None
) -> FinetuneConfig:
    """The settings of a run on one annotator's labels: from a shared network, tuning fusion.

    Raises: ValueError: the shared network reads or predicts something else.
    """
    if not is_shared(config, weights):
        return config
    assert weights is not None
    labels, network = weights.labels(), weights.config.get("emotion", {})
    found = () if labels is None else tuple(labels.names)
    if found != benchmark.targets or network.get("modalities") != config.modalities:
        raise ValueError(
            f"{weights.path}: predicts {', '.join(found) or 'nothing'} from"
            f" {network.get('modalities')}, and recipe.annotator goes on from it for"
            f" {', '.join(benchmark.targets)} from {config.modalities}; take a"
            " run of this benchmark"
        )
    if config.recipe.tuning != "full":
        return config
    recipe = dataclasses.replace(config.recipe, tuning="fusion")
    return dataclasses.replace(config, recipe=recipe)


def is_shared(config: FinetuneConfig, weights: Checkpoint | None) -> bool:
    """Whether a run makes a shared network one annotator's own."""
    return config.recipe.annotator is not None and weights is not None and weights.kind == "emotion"


@torch.no_grad()
def start_from_shared(model: EmotionModel, weights: Checkpoint, mean: Tensor, std: Tensor) -> None:
    """Take over every weight of the shared network; its head then says the same real values.

    Args:
        model: The network to be trained, whose outputs are standardised.
        mean, std: (D,) of its own training side.
    """
    labels, shared = weights.labels(), build_network(weights)
    assert labels is not None, "checked by personal_config"
    model.load_state_dict(shared.state_dict())
    theirs = torch.tensor(labels.std, dtype=torch.float32)
    centre = torch.tensor(labels.mean, dtype=torch.float32)
    model.head.weight.mul_((theirs / std)[:, None])
    model.head.bias.copy_((model.head.bias * theirs + centre - mean) / std)


def gain_note(annotator: str, before: dict[str, float], after: dict[str, float]) -> str:
    """What the personal network gained over the shared one, as a sentence."""
    told = ", ".join(
        f"{name} {before[name]:z.4f} to {after[name]:z.4f} ({after[name] - before[name]:+z.4f})"
        for name in after
    )
    return f"on the labels of {annotator}, from the shared network to the personal one: {told}"
