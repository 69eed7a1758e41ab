"""Which epoch's weights are tested, and under whose rules: a part of every number.

The names of the rules and what they mean in words (``finetune/validation.py`` follows them), and
every choice of the published fine-tuning with where it is written: ``--protocol paper`` refuses a
run that makes another one. Not here: what the authors' scripts leave to the machine (number format,
processes, readers), and the sizes of the network.

Deviation: the reference reports the epoch that is best on the test split. Here the last epoch is
tested, or the best on people carved out of the training side; the reference's choice goes by the
name ``best-on-test``, and every number so chosen carries it.

Source: https://github.com/sunlicai/HiCMAE, read at commit cdd28d4. *script*: those of CREMA-D and
MAFW under ``scripts/voxceleb2``; *program*: defaults of ``run_class_finetuning_av.py``, which these
scripts leave as they are; *code*: ``kinetics_av.py`` and the files it calls.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from finetune.benchmark import Benchmark, Task
from finetune.losses import default_loss
from finetune.settings import FinetuneConfig, ProtocolName, Rule

# Test-time clips of a sample in the published evaluation (of its two crops, which are the same
# picture for square frames, one is taken).
PAPER_SEGMENTS = 2
# What stands behind a number of an epoch that was chosen on the test side.
CHOSEN_ON_TEST = " (best-on-test)"
_RULES: dict[str, str] = {
    "last": "last: the weights after the last epoch were tested; no epoch was chosen by a score",
    "inner-validation": (
        "inner-validation: the epoch was chosen by its score on a share of the training side that"
        " was kept out of training; the test side was looked at once, with its weights"
    ),
    "best-on-test": (
        "best-on-test: every epoch was scored on the test side and the best is shown, so these"
        " numbers are too high for what an unseen test side would give"
    ),
}
_PAPER = (
    "protocol paper: the reference's choice of epoch (best-on-test, by WAR for classes and CCC for"
    " real values, of one clip at a random place of each sample), views of the numbers shown"
    f" ({PAPER_SEGMENTS} segments, averaged), pooling (all folds together), recipe and mixing"
    " (sound left unmixed)"
)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How the tested weights are chosen.

    Args:
        name: ``default``, or ``paper``: the reference's choices.
        validation_share: Share of the training side that ``inner-validation`` keeps out of
            training.
        judge: Metric that chooses an epoch, of one clip at a random place of each sample; empty:
            the benchmark's leading one, of the views that are tested.
    """

    name: ProtocolName = "default"
    selection: Rule = "last"
    validation_share: float = 0.15
    judge: str = field(default="", metadata={"omit_default": True})

    def __post_init__(self) -> None:
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share = {self.validation_share} (must lie in (0, 1))")
        if self.selection not in _RULES:
            raise ValueError(f"selection = {self.selection} (must be one of {', '.join(_RULES)})")


def rule_label(selection: str, protocol: str) -> str:
    """The rule as it stands in tables: ``last``, ``best-on-test (protocol paper)``."""
    return selection if protocol == "default" else f"{selection} (protocol {protocol})"


def rule_sentence(selection: str, protocol: str) -> str:
    """The rule in words."""
    sentence = _RULES.get(selection, selection)
    return sentence if protocol != "paper" else f"{sentence}; {_PAPER}"


def marked(number: str, selection: str) -> str:
    """A number as it is shown: one that was chosen on the test side says so itself."""
    return f"{number}{CHOSEN_ON_TEST}" if selection == "best-on-test" and number else number


@dataclass(frozen=True)
class Choice:
    """A setting of a run, dotted as on the command line, its published value and the source."""

    option: str
    value: Any
    source: str


# Base rate at 256 clips, and clips of an optimizer step: 4 processes x 14. In the script of
# Werewolf-XL, 32 clips a process, two devices are named and four processes started: its batch is
# not known, and no batch is asked for where real values are predicted.
LEARNING_RATE = 1e-3
BATCH_SIZE = 56
# Frames of a clip and their stride, where a size or a stride is asked for. Source: program.
NUM_FRAMES, FRAME_STRIDE = 16, 4
# What the epoch is chosen by, measured on one clip at a random place of each sample. Source:
# program (accuracy), and the script of Werewolf-XL (CCC, the mean over its three values).
JUDGES: dict[Task, str] = {"classification": "war", "regression": "ccc"}
CHOICES = (
    Choice("recipe.label_smoothing", 0.1, "program: --smoothing"),
    Choice("recipe.drop_path", 0.1, "program: --drop_path"),
    Choice("recipe.feature_fusion", True, "paper, section 3.5"),
    Choice("recipe.fusion", "hierarchical", "paper, section 3.5"),
    Choice("recipe.tuning", "full", "code: nothing is frozen"),
    Choice("recipe.soft_labels", False, "code: one class a line"),
    Choice("recipe.class_weights", "none", "code: its loss has none"),
    Choice("recipe.modality_dropout", 0.0, "code: both are always read"),
    Choice("recipe.ema_decay", None, "program: --model_ema is off"),
    Choice("recipe.shots", None, "script: all of train.csv"),
    Choice("recipe.fraction", 1.0, "script: all of train.csv"),
    Choice("recipe.num_segments", 2, "script: --test_num_segment"),
    Choice("optimizer.min_learning_rate", 1e-6, "program: --min_lr"),
    Choice("optimizer.warmup_epochs", 5.0, "program: --warmup_epochs"),
    Choice("optimizer.weight_decay", 0.05, "script: --weight_decay"),
    Choice("optimizer.betas", (0.9, 0.999), "script: --opt_betas"),
    Choice("optimizer.layer_decay", 0.75, "program: --layer_decay"),
    Choice("optimizer.clip_norm", None, "program: --clip_grad"),
    Choice("mixing.mixup", 0.8, "program: --mixup"),
    Choice("mixing.cutmix", 1.0, "program: --cutmix"),
    Choice("mixing.switch", 0.5, "program: --mixup_switch_prob"),
    Choice("mixing.probability", 1.0, "program: --mixup_prob"),
    Choice("mixing.audio", False, "code: frames and labels alone are mixed"),
    Choice("mixing.regression", False, "code of the regression program: no mixing"),
    Choice("augment.crop", "random-resized", "code"),
    Choice("augment.crop_area", (0.08, 1.0), "code; a comment beside it speaks of 0.8"),
    Choice("augment.crop_aspect", (0.75, 1.3333), "code"),
    Choice("augment.flip", 0.5, "code"),
    Choice("augment.rand_operations", 4, "program: --aa rand-m7-n4-mstd0.5-inc1"),
    Choice("augment.rand_magnitude", 7.0, "program: --aa"),
    Choice("augment.rand_deviation", 0.5, "program: --aa"),
    Choice("augment.erase", 0.25, "program: --reprob"),
    Choice("augment.erase_area", (0.02, 1 / 3), "code: random_erasing.py"),
    Choice("augment.erase_aspect", (0.3, 1 / 0.3), "code: random_erasing.py"),
    Choice("augment.gain", True, "program: --roll_mag_aug is on; here in training alone"),
    Choice("augment.gain_concentration", 10, "code"),
    Choice("augment.roll_seconds", 0.0, "code: its roll draws from a range of 1"),
    Choice("augment.time_masks", 0, "program: --timem"),
    Choice("augment.frequency_masks", 0, "program: --freqm"),
)


def decide_protocol(config: FinetuneConfig, benchmark: Benchmark) -> Protocol:
    """Settle how a run chooses the tested weights.

    Raises: ValueError: options that are not the named protocol's, all of them in one line.
    """
    selection, share = config.selection, config.validation_share
    if config.protocol == "default":
        return Protocol(selection=selection or "last", validation_share=share)
    if benchmark.heads:
        raise ValueError(
            f"protocol = paper is for one task, and benchmark '{benchmark.name}' has heads; leave"
            " --protocol out"
        )
    problems = departures(config, benchmark)
    if problems:
        raise ValueError(
            f"protocol = paper contradicts {'; '.join(problems)}; take --config"
            " configs/finetune/paper_base.yaml and leave the rest out"
        )
    return Protocol(
        name="paper",
        selection="best-on-test",
        validation_share=share,
        judge=JUDGES[benchmark.task],
    )


def departures(config: FinetuneConfig, benchmark: Benchmark) -> list[str]:
    """What of a run is not the published fine-tuning, each with what that has.

    Epochs and loss are asked for where a script of the benchmark gives them, which stands in its
    file; the clip's frames and their stride where they are not left to the network.
    """
    ours = benchmark.recipe
    found = []
    if config.selection not in (None, "best-on-test"):
        found.append(f"selection = {config.selection} (it chooses best-on-test)")
    batch = config.recipe.batch_size * config.accumulate
    if benchmark.task == "classification" and batch != BATCH_SIZE:
        found.append(
            f"recipe.batch_size x accumulate = {config.recipe.batch_size} x {config.accumulate}"
            f" (it has {BATCH_SIZE} clips a step, 14 x 4)"
        )
    frames = config.model.get("num_frames") if isinstance(config.model, dict) else None
    if frames not in (None, NUM_FRAMES):
        found.append(f"model.num_frames = {frames} (it has {NUM_FRAMES})")
    wanted = {choice.option: choice.value for choice in CHOICES} | {
        "epochs": ours.epochs,
        "optimizer.learning_rate": ours.learning_rate or LEARNING_RATE,
        "recipe.loss": ours.loss or default_loss(benchmark.task),
        "recipe.frame_stride": ours.frame_stride or FRAME_STRIDE,
    }
    left_open = {"epochs", "optimizer.learning_rate", "recipe.loss", "recipe.frame_stride"}
    for option, value in wanted.items():
        given: Any = config
        for name in option.split("."):
            given = getattr(given, name)
        if option in left_open and (given is None or value is None):
            continue
        if not _same(given, value):
            found.append(f"{option} = {_shown(given)} (it has {_shown(value)})")
    return found


def _same(given: Any, value: Any) -> bool:
    """Whether a setting is the published one; numbers may be rounded to four digits."""
    if given is None or value is None:
        return given is value
    if isinstance(value, tuple):
        return len(given) == len(value) and all(map(_same, given, value))
    if isinstance(value, float):
        return math.isclose(given, value, rel_tol=1e-4)
    return bool(given == value)


def _shown(value: Any) -> str:
    """A setting as it stands in a file."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)
