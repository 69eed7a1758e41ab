"""Fine-tuning a benchmark: from the command's options to a run folder.

Everything a user can get wrong is refused here before anything is trained or written; then fold
after fold is trained (``finetune/fold.py``), and what they predicted is scored and reported.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from finetune.settings import FinetuneConfig, parse_modalities
from hicmae import __version__
from hicmae.config import with_options_of
from hicmae.processes import end_if_begun_again

if TYPE_CHECKING:
    from rich.console import Console

    from finetune.folds import Fold
    from finetune.plan import Plan
    from finetune.predictions import Prediction
    from finetune.record import Run
    from hicmae.run_logging import WandbRun


@with_options_of(FinetuneConfig)
def finetune(
    *,
    config: FinetuneConfig,
    seeds: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    allow_seen: bool = False,
) -> None:
    """Fine-tune for a benchmark, fold by fold, and report.

    Writes a run folder: config.yaml, a folder for each fold (metrics.csv, predictions.jsonl,
    checkpoints/last), the predictions of all folds, scores.json, report.md and figures/.
    Unless selection says otherwise the weights after the last epoch are tested, and no epoch is
    chosen by a score. Several seeds or modalities are a run each in a folder of its own.

    Args:
        config: Of the run; one option for each of its fields.
        seeds: Several seeds separated by commas, in place of seed: a run each in the folders
            seed-N under the run folder, and in seeds.md the mean and deviation of all that are
            there and differ in nothing else.
        resume: Keep the folds in the run folder that were finished with this very configuration,
            also those that are not among folds, and train the others; one that was killed goes on
            from its last saved epoch.
        overwrite: Delete the run that is in the run folder.
        allow_seen: Take a checkpoint that was trained on samples or speakers of the test side, or
            that does not say on whose; or folds of which one tests a sample that it trains on
            under another name. Every report of the run then says so; otherwise they are refused.

    Raises:
        ValueError: Settings that do not go together; labels, speakers or sounds that the
            benchmark cannot use; a test sample that is trained on under another name; a checkpoint
            of another size, or that has seen the test side; a folder that holds a run; several
            processes, started by torchrun.
        FileNotFoundError: No such benchmark, folder of shards or model file.
    """
    end_if_begun_again()
    from finetune.benchmark import load_benchmark
    from finetune.data import check_modalities, check_training
    from finetune.folds import check_copies, check_unseen, fold_names, make_folds, usable_rows
    from finetune.plan import finished_folds, make_plan, members, parse_seeds, prepare_folder
    from finetune.processes import refuse_torchrun
    from finetune.record import BENCHMARK, CONFIG
    from finetune.reporting.document import output_console
    from finetune.reporting.entries import runs_beside, seeds_table, write_seed_summary
    from finetune.scores import check_units, score
    from hicmae.config import save_yaml, to_dict
    from hicmae.processes import check_workers
    from shards.index import read_index

    refuse_torchrun(os.environ)
    check_workers(config.workers)
    what = load_benchmark(config.benchmark)
    index = read_index(config.shards)
    kinds = parse_modalities(config.modalities)
    sweep = members(config, kinds, parse_seeds(seeds, config.seed), by_seed=seeds is not None)
    plans = [make_plan(one, what, index, top=config.out.resolve()) for one in sweep]
    rows, ignored = usable_rows(what, plans[0].index.table)
    check_units(what, rows)
    asked = [fold.name for fold in make_folds(what, rows, folds=config.folds)]
    every = fold_names(what, rows)
    for plan in plans:
        check_modalities(rows, modalities=plan.emotion.modalities)
    divided = [
        make_folds(what, rows, folds=[*asked, *(finished_folds(plan) if resume else ())])
        for plan in plans
    ]
    for plan, own in zip(plans, divided, strict=True):
        check_training(plan, own)
    for number, (plan, own) in enumerate(zip(plans, divided, strict=True)):
        seen = check_unseen(what, plan.checkpoint, own, allow=allow_seen)
        seen += check_copies(index, own, modalities=plan.emotion.modalities, allow=allow_seen)
        plans[number] = dataclasses.replace(plan, test_seen=tuple(seen))
    with ExitStack() as locks:
        for plan, own in zip(plans, divided, strict=True):
            weights = [] if plan.checkpoint is None else [plan.checkpoint.path]
            lock = prepare_folder(
                plan.out,
                own,
                plan.digests,
                resume=resume,
                overwrite=overwrite,
                reads=[index.folder, *weights],
                config=plan.config,
            )
            locks.enter_context(lock)
            if resume and (more := set(finished_folds(plan)) - {fold.name for fold in own}):
                raise ValueError(
                    f"{plan.out}: another process has finished fold {min(more)} since this one"
                    " looked; give the same command again"
                )
        from finetune.fold import part_of, trial_of

        console = output_console()
        finished: dict[Path, Run] = {}
        trial = locks.enter_context(trial_of(plans[0]))
        for plan, own in zip(plans, divided, strict=True):
            save_yaml(plan.out / CONFIG, to_dict(plan.config))
            save_yaml(plan.out / BENCHMARK, to_dict(what))
            console.print(_opening(plan, own, len(rows)))
            for number, fold in enumerate(own, start=1):
                _one_fold(plan, fold, console, resume=resume, trial=trial)
                if trial is not None:  # whose metric is of all folds so far
                    pooled = [item for fold in own[:number] for item in _predictions(plan, fold)]
                    row = {"step": number, **score(what, pooled)}
                    trial.log(row, part=part_of(plan))
            untrained = [name for name in every if name not in {fold.name for fold in own}]
            missing = [_untrained_note(what.name, untrained)] if untrained else []
            finished[plan.out.parent] = _finish(plan, own, ignored, missing, console)
        for folder, run in finished.items() if seeds is not None else ():
            runs = runs_beside(run)
            if trial is not None:
                means = {m: fmean(one.scores.pooled[m] for one in runs) for m in run.scores.pooled}
                part = "".join(f"{name}/" for name in folder.relative_to(config.out).parts)
                trial.log({"step": len(runs), **means}, part=part)
            if len(runs) > 1:
                group = write_seed_summary(folder, runs)
                console.print(seeds_table([group], title=f"{what.name} over seeds"))
                console.print(f"seeds: {folder / 'seeds.md'}")


def _opening(plan: Plan, folds: Sequence[Fold], num_rows: int) -> str:
    """What is about to happen, in one line."""
    from finetune.selection import rule_label

    start, clip = "from scratch", plan.model.input
    if plan.checkpoint is not None:
        start, had = f"from {plan.checkpoint.path}", plan.checkpoint.model_config().input
        if clip.num_frames != had.num_frames:
            start += (
                f", on clips of {clip.num_frames} frames and {clip.clip_seconds:.2f} s instead of"
                f" {had.num_frames} and {had.clip_seconds:.2f} s (positions are fixed sinusoids)"
            )
    return (
        f"{plan.benchmark.name}: {plan.benchmark.task}, {plan.emotion.modalities}, {start};"
        f" {num_rows} samples, {len(folds)} folds, {plan.resolved.epochs} epochs,"
        f" {plan.precision}, seed {plan.config.seed}, selection"
        f" {rule_label(plan.protocol.selection, plan.protocol.name)}"
    )


def _one_fold(
    plan: Plan, fold: Fold, console: Console, *, resume: bool, trial: WandbRun | None
) -> None:
    """Train a fold, or keep it if it is finished, and say how it went."""
    from finetune.fold import can_resume, train_fold
    from finetune.record import fold_folder, read_fold
    from finetune.reporting.document import number
    from finetune.scores import score
    from finetune.selection import marked

    facts = read_fold(fold_folder(plan.out, fold.name))
    kept = facts is not None
    if facts is None:
        if resume and can_resume(plan, fold):
            console.print(f"fold {fold.name}: goes on from its last saved epoch")
        facts = train_fold(plan, fold, resume=resume, trial=trial)
    values = score(plan.benchmark, _predictions(plan, fold))
    leading = plan.benchmark.ranking
    value = marked(number(values[leading]), plan.protocol.selection)
    console.print(
        f"fold {fold.name}: {facts.num_train} training and {facts.num_test} test samples, {leading}"
        f" {value} ({'kept' if kept else f'{facts.seconds:.0f} s'}, epoch {facts.epoch})"
    )


def _finish(
    plan: Plan, folds: Sequence[Fold], ignored: dict[str, int], missing: list[str], console: Console
) -> Run:
    """Pool the folds, score, report, and show the table.

    Returns: the run as it is read back.
    """
    from finetune.over_time import recordings_note
    from finetune.record import RunFacts, fold_folder, git_commit, read_fold, write_run
    from finetune.reporting.run_report import scores_table, write_run_report

    pooled = [item for fold in folds for item in _predictions(plan, fold)]
    weights = plan.checkpoint
    found = (read_fold(fold_folder(plan.out, fold.name)) for fold in folds)
    kept = {fold.configuration_digest for fold in found if fold is not None}
    digest = next(each for each in plan.digests if each in kept)  # an early one where all have it
    facts = RunFacts(
        benchmark=plan.benchmark.name,
        init="scratch" if weights is None else "checkpoint",
        checkpoint=None if weights is None else str(weights.path),
        modalities=plan.emotion.modalities,
        selection=plan.protocol.selection,
        protocol=plan.protocol.name,
        seed=plan.config.seed,
        epochs=plan.resolved.epochs,
        batch_size=plan.batch_size,
        learning_rate=plan.scaled(plan.resolved.learning_rate),
        loss=plan.resolved.loss,
        num_segments=plan.config.recipe.num_segments,
        num_parameters=plan.num_parameters,
        precision=plan.precision,
        shards=str(plan.index.folder),
        shards_digest=plan.shards_digest,
        configuration_digest=digest,
        experiment_digest=plan.digests[digest],
        # An early run stays as it was: that its experiment is the same stands in the later one.
        experiment_digests=tuple(plan.digests.values()) if digest == plan.digest else (),
        git_commit=git_commit(),
        version=__version__,
        ignored=ignored,
        notes=(*plan.test_seen, *missing, *_notes(plan), *recordings_note(plan.benchmark, pooled)),
    )
    run = write_run(plan.out, plan.benchmark, facts, pooled)
    console.print(scores_table(run))
    if plan.config.trainer.report:
        console.print(f"report: {write_run_report(run)}")
    else:
        console.print(
            f"no report is drawn; to have one: hicmae report {shlex.quote(str(run.folder))}"
        )
    return run


def _predictions(plan: Plan, fold: Fold) -> list[Prediction]:
    """Predictions of a finished fold.

    Raises: ValueError: not as many as it has tested.
    """
    from finetune.predictions import FILE_NAME, read_predictions
    from finetune.record import fold_folder, read_fold

    folder = fold_folder(plan.out, fold.name)
    found, facts = read_predictions(folder / FILE_NAME, plan.benchmark), read_fold(folder)
    if facts is not None and len(found) != facts.num_test:
        raise ValueError(
            f"{folder / FILE_NAME}: damaged (predictions of {len(found)} samples, and the fold"
            f" tested {facts.num_test}); delete {folder} and train this fold again with --resume"
        )
    return found


def _untrained_note(benchmark: str, names: Sequence[str]) -> str:
    """What a reader of scores over some of a benchmark's folds should know."""
    from finetune.folds import few

    return (
        f"no network was trained for fold {few(names)} of '{benchmark}', so these numbers are not"
        " of all its folds"
    )


def _notes(plan: Plan) -> list[str]:
    """Sentences that a reader of the numbers should know."""
    from finetune.tuning import tuning_sentence

    recipe, tuned = plan.config.recipe, tuning_sentence(plan.config.recipe)
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
