"""One annotator's own network, which starts from the one that all of them share.

Labels over time differ from annotator to annotator in lag and scale. From a network fine-tuned on
all of them, head and fusion are trained on one alone; what that gains is told beside what the
shared network reaches on the same labels.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from finetune.benchmark import Benchmark
from finetune.settings import FinetuneConfig
from hicmae.checkpoints.checkpoint import Checkpoint
from hicmae.checkpoints.networks import build_network
from hicmae.emotion import EmotionModel


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
        f"{name} {before[name]:.4f} to {after[name]:.4f} ({after[name] - before[name]:+.4f})"
        for name in after
    )
    return f"on the labels of {annotator}, from the shared network to the personal one: {told}"
