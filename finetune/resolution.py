"""The few settings that user, benchmark and defaults decide together.

For: what a recipe leaves open, and refusing what does not go together. Not for: what each setting
means (``finetune/settings.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune.benchmark import Benchmark
from finetune.loss_terms import LOSSES, loss_terms
from finetune.settings import OptimizerConfig, RecipeConfig, TrainerConfig


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """What was decided.

    Args:
        epochs: Passes over the training side.
        learning_rate: Base rate at a batch of 256.
        loss: Training loss, or a sum of several.
        frame_stride: Of a clip; none: the network's own.
    """

    epochs: int
    learning_rate: float
    loss: str
    frame_stride: int | None


def resolve(
    benchmark: Benchmark,
    recipe: RecipeConfig,
    optimizer: OptimizerConfig,
    *,
    epochs: int | None,
    trainer: TrainerConfig | None = None,
) -> Resolved:
    """Decide what the user left open: the user's word, then the benchmark's, then the default.

    Raises: ValueError: no epoch, a loss of the other task, or a warm-up as long as the training.
    """
    ours = benchmark.recipe
    loss = recipe.loss or ours.loss or LOSSES[benchmark.task][0]
    problems = []
    terms: dict[str, float] = {}
    try:
        terms = loss_terms(loss, benchmark.task)
    except ValueError as error:
        problems.append(f"recipe.{error}")
    if benchmark.task == "regression":
        if recipe.soft_labels or recipe.class_weights != "none":
            problems.append("recipe.soft_labels and class_weights are for classification")
        if recipe.shots is not None:
            problems.append("recipe.shots is for classification (take recipe.fraction)")
    elif recipe.soft_labels and not benchmark.votes:
        problems.append("recipe.soft_labels needs its key 'votes' (columns of the raters' votes)")
    if "ccc" in terms and recipe.batch_size == 1:
        problems.append(
            "recipe.batch_size = 1 with loss ccc (a correlation needs 2 samples or more; raise the"
            " one or take loss mse)"
        )
    if trainer is not None and trainer.devices > 1:
        problems += _device_problems(recipe, trainer, terms)
    passes = next(value for value in (epochs, ours.epochs, 50) if value is not None)
    if passes < 1:
        problems.append(f"epochs = {passes} (must be 1 or more)")
    elif optimizer.warmup_epochs >= passes:
        problems.append(
            f"optimizer.warmup_epochs = {optimizer.warmup_epochs:g} leaves nothing of"
            f" epochs = {passes}; lower the one or raise the other"
        )
    rate = optimizer.learning_rate or ours.learning_rate or 1e-3
    if optimizer.min_learning_rate > rate:
        problems.append(
            f"optimizer.min_learning_rate = {optimizer.min_learning_rate} exceeds"
            f" learning_rate = {rate}"
        )
    _raise_all(f"benchmark '{benchmark.name}'", problems)
    return Resolved(
        epochs=passes,
        learning_rate=rate,
        loss=loss,
        frame_stride=recipe.frame_stride or ours.frame_stride,
    )


def _device_problems(
    recipe: RecipeConfig, trainer: TrainerConfig, terms: dict[str, float]
) -> list[str]:
    """What several devices cannot share."""
    problems = []
    if recipe.batch_size % trainer.devices:
        problems.append(
            f"recipe.batch_size = {recipe.batch_size} cannot be shared by trainer.devices ="
            f" {trainer.devices} (must be a multiple)"
        )
    if trainer.on_bad == "skip" and "ccc" in terms:
        problems.append(
            "trainer.on_bad = skip with loss ccc on several devices (a correlation over the batch"
            " needs as many samples of each; take on_bad raise or one device)"
        )
    return problems


def _raise_all(what: str, problems: list[str]) -> None:
    """Report every problem of a settings group at once."""
    if problems:
        raise ValueError(f"{what}: {'; '.join(problems)}")
