"""Settings of a fine-tuning run, as frozen dataclasses that are checked when they are made.

For: everything a recipe in ``configs/finetune/`` may say besides the benchmark, the network's
sizes and the augmentation. Not for: what a benchmark is (``finetune/benchmark.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

from finetune.benchmark import LOSSES, Benchmark

Modalities = Literal["audio-video", "video", "audio"]
LossName = Literal["cross-entropy", "mse", "l1", "ccc"]


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """What is trained and how it is tested; the defaults are the published recipe.

    Args:
        batch_size: Clips handled at once (before accumulation).
        loss: Training loss; null: the benchmark's, or else cross-entropy for classes and mse for
            real values, which are standardised over the training side first.
        label_smoothing: Mass of each label spread over all classes.
        drop_path: Largest rate at which a residual branch is left out.
        feature_fusion: Whether the head reads a learned mix of the encoder's layers beside the
            fused tokens (the paper's hierarchical feature fusion).
        freeze_encoder: Train the head and the layer weights alone (a linear probe).
        soft_labels: Classification: train on the shares of the raters' votes (the benchmark's
            ``votes`` columns) in place of the label; tests are always of the label.
        class_weights: Classification: ``balanced`` weighs each class in the loss by the inverse
            of its number of training samples; ``none``.
        frame_stride: Distance of neighbouring frames of a clip; null: the benchmark's, or else
            the network's own.
        num_segments: Test-time views of a sample along time, whose outputs are averaged.
    """

    batch_size: int = 56
    loss: LossName | None = None
    label_smoothing: float = 0.1
    drop_path: float = 0.1
    feature_fusion: bool = True
    freeze_encoder: bool = False
    soft_labels: bool = False
    class_weights: Literal["none", "balanced"] = "none"
    frame_stride: int | None = None
    num_segments: int = 2

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {value} (must be 1 or more)"
            for name in ("batch_size", "frame_stride", "num_segments")
            if (value := getattr(self, name)) is not None and value < 1
        ]
        problems += [
            f"{name} = {getattr(self, name)} (must lie in [0, 1))"
            for name in ("label_smoothing", "drop_path")
            if not 0 <= getattr(self, name) < 1
        ]
        _raise_all("recipe", problems)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with layer-wise rates, a linear warm-up and a cosine, stepped every batch.

    Args:
        learning_rate: Base rate at a batch of 256 clips, scaled to batch size x accumulation;
            null: the benchmark's, or else 1e-3.
        min_learning_rate: Base rate at the end of the cosine, scaled alike.
        warmup_epochs: Passes of the linear warm-up from zero.
        weight_decay: For matrices; biases and other 1-D parameters have none.
        betas: Decay of AdamW's running means.
        layer_decay: Factor on the rate for every layer further from the head; null: one rate.
        clip_norm: Largest gradient norm; null: gradients are not clipped, as published.
    """

    learning_rate: float | None = None
    min_learning_rate: float = 1e-6
    warmup_epochs: float = 5.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    layer_decay: float | None = 0.75
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {getattr(self, name)} (must be 0 or more)"
            for name in ("min_learning_rate", "warmup_epochs", "weight_decay")
            if getattr(self, name) < 0
        ]
        problems += [
            f"{name} = {value} (must be positive)"
            for name in ("learning_rate", "clip_norm", "layer_decay")
            if (value := getattr(self, name)) is not None and value <= 0
        ]
        if self.layer_decay is not None and self.layer_decay > 1:
            problems.append(f"layer_decay = {self.layer_decay} (must be 1 or less)")
        if not all(0 <= beta < 1 for beta in self.betas):
            problems.append(f"betas = {self.betas} (each must lie in [0, 1))")
        _raise_all("optimizer", problems)


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """On what the training runs, and what it tells; none of it is part of the protocol.

    Args:
        accelerator: Lightning's name of the hardware: auto, cpu, gpu. One device is used.
        workers: Reading processes, kept alive from epoch to epoch; 0 reads in the training
            process.
        on_bad: What a damaged training sample does: ``raise`` stops with its name, ``skip`` leaves
            it out, counted by cause in the report. A damaged test sample is always an error.
        log_every: Optimizer steps between rows of ``metrics.csv``.
        progress: Whether a progress bar is drawn (on a terminal).
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    workers: int = 2
    on_bad: Literal["raise", "skip"] = "raise"
    log_every: int = 10
    progress: bool = True

    def __post_init__(self) -> None:
        problems = [] if self.workers >= 0 else [f"workers = {self.workers} (must be 0 or more)"]
        if self.log_every < 1:
            problems.append(f"log_every = {self.log_every} (must be 1 or more)")
        _raise_all("trainer", problems)


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """Logging to Weights & Biases, one run a fold, beside ``metrics.csv``.

    Args:
        mode: ``offline``: into the run folder, needs no account; ``online``; ``disabled``.
        project: Project there; the group is the name of the run folder.
    """

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "hicmae-finetune"


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """The few settings that user, benchmark and defaults decide together.

    Args:
        epochs: Passes over the training side.
        learning_rate: Base rate at a batch of 256.
        loss: Training loss.
        frame_stride: Of a clip; none: the network's own.
    """

    epochs: int
    learning_rate: float
    loss: str
    frame_stride: int | None


def resolve(
    benchmark: Benchmark, recipe: RecipeConfig, optimizer: OptimizerConfig, *, epochs: int | None
) -> Resolved:
    """Decide what the user left open: the user's word, then the benchmark's, then the default.

    Raises: ValueError: no epoch, a loss of the other task, or a warm-up as long as the training.
    """
    ours = benchmark.recipe
    default = "cross-entropy" if benchmark.task == "classification" else "mse"
    loss = recipe.loss or ours.loss or default
    problems = []
    if loss not in LOSSES[benchmark.task]:
        problems.append(
            f"recipe.loss = {loss} does not fit {benchmark.task}"
            f" (allowed: {', '.join(LOSSES[benchmark.task])})"
        )
    if benchmark.task == "regression" and (recipe.soft_labels or recipe.class_weights != "none"):
        problems.append("recipe.soft_labels and class_weights are for classification")
    if recipe.soft_labels and benchmark.task == "classification" and not benchmark.votes:
        problems.append("recipe.soft_labels needs its key 'votes' (columns of the raters' votes)")
    if loss == "ccc" and recipe.batch_size == 1:
        problems.append(
            "recipe.batch_size = 1 with loss ccc (a correlation needs 2 samples or more; raise the"
            " one or take loss mse)"
        )
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


def parse_modalities(text: str) -> list[Modalities]:
    """Read what the runs of a command see and hear, separated by commas.

    Raises: ValueError: an unknown name, or one given twice.
    """
    names = [name.strip() for name in text.split(",")]
    known = get_args(Modalities)
    if not set(names) <= set(known) or len(set(names)) < len(names):
        raise ValueError(
            f"modalities = {text} (allowed: {', '.join(known)}; several separated by commas, each"
            " once)"
        )
    return cast("list[Modalities]", names)


def _raise_all(what: str, problems: list[str]) -> None:
    """Report every problem of a settings group at once."""
    if problems:
        raise ValueError(f"{what}: {'; '.join(problems)}")
