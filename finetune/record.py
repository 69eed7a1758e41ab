"""What a run folder holds, written whole and read back, so that a report needs nothing else.

Besides predictions and scores that is the provenance of every number: ``scores.json`` and
``fold.json`` say what is known of the run and of its folds, with digests and the commit.

::

    RUN/config.yaml benchmark.yaml predictions.jsonl scores.json report.md figures/
    RUN/fold-<name>/ metrics.csv predictions.jsonl fold.json checkpoints/last/
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from finetune.benchmark import Benchmark
from finetune.predictions import FILE_NAME, Prediction, read_predictions, write_predictions
from finetune.reporting.resampling import Intervals, intervals
from finetune.scores import Scores, score_run, scored_units, undefined
from finetune.selection import marked, rule_label
from hicmae.checkpoints.checkpoint import Calibration
from hicmae.config import from_dict, load_yaml, to_dict
from hicmae.files import portable, telling_name, write_json

FORMAT_VERSION = 1
SCORES, FOLD, BENCHMARK, CONFIG = "scores.json", "fold.json", "benchmark.yaml", "config.yaml"
_DEPTHS = ("*/", "*/*/", "*/*/*/")
# What a run, and what is made of it, leaves in its folder beside the last of these.
WRITTEN = (SCORES, BENCHMARK, FILE_NAME, "report.*", "figures", "fold-*", "wandb", "modalities")


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What every number of a run is reported with.

    Args:
        init: ``checkpoint`` or ``scratch``.
        checkpoint: Folder of the checkpoint, if there is one.
        modalities: What the network sees and hears.
        selection: Rule by which the tested weights were chosen (``finetune/selection.py``).
        epochs: Passes over the training side; none, as the three that follow: the checkpoint that
            was tested does not say.
        batch_size: Clips of an optimizer step.
        learning_rate: Highest rate of the last layer, after scaling to the batch.
        num_segments: Test-time views of a sample.
        precision: Lightning's name of the number format.
        shards_digest: SHA-256 of their index.
        configuration_digest: SHA-256 of all that decides the numbers (benchmark without its words,
            sizes, recipe, seed, checkpoint, shards); the same digest means the same experiment.
        git_commit: Commit of the code, with ``+`` if it was changed; none outside a repository.
        ignored: Samples that the benchmark leaves out, by label.
        protocol: ``default``, or ``paper``: the reference's choices.
        experiment_digest: SHA-256 as ``configuration_digest`` without the seed: runs that share it
            differ in their seeds alone. Empty in early versions.
        experiment_digests: That, and what it was in earlier versions, of which seeds may lie beside
            this one; none of a run of such a version.
        notes: Sentences a reader of its numbers should know.
        crops: Test-time crops of each segment, by the names of ``hicmae.views.CROPS``.
        evaluates: Of an evaluation (``hicmae evaluate``): the run or checkpoint whose networks
            were tested; empty for a run that trained its own.
        trained_on: Of an evaluation on another corpus: the benchmark of the training.
        network: Of an evaluation on another corpus: the fold whose network was tested, or
            ``ensemble``: the outputs of all of them averaged.
    """

    benchmark: str
    init: str
    checkpoint: str | None
    modalities: str
    selection: str
    seed: int
    epochs: int | None
    batch_size: int | None
    learning_rate: float | None
    loss: str | None
    num_segments: int
    num_parameters: int
    precision: str
    shards: str
    shards_digest: str
    configuration_digest: str
    git_commit: str | None
    version: str
    ignored: dict[str, int] = field(default_factory=dict)
    protocol: str = "default"
    experiment_digest: str = ""
    experiment_digests: tuple[str, ...] = field(default=(), metadata={"omit_default": True})
    notes: tuple[str, ...] = ()
    crops: tuple[str, ...] = ("whole",)
    evaluates: str = ""
    trained_on: str = ""
    network: str = ""

    @property
    def rule(self) -> str:
        """Selection rule as it stands in tables."""
        return rule_label(self.selection, self.protocol)

    def mark(self, number: str) -> str:
        """A number as it is shown: one that was chosen on the test side says so itself."""
        return marked(number, self.selection)


@dataclass(frozen=True, kw_only=True)
class FoldFacts:
    """What is known of one finished fold.

    Args:
        configuration_digest: Of the run that trained it.
        num_train: Training samples, without those of the inner validation; none where a tested
            checkpoint does not say.
        num_train_speakers, num_validation_speakers: None where nobody names them.
        seconds: Wall-clock time of training and testing.
        num_validation: Samples of the inner validation.
        epoch: The epoch whose weights were tested, counted from 1; none in early versions.
        train_loss: Mean loss of the last epoch.
        layer_weights: Modality to the learned weight of each layer.
        notes: Sentences a reader of its numbers should know.
        calibration: How sure its network may be; none where nobody has fitted that.
        over_time: Of labels over time, what its training side decided (``finetune.over_time``).
    """

    name: str
    configuration_digest: str
    num_train: int | None
    num_test: int
    num_train_speakers: int | None
    num_test_speakers: int | None
    seconds: float
    train_loss: float | None
    layer_weights: dict[str, tuple[float, ...]]
    num_validation: int = 0
    num_validation_speakers: int | None = None
    epoch: int | None = None
    notes: tuple[str, ...] = ()
    calibration: Calibration | None = field(default=None, metadata={"omit_default": True})
    over_time: dict[str, Any] = field(default_factory=dict, metadata={"omit_default": True})


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run, its scores computed again from its predictions.

    Args:
        disagreements: Sentences about stored scores that are not what the predictions give.
    """

    folder: Path
    benchmark: Benchmark
    facts: RunFacts
    folds: tuple[FoldFacts, ...]
    predictions: tuple[Prediction, ...]
    scores: Scores
    disagreements: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.resolve().name

    @property
    def title(self) -> str:
        """What its report calls it."""
        return telling_name(self.folder)

    @functools.cached_property
    def units(self) -> list[Prediction]:
        """What is scored: the predictions, or those of whole recordings."""
        return scored_units(self.benchmark, self.predictions)

    @functools.cached_property
    def intervals(self) -> Intervals:
        """How sure the pooled scores are."""
        return intervals(self.benchmark, [self.units])


def fold_folder(run: Path, fold: str) -> Path:
    """Where a fold's files are; a name that is no portable file name is spelt differently."""
    return run / f"fold-{portable(fold)}"


def partial_folder(run: Path, fold: str) -> Path:
    """Where a fold is worked on."""
    final = fold_folder(run, fold)
    return final.with_name(f".{final.name}.partial")


def saved_name(digest: str) -> str:
    """Name of the file of a saved epoch; that of another configuration is never taken up."""
    return f"saved-{digest[:16]}.ckpt"


def write_run(
    folder: Path, benchmark: Benchmark, facts: RunFacts, predictions: Sequence[Prediction]
) -> Run:
    """Score predictions and write them with their scores; ``scores.json``, which makes a folder a
    run, comes last.

    Returns: the run as it is read back.
    """
    write_predictions(folder / FILE_NAME, predictions)
    scores = score_run(benchmark, predictions)
    sure = intervals(benchmark, [scored_units(benchmark, predictions)])
    document = {
        "format_version": FORMAT_VERSION,
        "selection": facts.rule,
        "run": to_dict(facts),
        **scores.to_dict(),
        "intervals": sure.to_dict(),
        "undefined": undefined(scores),
    }
    write_json(folder / SCORES, document)
    return read_run(folder)


def read_fold(folder: Path) -> FoldFacts | None:
    """Facts of a finished fold, or nothing if it is not finished.

    Raises: ValueError: its file is damaged.
    """
    path = folder / FOLD
    if not path.is_file():
        return None
    remedy = f"delete {folder} and train this fold again with `hicmae finetune … --resume`"
    return from_dict(FoldFacts, _read_json(path, remedy), str(path))


def runs_in(folder: Path) -> list[Path]:
    """The finished runs below a folder, by name; the folder itself if there are none.

    Modalities, seeds and the networks of an evaluation lie at most three folders deep.
    """
    if (folder / SCORES).is_file() or not folder.is_dir():
        return [folder]
    found = [path.parent for deep in _DEPTHS for path in folder.glob(deep + SCORES)]
    return sorted(found) or [folder]


def unfinished_in(folder: Path) -> list[Path]:
    """The runs below a folder that were begun and are not among ``runs_in``."""
    found = [path.parent for deep in _DEPTHS for path in folder.glob(deep + BENCHMARK)]
    return sorted(run for run in found if not (run / SCORES).is_file() and any(run.glob("*fold-*")))


def read_run(folder: Path | str) -> Run:
    """Read a finished run and score it again.

    Raises: FileNotFoundError: no such folder. ValueError: no finished run of this format there,
        or files that do not belong together.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such run folder")
    missing = [name for name in (SCORES, BENCHMARK, FILE_NAME) if not (folder / name).is_file()]
    if missing:
        remedy = "finish it with `hicmae finetune … --resume`"
        if (folder / FOLD).is_file():
            remedy = f"it is one fold of a run, which may be {folder.absolute().parent}"
        elif (folder / "checkpoints").is_dir():
            remedy = "it is one of pretraining; `hicmae pretrain plot` draws its curves"
        raise ValueError(
            f"{folder}: no finished fine-tuning run (no {', '.join(missing)}); {remedy}"
        )
    benchmark = from_dict(Benchmark, load_yaml(folder / BENCHMARK), str(folder / BENCHMARK))
    stored = _read_json(folder / SCORES, "run it again")
    if stored.get("format_version") != FORMAT_VERSION or "run" not in stored:
        raise ValueError(
            f"{folder / SCORES}: format {stored.get('format_version')!r} is not known here"
            f" (known: {FORMAT_VERSION}); run it again or upgrade hicmae"
        )
    facts = from_dict(RunFacts, stored["run"], f"{folder / SCORES}: run")
    predictions = tuple(read_predictions(folder / FILE_NAME, benchmark))
    scores = score_run(benchmark, predictions)
    found = [read_fold(fold_folder(folder, name)) for name in scores.folds]
    return Run(
        folder=folder,
        benchmark=benchmark,
        facts=facts,
        folds=tuple(fold for fold in found if fold is not None),
        predictions=predictions,
        scores=scores,
        disagreements=tuple(_disagreements(scores, stored)),
    )


def settings_digest(settings: Any) -> str:
    """SHA-256 of settings in canonical JSON; order of keys does not matter."""
    text = json.dumps(to_dict(settings), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def git_commit() -> str | None:
    """Commit of this very code, with ``+`` if files were changed; none outside a repository."""
    room = Path(__file__).resolve().parent
    # An installed copy may lie inside somebody else's repository: ours has this file at its root.
    top = _git(room, "rev-parse", "--show-toplevel")
    if top is None or Path(top) != room.parent:
        return None
    return _git(room, "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+")


def _read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Read a JSON object; ``remedy`` is what helps where it is damaged."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); {remedy}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path}: damaged (no JSON object); {remedy}")
    return document


def _disagreements(scores: Scores, stored: dict[str, Any]) -> list[str]:
    """Compare what was stored with what the predictions give."""
    written = {
        name: math.nan if v is None else v for name, v in (stored.get("pooled") or {}).items()
    }
    counts = (stored.get("num_samples"), scores.num_samples)
    found = []
    if counts[0] not in (None, counts[1]):
        found.append(
            f"{SCORES} is of {counts[0]} samples or recordings and {FILE_NAME} of {counts[1]};"
            " the latter is shown."
        )
    return found + [
        f"{SCORES} says {metric} = {before:.4g} and {FILE_NAME} gives {value:.4g};"
        " the latter is shown."
        for metric, value in scores.pooled.items()
        if not np.isclose(before := written.get(metric, math.nan), value, 0, 1e-9, equal_nan=True)
    ]


def _git(folder: Path, *words: str) -> str | None:
    """Output of a git command, or nothing where git or the repository is absent."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
