"""Fine-tuning a benchmark: from the command's options to a run folder.

For: ``hicmae finetune``. Everything a user can get wrong is refused here before anything is
trained or written. Not for: a single fold (``finetune/training.py``) or comparing runs
(``finetune/report.py``).

Deviation: the reference reports the epoch that is best on the test split; here the weights after
the last epoch are tested.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from finetune.benchmark import load_benchmark
from finetune.data import check_sound
from finetune.folds import Fold, make_folds, usable_rows
from finetune.mixing import MixingConfig
from finetune.plan import Plan, make_plan
from finetune.predictions import FILE_NAME, Prediction, read_predictions, write_predictions
from finetune.provenance import git_commit
from finetune.record import (
    BENCHMARK,
    CONFIG,
    FoldFacts,
    RunFacts,
    fold_folder,
    read_fold,
    read_run,
    write_scores,
)
from finetune.run_report import scores_table, write_run_report
from finetune.scores import score, score_run
from finetune.settings import (
    OptimizerConfig,
    RecipeConfig,
    TrainerConfig,
    WandbConfig,
    parse_modalities,
)
from finetune.tables import number, output_console
from finetune.training import train_fold
from hicmae import __version__
from hicmae.config import save_yaml
from hicmae.plain import to_dict
from hicmae.precision import Precision
from hicmae.transforms import AugmentConfig
from shards.index import read_index

_RECIPE = RecipeConfig()
_OPTIMIZER = OptimizerConfig()
_MIXING = MixingConfig()
_AUGMENT = AugmentConfig.finetuning()
_TRAINER = TrainerConfig()
_WANDB = WandbConfig()


def finetune(
    *,
    benchmark: str,
    shards: Path,
    out: Path,
    checkpoint: Path | None = None,
    model: str | None = None,
    modalities: str = "audio-video",
    folds: str = "all",
    epochs: int | None = None,
    accumulate: int = 1,
    recipe: RecipeConfig = _RECIPE,
    optimizer: OptimizerConfig = _OPTIMIZER,
    mixing: MixingConfig = _MIXING,
    augment: AugmentConfig = _AUGMENT,
    precision: Precision = "auto",
    trainer: TrainerConfig = _TRAINER,
    wandb: WandbConfig = _WANDB,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Fine-tune for a benchmark, fold by fold, and report.

    Writes a run folder: config.yaml, a folder for each fold (metrics.csv, predictions.jsonl,
    checkpoints/last), the predictions of all folds, scores.json, report.md and figures/.
    The weights after the last epoch are tested; no epoch is chosen by a score.

    Args:
        benchmark: A benchmark: a YAML file, or a name out of configs/benchmarks.
        shards: Folder of shards with an index.
        out: The run folder.
        checkpoint: Run folder or checkpoint folder whose encoder is fine-tuned; the sizes of the
            network come from it. None given: training starts from scratch.
        model: Size of the network from scratch: a name out of configs/model (tiny, small, base)
            or a YAML file.
        modalities: What the network sees and hears: audio-video, video or audio. Several separated
            by commas are a run each, in folders of these names under the run folder.
        folds: all, or names of folds separated by commas.
        epochs: Passes over the training side; null: the benchmark's, or else 50.
        accumulate: Batches whose gradients are averaged into one optimizer step.
        recipe: What is trained and how it is tested.
        optimizer: AdamW and its schedule.
        mixing: Mixup and cutmix.
        augment: Random changes to single clips.
        precision: auto: bf16-mixed where the machine computes in bfloat16, else 32-true.
        trainer: On what it runs.
        wandb: Logging to Weights & Biases, beside metrics.csv.
        seed: Of the weights, the order of the data, crops and mixing; each fold starts from it.
        resume: Keep the folds in the run folder that were finished with this very configuration
            and train the others.
        overwrite: Delete the run that is in the run folder.

    Raises:
        ValueError: Settings that do not go together; labels, speakers or sounds that the
            benchmark cannot use; a checkpoint of another size; a folder that holds a run.
        FileNotFoundError: No such benchmark, folder of shards or model file.
    """
    what = load_benchmark(benchmark)
    index = read_index(shards)
    chosen = parse_modalities(modalities)
    if len(chosen) > 1 and (out / CONFIG).is_file():
        raise ValueError(f"{out}: holds a run; name another folder for runs of {modalities}")
    plans = [
        make_plan(
            out=out if len(chosen) == 1 else out / heard,
            group=out.resolve().name,
            benchmark=what,
            index=index,
            checkpoint=checkpoint,
            model=model,
            modalities=heard,
            epochs=epochs,
            accumulate=accumulate,
            recipe=recipe,
            optimizer=optimizer,
            mixing=mixing,
            augment=augment,
            precision=precision,
            trainer=trainer,
            wandb=wandb,
            seed=seed,
        )
        for heard in chosen
    ]
    rows, ignored = usable_rows(what, index.table)
    divided = make_folds(what, rows, folds=folds)
    for plan in plans:
        check_sound(rows, modalities=plan.emotion.modalities)
        _prepare(plan.out, divided, plan.digest, resume=resume, overwrite=overwrite)
    console = output_console()
    for plan in plans:
        config = {
            "benchmark": benchmark,
            "shards": str(shards),
            "out": str(plan.out),
            "checkpoint": None if checkpoint is None else str(checkpoint),
            "model": model,
            "modalities": plan.emotion.modalities,
            "folds": folds,
            "epochs": epochs,
            "accumulate": accumulate,
            "recipe": to_dict(recipe),
            "optimizer": to_dict(optimizer),
            "mixing": to_dict(mixing),
            "augment": to_dict(augment),
            "precision": precision,
            "trainer": to_dict(trainer),
            "wandb": to_dict(wandb),
            "seed": seed,
        }
        save_yaml(plan.out / CONFIG, config)
        save_yaml(plan.out / BENCHMARK, to_dict(what))
        console.print(_opening(plan, divided, len(rows)))
        for fold in divided:
            _one_fold(plan, fold, console)
        _finish(plan, divided, ignored, console)


def _prepare(
    out: Path, folds: Sequence[Fold], digest: str, *, resume: bool, overwrite: bool
) -> None:
    """Make the run folder, or make sure that what is in it belongs to this run.

    Raises: ValueError: a run is there and is neither to be finished nor deleted, or was made with
        another configuration.
    """
    if resume and overwrite:
        raise ValueError("resume and overwrite contradict each other; give one of them")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file; name a folder for the run")
    if out.is_dir() and any(out.iterdir()):
        if overwrite and not (out / CONFIG).is_file():
            raise ValueError(f"{out}: is no run folder (no {CONFIG}), so it is not deleted")
        if overwrite:
            shutil.rmtree(out)
        elif not resume:
            raise ValueError(
                f"{out}: is not empty; finish the run there with --resume, delete it with"
                " --overwrite, or name another folder"
            )
    for fold in folds:
        found = read_fold(fold_folder(out, fold.name))
        if found is not None and found.configuration_digest != digest:
            raise ValueError(
                f"{fold_folder(out, fold.name)}: was trained with another configuration"
                f" ({found.configuration_digest[:12]}, this is {digest[:12]}; see {out / CONFIG});"
                " name another folder, or pass --overwrite"
            )
    out.mkdir(parents=True, exist_ok=True)


def _one_fold(plan: Plan, fold: Fold, console: Console) -> None:
    """Train a fold, or keep it if it is finished, and say how it went."""
    facts = read_fold(fold_folder(plan.out, fold.name))
    kept = facts is not None
    if facts is None:
        facts = train_fold(plan, fold)
    values = score(plan.benchmark, _predictions(plan, fold))
    leading = plan.benchmark.ranking
    console.print(_fold_line(fold, facts, leading, values[leading], kept=kept))


def _finish(plan: Plan, folds: Sequence[Fold], ignored: dict[str, int], console: Console) -> None:
    """Pool the folds, score, report, and show the table."""
    pooled = [item for fold in folds for item in _predictions(plan, fold)]
    weights = plan.checkpoint
    facts = RunFacts(
        benchmark=plan.benchmark.name,
        init="scratch" if weights is None else "checkpoint",
        checkpoint=None if weights is None else str(weights.path),
        modalities=plan.emotion.modalities,
        selection="last",
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
        git_commit=git_commit(),
        version=__version__,
        ignored=ignored,
    )
    write_predictions(plan.out / FILE_NAME, pooled)
    write_scores(plan.out, facts, score_run(plan.benchmark, pooled))
    run = read_run(plan.out)
    report = write_run_report(run)
    console.print(scores_table(run).terminal())
    console.print(f"report: {report}")


def _predictions(plan: Plan, fold: Fold) -> list[Prediction]:
    """Predictions of a finished fold."""
    return read_predictions(fold_folder(plan.out, fold.name) / FILE_NAME, plan.benchmark)


def _opening(plan: Plan, folds: Sequence[Fold], num_rows: int) -> str:
    """What is about to happen, in one line."""
    start = "from scratch" if plan.checkpoint is None else f"from {plan.checkpoint.path}"
    return (
        f"{plan.benchmark.name}: {plan.benchmark.task}, {plan.emotion.modalities}, {start};"
        f" {num_rows} samples, {len(folds)} folds, {plan.resolved.epochs} epochs,"
        f" {plan.precision}, seed {plan.seed}"
    )


def _fold_line(fold: Fold, facts: FoldFacts, metric: str, value: float, *, kept: bool) -> str:
    """How a fold went, in one line."""
    how = "kept" if kept else f"{facts.seconds:.0f} s"
    return (
        f"fold {fold.name}: {facts.num_train} training and {facts.num_test} test samples,"
        f" {metric} {number(value)} ({how})"
    )
