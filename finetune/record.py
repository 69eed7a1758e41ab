"""What a run folder holds, written whole and read back.

For: ``scores.json``, ``fold.json`` and the copy of the benchmark, so that a report needs nothing
but the run folder. Not for: training (``finetune/run.py``) or showing (``finetune/report.py``).

::

    RUN/config.yaml benchmark.yaml predictions.jsonl scores.json report.md figures/
    RUN/fold-<name>/ metrics.csv predictions.jsonl fold.json checkpoints/last/
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.benchmark import Benchmark
from finetune.predictions import FILE_NAME, Prediction, read_predictions
from finetune.scores import Scores, score_run, undefined
from hicmae.config import load_yaml
from hicmae.plain import from_dict, to_dict

FORMAT_VERSION = 1
SCORES, FOLD, BENCHMARK, CONFIG = "scores.json", "fold.json", "benchmark.yaml", "config.yaml"


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What every number of a run is reported with.

    Args:
        benchmark: Name of it.
        init: ``checkpoint`` or ``scratch``.
        checkpoint: Folder of the checkpoint, if there is one.
        modalities: What the network sees and hears.
        selection: Rule by which the tested weights were chosen; ``last``: those after the last
            epoch, nothing was chosen.
        seed: Of every random draw.
        epochs: Passes over the training side.
        batch_size: Clips of an optimizer step.
        learning_rate: Highest rate of the last layer, after scaling to the batch.
        loss: Training loss.
        num_segments: Test-time views of a sample.
        num_parameters: Numbers that are trained.
        precision: Lightning's name of the number format.
        shards: Folder of the shards.
        shards_digest: SHA-256 of their index.
        configuration_digest: SHA-256 of all that decides the numbers (benchmark, sizes, recipe,
            seed, checkpoint, shards); the same digest means the same experiment.
        git_commit: Commit of the code, with ``+`` if it was changed; none outside a repository.
        version: Of this program.
        ignored: Samples that the benchmark leaves out, by label.
    """

    benchmark: str
    init: str
    checkpoint: str | None
    modalities: str
    selection: str
    seed: int
    epochs: int
    batch_size: int
    learning_rate: float
    loss: str
    num_segments: int
    num_parameters: int
    precision: str
    shards: str
    shards_digest: str
    configuration_digest: str
    git_commit: str | None
    version: str
    ignored: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FoldFacts:
    """What is known of one finished fold.

    Args:
        name: Of the fold.
        configuration_digest: Of the run that trained it.
        num_train: Training samples.
        num_test: Test samples.
        num_train_speakers: Speakers of the training side; none where nobody names them.
        num_test_speakers: Speakers of the test side.
        seconds: Wall-clock time of training and testing.
        train_loss: Mean loss of the last epoch.
        layer_weights: Modality to the learned weight of each layer.
        notes: Sentences a reader of its numbers should know.
    """

    name: str
    configuration_digest: str
    num_train: int
    num_test: int
    num_train_speakers: int | None
    num_test_speakers: int | None
    seconds: float
    train_loss: float | None
    layer_weights: dict[str, tuple[float, ...]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run, its scores computed again from its predictions.

    Args:
        folder: Where it is.
        benchmark: The benchmark as it was when the run started.
        facts: Of the run.
        folds: Of its folds.
        predictions: All of them.
        scores: Computed now.
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


def fold_folder(run: Path, fold: str) -> Path:
    """Where a fold's files are; a name that is no portable file name is spelt differently."""
    return run / f"fold-{''.join(c if c.isalnum() or c in '._-' else '_' for c in fold)}"


def write_scores(folder: Path, facts: RunFacts, scores: Scores) -> None:
    """Write ``scores.json``."""
    document = {
        "format_version": FORMAT_VERSION,
        "run": to_dict(facts),
        **scores.to_dict(),
        "undefined": undefined(scores),
    }
    write_json(folder / SCORES, document)


def read_fold(folder: Path) -> FoldFacts | None:
    """Facts of a finished fold, or nothing if it is not finished.

    Raises: ValueError: its file is damaged.
    """
    path = folder / FOLD
    return from_dict(FoldFacts, _read_json(path), str(path)) if path.is_file() else None


def runs_in(folder: Path) -> list[Path]:
    """The finished runs right below a folder, by name; the folder itself if there are none."""
    if (folder / SCORES).is_file() or not folder.is_dir():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{SCORES}")) or [folder]


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
        raise ValueError(
            f"{folder}: no finished fine-tuning run (no {', '.join(missing)});"
            " finish it with `hicmae finetune … --resume`"
        )
    benchmark = from_dict(Benchmark, load_yaml(folder / BENCHMARK), str(folder / BENCHMARK))
    stored = _read_json(folder / SCORES)
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


def write_json(path: Path, document: Any) -> None:
    """Write JSON beside the place, then rename it into it."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text beside the place, then rename it into it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); run it again") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path}: damaged (no JSON object); run it again")
    return document


def _disagreements(scores: Scores, stored: dict[str, Any]) -> list[str]:
    """Compare what was stored with what the predictions give."""
    written = stored.get("pooled") or {}
    sentences = []
    for metric, value in scores.pooled.items():
        before = written.get(metric)
        before = math.nan if before is None else float(before)
        if math.isnan(before) and math.isnan(value):
            continue
        if not math.isclose(before, value, abs_tol=1e-9):
            sentences.append(
                f"{SCORES} says {metric} = {before:.4f} and {FILE_NAME} gives {value:.4f};"
                " the latter is shown."
            )
    return sentences
