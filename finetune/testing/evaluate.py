"""``hicmae evaluate`` and its kin: finished networks tested again.

On other views, other shards, another corpus, with spoiled inputs, and side by side over corpora.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from finetune.testing.perturbations import PerturbationConfig
from hicmae.config import to_dict

_PERTURB = PerturbationConfig()


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
    device: str = "auto",
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto",
    batch_size: int = 16,
    workers: int = 2,
    allow_seen: bool = False,
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
        device: Where networks run: auto (a GPU where there is one), cpu, cuda or cuda:0.
        precision: auto: bf16-mixed where the machine computes in bfloat16, else 32-true.
        batch_size: Clips handled at once (each in all its crops).
        workers: Reading processes; 0 reads in the testing process.
        allow_seen: Test networks that were trained on samples or speakers of the test side, or that
            started from one that was; the report then says so.
        overwrite: Delete the evaluation that is in the folder.

    Raises:
        ValueError: Views that would be equal; classes that do not correspond; a sample or
            somebody of the training among the tested; a folder that is not empty.
        FileNotFoundError: No such run, shards, benchmark or label map.
    """
    from finetune.record import runs_in
    from finetune.reporting.document import output_console
    from finetune.testing.machine import Ranks, make_machine
    from finetune.testing.plan import make_plan, read_source
    from finetune.testing.results import evaluation_facts, opening, run_networks, write_results

    machine = make_machine(device, precision, batch_size=batch_size, workers=workers)
    _check_output(out, overwrite=overwrite)
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
        "device": device,
        "precision": precision,
        "batch_size": batch_size,
        "workers": workers,
        **({"allow_seen": True} if allow_seen else {}),
    }
    plans = []
    for folder in given:
        plan = make_plan(
            read_source(folder, folds=folds),
            shards=shards,
            benchmark=benchmark,
            label_map=label_map,
            segments=segments,
            crops=crops,
            allow_seen=allow_seen,
        )
        plans.append((out / folder.relative_to(source) if len(given) > 1 else out, plan))
    ranks.wait()  # all have seen the folder as it was
    if out.is_dir() and ranks.is_first:
        shutil.rmtree(out)  # what _check_output allowed
    for place, plan in plans:
        console.print(opening(plan, machine))
        parts = run_networks(plan, machine)
        if ranks.is_first:
            facts = evaluation_facts(plan, machine)
            write_results(plan, parts, facts, place, config | {"out": str(place)}, console)
    ranks.leave()


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
    device: str = "auto",
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto",
    batch_size: int = 16,
    workers: int = 2,
    allow_seen: bool = False,
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
        device: Where networks run: auto (a GPU where there is one), cpu, cuda or cuda:0.
        precision: auto: bf16-mixed where the machine computes in bfloat16, else 32-true.
        batch_size: Clips handled at once.
        workers: Reading processes; 0 reads in the testing process.
        allow_seen: Test networks that were trained on samples or speakers of the test side.
        overwrite: Delete the modality report that is in the folder.

    Raises:
        ValueError: As for hicmae evaluate; a test side of one sample that is to be swapped.
        FileNotFoundError: No such run, shards, benchmark or label map.
    """
    from finetune.record import runs_in
    from finetune.reporting.document import output_console
    from finetune.testing.machine import make_machine, require_alone
    from finetune.testing.modalities import check_output, run_conditions
    from finetune.testing.perturbations import partners
    from finetune.testing.plan import make_plan, read_source

    machine = make_machine(device, precision, batch_size=batch_size, workers=workers)
    require_alone("hicmae evaluate modalities")
    console = output_console()
    given = runs_in(source)
    plans = []
    for folder in given:
        place = folder / "modalities" if out is None else out
        if out is not None and len(given) > 1:
            place = out / folder.relative_to(source)
        check_output(place, overwrite=overwrite)
        plan = make_plan(
            read_source(folder, folds=folds),
            shards=shards,
            benchmark=benchmark,
            label_map=label_map,
            segments=segments,
            crops="whole",
            allow_seen=allow_seen,
        )
        if plan.tested.over_time is not None:
            raise ValueError(
                f"{folder}: is over time, where another instant's sound is often of the same"
                " recording, so that a swap takes little away (hicmae evaluate tests instants)"
            )
        if perturb.swaps and plan.source.facts.modalities == "audio-video":
            for side in plan.sides:
                partners([str(key) for key in side.rows["key"]], repeat=0, seed=perturb.seed)
        plans.append((place, plan))
    for place, plan in plans:
        config = {
            "shards": None if shards is None else str(shards),
            "out": str(place),
            "benchmark": benchmark,
            "label_map": label_map,
            "folds": folds,
            "segments": segments,
            "perturb": to_dict(perturb),
            "device": device,
            "precision": precision,
            "batch_size": batch_size,
            "workers": workers,
            **({"allow_seen": True} if allow_seen else {}),
        }
        run_conditions(plan, place, config, perturb, machine, console)


def matrix(*, runs: list[Path], out: Path = Path("matrix.md")) -> None:
    """Put runs and their evaluations on other corpora into one table of corpora.

    A row is what networks were trained on, a column what they were tested on. A cell is the mean
    and the deviation of single networks (folds, and seeds if several are given); where both are
    the same corpus, each network was tested on the test side of its own fold.

    Args:
        runs: Run folders of hicmae finetune and folders of hicmae evaluate.
        out: Markdown file to write; a JSON file of the same name and a figure go beside it.

    Raises: FileNotFoundError: no such run. ValueError: evaluations of one cell that were made in
        different ways.
    """
    from finetune.record import read_run, runs_in
    from finetune.reporting.document import output_console
    from finetune.testing.matrix import write_matrix

    table = write_matrix([read_run(folder) for given in runs for folder in runs_in(given)], out)
    console = output_console()
    console.print(table.terminal())
    console.print(f"matrix: {out}")


def _check_output(out: Path, *, overwrite: bool) -> None:
    """Make sure that nothing is lost by writing a folder.

    Raises: ValueError: it is a file, or not empty and not to be (or no evaluation to be)
        overwritten.
    """
    from finetune.record import read_run, runs_in

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
