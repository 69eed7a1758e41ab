"""Networks run over what is tested, and their results: run folders, and networks side by side.

What is written is a run folder that ``hicmae report`` takes, with the training's selection rule.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from finetune.benchmark import Benchmark
from finetune.folds import num_speakers
from finetune.over_time import RECORDINGS, recordings_note, smooth
from finetune.predictions import (
    Prediction,
    equal_segments,
    make_prediction,
    predictions_of_rows,
)
from finetune.record import (
    BENCHMARK,
    CONFIG,
    FOLD,
    FoldFacts,
    Run,
    RunFacts,
    fold_folder,
    git_commit,
    settings_digest,
    write_run,
)
from finetune.reporting.document import Table, mean_and_sd, number, spread
from finetune.reporting.run_report import scores_table, write_run_report
from finetune.scores import metric_name, null_for_nan
from finetune.selection import rule_sentence
from finetune.testing.machine import Machine, load_tested, sample_views
from finetune.testing.plan import EvaluationPlan
from hicmae import __version__
from hicmae.config import save_yaml, to_dict
from hicmae.files import clear, portable, write_json, write_text
from hicmae.heads import thresholds_of
from hicmae.views import ViewGrid

FoldResult = tuple[FoldFacts, Sequence[Prediction]]


def run_networks(plan: EvaluationPlan, machine: Machine) -> list[FoldResult]:
    """Run the networks of one source."""
    parts: list[FoldResult] = []
    for side in plan.sides:
        started = time.monotonic()
        tested = load_tested(plan.source.checkpoint(side.fold))
        views = sample_views(
            tested,
            plan.index,
            side.rows,
            grid=plan.grid,
            machine=machine,
            doing=f"fold {side.fold}",
        )
        predictions = predictions_of_rows(
            plan.mapped.benchmark,
            side.rows,
            plan.mapped.outputs(views),
            fold=side.fold,
            grid=plan.grid,
            equal=equal_segments(side.rows, tested.network.config.input, plan.grid.segments),
            groups=plan.groups,
            thresholds=thresholds_of(tested.labels.heads),
        )
        window = plan.smoothing[side.fold]
        predictions = smooth(predictions, window)
        trained = next(fold for fold in plan.source.folds if fold.name == side.fold)
        facts = dataclasses.replace(
            trained,
            num_test=len(side.rows),
            num_test_speakers=num_speakers(plan.tested, side.rows),
            seconds=round(time.monotonic() - started, 1),
            # Fitted on the classes of the training, not on what is left or put together of them.
            calibration=trained.calibration if plan.mapped.keeps_classes else None,
        )
        parts.append((facts, predictions))
    return parts


def write_results(
    plan: EvaluationPlan,
    parts: list[FoldResult],
    facts: RunFacts,
    out: Path,
    config: dict[str, Any],
    console: Console,
) -> None:
    """Write what the networks of one source predict: a run, or one for each and their average."""

    def write(folder: Path, network: str, of_it: Sequence[FoldResult]) -> Run:
        return write_evaluation(folder, plan, facts_of_network(facts, network), of_it, config)

    names = [fold.name for fold, _ in parts]
    if plan.same_corpus or len(parts) == 1:
        run = write(out, "" if plan.same_corpus else names[0], parts)
        console.print(scores_table(run))
        console.print(f"report: {out / 'report.md'}")
        return
    runs = [
        write(out / f"network-{portable(name)}", name, [part])
        for name, part in zip(names, parts, strict=True)
    ]
    average = averaged_networks(plan.mapped.benchmark, parts)
    together = write(out / "ensemble", "ensemble", [average])
    console.print(write_network_summary(out, runs, together))
    console.print(f"summary: {out / 'networks.md'}")


def write_evaluation(
    out: Path,
    plan: EvaluationPlan,
    facts: RunFacts,
    parts: Sequence[FoldResult],
    config: dict[str, Any],
) -> Run:
    """Write one run folder; ``scores.json``, which makes it one, comes last."""
    benchmark = plan.mapped.benchmark
    pooled = [item for _, predictions in parts for item in predictions]
    notes = [note for note in facts.notes if not note.startswith(RECORDINGS)]
    segments, every = plan.grid.segments, set(plan.grid.names)
    short = sum({*item.view_names} < every for item in pooled)
    if short and segments > 2:
        notes.append(
            f"{short} of {len(pooled)} samples hold fewer than {segments} different clips;"
            " each of these counts once"
        )
    facts = dataclasses.replace(facts, notes=(*notes, *recordings_note(benchmark, pooled)))
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as undone:
        undone.callback(clear, out)  # or it would not be replaced later, being no run
        save_yaml(out / CONFIG, config)
        save_yaml(out / BENCHMARK, to_dict(benchmark))
        for fold, _ in parts:
            write_json(fold_folder(out, fold.name) / FOLD, to_dict(fold))
        run = write_run(out, benchmark, facts, pooled)
        undone.pop_all()
    write_run_report(run)
    return run


def averaged_networks(
    benchmark: Benchmark, parts: Sequence[FoldResult]
) -> tuple[FoldFacts, list[Prediction]]:
    """The outputs of several networks averaged, sample by sample."""
    names = [f"network {fold.name}" for fold, _ in parts]
    made = []
    for items in zip(*(predictions for _, predictions in parts), strict=True):
        first = items[0]
        outputs = [item.outputs for item in items]
        limits = {
            name: np.mean([item.limits[name] for item in items], axis=0).tolist()
            for name in first.limits
        }
        made.append(
            make_prediction(
                benchmark,
                key=first.key,
                fold="ensemble",
                speaker=first.speaker,
                true=first.truths,
                views=np.array(outputs, dtype=np.float64),
                thresholds=limits,
                view_names=names,
                unit=first.unit,
                groups=first.groups,
            )
        )
    first_fold = parts[0][0]
    return (
        dataclasses.replace(
            first_fold,
            name="ensemble",
            num_train=None,
            num_train_speakers=None,
            epoch=None,
            train_loss=None,
            layer_weights={},
            calibration=None,
            seconds=sum(fold.seconds for fold, _ in parts),
        ),
        made,
    )


def evaluation_facts(plan: EvaluationPlan, machine: Machine) -> RunFacts:
    """What the numbers are reported with: the training's facts, and what was tested."""
    facts, source = plan.source.facts, plan.source
    decisive = {
        "grid": plan.grid,
        "shards": plan.digest,
        "benchmark": plan.mapped.benchmark,
        "outputs": plan.mapped.weights.tolist(),
        "precision": machine.precision,
    }
    notes = [*facts.notes, *plan.notes]
    protocol = facts.protocol
    if protocol == "paper" and (
        plan.grid != ViewGrid(segments=facts.num_segments) or not plan.same_corpus
    ):
        protocol = "default"
        notes.append(
            "the networks were trained and chosen by protocol paper, but tested in another way"
        )
    return dataclasses.replace(
        facts,
        benchmark=plan.mapped.benchmark.name,
        num_segments=plan.grid.segments,
        crops=plan.grid.crops,
        precision=machine.precision,
        shards=str(plan.index.folder),
        shards_digest=plan.digest,
        **_digests(facts, lambda digest: {"of": digest, **decisive}),
        git_commit=git_commit(),
        version=__version__,
        ignored=plan.ignored,
        protocol=protocol,
        notes=tuple(dict.fromkeys(notes)),
        evaluates=str(source.path),
        trained_on=""
        if plan.tested.wordless == source.benchmark.wordless
        else source.benchmark.name,
    )


def facts_of_network(facts: RunFacts, network: str) -> RunFacts:
    """Facts of one network's evaluation: networks of one run are no seeds of each other.

    Args:
        network: Fold whose network it is, or ``ensemble``; empty within the training's corpus.
    """
    if not network:
        return facts
    digests = _digests(facts, lambda digest: [digest, network])
    return dataclasses.replace(facts, network=network, **digests)


def write_network_summary(folder: Path, runs: Sequence[Run], together: Run) -> Table:
    """Write the scores of several networks on the same samples, and of their averaged outputs."""
    facts, metrics = runs[0].facts, list(runs[0].scores.pooled)

    def row(what: str, run: Run) -> list[str]:
        values = (facts.mark(number(run.scores.pooled[m], m)) for m in metrics)
        return [what, str(run.scores.num_samples), *values]

    over = {m: mean_and_sd([run.scores.pooled[m] for run in runs]) for m in metrics}
    rows = [row(f"network of fold {run.facts.network}", run) for run in runs]
    rows.append(["**mean ± sd**", "", *(facts.mark(spread(*over[m], m)) for m in metrics)])
    rows.append(row("outputs averaged", together))
    table = Table(
        columns=[f"selection: {facts.rule}", "samples", *map(metric_name, metrics)],
        rows=rows,
        title=f"{facts.benchmark}, selection: {facts.rule}",
    )
    parts = [
        f"# {facts.benchmark}",
        f"{len(runs)} networks of `{facts.evaluates}`, trained on {facts.trained_on}, each tested"
        " on all samples. *mean ± sd*: of the scores of single networks, which is what one of them"
        " is worth; *outputs averaged*: one prediction of all networks together, which no single"
        f" one reaches. Selection rule: {rule_sentence(facts.selection, facts.protocol)}.",
        table.markdown(),
        *(f"**Note.** {note}" for note in facts.notes),
        "\n".join(f"- [{run.name}]({run.name}/report.md)" for run in (*runs, together)),
    ]
    write_text(folder / "networks.md", "\n\n".join(parts) + "\n")
    write_json(
        folder / "networks.json",
        {
            "selection": facts.rule,
            "networks": {run.facts.network: null_for_nan(run.scores.pooled) for run in runs},
            "mean": null_for_nan({m: mean for m, (mean, _) in over.items()}),
            "sd": null_for_nan({m: sd for m, (_, sd) in over.items()}),
            "ensemble": null_for_nan(together.scores.pooled),
        },
    )
    return table


def _digests(facts: RunFacts, further: Callable[[str], object]) -> dict[str, Any]:
    """Digests of what was tested; an early version's run has no second one."""
    old, every = facts.experiment_digest, facts.experiment_digests
    return {
        "configuration_digest": settings_digest(further(facts.configuration_digest)),
        "experiment_digest": old and settings_digest(further(old)),
        "experiment_digests": tuple(settings_digest(further(each)) for each in every),
    }


def opening(plan: EvaluationPlan, machine: Machine) -> str:
    """What is about to happen, in one line."""
    source, grid = plan.source, plan.grid
    return (
        f"{source.path}: {len(source.checkpoints)} networks of {source.benchmark.name},"
        f" {source.facts.modalities}, {plan.what} x up to {grid.num_views} views"
        f" ({grid.segments} segments x {', '.join(grid.crops)}), {machine.precision},"
        f" {machine.device}, selection {source.facts.rule}"
    )
