"""From finished folds to a finished run: predictions pooled, scored and reported.

For: what is written once all folds of a run are there. Not for: training them
(``finetune/training.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from finetune.facts import RunFacts
from finetune.fitting.tuning import tuning_sentence
from finetune.folds import Fold
from finetune.plan import Plan
from finetune.predictions import FILE_NAME, Prediction, read_predictions, write_predictions
from finetune.provenance import git_commit
from finetune.record import Run, fold_folder, read_run, write_scores
from finetune.reporting.resampling import intervals
from finetune.reporting.run_report import write_run_report
from finetune.reporting.score_tables import scores_table
from finetune.scores import score_run
from finetune.units import scored_units
from hicmae import __version__


def finish_run(plan: Plan, folds: Sequence[Fold], ignored: dict[str, int], console: Console) -> Run:
    """Pool the folds, score, report, and show the table.

    Args:
        plan: Of the run.
        folds: All finished.
        ignored: Samples that the benchmark leaves out, by label.
        console: Where the table is shown.

    Returns: the run as it is read back.
    """
    pooled = [item for fold in folds for item in fold_predictions(plan, fold)]
    weights = plan.checkpoint
    facts = RunFacts(
        benchmark=plan.benchmark.name,
        init="scratch" if weights is None else "checkpoint",
        checkpoint=None if weights is None else str(weights.path),
        modalities=plan.emotion.modalities,
        selection=plan.protocol.selection,
        protocol=plan.protocol.name,
        seed=plan.seed,
        epochs=plan.resolved.epochs,
        batch_size=plan.batch_size,
        learning_rate=plan.scaled(plan.resolved.learning_rate),
        loss=plan.resolved.loss,
        num_segments=plan.recipe.num_segments,
        num_parameters=plan.num_parameters,
        precision=plan.precision,
        shards=str(plan.index.folder),
        shards_digest=plan.shards_digest,
        configuration_digest=plan.digest,
        experiment_digest=plan.experiment_digest,
        git_commit=git_commit(),
        version=__version__,
        ignored=ignored,
        notes=tuple(_notes(plan)),
    )
    write_predictions(plan.out / FILE_NAME, pooled)
    scores = score_run(plan.benchmark, pooled)
    units = scored_units(plan.benchmark, pooled)
    write_scores(plan.out, facts, scores, intervals(plan.benchmark, [units]))
    run = read_run(plan.out)
    report = write_run_report(run)
    console.print(scores_table(run).terminal())
    console.print(f"report: {report}")
    return run


def fold_predictions(plan: Plan, fold: Fold) -> list[Prediction]:
    """Predictions of a finished fold."""
    return read_predictions(fold_folder(plan.out, fold.name) / FILE_NAME, plan.benchmark)


def _notes(plan: Plan) -> list[str]:
    """Sentences that a reader of the numbers should know."""
    recipe, tuned = plan.recipe, tuning_sentence(plan.recipe)
    notes = [] if tuned is None else [tuned]
    if recipe.ema_decay is not None:
        notes.append(
            "the tested weights are an exponential moving average of those of every step, with"
            f" decay {recipe.ema_decay:g}"
        )
    if recipe.modality_dropout > 0 and plan.emotion.modalities == "audio-video":
        notes.append(
            f"a training clip had one of its modalities alone with probability"
            f" {recipe.modality_dropout:g}"
        )
    return notes + [
        f"the index has no column '{name}', so scores are not broken down by it"
        for name in plan.benchmark.groups
        if name not in plan.index.table.columns
    ]
