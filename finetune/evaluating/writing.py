"""The run folder of an evaluation: predictions, scores, facts and report.

For: writing what networks predicted so that ``hicmae report`` takes it as a run, with the
training's selection rule. Not for: running networks (``evaluate.py``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.benchmark import Benchmark
from finetune.evaluating.job import Job
from finetune.evaluating.settings import MachineConfig
from finetune.evaluating.sides import Side
from finetune.facts import FoldFacts, RunFacts
from finetune.folds import as_text
from finetune.predictions import FILE_NAME, Prediction, make_prediction, write_predictions
from finetune.provenance import git_commit, settings_digest
from finetune.record import (
    BENCHMARK,
    CONFIG,
    FOLD,
    Run,
    fold_folder,
    read_run,
    write_json,
    write_scores,
)
from finetune.reporting.resampling import intervals
from finetune.reporting.run_report import run_parts, write_run_report
from finetune.scores import score_run
from finetune.units import scored_units
from hicmae import __version__
from hicmae.config import save_yaml
from hicmae.plain import to_dict
from hicmae.views import ViewGrid

Part = tuple[FoldFacts, Sequence[Prediction]]


def write_evaluation(
    out: Path,
    job: Job,
    facts: RunFacts,
    parts: Sequence[Part],
    config: dict[str, Any],
) -> Run:
    """Write one run folder; ``scores.json``, which makes it one, comes last."""
    benchmark = job.mapped.benchmark
    pooled = [item for _, predictions in parts for item in predictions]
    out.mkdir(parents=True, exist_ok=True)
    save_yaml(out / CONFIG, config)
    save_yaml(out / BENCHMARK, to_dict(benchmark))
    for fold, _ in parts:
        write_json(fold_folder(out, fold.name) / FOLD, to_dict(fold))
    write_predictions(out / FILE_NAME, pooled)
    units = scored_units(benchmark, pooled)
    write_scores(out, facts, score_run(benchmark, pooled), intervals(benchmark, [units]))
    run = read_run(out)
    write_run_report(run, run_parts(run))
    return run


def averaged_networks(
    benchmark: Benchmark, parts: Sequence[Part]
) -> tuple[FoldFacts, list[Prediction]]:
    """The outputs of several networks averaged, sample by sample."""
    names = [f"network {fold.name}" for fold, _ in parts]
    made = []
    for items in zip(*(predictions for _, predictions in parts), strict=True):
        first = items[0]
        outputs = [
            item.predicted if item.probabilities is None else item.probabilities for item in items
        ]
        made.append(
            make_prediction(
                benchmark,
                key=first.key,
                fold="ensemble",
                speaker=first.speaker,
                true=first.true,
                views=np.array(outputs, dtype=np.float64),
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
            seconds=sum(fold.seconds for fold, _ in parts),
        ),
        made,
    )


def evaluation_facts(job: Job, machine: MachineConfig) -> RunFacts:
    """What the numbers are reported with: the training's facts, and what was tested."""
    facts, source = job.source.facts, job.source
    decisive = {
        "grid": job.grid,
        "shards": job.digest,
        "benchmark": job.mapped.benchmark,
        "outputs": job.mapped.weights.tolist(),
        "precision": machine.resolved_precision,
    }
    notes = [*facts.notes, *job.sides.notes]
    protocol = facts.protocol
    if protocol == "paper" and (
        job.grid != ViewGrid(segments=facts.num_segments) or not job.sides.same_corpus
    ):
        protocol = "default"
        notes.append(
            "the networks were trained and chosen by protocol paper, but tested in another way"
        )
    return dataclasses.replace(
        facts,
        benchmark=job.mapped.benchmark.name,
        num_segments=job.grid.segments,
        crops=job.grid.crops,
        precision=machine.resolved_precision,
        shards=str(job.index.folder),
        shards_digest=job.digest,
        configuration_digest=settings_digest({"of": facts.configuration_digest, **decisive}),
        experiment_digest=settings_digest({"of": facts.experiment_digest, **decisive})
        if facts.experiment_digest
        else "",
        git_commit=git_commit(),
        version=__version__,
        ignored=job.sides.ignored,
        protocol=protocol,
        notes=tuple(dict.fromkeys(notes)),
        evaluates=str(source.path),
        trained_on="" if job.tested == source.benchmark else source.benchmark.name,
    )


def facts_of_network(facts: RunFacts, network: str) -> RunFacts:
    """Facts of one network's evaluation: networks of one run are no seeds of each other.

    Args:
        facts: Of the evaluation.
        network: Fold whose network it is, or ``ensemble``; empty within the training's corpus.
    """
    if not network:
        return facts
    return dataclasses.replace(
        facts,
        network=network,
        configuration_digest=settings_digest([facts.configuration_digest, network]),
        experiment_digest=settings_digest([facts.experiment_digest, network])
        if facts.experiment_digest
        else "",
    )


def fold_facts(job: Job, side: Side, *, seconds: float) -> FoldFacts:
    """What is known of a fold whose network was tested just now."""
    trained = next(fold for fold in job.source.folds if fold.name == side.fold)
    column = job.tested.speaker
    speakers = set(side.rows[column].map(as_text)) if column in side.rows.columns else {""}
    return dataclasses.replace(
        trained,
        num_test=len(side.rows),
        num_test_speakers=None if "" in speakers else len(speakers),
        seconds=round(seconds, 1),
    )
