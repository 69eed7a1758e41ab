"""What the folds of a run have in common, decided and checked before anything is trained.

For: from the options of ``hicmae finetune`` to one frozen plan and its digest. Not for: which
samples a fold has (``finetune/folds.py``) or training (``finetune/training.py``).
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.benchmark import Benchmark
from finetune.fitting.tuning import apply_tuning
from finetune.mixing_config import MixingConfig
from finetune.provenance import file_digest, settings_digest
from finetune.resolution import Resolved, resolve
from finetune.selection import Protocol
from finetune.settings import (
    Modalities,
    OptimizerConfig,
    RecipeConfig,
    TrainerConfig,
    WandbConfig,
)
from hicmae.checkpoint import WEIGHTS, Checkpoint, load_checkpoint
from hicmae.config import load_model_config
from hicmae.emotion import EmotionConfig, EmotionModel
from hicmae.plain import to_dict
from hicmae.precision import resolve_precision
from hicmae.settings import ModelConfig
from hicmae.transforms import AugmentConfig
from shards.index import TABLE_NAME, Index


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that the folds of a run have in common, checked and decided.

    Args:
        out: The run folder.
        group: Name of the command's folder: the runs that it made belong together.
        benchmark: What is predicted.
        index: The shards.
        model: Sizes of the network, with the stride of this run.
        emotion: Its head.
        checkpoint: Where the encoder's weights come from; none: from scratch.
        resolved: Epochs, rate, loss and stride.
        accumulate: Batches of one optimizer step.
        recipe: What is trained and how it is tested.
        protocol: How the tested weights are chosen.
        optimizer: AdamW and its schedule.
        mixing: Mixup and cutmix.
        augment: Random changes to single clips.
        trainer: On what it runs.
        precision: Lightning's name of the number format.
        wandb: Logging to Weights & Biases.
        seed: Of every random draw; each fold starts from it anew.
        shards_digest: SHA-256 of the index of the shards.
    """

    out: Path
    group: str
    benchmark: Benchmark
    index: Index
    model: ModelConfig
    emotion: EmotionConfig
    checkpoint: Checkpoint | None
    resolved: Resolved
    accumulate: int
    recipe: RecipeConfig
    protocol: Protocol
    optimizer: OptimizerConfig
    mixing: MixingConfig
    augment: AugmentConfig
    trainer: TrainerConfig
    precision: str
    wandb: WandbConfig
    seed: int
    shards_digest: str

    @property
    def batch_size(self) -> int:
        """Clips of one optimizer step."""
        return self.recipe.batch_size * self.accumulate

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of all that decides the numbers; not of where they are written or logged."""
        return settings_digest({**self._decisive, "seed": self.seed})

    @functools.cached_property
    def experiment_digest(self) -> str:
        """SHA-256 of the same without the seed: runs that differ in nothing else share it."""
        return settings_digest(self._decisive)

    @functools.cached_property
    def _decisive(self) -> dict[str, Any]:
        """All that decides the numbers, but the seed."""
        weights = self.checkpoint
        return {
            "benchmark": self.benchmark,
            "model": self.model,
            "emotion": self.emotion,
            "resolved": self.resolved,
            "accumulate": self.accumulate,
            "recipe": self.recipe,
            "protocol": self.protocol,
            "optimizer": self.optimizer,
            "mixing": self.mixing,
            "augment": self.augment,
            "precision": self.precision,
            "checkpoint": None if weights is None else file_digest(weights.path / WEIGHTS),
            "shards": self.shards_digest,
        }

    @functools.cached_property
    def num_parameters(self) -> int:
        """Numbers that are trained."""
        model = EmotionModel(self.model, self.emotion)
        apply_tuning(model, self.recipe)
        return sum(item.numel() for item in model.parameters() if item.requires_grad)

    def scaled(self, rate: float) -> float:
        """A base rate scaled to the batch. Source: linear scaling rule at 256 clips."""
        return rate * self.batch_size / 256


def make_plan(
    *,
    out: Path,
    group: str,
    benchmark: Benchmark,
    index: Index,
    checkpoint: Path | None,
    model: str | None,
    modalities: Modalities,
    epochs: int | None,
    accumulate: int,
    recipe: RecipeConfig,
    protocol: Protocol,
    optimizer: OptimizerConfig,
    mixing: MixingConfig,
    augment: AugmentConfig,
    precision: str,
    trainer: TrainerConfig,
    wandb: WandbConfig,
    seed: int,
) -> Plan:
    """Check the options against each other and decide what they leave open.

    The arguments are those of ``finetune.run.finetune`` and ``Plan``.

    Raises: ValueError, FileNotFoundError: as there.
    """
    resolved = resolve(benchmark, recipe, optimizer, epochs=epochs, trainer=trainer)
    if accumulate < 1:
        raise ValueError(f"accumulate = {accumulate} (must be 1 or more)")
    sizes, weights = _network(model, checkpoint)
    if resolved.frame_stride is not None:
        clip = dataclasses.replace(sizes.input, frame_stride=resolved.frame_stride)
        sizes = dataclasses.replace(sizes, input=clip)
    emotion = EmotionConfig(
        num_outputs=benchmark.num_outputs,
        modalities=modalities,
        feature_fusion=recipe.feature_fusion,
        drop_path=recipe.drop_path,
    )
    return Plan(
        out=out,
        group=group,
        benchmark=benchmark,
        index=index,
        model=sizes,
        emotion=emotion,
        checkpoint=weights,
        resolved=resolved,
        accumulate=accumulate,
        recipe=recipe,
        protocol=protocol,
        optimizer=optimizer,
        mixing=mixing,
        augment=augment,
        trainer=trainer,
        precision=resolve_precision(precision, accelerator=trainer.accelerator),
        wandb=wandb,
        seed=seed,
        shards_digest=file_digest(index.folder / TABLE_NAME),
    )


def _network(model: str | None, checkpoint: Path | None) -> tuple[ModelConfig, Checkpoint | None]:
    """Sizes of the network, and the checkpoint if there is one.

    Raises: ValueError: neither is given, or they contradict each other.
    """
    if checkpoint is None:
        if model is None:
            raise ValueError(
                "neither --checkpoint nor --model is given; name a checkpoint to start from, or a"
                " size (--model tiny) to train from scratch"
            )
        return load_model_config(model), None
    found = load_checkpoint(checkpoint)
    sizes = found.model_config()
    if model is not None:
        ours, theirs = _flat(to_dict(load_model_config(model))), _flat(to_dict(sizes))
        other = [
            f"{name} {theirs[name]} there, {ours[name]} here"
            for name in ours
            if ours[name] != theirs[name]
        ]
        if other:
            raise ValueError(
                f"{checkpoint}: is of another size than model '{model}' ({'; '.join(other)}); leave"
                " --model out, the checkpoint knows its sizes"
            )
    return sizes, found


def _flat(data: dict[str, Any], at: str = "") -> dict[str, Any]:
    """Nested settings as dotted names."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{at}{name}.")
        else:
            flat[f"{at}{name}"] = value
    return flat
