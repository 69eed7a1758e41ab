"""What each modality is worth to a network: it is taken away, swapped and spoiled.

For: ``hicmae evaluate modalities``: predictions of every condition as JSON lines, and the page made
of them. Not for: how clips are spoiled (``perturbations.py``) or scored (``importance.py``).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from torch.utils.data import Subset

from finetune.evaluating.importance import LINES, SpoiledPrediction, importance_table, read_spoiled
from finetune.evaluating.job import Job, make_job
from finetune.evaluating.machine import device_of
from finetune.evaluating.modality_page import FACTS, write_modality_page
from finetune.evaluating.perturbations import (
    SPOILS,
    UNSPOILED,
    Condition,
    PerturbedClips,
    conditions_of,
    partners,
)
from finetune.evaluating.ranks import require_alone
from finetune.evaluating.settings import MachineConfig, PerturbationConfig
from finetune.evaluating.sources import read_source
from finetune.evaluating.views import (
    Tested,
    distinct_items,
    equal_segments,
    load_tested,
    run_views,
    view_dataset,
)
from finetune.evaluating.writing import evaluation_facts
from finetune.evaluation import predictions_of_rows
from finetune.predictions import prediction_line
from finetune.record import BENCHMARK, CONFIG, runs_in, write_json
from finetune.reporting.tables import output_console
from hicmae.config import save_yaml
from hicmae.plain import to_dict
from hicmae.views import ViewGrid

_MACHINE = MachineConfig()
_PERTURB = PerturbationConfig()


def modalities(
    *,
    source: Path,
    out: Path | None = None,
    shards: Path | None = None,
    benchmark: str | None = None,
    label_map: str | None = None,
    folds: str = "all",
    segments: int | None = None,
    perturb: PerturbationConfig = _PERTURB,
    machine: MachineConfig = _MACHINE,
    overwrite: bool = False,
) -> None:
    """Find out how much each modality matters to finished networks, overall and class by class.

    Every network is tested as it is, with one modality alone, with a frozen picture, with the
    sound or the picture of another sample, with noise at several levels and with missing frames.
    Writes the predictions of every condition, a page with tables, and figures; in the run folder,
    it becomes a section of the run's own report when hicmae report makes that again.

    Args:
        source: A run folder of hicmae finetune (or one that holds several), its folder of one
            fold, or a fine-tuned checkpoint.
        out: The folder to write; null: modalities in the run folder.
        shards: Folder of shards with an index; null: those of the training.
        benchmark: What is tested, if it is not the benchmark of the training.
        label_map: Which classes of the training are which of the tested benchmark.
        folds: all, or the folds whose networks are tested, separated by commas.
        segments: Views of a sample along time; null: as many as after the training.
        perturb: How clips are spoiled.
        machine: On what it runs.
        overwrite: Delete the modality report that is in the folder.

    Raises:
        ValueError: As for hicmae evaluate; a test side of one sample that is to be swapped.
        FileNotFoundError: No such run, shards, benchmark or label map.
    """
    device_of(machine)
    require_alone("hicmae evaluate modalities")
    console = output_console()
    given = runs_in(source)
    jobs = []
    for folder in given:
        place = folder / "modalities" if out is None else out
        if out is not None and len(given) > 1:
            place = out / folder.relative_to(source)
        _prepare(place, overwrite=overwrite)
        job = make_job(
            read_source(folder, folds=folds),
            shards=shards,
            benchmark=benchmark,
            label_map=label_map,
            segments=segments,
            crops="whole",
        )
        if perturb.swaps and job.source.facts.modalities == "audio-video":
            for side in job.sides.sides:
                partners([str(key) for key in side.rows["key"]], repeat=0, seed=perturb.seed)
        jobs.append((place, job))
    for place, job in jobs:
        config = {
            "shards": None if shards is None else str(shards),
            "out": str(place),
            "benchmark": benchmark,
            "label_map": label_map,
            "folds": folds,
            "segments": segments,
            "perturb": to_dict(perturb),
            "machine": to_dict(machine),
        }
        _one_source(job, place, config, perturb, machine, console)


def _one_source(
    job: Job,
    out: Path,
    config: dict[str, object],
    perturb: PerturbationConfig,
    machine: MachineConfig,
    console: Console,
) -> None:
    """Spoil, test and write."""
    conditions = conditions_of(job.source.facts.modalities, perturb)
    tested = sum(len(side.rows) for side in job.sides.sides)
    console.print(
        f"{job.source.path}: {job.source.facts.modalities}, {len(conditions)} conditions x"
        f" {tested} samples x {job.grid.segments} segments, {machine.resolved_precision},"
        f" {device_of(machine)}, selection {job.source.facts.rule}"
    )
    shutil.rmtree(out, ignore_errors=True)  # what _prepare allowed
    out.mkdir(parents=True)
    save_yaml(out / CONFIG, config)
    save_yaml(out / BENCHMARK, to_dict(job.mapped.benchmark))
    facts = evaluation_facts(job, machine)
    write_json(out / FACTS, to_dict(facts))
    beside = out / f".{LINES}.{os.getpid()}"
    with beside.open("w", encoding="utf-8") as file:
        for side in job.sides.sides:
            network = load_tested(job.source.checkpoint(side.fold))
            for condition in conditions:
                for spoiled in _predictions(
                    job, network, side.fold, side.rows, condition, perturb, machine
                ):
                    line = {
                        "condition": spoiled.condition.kind,
                        "level": spoiled.condition.level,
                        "repeat": spoiled.condition.repeat,
                        **prediction_line(spoiled.prediction),
                    }
                    file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    beside.replace(out / LINES)
    page = write_modality_page(out)
    console.print(importance_table(read_spoiled(out), facts).terminal())
    console.print(f"report: {page}")


def _predictions(
    job: Job,
    tested: Tested,
    fold: str,
    rows: pd.DataFrame,
    condition: Condition,
    perturb: PerturbationConfig,
    machine: MachineConfig,
) -> Iterator[SpoiledPrediction]:
    """What a network says of its test side in one condition; of a swap, in both of its readings.

    The sample whose picture is shown has the sound of another one; that other one has its sound
    with another one's picture. One pass of the network is both.
    """
    equal = equal_segments(tested, rows, job.grid.segments)
    clips = view_dataset(tested, job.index, rows, job.grid.segments)
    swapped = None
    if condition.kind == "sound-swapped":
        keys = [str(key) for key in rows["key"]]
        swapped = partners(keys, repeat=condition.repeat, seed=perturb.seed)
        equal = [_equal_pairs(own, equal[other]) for own, other in zip(equal, swapped, strict=True)]
    items = distinct_items(equal)
    plain = condition.kind in (UNSPOILED, "audio-only", "video-only")
    views = run_views(
        tested,
        Subset(clips, items)
        if plain
        else PerturbedClips(clips, items, condition, seed=perturb.seed, partners=swapped),
        equal=equal,
        grid=job.grid,
        machine=machine,
        hidden=SPOILS[condition.kind] if plain else "",
        doing=f"fold {fold}, {condition.name}",
    )
    # A view is of no interest here: one mean a line keeps the file small.
    mean = job.mapped.outputs(views).mean(axis=1, keepdims=True)  # (N, 1, C)
    yield from _named(job, rows, mean, fold, condition)
    if swapped is not None:
        of_sound = np.empty_like(mean)
        of_sound[swapped] = mean
        other = Condition(kind="picture-swapped", repeat=condition.repeat)
        yield from _named(job, rows, of_sound, fold, other)


def _named(
    job: Job, rows: pd.DataFrame, mean: np.ndarray, fold: str, condition: Condition
) -> Iterator[SpoiledPrediction]:
    """Predictions with the condition they were made in."""
    one = ViewGrid(segments=1)
    for item in predictions_of_rows(job.mapped.benchmark, rows, mean, fold=fold, grid=one):
        yield SpoiledPrediction(condition=condition, prediction=item)


def _equal_pairs(own: list[int], other: list[int]) -> list[int]:
    """For each segment, the first one with the same picture and the same other one's sound."""
    first: dict[tuple[int, int], int] = {}
    pairs = zip(own, other, strict=True)
    return [first.setdefault(pair, segment) for segment, pair in enumerate(pairs)]


def _prepare(out: Path, *, overwrite: bool) -> None:
    """Make sure that nothing is lost by writing a folder."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file; name a folder")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise ValueError(f"{out}: is not empty; pass --overwrite, or name another folder")
        if not (out / FACTS).is_file():
            raise ValueError(f"{out}: holds no modality report, so it is not deleted")
