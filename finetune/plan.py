"""What a command makes, decided and checked before anything is trained.

From a run's settings to one frozen plan and its digest; the runs of a command over several
modalities and seeds, each in a folder of its own; whether what lies there may be finished or
deleted.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pandas as pd

from finetune.benchmark import Benchmark
from finetune.folds import Fold
from finetune.instants import instant_index
from finetune.losses import Term, default_loss, loss_terms
from finetune.record import (
    CONFIG,
    FOLD,
    WRITTEN,
    fold_folder,
    partial_folder,
    read_fold,
    saved_name,
    settings_digest,
)
from finetune.selection import Protocol, decide_protocol
from finetune.settings import FinetuneConfig, Modalities
from finetune.tuning import apply_tuning, personal_config
from hicmae.checkpoints.checkpoint import WEIGHTS, Checkpoint, load_checkpoint
from hicmae.config import leaves, load_model_config, load_yaml, to_dict
from hicmae.devices import choose_device, resolve_precision
from hicmae.emotion import EmotionConfig, EmotionModel
from hicmae.files import LOCK, PARTS, check_replaceable, file_sha256, only_writer, remove
from hicmae.heads import constant_outputs
from hicmae.run_logging import wandb_mode
from hicmae.settings import ModelConfig, raise_all
from shards.index import INFO_NAME, TABLE_NAME, Index

# Settings that decide no number.
_IDLE = ("out", "folds", "device", "workers", "hardware", "trainer", "wandb")


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """What was decided of a benchmark's recipe; no stride: the network's own."""

    epochs: int
    learning_rate: float
    loss: str
    frame_stride: int | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that the folds of a run have in common, checked and decided.

    Args:
        config: What the user asked for.
        top: The command's folder, absolute: the runs that it made belong together.
        model: Sizes of the network, with the stride of this run.
        checkpoint: Where the encoder's weights come from; none: from scratch.
        precision: Lightning's name of the number format.
        shards_digest: SHA-256 of the index of the shards.
        test_seen: Sentences on what was trained on of what is tested, where that was allowed.
    """

    config: FinetuneConfig
    top: Path
    benchmark: Benchmark
    index: Index
    model: ModelConfig
    emotion: EmotionConfig
    checkpoint: Checkpoint | None
    resolved: Resolved
    protocol: Protocol
    precision: str
    shards_digest: str
    test_seen: tuple[str, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Plan:
        """Nothing in it changes, so copies of a network in training share it."""
        return self

    @property
    def out(self) -> Path:
        """The run folder."""
        return self.config.out

    @property
    def below(self) -> tuple[str, ...]:
        """The folders of modalities and of a seed that lead there from the command's."""
        return self.out.resolve().relative_to(self.top).parts

    @property
    def batch_size(self) -> int:
        """Clips of one optimizer step."""
        return self.config.recipe.batch_size * self.config.accumulate

    @property
    def loss_terms(self) -> list[Term]:
        """What the training loss is a sum of."""
        if self.benchmark.heads:
            return [term for head in self.benchmark.heads for term in head.terms]
        settings = self.config.recipe.loss_settings
        return loss_terms(self.resolved.loss, self.benchmark.task, settings)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of all that decides the numbers; not of where they are written or logged."""
        return next(iter(self.digests))

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """That, and what it was when a benchmark's words and others' numbers counted too; with the
        SHA-256 of the same without the seed, which runs that differ in nothing else share.
        """
        worded = {**self._decisive, "benchmark": self.benchmark}
        seed = {"seed": self.config.seed}
        return {
            settings_digest(decisive | seed): settings_digest(decisive)
            for decisive in (self._decisive, worded)
        }

    @functools.cached_property
    def _decisive(self) -> dict[str, Any]:
        """All that decides the numbers, but the seed."""
        config, weights = self.config, self.checkpoint
        return {
            "benchmark": self.benchmark.wordless,
            "model": self.model,
            "emotion": self.emotion,
            "resolved": self.resolved,
            "accumulate": config.accumulate,
            "recipe": config.recipe,
            "protocol": self.protocol,
            "optimizer": config.optimizer,
            "mixing": config.mixing,
            "augment": config.augment,
            "precision": self.precision,
            "checkpoint": None if weights is None else file_sha256(weights.path / WEIGHTS),
            "shards": self.shards_digest,
        }

    @functools.cached_property
    def num_parameters(self) -> int:
        """Numbers that are trained."""
        model = EmotionModel(self.model, self.emotion)
        apply_tuning(model, self.config.recipe)
        return sum(item.numel() for item in model.parameters() if item.requires_grad)

    @property
    def calibrates(self) -> bool:
        """Whether temperature and threshold, or a joint network's, are of a side kept out."""
        inner = self.protocol.selection == "inner-validation"
        asked = self.config.recipe.calibrate
        if self.benchmark.heads:  # their thresholds
            kept_out = self.protocol.selection != "best-on-test" and asked is not False
            return any(head.has_thresholds for head in self.benchmark.heads) and kept_out
        return self.benchmark.task == "classification" and (inner if asked is None else asked)

    @property
    def keeps_out(self) -> bool:
        """Whether speakers are kept out of training for that, or for a window of smoothing."""
        over_time = self.benchmark.over_time
        smooths = over_time is not None and len(over_time.smoothing_seconds) > 1
        return self.calibrates or (smooths and self.protocol.selection != "best-on-test")

    def scaled(self, rate: float) -> float:
        """A base rate scaled to the batch. Source: linear scaling rule at 256 clips."""
        return rate * self.batch_size / 256


def parse_seeds(text: str | None, seed: int) -> list[int]:
    """Read the seeds of a command, separated by commas; none given: the one seed.

    Raises: ValueError: no whole number from 0, or one given twice.
    """
    if text is None:
        return [seed]
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words) or len(set(map(int, words))) < len(words):
        raise ValueError(f"seeds = {text} (whole numbers from 0 separated by commas, each once)")
    return [int(word) for word in words]


def members(
    config: FinetuneConfig,
    modalities: Sequence[Modalities],
    seeds: Sequence[int],
    *,
    by_seed: bool,
) -> list[FinetuneConfig]:
    """The runs of a command: ``OUT``, ``OUT/video``, ``OUT/seed-0`` or ``OUT/video/seed-0``.

    Args:
        by_seed: Whether seeds were asked for, so that even one has a folder of its own (others
            may be added later).

    Raises: ValueError: several runs are wanted and the folder holds one.
    """
    out, found = config.out, []
    for heard in modalities:
        above = out / heard if len(modalities) > 1 else out
        for seed in seeds:
            folder = above / f"seed-{seed}" if by_seed else above
            found.append(dataclasses.replace(config, out=folder, modalities=heard, seed=seed))
    for folder in sorted({parent for one in found for parent in one.out.parents}):
        if folder.is_relative_to(out) and (folder / CONFIG).is_file():
            raise ValueError(
                f"{folder}: holds a run; name another folder for runs of several modalities or"
                " seeds"
            )
    return found


def make_plan(config: FinetuneConfig, benchmark: Benchmark, index: Index, *, top: Path) -> Plan:
    """Check the options of a run against each other and decide what they leave open.

    Raises: ValueError, FileNotFoundError: as ``finetune.run.finetune``.
    """
    wandb_mode(config.wandb.mode, default="offline")
    protocol = decide_protocol(config, benchmark)
    resolved = resolve(benchmark, config)
    sizes, weights = _network(config.model, config.checkpoint)
    config = personal_config(config, benchmark, weights)
    seconds = sizes.input.clip_seconds
    only = None if weights is None else weights.config.get("modalities")
    if only not in (None, config.modalities):
        raise ValueError(
            f"{config.checkpoint}: was pretrained on {only} alone, and modalities ="
            f" {config.modalities} would read what has learned nothing; pass --modalities {only}"
        )
    if resolved.frame_stride is not None:
        clip = dataclasses.replace(sizes.input, frame_stride=resolved.frame_stride)
        sizes = dataclasses.replace(sizes, input=clip)
    if (num_frames := _num_frames(config.model)) is not None:
        sizes = _longer(sizes, num_frames, seconds)
    if benchmark.over_time is not None:
        index = instant_index(
            index,
            benchmark.targets,
            benchmark.over_time,
            sizes.input.clip_seconds,
            annotator=config.recipe.annotator,
        )
    elif config.recipe.annotator is not None:
        raise ValueError("recipe.annotator is for benchmarks over time (over_time)")
    emotion = EmotionConfig(
        num_outputs=benchmark.num_outputs,
        modalities=cast("Modalities", config.modalities),
        feature_fusion=config.recipe.feature_fusion,
        fusion=config.recipe.fusion,
        fusion_settings=config.recipe.fusion_settings,
        drop_path=config.recipe.drop_path,
        constants=constant_outputs([head.labels() for head in benchmark.heads]),
    )
    return Plan(
        config=dataclasses.replace(config, selection=protocol.selection),
        top=top,
        benchmark=benchmark,
        index=index,
        model=sizes,
        emotion=emotion,
        checkpoint=weights,
        resolved=resolved,
        protocol=protocol,
        precision=resolve_precision(config.precision, choose_device(config.device)),
        shards_digest=file_sha256(index.folder / TABLE_NAME),
    )


def resolve(benchmark: Benchmark, config: FinetuneConfig) -> Resolved:
    """Decide what the user left open: the user's word, then the benchmark's, then the default.

    Raises: ValueError: no epoch, a loss of the other task, or a warm-up as long as the training.
    """
    recipe, optimizer, ours = config.recipe, config.optimizer, benchmark.recipe
    problems = []
    terms: list[Term] = []
    if benchmark.heads:
        heads = benchmark.heads
        loss = " + ".join(f"{h.weight:g} * {h.name}: {h.loss_text}" for h in heads)
        terms = [term for head in heads for term in head.terms]
        problems += _joint_problems(config, benchmark)
    else:
        loss = recipe.loss or ours.loss or default_loss(benchmark.task)
        try:
            terms = loss_terms(loss, benchmark.task, recipe.loss_settings)
        except ValueError as error:
            problems.append(f"recipe.{error}")
    if benchmark.task == "regression":
        if recipe.soft_labels or recipe.class_weights != "none":
            problems.append("recipe.soft_labels and class_weights are for classification")
        if recipe.shots is not None:
            problems.append("recipe.shots is for classification (take recipe.fraction)")
        if recipe.calibrate:
            problems.append("recipe.calibrate is for classification")
    elif not benchmark.heads:
        if recipe.soft_labels and not benchmark.votes:
            problems.append(
                "recipe.soft_labels needs its key 'votes' (columns of the raters' votes)"
            )
        if recipe.class_weights != "none" and not all(term.loss.weighted for term in terms):
            problems.append(f"recipe.class_weights: loss {loss} weighs no classes")
    if recipe.calibrate and (config.selection == "best-on-test" or config.protocol == "paper"):
        problems.append(
            "recipe.calibrate with selection best-on-test, which keeps nobody out of training (take"
            " last or inner-validation)"
        )
    of_batch = next((term.name for term in terms if term.loss.of_batch), None)
    if of_batch and recipe.batch_size == 1:
        problems.append(
            f"recipe.batch_size = 1 with loss {of_batch} (a correlation needs 2 samples or more;"
            " raise the one or take loss mse)"
        )
    if config.hardware.devices > 1:
        problems += _device_problems(config, of_batch)
    passes = next(value for value in (config.epochs, ours.epochs, 50) if value is not None)
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
    raise_all(f"benchmark '{benchmark.name}'", problems)
    return Resolved(
        epochs=passes,
        learning_rate=rate,
        loss=loss,
        frame_stride=recipe.frame_stride or ours.frame_stride,
    )


def finished_folds(plan: Plan) -> list[str]:
    """Names of the folds that the run folder holds of this very configuration."""
    found = (read_fold(path.parent) for path in sorted(plan.out.glob(f"fold-*/{FOLD}")))
    return [fold.name for fold in found if fold and fold.configuration_digest in plan.digests]


def prepare_folder(
    out: Path,
    folds: Sequence[Fold],
    digests: Collection[str],
    *,
    resume: bool,
    overwrite: bool,
    reads: Sequence[Path] = (),
    config: FinetuneConfig | None = None,
) -> IO[bytes]:
    """Make the run folder, or make sure that what is in it belongs to this run.

    Args:
        digests: ``Plan.digests``: what is there has one of them.
        reads: What the run is made from, which must not be deleted with what is there.
        config: The run's settings, for saying what is another in those that are there.

    Returns: what keeps other processes from writing into it, until it is closed.
    Raises: ValueError: a run is there and is neither to be finished nor deleted, is one of
        pretraining or several of a sweep, holds what is read, or was made with another
        configuration; or another process writes into it.
    """
    if resume and overwrite:
        raise ValueError("resume and overwrite contradict each other; give one of them")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file; name a folder for the run")
    there = [path for path in out.iterdir() if path.name != LOCK] if out.is_dir() else []
    if there:
        if (out / INFO_NAME).exists():
            raise ValueError(f"{out}: holds shards; name another folder")
        if (out / "checkpoints").exists():  # those of a fine-tuning run are in its folds
            raise ValueError(f"{out}: holds a pretraining run; name another folder")
        below = (
            []
            if (out / CONFIG).is_file()
            else [*out.glob(f"*/{CONFIG}"), *out.glob(f"*/*/{CONFIG}")]
        )
        if resume and below:
            names = ", ".join(sorted({str(path.parent.relative_to(out)) for path in below})[:5])
            raise ValueError(
                f"{out}: holds runs of several seeds or modalities ({names}); give --seeds and"
                " --modalities as they were, or name another folder"
            )
        inside = [path for path in reads if path.resolve().is_relative_to(out.resolve())]
        if overwrite and inside:
            raise ValueError(
                f"{out}: holds {inside[0]}, which this run reads, so it is not deleted; name"
                " another folder"
            )
        if overwrite:
            check_replaceable(out, "fine-tuning run", CONFIG, others=WRITTEN, overwrite=True)
        if not (resume or overwrite):
            raise ValueError(
                f"{out}: is not empty; finish the run there with --resume, delete it with"
                " --overwrite, or name another folder"
            )
    if not overwrite:
        _check_configuration(out, folds, digests, config)
    out.mkdir(parents=True, exist_ok=True)
    lock = only_writer(out)
    for path in there if overwrite else ():
        remove(path)
    for part in [*out.glob(PARTS), *out.glob(f"figures/{PARTS}")]:
        if part.is_file():  # of a report that was not written to its end
            part.unlink()
    return lock


def _check_configuration(
    out: Path, folds: Sequence[Fold], digests: Collection[str], config: FinetuneConfig | None
) -> None:
    """Refuse folds that another configuration has trained, or begun to."""
    for path in sorted(out.glob(f"fold-*/{FOLD}")):
        found = read_fold(path.parent)
        if found is not None and found.configuration_digest not in digests:
            raise ValueError(
                f"{path.parent}: was trained with another configuration"
                f" ({_others(out, config)}); name another folder, or pass --overwrite"
            )
    for fold in folds:
        found, killed = read_fold(fold_folder(out, fold.name)), partial_folder(out, fold.name)
        saved = {path.name for path in killed.glob(saved_name("*"))}
        if found is None and saved and saved.isdisjoint(map(saved_name, digests)):
            raise ValueError(
                f"{killed}: holds an epoch that was saved with another configuration than this"
                f" ({_others(out, config)}) and would be deleted; name another folder, or pass"
                " --overwrite"
            )


def _others(out: Path, config: FinetuneConfig | None) -> str:
    """Which settings are others than those of the run that lies there, where these tell."""
    path = out / CONFIG
    then = dict(leaves(load_yaml(path))) if path.is_file() else {}
    now = {} if config is None else dict(leaves(to_dict(config)))
    changed = [
        f"{name} was {then.get(name)}, now {value}"
        for name, value in now.items()
        if then and then.get(name) != value and name.partition(".")[0] not in _IDLE
    ]
    changed[4:] = ["…"] if changed[4:] else []
    return "; ".join(changed) or (
        f"see {path}: the benchmark, the shards or the checkpoint changed, or the fold was copied"
        " from another run"
    )


def _joint_problems(config: FinetuneConfig, benchmark: Benchmark) -> list[str]:
    """Settings of a recipe that say something else of several heads."""
    recipe = config.recipe
    problems = []
    if recipe.loss is not None or recipe.loss_settings:
        problems.append("recipe.loss and loss_settings stand in each head")
    if recipe.soft_labels:
        problems.append("recipe.soft_labels (take a head of kind distribution with votes)")
    if recipe.shots is not None:
        problems.append("recipe.shots is for classification (take recipe.fraction)")
    if recipe.class_weights != "none":
        of_classes = [head for head in benchmark.heads if head.kind == "classification"]
        if not of_classes:
            problems.append("recipe.class_weights: no head is of kind classification")
        problems += [
            f"recipe.class_weights: loss {head.loss_text} of head '{head.name}' weighs no classes"
            for head in of_classes
            if not all(term.loss.weighted for term in head.terms)
        ]
    if recipe.calibrate and not any(head.has_thresholds for head in benchmark.heads):
        problems.append(
            "recipe.calibrate of heads is for the thresholds of kind multilabel and of a"
            " distribution with metric presence or salience (a temperature and a limit are of one"
            " softmax, and heads have one each or none)"
        )
    return problems


def _device_problems(config: FinetuneConfig, of_batch: str | None) -> list[str]:
    """What several devices cannot share; ``of_batch`` is the name of a loss over the batch."""
    devices, problems = config.hardware.devices, []
    if config.recipe.batch_size % devices:
        problems.append(
            f"recipe.batch_size = {config.recipe.batch_size} cannot be shared by hardware.devices"
            f" = {devices} (must be a multiple)"
        )
    if config.trainer.on_bad == "skip" and of_batch:
        problems.append(
            f"trainer.on_bad = skip with loss {of_batch} on several devices (a correlation over"
            " the batch needs as many samples of each; take on_bad raise or one device)"
        )
    if ":" in config.device:
        problems.append(
            f"device = {config.device} is one alone, and hardware.devices = {devices}; take cuda"
        )
    return problems


def _num_frames(model: str | dict[str, Any] | None) -> int | None:
    """Frames of a clip that were asked for: ``--model.num_frames``.

    Raises: ValueError: something else was asked for too, or no number of frames.
    """
    if not isinstance(model, dict) or set(model) == {"size"}:
        return None
    found = model.get("num_frames")
    if set(model) - {"num_frames", "size"} or type(found) is not int or found < 1:
        raise ValueError(
            f"model: {to_dict(model)} (of a network here its size and num_frames, a whole number, "
            "may be said: --model.num_frames 32)"
        )
    return found


def _longer(sizes: ModelConfig, num_frames: int, seconds: float) -> ModelConfig:
    """The same network for clips of so many frames, with as much sound as picture again.

    Positions are computed for any number of tokens (``blocks.sinusoid_positions``), and time runs
    slowest through them: those of the first frames stay what they were.
    """
    clip = dataclasses.replace(sizes.input, num_frames=num_frames)
    patch = sizes.patch_size
    patches = round(sizes.input.fbank_frames * clip.clip_seconds / seconds / patch)
    clip = dataclasses.replace(clip, fbank_frames=max(1, patches) * patch)
    return dataclasses.replace(sizes, input=clip)


def _network(
    model: str | dict[str, Any] | None, checkpoint: Path | None
) -> tuple[ModelConfig, Checkpoint | None]:
    """Sizes of the network, and the checkpoint if there is one."""
    if isinstance(model, dict):
        asked, model = _num_frames(model), model.get("size")
        if checkpoint is not None and asked is not None:
            learned = [
                name for name in load_checkpoint(checkpoint).tensors if name.endswith("positions")
            ]
            if learned:
                raise ValueError(
                    f"{checkpoint}: has learned positions ({learned[0]}), which are there for its "
                    "own number of frames alone; leave --model.num_frames out"
                )
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
        ours, theirs = (
            pd.json_normalize(to_dict(one)).iloc[0] for one in (load_model_config(model), sizes)
        )
        other = [
            f"{name} {theirs[name]} there, {ours[name]} here"
            for name in ours.index
            if ours[name] != theirs[name]
        ]
        if other:
            raise ValueError(
                f"{checkpoint}: is of another size than model '{model}' ({'; '.join(other)}); leave"
                " --model out, the checkpoint knows its sizes"
            )
    return sizes, found
