"""The functions behind ``hicmae report``, ``embed`` and ``evaluate``, ``modalities``, ``matrix``.

Finished networks are tested again on other views, other shards, another corpus and with spoiled
inputs; finished runs are reported on; features are written for other people's classifiers. What
they call is imported when they run, so that their help does not wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finetune.settings import EvaluationConfig
from finetune.testing.perturbations import PerturbationConfig
from hicmae.config import to_dict, with_options_of
from hicmae.files import check_replaceable, check_writable, clear, file_sha256

if TYPE_CHECKING:
    from rich.console import Console

    from hicmae.checkpoints.checkpoint import Checkpoint
    from shards.index import Index

_PERTURB = PerturbationConfig()
# What an evaluation writes, besides its figures.
_OF_EVALUATION = {
    *("config.yaml", "benchmark.yaml", "predictions.jsonl", "scores.json", "fold.json"),
    *("report.md", "report.html", "networks.md", "networks.json"),
}


def report(
    *,
    runs: list[Path],
    out: Path = Path("report.md"),
    html: bool = True,
    shards: Path | None = None,
    workers: int | None = None,
) -> None:
    """Report on finished fine-tuning runs: one in full, or several side by side.

    Every metric is computed again from the runs' predictions; each run's own report and figures
    are refreshed. Runs of different benchmarks stand in tables of their own.

    Args:
        runs: Run folders of ``hicmae finetune``, or folders that hold several.
        out: Markdown file to write; its figures go into ``figures/`` beside it.
        html: Whether to write the same as one HTML file too, beside it, with its pictures inside.
        shards: Where the shards of the runs are now, for the frames of the most confident errors;
            null: where they were when the run was made.
        workers: Processes that draw the runs' own reports; null: one a core where there are six
            runs or more, else this one.

    Raises: FileNotFoundError: no such run, or no such shards. ValueError: a run that is not
        finished or damaged, or two that share a name, a report in place of a run's own or named as
        its HTML is, shards without an index, or no worker.
    """
    from finetune.record import read_run, runs_in
    from finetune.reporting.comparison import (
        comparison,
        group_runs,
        name_runs,
        runs_table,
        summary_table,
    )
    from finetune.reporting.document import Section, html_path, output_console, write_document
    from finetune.reporting.run_report import REPORT, scores_table, write_run_reports
    from shards.index import read_index

    if workers is not None and workers < 1:
        raise ValueError(f"workers = {workers} (must be at least 1, or null: one a core)")
    if shards is not None:  # or reports that have frames would be drawn without
        read_index(shards)
    places = [(given, folder) for given in runs for folder in runs_in(given)]
    found = [read_run(folder) for _, folder in places]
    pairs = name_runs(found, [given for given, _ in places])
    if out.suffix.lower() in (".html", ".htm"):
        raise ValueError(
            f"{out}: out is the Markdown file, and the HTML goes beside it; name it"
            f" {out.with_suffix('.md')}"
        )
    files = {out.resolve(), html_path(out).resolve()}
    own_reports = [(run.folder / REPORT).resolve() for run in found]
    if not files.isdisjoint({*own_reports, *map(html_path, own_reports)}):
        raise ValueError(f"{out}: is a run's own report; choose another file for the comparison")
    for file in (out, *own_reports):
        check_writable(file)
    groups = group_runs(pairs)
    own = write_run_reports([run for _, run in pairs], shards=shards, html=html, workers=workers)
    parts = {name: said for (name, _), said in zip(pairs, own, strict=True)}
    console = output_console()
    _say_unfinished(runs, console)
    for group in groups:
        several = runs_table(group) if len(pairs) > 1 else scores_table(group[0][1])
        console.print(several)
    if len(pairs) == 1:
        document = Section(title=pairs[0][0], parts=parts[pairs[0][0]])
    else:
        document = comparison(pairs, groups, out, parts)
        console.print(summary_table(pairs))
    for path in write_document(document, out, html=html):
        console.print(f"report: {path}")


@with_options_of(EvaluationConfig)
def evaluate(
    *,
    source: Path,
    out: Path,
    config: EvaluationConfig,
    crops: str = "whole",
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
        config: What is tested, and on what; one option for each of its fields.
        crops: Views of each segment, separated by commas, out of whole, mirrored, centre,
            centre-mirrored, top-left, top-right, bottom-left, bottom-right.
        overwrite: Delete the evaluation that is in the folder.

    Raises:
        ValueError: Views that would be equal; classes that do not correspond; a sample or
            somebody of the training among the tested; a folder that is not empty.
        FileNotFoundError: No such run, shards, benchmark or label map.
    """
    from finetune.record import runs_in
    from finetune.reporting.document import output_console
    from finetune.testing.machine import Ranks, make_machine
    from finetune.testing.plan import make_plan
    from finetune.testing.results import evaluation_facts, opening, run_networks, write_results

    machine = make_machine(config.device, config.precision, config.batch_size, config.workers)
    _check_output(out, overwrite=overwrite)
    ranks, console = Ranks(), output_console()
    console.quiet = not ranks.is_first
    _say_unfinished([source], console)
    given = runs_in(source)
    plans = [
        (
            out / folder.relative_to(source) if len(given) > 1 else out,
            make_plan(folder, config, crops),
        )
        for folder in given
    ]
    ranks.wait()  # all have seen the folder as it was
    if out.is_dir() and ranks.is_first:
        clear(out)  # what _check_output allowed
    for place, plan in plans:
        console.print(opening(plan, machine))
        parts = run_networks(plan, machine)
        if ranks.is_first:
            facts = evaluation_facts(plan, machine)
            write_results(plan, parts, facts, place, _config(config, place, crops=crops), console)
    ranks.leave()


@with_options_of(EvaluationConfig)
def modalities(
    *,
    source: Path,
    out: Path | None = None,
    config: EvaluationConfig,
    perturb: PerturbationConfig = _PERTURB,
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
        config: What is tested, and on what; one option for each of its fields.
        perturb: How clips are spoiled.
        overwrite: Delete the modality report that is in the folder.

    Raises:
        ValueError: As for hicmae evaluate; a test side of one sample that is to be swapped.
        FileNotFoundError: No such run, shards, benchmark or label map.
    """
    from finetune.record import runs_in
    from finetune.reporting.document import output_console
    from finetune.testing.machine import make_machine, require_alone
    from finetune.testing.modalities import FACTS, WRITTEN, run_conditions
    from finetune.testing.perturbations import partners
    from finetune.testing.plan import make_plan

    machine = make_machine(config.device, config.precision, config.batch_size, config.workers)
    require_alone("hicmae evaluate modalities")
    console = output_console()
    _say_unfinished([source], console)
    given = runs_in(source)
    plans = []
    for folder in given:
        place = folder / "modalities" if out is None else out
        if out is not None and len(given) > 1:
            place = out / folder.relative_to(source)
        check_writable(place.parent, folder=True)  # the folder itself is replaced
        check_replaceable(place, "modality report", FACTS, others=WRITTEN, overwrite=overwrite)
        plan = make_plan(folder, config)
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
        told = _config(config, place, perturb=perturb)
        run_conditions(plan, place, told, perturb, machine, console)


def matrix(*, runs: list[Path], out: Path = Path("matrix.md")) -> None:
    """Put runs and their evaluations on other corpora into one table of corpora.

    A row is what networks were trained on, a column what they were tested on. A cell is the mean
    and the deviation of single networks (folds, and seeds if several are given); where both are
    the same corpus, each network was tested on the test side of its own fold.

    Args:
        runs: Run folders of hicmae finetune and folders of hicmae evaluate.
        out: Markdown file to write; a JSON file of the same name and a figure go beside it.

    Raises: FileNotFoundError: no such run. ValueError: evaluations of one cell that were made in
        different ways or of the same networks, or a page named as its JSON file is.
    """
    from finetune.record import read_run, runs_in
    from finetune.reporting.document import output_console
    from finetune.testing.matrix import write_matrix

    if out.suffix.lower() == ".json":
        raise ValueError(
            f"{out}: out is the Markdown file, and the JSON goes beside it; name it"
            f" {out.with_suffix('.md')}"
        )
    check_writable(out)
    table = write_matrix([read_run(folder) for given in runs for folder in runs_in(given)], out)
    console = output_console()
    _say_unfinished(runs, console)
    console.print(table)
    console.print(f"matrix: {out}")


def embed(
    *,
    source: Path,
    inputs: list[Path],
    out: Path,
    what: Literal["pooled", "layers", "fused"] = "pooled",
    layers: str = "all",
    modalities: Literal["audio-video", "video", "audio"] | None = None,
    per: Literal["sample", "view"] = "sample",
    segments: int = 1,
    hop: float | None = None,
    device: str = "auto",
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto",
    batch_size: int = 16,
    workers: int = 2,
    overwrite: bool = False,
) -> None:
    """Write features of shards, or of recordings, to one Parquet or NPZ file.

    A row has the sample's key, speaker and labels beside its features, or the recording's path and
    the face's name; where features come from (digest of the weights, configuration, settings)
    stands in the file's metadata. Recordings are prepared as the training data was.

    Args:
        source: A pretraining run, one fold of a fine-tuning run (RUN/fold-1), or a checkpoint.
        inputs: A folder of shards with an index; or videos, sound files, folders of images, and
            folders with any of these (searched to any depth).
        out: The file, .parquet or .npz.
        what: pooled: one vector, as the head reads it (of a pretrained network: as it would at its
            first step). layers: the mean token of each encoder layer and modality. fused: the mean
            token of each modality after fusion.
        layers: Of layers: all, or their numbers from 1, separated by commas.
        modalities: What the network is given: audio-video, video or audio; null: all that it
            reads.
        per: sample: one row a sample (or a face of a recording), the mean over its views; view:
            one row a view.
        segments: Of shards: views of a sample, spread over its length; those that differ.
        hop: Of recordings: seconds from one view to the next; null: one view's length.
        device: Where the network runs: auto (a GPU where there is one), cpu, cuda or cuda:0.
        precision: auto: bf16-mixed where the machine computes in bfloat16, else 32-true.
        batch_size: Clips handled at once.
        workers: Reading processes; 0 reads in this process.
        overwrite: Replace the file that is there.

    Raises:
        ValueError: No checkpoint; a layer or modality that it does not have; samples without
            sound; a file that is there; not one recording that can be read.
        FileNotFoundError: No such input.
    """
    from finetune.data import check_modalities
    from finetune.record import SCORES
    from finetune.reporting.document import output_console
    from finetune.testing.extracting import (
        RECORDING_COLUMNS,
        Extractor,
        check_ending,
        feature_file,
        recording_rows,
        shard_columns,
        shard_rows,
    )
    from finetune.testing.machine import make_machine, require_alone
    from hicmae.checkpoints.checkpoint import load_checkpoint
    from hicmae.prediction.command import gather

    machine = make_machine(device, precision, batch_size=batch_size, workers=workers)
    require_alone("hicmae embed")
    check_ending(out)
    if out.exists() and not overwrite:
        raise ValueError(f"{out}: exists; pass --overwrite, or name another file")
    check_writable(out)
    if segments < 1:
        raise ValueError(f"segments = {segments} (must be 1 or more)")
    if (source / SCORES).is_file():
        folds = ", ".join(sorted(path.name for path in source.glob("fold-*")))
        raise ValueError(f"{source}: has a network for each fold; name one of them ({folds})")
    shards = _shards(inputs, segments=segments, hop=hop)
    checkpoint = load_checkpoint(source)
    extractor = Extractor(
        checkpoint, what=what, layers=layers, modalities=modalities, machine=machine
    )
    settings: dict[str, Any] = {"what": what, "modalities": extractor.modalities, "per": per}
    settings |= {"segments": segments} if shards is not None else {"hop_seconds": hop}
    if what == "layers":
        settings["layers"] = list(extractor.layers)
    settings["precision"] = machine.precision
    metadata = {**_metadata(checkpoint, shards, inputs), "settings": settings}
    recordings = [] if shards is not None else [each.path for each in gather(inputs, out)]
    console = output_console()
    refused: dict[str, str] = {}
    if shards is not None:
        check_modalities(
            shards.table, modalities=extractor.modalities, whole=True, choice=extractor.reads
        )
        schema = shard_columns(shards, per=per)
        rows = shard_rows(extractor, shards, per=per, segments=segments)
    else:
        schema = RECORDING_COLUMNS
        rows = recording_rows(
            extractor,
            checkpoint,
            recordings,
            per=per,
            hop=hop,
            console=console,
            refused=refused,
        )
    console.print(
        f"{checkpoint.path}: {what} features ({', '.join(extractor.widths)}) of"
        f" {', '.join(map(str, inputs[:3]))}{', …' if len(inputs) > 3 else ''};"
        f" {extractor.modalities}, {machine.precision}, {machine.device}"
    )
    num_rows = 0
    with feature_file(out, schema, extractor.widths, metadata) as file:
        for about, features in rows:
            file.add(about, features)
            num_rows += len(about["key"])
        if not num_rows:
            why = next(iter(refused.values()))
            raise ValueError(f"none of {len(recordings)} recordings can be embedded: {why}")
    for path, why in refused.items():
        console.print(f"refused: {why if path in why else f'{path}: {why}'}")
    widths = ", ".join(f"{name} {width}" for name, width in extractor.widths.items())
    left_out = f"; {len(refused)} of {len(recordings)} recordings refused" if refused else ""
    console.print(f"{out}: {num_rows} rows ({widths}){left_out}")


def _say_unfinished(folders: Sequence[Path], console: Console) -> None:
    """Name the runs below folders that are left out."""
    from finetune.record import unfinished_in

    for folder in (each for given in folders for each in unfinished_in(given)):
        console.print(
            f"note: {folder} is not finished and left out (`hicmae finetune … --resume`)",
            markup=False,
        )


def _config(config: EvaluationConfig, out: Path, **more: Any) -> dict[str, Any]:
    """The options of a verb as ``config.yaml`` of what it writes into ``out`` keeps them."""
    told = {"shards": config.shards, "out": out, **vars(config), **more}
    return to_dict({name: told[name] for name in told if name != "allow_seen" or told[name]})


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
    for path in sorted(out.rglob("*")):
        drawn = path.suffix in (".png", ".jpg") and "figures" in path.relative_to(out).parts
        if path.is_dir() or drawn or path.name in _OF_EVALUATION or path.suffix == ".part":
            continue
        raise ValueError(
            f"{out}: holds something else than evaluations ({path.relative_to(out)}), so it is not"
            " deleted; move that away, or name another folder"
        )


def _shards(inputs: list[Path], *, segments: int, hop: float | None) -> Index | None:
    """The index of the shards that are given; none if recordings are.

    Raises: ValueError: several folders of shards, or shards and recordings; settings of the other.
    """
    from shards.index import TABLE_NAME, read_index

    folders = [p for p in inputs if (p / TABLE_NAME).is_file() or any(p.glob("*.tar"))]
    if folders and len(inputs) > 1:
        raise ValueError(
            f"inputs: give one folder of shards or recordings, not {folders[0]} with others"
            " (`hicmae shards merge` joins parts)"
        )
    if folders and hop is not None:
        raise ValueError("hop is for recordings; say with --segments how many views a sample has")
    if not folders and segments != 1:
        raise ValueError("segments is for shards; say with --hop how far apart views are")
    missing = [str(path) for path in inputs if not path.exists()]
    if missing:
        raise FileNotFoundError(f"{', '.join(missing[:5])}: no such file or folder")
    return read_index(folders[0]) if folders else None


def _metadata(checkpoint: Checkpoint, shards: Index | None, inputs: list[Path]) -> dict[str, Any]:
    from finetune.record import git_commit
    from hicmae import __version__
    from hicmae.checkpoints.checkpoint import WEIGHTS
    from hicmae.config import to_dict
    from shards.index import TABLE_NAME

    found = {
        "checkpoint": str(checkpoint.path),
        "weights_sha256": checkpoint.weights_sha256 or file_sha256(checkpoint.path / WEIGHTS),
        "kind": checkpoint.kind,
        "config": to_dict(checkpoint.config),
        "inputs": [str(path) for path in inputs],
        "git_commit": git_commit(),
        "version": __version__,
    }
    if shards is not None:
        found["index_sha256"] = file_sha256(shards.folder / TABLE_NAME)
    return found
