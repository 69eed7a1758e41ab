"""Fine-tuning a benchmark: from the command's options to a run folder.

For: ``hicmae finetune``. Everything a user can get wrong is refused here before anything is
trained or written. Not for: a single fold (``finetune/training.py``) or comparing runs
(``finetune/reporting/report.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from finetune.benchmark import load_benchmark
from finetune.data import check_sound
from finetune.finishing import finish_run, fold_predictions
from finetune.fitting.sides import check_training
from finetune.folds import Fold, make_folds, usable_rows
from finetune.mixing_config import MixingConfig
from finetune.plan import Plan, make_plan
from finetune.record import (
    BENCHMARK,
    CONFIG,
    Run,
    fold_folder,
    read_fold,
)
from finetune.reporting.seeds import seeds_table, write_seed_summary
from finetune.reporting.tables import number, output_console
from finetune.scores import score
from finetune.selection import ProtocolName, Rule, decide_protocol, marked, rule_label
from finetune.settings import (
    OptimizerConfig,
    RecipeConfig,
    TrainerConfig,
    WandbConfig,
    parse_modalities,
)
from finetune.sweep import members, parse_seeds, prepare_folder
from finetune.training import can_resume, train_fold
from finetune.units import check_units
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
    protocol: ProtocolName = "default",
    selection: Rule | None = None,
    validation_share: float = 0.15,
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
    seeds: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Fine-tune for a benchmark, fold by fold, and report.

    Writes a run folder: config.yaml, a folder for each fold (metrics.csv, predictions.jsonl,
    checkpoints/last), the predictions of all folds, scores.json, report.md and figures/.
    Unless selection says otherwise the weights after the last epoch are tested, and no epoch is
    chosen by a score. Several seeds or modalities are a run each in a folder of its own.

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
        protocol: paper: the choices of the published evaluation (the epoch that is best on the
            test side, two views, folds pooled, sound unmixed), which every number then carries.
        selection: Whose weights are tested. last: the last epoch's. inner-validation: those of the
            epoch that is best on speakers kept out of the training side. best-on-test: those of
            the epoch that is best on the test side, which every number then carries. null: last.
        validation_share: Share of the training side that inner-validation keeps out of training.
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
        seeds: Several seeds separated by commas, in place of seed: a run each in the folders
            seed-N under the run folder, and their mean and deviation in seeds.md.
        resume: Keep the folds in the run folder that were finished with this very configuration
            and train the others; one that was killed goes on from its last saved epoch.
        overwrite: Delete the run that is in the run folder.

    Raises:
        ValueError: Settings that do not go together; labels, speakers or sounds that the
            benchmark cannot use; a checkpoint of another size; a folder that holds a run.
        FileNotFoundError: No such benchmark, folder of shards or model file.
    """
    what = load_benchmark(benchmark)
    index = read_index(shards)
    sweep = members(
        out, parse_modalities(modalities), parse_seeds(seeds, seed), by_seed=seeds is not None
    )
    rules = decide_protocol(
        name=protocol,
        selection=selection,
        validation_share=validation_share,
        recipe=recipe,
        mixing=mixing,
    )
    plans = [
        make_plan(
            out=member.folder,
            group=out.resolve().name,
            benchmark=what,
            index=index,
            checkpoint=checkpoint,
            model=model,
            modalities=member.modalities,
            epochs=epochs,
            accumulate=accumulate,
            recipe=recipe,
            protocol=rules,
            optimizer=optimizer,
            mixing=mixing,
            augment=augment,
            precision=precision,
            trainer=trainer,
            wandb=wandb,
            seed=member.seed,
        )
        for member in sweep
    ]
    rows, ignored = usable_rows(what, index.table)
    check_units(what, rows)
    divided = make_folds(what, rows, folds=folds)
    for plan in plans:
        check_sound(rows, modalities=plan.emotion.modalities)
    for plan in plans:
        check_training(plan, divided)
    for plan in plans:
        prepare_folder(plan.out, divided, plan.digest, resume=resume, overwrite=overwrite)
    console = output_console()
    finished: dict[Path, list[Run]] = {}
    for plan in plans:
        config = {
            "benchmark": benchmark,
            "shards": str(shards),
            "out": str(plan.out),
            "checkpoint": None if checkpoint is None else str(checkpoint),
            "model": model,
            "modalities": plan.emotion.modalities,
            "folds": folds,
            "protocol": protocol,
            "selection": rules.selection,
            "validation_share": validation_share,
            "epochs": epochs,
            "accumulate": accumulate,
            "recipe": to_dict(recipe),
            "optimizer": to_dict(optimizer),
            "mixing": to_dict(mixing),
            "augment": to_dict(augment),
            "precision": precision,
            "trainer": to_dict(trainer),
            "wandb": to_dict(wandb),
            "seed": plan.seed,
        }
        save_yaml(plan.out / CONFIG, config)
        save_yaml(plan.out / BENCHMARK, to_dict(what))
        console.print(_opening(plan, divided, len(rows)))
        for fold in divided:
            _one_fold(plan, fold, console, resume=resume)
        run = finish_run(plan, divided, ignored, console)
        finished.setdefault(plan.out.parent, []).append(run)
    for folder, runs in finished.items():
        if len(runs) > 1 and seeds is not None:
            group = write_seed_summary(folder, runs)
            console.print(seeds_table([group], title=f"{what.name} over seeds").terminal())
            console.print(f"seeds: {folder / 'seeds.md'}")


def _one_fold(plan: Plan, fold: Fold, console: Console, *, resume: bool) -> None:
    """Train a fold, or keep it if it is finished, and say how it went."""
    facts = read_fold(fold_folder(plan.out, fold.name))
    kept = facts is not None
    if facts is None:
        if resume and can_resume(plan, fold):
            console.print(f"fold {fold.name}: goes on from its last saved epoch")
        facts = train_fold(plan, fold, resume=resume)
    values = score(plan.benchmark, fold_predictions(plan, fold))
    leading = plan.benchmark.ranking
    value = marked(number(values[leading]), plan.protocol.selection)
    console.print(
        f"fold {fold.name}: {facts.num_train} training and {facts.num_test} test samples, {leading}"
        f" {value} ({'kept' if kept else f'{facts.seconds:.0f} s'}, epoch {facts.epoch})"
    )


def _opening(plan: Plan, folds: Sequence[Fold], num_rows: int) -> str:
    """What is about to happen, in one line."""
    start = "from scratch" if plan.checkpoint is None else f"from {plan.checkpoint.path}"
    return (
        f"{plan.benchmark.name}: {plan.benchmark.task}, {plan.emotion.modalities}, {start};"
        f" {num_rows} samples, {len(folds)} folds, {plan.resolved.epochs} epochs,"
        f" {plan.precision}, seed {plan.seed}, selection"
        f" {rule_label(plan.protocol.selection, plan.protocol.name)}"
    )
