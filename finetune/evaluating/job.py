"""What is tested with what, decided and checked before any network runs.

For: from the options of ``hicmae evaluate`` and its kin to one frozen job. Not for: running it
(``evaluate.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finetune.benchmark import Benchmark, load_benchmark
from finetune.evaluating.label_map import Mapped, load_label_map, map_benchmark
from finetune.evaluating.sides import Sides, find_sides
from finetune.evaluating.sources import Source
from finetune.evaluating.views import check_views
from finetune.provenance import file_digest
from finetune.record import read_run, runs_in
from hicmae.views import ViewGrid
from shards.index import TABLE_NAME, Index, read_index


@dataclass(frozen=True, kw_only=True)
class Job:
    """One source and all that is to be known before its networks run.

    Args:
        source: The networks.
        tested: The benchmark of the samples, as it is.
        mapped: The same, as these networks can be tested on it.
        label_map: As the user named it, if at all.
        index: Of the samples.
        digest: SHA-256 of it.
        sides: What each network is tested on.
        grid: Views of each sample.
    """

    source: Source
    tested: Benchmark
    mapped: Mapped
    label_map: str | None
    index: Index
    digest: str
    sides: Sides
    grid: ViewGrid


def make_job(
    source: Source,
    *,
    shards: Path | None,
    benchmark: str | None,
    label_map: str | None,
    segments: int | None,
    crops: str,
) -> Job:
    """Check what the user asked for and find what is tested.

    The arguments are those of ``evaluate``.

    Raises: ValueError, FileNotFoundError: as there.
    """
    if shards is None and not source.facts.shards:
        raise ValueError(f"{source.path}: does not say which shards it is of; give --shards")
    folder = shards if shards is not None else Path(source.facts.shards)
    if shards is None and not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: the shards of the training are gone; say with --shards where they are"
        )
    if benchmark is None and source.benchmark.name == "not stated":
        raise ValueError(
            f"{source.path}: the checkpoint does not say of which benchmark it is; give --benchmark"
        )
    if benchmark is None and label_map is not None:
        raise ValueError("label_map is for another benchmark; name it with --benchmark")
    tested = source.benchmark if benchmark is None else load_benchmark(benchmark)
    names = None if label_map is None else load_label_map(label_map)
    mapped = map_benchmark(source.benchmark, tested, names)
    index = read_index(folder)
    digest = file_digest(index.folder / TABLE_NAME)
    grid = ViewGrid(
        segments=segments if segments is not None else source.facts.num_segments,
        crops=tuple(part.strip() for part in crops.split(",")),
    )
    check_views(source.facts.modalities, grid)
    return Job(
        source=source,
        tested=tested,
        mapped=mapped,
        label_map=label_map,
        index=index,
        digest=digest,
        sides=find_sides(source, tested, mapped, index, digest=digest),
        grid=grid,
    )


def prepare_output(out: Path, *, overwrite: bool) -> None:
    """Make sure that nothing is lost by writing a folder.

    Raises: ValueError: it is a file, or not empty and not to be (or no evaluation to be)
        overwritten.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file; name a folder for the evaluation")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise ValueError(
            f"{out}: is not empty; delete what is there with --overwrite, or name another folder"
        )
    runs = [read_run(folder) for folder in runs_in(out)] if any(out.rglob("scores.json")) else []
    if not runs or not all(run.facts.evaluates for run in runs):
        raise ValueError(f"{out}: holds something else than evaluations, so it is not deleted")
