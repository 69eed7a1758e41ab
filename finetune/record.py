"""What a run folder holds, written whole and read back.

For: ``scores.json``, ``fold.json`` and the copy of the benchmark, so that a report needs nothing
but the run folder. Not for: training (``finetune/run.py``) or showing
(``finetune/reporting/``).

::

    RUN/config.yaml benchmark.yaml predictions.jsonl scores.json report.md figures/
    RUN/fold-<name>/ metrics.csv predictions.jsonl fold.json checkpoints/last/
"""

from __future__ import annotations

import functools
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.benchmark import Benchmark
from finetune.facts import FoldFacts, RunFacts
from finetune.predictions import FILE_NAME, Prediction, read_predictions
from finetune.reporting.resampling import Intervals, intervals
from finetune.scores import Scores, score_run, undefined
from finetune.units import scored_units
from hicmae.config import load_yaml
from hicmae.plain import from_dict, to_dict

FORMAT_VERSION = 1
SCORES, FOLD, BENCHMARK, CONFIG = "scores.json", "fold.json", "benchmark.yaml", "config.yaml"


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
    return run / f"fold-{''.join(c if c.isalnum() or c in '._-' else '_' for c in fold)}"


def write_scores(folder: Path, facts: RunFacts, scores: Scores, sure: Intervals) -> None:
    """Write ``scores.json``."""
    document = {
        "format_version": FORMAT_VERSION,
        "selection": facts.rule,
        "run": to_dict(facts),
        **scores.to_dict(),
        "intervals": {
            "what": sure.sentence(),
            **{
                name: None if math.isnan(low) else [low, high]
                for name, (low, high) in sure.values.items()
            },
        },
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
    """The finished runs below a folder, by name; the folder itself if there are none.

    Modalities and seeds lie at most two folders deep.
    """
    if (folder / SCORES).is_file() or not folder.is_dir():
        return [folder]
    found = [path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{SCORES}")]
    return sorted(found) or [folder]


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
