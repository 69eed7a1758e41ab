"""Settings of a fine-tuning run, as frozen dataclasses that are checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from hicmae.devices import Precision
from hicmae.run_logging import WandbConfig
from hicmae.settings import AugmentConfig, outside, raise_all

Modalities = Literal["audio-video", "video", "audio"]
Tuning = Literal["full", "probe", "fusion", "lora"]
Projection = Literal["qkv", "out", "mlp"]
# Whose weights are tested, and by whose choices; ``finetune/selection.py`` follows them.
Rule = Literal["last", "inner-validation", "best-on-test"]
ProtocolName = Literal["default", "paper"]
_MOST_SEED = 2**32 - 1  # NumPy's


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank updates of frozen matrices, merged into them when the fold is saved.

    Args:
        rank: Of the update of each matrix.
        alpha: The update is multiplied by alpha over rank.
        dropout: Share of a matrix's inputs that its update does not see in a step.
        projections: Which matrices have one: ``qkv`` (queries, keys and values of all attention),
            ``out`` (its output), ``mlp`` (both matrices of it).
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    projections: tuple[Projection, ...] = ("qkv",)

    def __post_init__(self) -> None:
        bounds = {"1 or more": "rank", "positive": "alpha", "in [0, 1)": "dropout"}
        problems = []
        known = get_args(Projection)
        if not self.projections or not set(self.projections) <= set(known):
            found = ", ".join(self.projections) or "none"
            problems.append(f"projections = {found} (some of {', '.join(known)})")
        raise_all("recipe.lora", outside(self, bounds) + problems)


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """What is trained and how it is tested; the defaults are the published recipe.

    Args:
        batch_size: Clips handled at once (before accumulation).
        loss: Training loss: cross-entropy for classes; mse, l1, ccc or a sum of them, such as
            mse+0.5*ccc, for real values, which are standardised over the training side first.
            null: the benchmark's, or else cross-entropy and mse.
        loss_settings: Settings of losses that have some, by the loss's name.
        label_smoothing: Mass of each label spread over all classes.
        drop_path: Largest rate at which a residual branch is left out.
        feature_fusion: Whether the head reads a learned mix of the encoder's layers beside the
            fused tokens (the paper's hierarchical feature fusion).
        fusion: How the layers are mixed: hierarchical; global-depthwise, which learns a weight of
            each place too, for few labels and faces cut out alike; or another registered name.
        fusion_settings: Settings of that fusion.
        tuning: What is trained. full: everything. probe: the head and the layer weights alone, on
            a frozen encoder (a linear probe). fusion: these and the fusion encoder. lora: as probe,
            and low-rank updates of the encoder's matrices.
        lora: The updates of tuning lora.
        soft_labels: Classification: train on the shares of the raters' votes (the benchmark's
            ``votes`` columns) in place of the label; tests are always of the label.
        class_weights: Classification: ``balanced`` weighs each class in the loss by the inverse
            of its number of training samples; ``none``.
        modality_dropout: Probability that a training clip has one of its two modalities alone,
            picture or sound with equal chance; the other is absent as it is at test time. Without
            meaning for a network of one modality.
        ema_decay: Decay of an exponential moving average of the weights, which is then what is
            validated, tested and saved; after n steps it is at most (1 + n) / (10 + n), so that a
            short training is not held back by its start. null: the weights themselves.
        shots: Classification: train on so many samples of each class, drawn by the seed (few-shot).
            null: on all.
        fraction: Share of the training side that is trained on, drawn by the seed, of every class
            (or fifth of the first real value) alike.
        frame_stride: Distance of neighbouring frames of a clip; null: the benchmark's, or else
            the network's own.
        num_segments: Test-time views of a sample along time; the outputs of those that differ are
            averaged.
        calibrate: Classification: fit a temperature and a threshold, below which the answer is
            "not sure", on speakers kept out of training (validation_share); prediction then goes by
            them, the tested numbers do not. null: where selection is inner-validation, which
            keeps some out; true: with selection last too, which then trains on fewer. Heads with
            thresholds fit these so unless it is false, and nothing else.
        answered: Share of their samples that the threshold leaves an answer.
        annotator: Of labels over time: train and test on what this one annotator has noted. From a
            fine-tuned checkpoint, head and fusion are then trained alone (tuning fusion) unless
            tuning says something else than full, and the report says what that gained.
    """

    batch_size: int = 56
    loss: str | None = None
    loss_settings: dict[str, dict[str, Any]] = field(
        default_factory=dict, metadata={"omit_default": True}
    )
    label_smoothing: float = 0.1
    drop_path: float = 0.1
    feature_fusion: bool = True
    fusion: str = field(default="hierarchical", metadata={"omit_default": True})
    fusion_settings: dict[str, Any] = field(default_factory=dict, metadata={"omit_default": True})
    tuning: Tuning = "full"
    lora: LoraConfig = field(default_factory=LoraConfig)
    soft_labels: bool = False
    class_weights: Literal["none", "balanced"] = "none"
    modality_dropout: float = 0.0
    ema_decay: float | None = None
    shots: int | None = None
    fraction: float = 1.0
    frame_stride: int | None = None
    num_segments: int = 2
    calibrate: bool | None = field(default=None, metadata={"omit_default": True})
    answered: float = field(default=0.95, metadata={"omit_default": True})
    annotator: str | None = field(default=None, metadata={"omit_default": True})

    def __post_init__(self) -> None:
        bounds = {
            "1 or more": "batch_size frame_stride num_segments shots",
            "in [0, 1)": "label_smoothing drop_path ema_decay",
            "in 0..1": "modality_dropout",
            "in (0, 1]": "fraction answered",
        }
        both = self.shots is not None and self.fraction < 1
        problems = ["shots and fraction are both given; give one of them"] if both else []
        raise_all("recipe", outside(self, bounds) + problems)


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
        bounds = {
            "0 or more": "min_learning_rate warmup_epochs weight_decay",
            "positive": "learning_rate clip_norm",
            "in (0, 1]": "layer_decay",
        }
        wrong = not all(0 <= beta < 1 for beta in self.betas)
        problems = [f"betas = {self.betas} (each must lie in [0, 1))"] if wrong else []
        raise_all("optimizer", outside(self, bounds) + problems)


@dataclass(frozen=True, kw_only=True)
class MixingConfig:
    """How clips of a batch are blended; the defaults are the published recipe.

    One blend is drawn a batch, and every clip is blended with its neighbour. Of an audio-video
    network's input, only the video is mixed unless ``audio`` says so; a network that only hears
    has nothing else, so without ``audio`` its batches stay unmixed, as does every clip that is
    heard alone. Where processes share a batch, each draws a blend of its own for its part and finds
    neighbours there alone; one clip a process has no neighbour and stays unmixed.

    Args:
        mixup: Both parameters of the Beta distribution of mixup's share; 0: no mixup.
        cutmix: The same of cutmix; 0: no cutmix.
        switch: Probability of cutmix where both are on.
        probability: Share of the batches that are mixed.
        audio: Whether sound is mixed in the same share: filter banks blended under mixup, a span
            of time replaced under cutmix. The published recipe leaves sound unmixed while it
            mixes the labels.
        regression: Whether batches with real-valued targets are mixed, their targets linearly.
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    switch: float = 0.5
    probability: float = 1.0
    audio: bool = False
    regression: bool = False

    def __post_init__(self) -> None:
        bounds = {"0 or more": "mixup cutmix", "in 0..1": "switch probability"}
        raise_all("mixing", outside(self, bounds))


@dataclass(frozen=True, kw_only=True)
class HardwareConfig:
    """What the training runs on; none of it is part of the protocol.

    Args:
        devices: Processes that share each batch, one a device (DistributedDataParallel). The
            batch, its order and the tested samples do not depend on it.
        cuda_graphs: Whether a GPU records forward and backward pass once and launches each as a
            whole, since launching kernels takes longer than small batches do; some more memory, the
            same results. Not with ``recompute``, whose second draw of stochastic depth cannot be
            recorded, nor of clips that lack a modality. Nothing on a CPU.
        recompute: Whether each layer's activations are computed again in the backward pass instead
            of being kept (gradient checkpointing): a third more time, less memory.
        timeout_seconds: Longest that one of several processes waits for another before it gives
            up.
    """

    devices: int = 1
    cuda_graphs: bool = False
    recompute: bool = False
    timeout_seconds: int = 1800

    def __post_init__(self) -> None:
        both = self.cuda_graphs and self.recompute
        problems = ["cuda_graphs and recompute are both true; take one of them"] if both else []
        raise_all("hardware", outside(self, {"1 or more": "devices timeout_seconds"}) + problems)


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """What the training does by the way; none of it is part of the protocol.

    Args:
        on_bad: What a damaged training sample does: ``raise`` stops with its name, ``skip`` leaves
            it out, counted by cause in the report. A damaged test sample is always an error.
        save_every: Epochs between savings of a fold in progress (weights and the optimizer's
            state, some 12 bytes a parameter), from which ``resume`` goes on after a kill; 0: a
            fold that was killed starts anew.
        log_every: Optimizer steps between rows of ``metrics.csv``.
        progress: Whether a progress bar is drawn (on a terminal).
        report: Whether to draw the run's report; ``hicmae report RUN`` does so at any later time.
    """

    on_bad: Literal["raise", "skip"] = "raise"
    save_every: int = 1
    log_every: int = 10
    progress: bool = True
    report: bool = field(default=True, metadata={"omit_default": True})

    def __post_init__(self) -> None:
        bounds = {"0 or more": "save_every", "1 or more": "log_every"}
        raise_all("trainer", outside(self, bounds))


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """One run as ``config.yaml`` holds it; the fields are options of ``hicmae finetune``.

    Args:
        benchmark: A benchmark: a YAML file, or a name out of configs/benchmarks.
        shards: Folder of shards with an index.
        out: The run folder.
        checkpoint: Run folder or checkpoint folder whose encoder is fine-tuned; the sizes of the
            network come from it. None given: training starts from scratch.
        model: Size of the network from scratch: a name out of configs/model (tiny, small, base)
            or a YAML file; with --model.num_frames 32 --model.size with one of these. Clips of
            more frames than a checkpoint was trained on are --model.num_frames alone: positions
            are fixed sinusoids, and the sound grows with the picture.
        modalities: What the network sees and hears: audio-video, video or audio. Several separated
            by commas are a run each, in folders of these names under the run folder.
        folds: all, or names of folds separated by commas.
        protocol: paper: the choices of the published evaluation, which every number then carries:
            the epoch that is best on the test side, by WAR (of real values by CCC) of one clip at
            a random place of each sample; two views for the numbers shown; folds pooled; and the
            recipe of configs/finetune/paper_base.yaml, from which no option may depart.
        selection: Whose weights are tested. last: the last epoch's. inner-validation: those of the
            epoch that is best on speakers kept out of the training side. best-on-test: those of
            the epoch that is best on the test side, which every number then carries. null: last.
        validation_share: Share of the training side that inner-validation keeps out of training.
        epochs: Passes over the training side; null: the benchmark's, or else 50.
        accumulate: Batches whose gradients are averaged into one optimizer step, in which each clip
            that is there and has a label counts alike (loss ccc is of the clips of one batch); of
            an epoch, what does not fill a last step is left out.
        recipe: What is trained and how it is tested.
        optimizer: AdamW and its schedule.
        mixing: Mixup and cutmix.
        augment: Random changes to single clips.
        device: auto, cpu, cuda or cuda:N; auto takes a GPU where there is one.
        precision: auto: bf16-mixed where the machine computes in bfloat16, else 32-true.
        workers: Reading processes, kept alive from epoch to epoch; 0 reads in the training
            process.
        hardware: Processes that share each batch, and memory.
        trainer: What it does by the way: saving, logging, damaged samples.
        wandb: Logging to Weights & Biases, beside metrics.csv: one run a fold; under an agent of a
            sweep one of all, in which fold-1/… are its rows, and metrics without a fold are of all
            folds so far (of several modalities or seeds, in video/… or seed-0/…, and without a
            seed the mean over seeds).
        seed: Of the weights, the order of the data, crops and mixing; each fold starts from it.

    Raises: ValueError: a count below its least, or a seed that no generator takes.
    """

    benchmark: str
    shards: Path
    out: Path
    checkpoint: Path | None = None
    model: str | dict[str, Any] | None = None
    modalities: str = "audio-video"
    folds: str = "all"
    protocol: ProtocolName = "default"
    selection: Rule | None = None
    validation_share: float = 0.15
    epochs: int | None = None
    accumulate: int = 1
    recipe: RecipeConfig = RecipeConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    mixing: MixingConfig = MixingConfig()
    augment: AugmentConfig = field(default_factory=AugmentConfig.finetuning)
    device: str = "auto"
    precision: Precision = "auto"
    workers: int = 2
    hardware: HardwareConfig = HardwareConfig()
    trainer: TrainerConfig = TrainerConfig()
    wandb: WandbConfig = field(default_factory=WandbConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        problems = outside(self, {"1 or more": "accumulate", "0 or more": "workers"})
        if not 0 <= self.seed <= _MOST_SEED:
            problems.append(f"seed = {self.seed} (must lie in 0..{_MOST_SEED})")
        raise_all("", problems)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What finished networks are tested on; the fields are options of ``hicmae evaluate``.

    Args:
        shards: Folder of shards with an index; null: those of the training.
        benchmark: What is tested: a YAML file, or a name out of configs/benchmarks; null: the
            benchmark of the training.
        label_map: Which classes of the training are which of the tested benchmark: a YAML file,
            or a name out of configs/label_maps; null: they are the same.
        folds: all, or the folds whose networks are tested, separated by commas.
        segments: Views of a sample along time; null: as many as after the training. A
            sample hardly longer than a clip has fewer that differ, and each counts once.
        device: Where networks run: auto (a GPU where there is one), cpu, cuda or cuda:0.
        precision: auto: bf16-mixed where the machine computes in bfloat16, else 32-true.
        batch_size: Clips handled at once (each in all its crops).
        workers: Reading processes; 0 reads in the testing process.
        allow_seen: Test networks that were trained on samples or speakers of the test side, or that
            started from one that was; the report then says so.
    """

    shards: Path | None = None
    benchmark: str | None = None
    label_map: str | None = None
    folds: str = "all"
    segments: int | None = None
    device: str = "auto"
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    batch_size: int = 16
    workers: int = 2
    allow_seen: bool = False


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
