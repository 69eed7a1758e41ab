"""Testing finished networks again: other views, other shards, another corpus.

For: ``hicmae evaluate``. What it writes is a run folder that ``hicmae report`` takes. Not for:
spoiled inputs (``modalities.py``) or features (``embedding.py``).
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from finetune.evaluating.job import Job, make_job, prepare_output
from finetune.evaluating.machine import device_of
from finetune.evaluating.ranks import Ranks
from finetune.evaluating.settings import MachineConfig
from finetune.evaluating.sources import read_source
from finetune.evaluating.summary import write_network_summary
from finetune.evaluating.views import load_tested, sample_views
from finetune.evaluating.writing import (
    Part,
    averaged_networks,
    evaluation_facts,
    facts_of_network,
    fold_facts,
    write_evaluation,
)
from finetune.evaluation import predictions_of_rows
from finetune.facts import RunFacts
from finetune.record import fold_folder, runs_in
from finetune.reporting.score_tables import scores_table
from finetune.reporting.tables import output_console
from hicmae.plain import to_dict

_MACHINE = MachineConfig()


def evaluate(
    *,
    source: Path,
    out: Path,
    shards: Path | None = None,
    benchmark: str | None = None,
    label_map: str | None = None,
    folds: str = "all",
    segments: int | None = None,
    crops: str = "whole",
    machine: MachineConfig = _MACHINE,
    overwrite: bool = False,
) -> None:
    """Test finished networks with more views, or on another corpus, and report.

    Started by torchrun, several processes share the clips; each is shown to one of them.

    A run is tested fold by fold, each fold's network on its own test side, and the result is a
    run folder again: predictions of every view, scores, report. On another corpus every network
    is tested on all of it: a run folder a network, and one of their outputs averaged.

    Args:
        source: A run folder of hicmae finetune (or one that holds several), its folder of one
            fold, or a fine-tuned checkpoint.
        out: The folder to write.
        shards: Folder of shards with an index; null: those of the training.
        benchmark: What is tested: a YAML file, or a name out of configs/benchmarks; null: the
            benchmark of the training.
        label_map: Which classes of the training are which of the tested benchmark: a YAML file,
            or a name out of configs/label_maps; null: they are the same.
        folds: all, or the folds whose networks are tested, separated by commas.
        segments: Views of a sample along time; null: as many as after the training.
        crops: Views of each segment, separated by commas, out of whole, mirrored, centre,
            centre-mirrored, top-left, top-right, bottom-left, bottom-right.
        machine: On what it runs.
        overwrite: Delete the evaluation that is in the folder.

    Raises:
        ValueError: Views that would be equal; classes that do not correspond; somebody of the
            training among the tested; a folder that is not empty.
        FileNotFoundError: No such run, shards, benchmark or label map.
    """
    device_of(machine)  # or it is not there, and nothing is touched
    prepare_output(out, overwrite=overwrite)
    ranks, console = Ranks(), output_console()
    console.quiet = not ranks.is_first
    given = runs_in(source)
    config = {
        "shards": None if shards is None else str(shards),
        "out": str(out),
        "benchmark": benchmark,
        "label_map": label_map,
        "folds": folds,
        "segments": segments,
        "crops": crops,
        "machine": to_dict(machine),
    }
    jobs = []
    for folder in given:
        place = out / folder.relative_to(source) if len(given) > 1 else out
        job = make_job(
            read_source(folder, folds=folds),
            shards=shards,
            benchmark=benchmark,
            label_map=label_map,
            segments=segments,
            crops=crops,
        )
        jobs.append((place, job))
    ranks.wait()  # all have seen the folder as it was
    if out.is_dir() and ranks.is_first:
        shutil.rmtree(out)  # what prepare_output allowed
    for place, job in jobs:
        console.print(_opening(job, machine))
        parts = _test(job, machine)
        if ranks.is_first:
            facts = evaluation_facts(job, machine)
            _write(job, parts, facts, place, config | {"out": str(place)}, console)
    ranks.leave()


def _test(job: Job, machine: MachineConfig) -> list[Part]:
    """Run the networks of one source."""
    parts: list[Part] = []
    for side in job.sides.sides:
        started = time.monotonic()
        views = job.mapped.outputs(
            sample_views(
                load_tested(job.source.checkpoint(side.fold)),
                job.index,
                side.rows,
                grid=job.grid,
                machine=machine,
                doing=f"fold {side.fold}",
            )
        )
        predictions = predictions_of_rows(
            job.mapped.benchmark,
            side.rows,
            views,
            fold=side.fold,
            grid=job.grid,
            groups=job.sides.groups,
        )
        fold = fold_facts(job, side, seconds=time.monotonic() - started)
        parts.append((fold, predictions))
    return parts


def _write(
    job: Job,
    parts: list[Part],
    facts: RunFacts,
    out: Path,
    config: dict[str, Any],
    console: Console,
) -> None:
    """Write what the networks of one source predict: a run, or one for each and their average."""
    if job.sides.same_corpus or len(parts) == 1:
        name = "" if job.sides.same_corpus else parts[0][0].name
        run = write_evaluation(out, job, facts_of_network(facts, name), parts, config)
        console.print(scores_table(run).terminal())
        console.print(f"report: {out / 'report.md'}")
        return
    runs = []
    for part in parts:
        name = part[0].name
        own = facts_of_network(facts, name)
        runs.append(write_evaluation(_network_folder(out, name), job, own, [part], config))
    together = write_evaluation(
        out / "ensemble",
        job,
        facts_of_network(facts, "ensemble"),
        [averaged_networks(job.mapped.benchmark, parts)],
        config,
    )
    console.print(write_network_summary(out, runs, together).terminal())
    console.print(f"summary: {out / 'networks.md'}")


def _network_folder(out: Path, fold: str) -> Path:
    """Where the evaluation of one of several networks goes."""
    return out / fold_folder(out, fold).name.replace("fold-", "network-", 1)


def _opening(job: Job, machine: MachineConfig) -> str:
    """What is about to happen, in one line."""
    source, grid = job.source, job.grid
    tested = sum(len(side.rows) for side in job.sides.sides)
    where = "their own test sides" if job.sides.same_corpus else f"all of {job.tested.name}"
    return (
        f"{source.path}: {len(source.checkpoints)} networks of {source.benchmark.name},"
        f" {source.facts.modalities}, on {where}: {tested} samples x {grid.num_views} views"
        f" ({grid.segments} segments x {', '.join(grid.crops)}), {machine.resolved_precision},"
        f" {device_of(machine)}, selection {source.facts.rule}"
    )
