"""What is tested with what, decided and checked before any network runs.

Within the corpus of the training every network is tested on the test side of its own fold, and it
is proven that nobody it trained on is there; another corpus is tested whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from finetune.benchmark import Benchmark, load_benchmark
from finetune.folds import (
    SEEN,
    Fold,
    as_text,
    asked_folds,
    few,
    found_in,
    group_columns,
    make_folds,
    refuse_seen,
    shared_values,
    usable_rows,
)
from finetune.instants import instant_index
from finetune.over_time import settled_again
from finetune.record import FOLD, SCORES, FoldFacts, RunFacts, fold_folder, read_run
from finetune.scores import check_units
from finetune.settings import EvaluationConfig
from finetune.testing.label_map import Mapped, load_label_map, map_benchmark
from finetune.testing.machine import check_views
from hicmae import __version__
from hicmae.checkpoints.checkpoint import Checkpoint, is_checkpoint, load_checkpoint, seen_of
from hicmae.config import from_dict
from hicmae.emotion import EmotionConfig
from hicmae.files import file_sha256
from hicmae.views import ViewGrid
from shards.index import TABLE_NAME, Index, read_index
from shards.reading.random_access import WINDOW


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """One source and all that is to be known before its networks run.

    Args:
        tested: The benchmark of the samples, as it is.
        mapped: The same, as these networks can be tested on it.
        digest: SHA-256 of the index of the samples.
        same_corpus: Whether it is the corpus of the training, of which each network has its own
            test side; another one is tested whole.
        ignored: Samples that are not tested, by label.
        groups: Columns by which scores are broken down.
        smoothing: Over time: seconds over which each fold's predictions are averaged.
        notes: Sentences a reader of the numbers should know.
    """

    source: Source
    tested: Benchmark
    mapped: Mapped
    index: Index
    digest: str
    grid: ViewGrid
    same_corpus: bool
    sides: tuple[TestSide, ...]
    ignored: dict[str, int]
    groups: tuple[str, ...]
    smoothing: dict[str, float]
    notes: tuple[str, ...]

    @property
    def what(self) -> str:
        """What is tested, in words; each sample counts once, however many networks test it."""
        tested = len({key for side in self.sides for key in side.rows["key"]})
        where = "their own test sides" if self.same_corpus else f"all of {self.tested.name}"
        return f"on {where}: {tested} samples"


def make_plan(path: Path, config: EvaluationConfig, crops: str = "whole") -> EvaluationPlan:
    """Check what the user asked for and find what is tested; arguments as of ``evaluate``.

    Raises: ValueError, FileNotFoundError: as there; labels that are none of the benchmark's; folds
        that it does not have; a sample or person on both sides, or nobody can tell, and that is not
        allowed.
    """
    source = read_source(path, folds=config.folds)
    shards, benchmark, segments = config.shards, config.benchmark, config.segments
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
    if benchmark is None and config.label_map is not None:
        raise ValueError("label_map is for another benchmark; name it with --benchmark")
    tested = source.benchmark if benchmark is None else load_benchmark(benchmark)
    names = None if config.label_map is None else load_label_map(config.label_map)
    mapped = map_benchmark(source.benchmark, tested, names)
    index = read_index(folder)
    digest = file_sha256(index.folder / TABLE_NAME)
    grid = ViewGrid(
        segments=segments if segments is not None else source.facts.num_segments,
        crops=tuple(part.strip() for part in crops.split(",")),
    )
    check_views(source.facts.modalities, grid)
    index = _instants(source, tested, index)
    same_index = digest == source.facts.shards_digest
    same_dataset = tested.dataset != "" and tested.dataset == source.benchmark.dataset
    within = same_index or same_dataset or tested.name == source.benchmark.name
    rows, ignored = usable_rows(tested, index.table, sides=within)
    check_units(tested, rows)
    notes: list[str] = []
    if within:
        divided = make_folds(tested, rows, folds=list(source.checkpoints))
    else:
        divided = [Fold(name=name, train=rows.iloc[:0], test=rows) for name in source.checkpoints]
    decided, smoothing = {fold.name: fold.over_time for fold in source.folds}, {}
    for place, fold in enumerate(divided):
        divided[place], smoothing[fold.name] = settled_again(
            tested, index, fold, decided[fold.name], source.checkpoints[fold.name]
        )
    for fold in divided:
        notes += _prove_unseen(
            source,
            tested,
            fold,
            index,
            same_index=same_index,
            within=within,
            allow=config.allow_seen,
        )
    sides: list[TestSide] = []
    for fold in divided:
        kept, left_out = mapped.rows(fold.test)
        sides.append(TestSide(fold=fold.name, rows=kept))
        if within or not sides[1:]:  # every network of another corpus leaves out the same
            for label, count in left_out.items():
                ignored[label] = ignored.get(label, 0) + count
    return EvaluationPlan(
        source=source,
        tested=tested,
        mapped=mapped,
        index=index,
        digest=digest,
        grid=grid,
        same_corpus=within,
        sides=tuple(sides),
        ignored=ignored,
        groups=group_columns(tested, rows),
        smoothing=smoothing,
        notes=(*notes, *_mapping_notes(tested, mapped, ignored)),
    )


@dataclass(frozen=True, kw_only=True)
class Source:
    """Networks that were fine-tuned for one benchmark, one a fold.

    Args:
        path: What the user gave.
        benchmark: What they were trained for.
        facts: Of their training.
        checkpoints: Folder of each network's weights, by fold.
        tested: Keys and speakers of each fold's test side, where the run says so; by fold.
    """

    path: Path
    benchmark: Benchmark
    facts: RunFacts
    folds: tuple[FoldFacts, ...]
    checkpoints: dict[str, Path]
    tested: dict[str, dict[str, str]]

    def checkpoint(self, fold: str) -> Checkpoint:
        """The weights of a fold's network."""
        return load_checkpoint(self.checkpoints[fold])


def read_source(path: Path, *, folds: str = "all") -> Source:
    """Read a run, a fold of a run, or a checkpoint.

    Args:
        path: A run folder, its ``fold-…`` folder, or a folder with ``model.safetensors``.
        folds: ``all``, or names of folds separated by commas.

    Raises: FileNotFoundError: no such folder. ValueError: nothing there that was fine-tuned; a
        fold that it does not have, or whose weights are gone.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such run or checkpoint folder")
    if (path / SCORES).is_file():
        return _chosen(_of_run(path), folds)
    for folder in (path, path / "checkpoints" / "last"):
        if is_checkpoint(folder):
            found = load_checkpoint(folder)
            # RUN/fold-1/checkpoints/last
            parents = folder.resolve().parents
            run = parents[2] if len(parents) > 2 and (parents[2] / SCORES).is_file() else None
            fold = str((found.config.get("finetuning") or {}).get("fold", ""))
            if run is not None and fold:
                return _chosen(_chosen(replace(_of_run(run), path=path), [fold]), folds)
            return _chosen(_of_checkpoint(path, found), folds)
    raise ValueError(
        f"{path}: neither a finished fine-tuning run (no {SCORES}) nor a checkpoint (no"
        " model.safetensors with config.json)"
    )


@dataclass(frozen=True, kw_only=True)
class TestSide:
    """What one network is tested on: rows with the truth as the tested benchmark names it."""

    fold: str
    rows: pd.DataFrame


def _of_run(path: Path) -> Source:
    run = read_run(path)
    if run.facts.evaluates:
        raise ValueError(
            f"{path}: is an evaluation and holds no weights; evaluate {run.facts.evaluates}, whose"
            " networks it tested"
        )
    if lost := set(run.scores.folds) - {fold.name for fold in run.folds}:
        raise ValueError(
            f"{path}: fold {', '.join(sorted(lost))} has predictions and no {FOLD}; train it again"
            " with `hicmae finetune … --resume`"
        )
    tested: dict[str, dict[str, str]] = {}
    for item in run.predictions:
        tested.setdefault(item.fold, {})[item.key] = item.speaker
    return Source(
        path=path,
        benchmark=run.benchmark,
        facts=run.facts,
        folds=run.folds,
        checkpoints={fold.name: fold_folder(path, fold.name) for fold in run.folds},
        tested=tested,
    )


def _of_checkpoint(path: Path, checkpoint: Checkpoint) -> Source:
    """One network, known by its checkpoint alone; what that does not say stays unsaid."""
    config = checkpoint.config
    labels = checkpoint.labels()
    if checkpoint.kind != "emotion" or labels is None:
        raise ValueError(
            f"{path}: is a pretrained network, or does not say what its outputs stand for;"
            " give a fine-tuned run or checkpoint"
        )
    where = f"{checkpoint.path}: benchmark"
    if config.get("benchmark"):
        benchmark = from_dict(Benchmark, config["benchmark"], where)
    elif labels.heads:
        raise ValueError(f"{where} is not there, and nobody else says where labels of heads stand")
    elif labels.task == "classification":
        benchmark = Benchmark(
            name="not stated", task="classification", label="label", classes=labels.names
        )
    else:
        benchmark = Benchmark(name="not stated", task="regression", targets=labels.names)
    said: dict[str, Any] = {**(config.get("finetuning") or {}), **(config.get("protocol") or {})}
    emotion = from_dict(EmotionConfig, config["emotion"], f"{checkpoint.path}: emotion")
    fold = str(said.get("fold", "checkpoint"))
    digest = str(said.get("configuration_digest") or checkpoint.weights_sha256 or "")
    facts = RunFacts(
        benchmark=benchmark.name,
        init=str(said.get("init", "not stated")),
        checkpoint=None,
        modalities=emotion.modalities,
        selection=str(said.get("selection", "not stated")),
        seed=int(said.get("seed", 0)),
        epochs=said.get("epochs"),
        batch_size=None,
        learning_rate=None,
        loss=None,
        num_segments=int(said.get("num_segments", 2)),
        num_parameters=sum(tensor.numel() for tensor in checkpoint.tensors.values()),
        precision="not stated",
        shards="",
        shards_digest=str((config.get("data") or {}).get("index_sha256", "")),
        configuration_digest=digest,
        git_commit=said.get("git_commit"),
        version=__version__,
        protocol=str(said.get("rules", "default")),
    )
    one = FoldFacts(
        name=fold,
        configuration_digest=digest,
        num_train=said.get("num_train"),
        num_test=int(said.get("num_test", 0)),
        num_train_speakers=said.get("num_train_speakers"),
        num_test_speakers=said.get("num_test_speakers"),
        seconds=0.0,
        train_loss=None,
        layer_weights={},
        num_validation=int(said.get("num_validation", 0)),
        epoch=said.get("epoch"),
    )
    return Source(
        path=path,
        benchmark=benchmark,
        facts=facts,
        folds=(one,),
        checkpoints={fold: checkpoint.path},
        tested={},
    )


def _chosen(source: Source, folds: str | Sequence[str]) -> Source:
    names = list(source.checkpoints)
    wanted = asked_folds(folds, names)
    unknown = [name for name in wanted if name not in names]
    if unknown or not wanted:
        what = f"network of fold {', '.join(unknown)}" if unknown else "fold without a name"
        raise ValueError(
            f"folds = {folds}: {source.path} has no {what} (folds: {', '.join(names)}, or all)"
        )
    for name in wanted:
        folder = source.checkpoints[name]
        if not is_checkpoint(folder) and not is_checkpoint(folder / "checkpoints" / "last"):
            raise ValueError(
                f"{folder}: holds no weights (checkpoints/last is gone); train"
                " this fold again with `hicmae finetune … --resume`"
            )
    return replace(
        source,
        folds=tuple(fold for fold in source.folds if fold.name in wanted),
        checkpoints={name: source.checkpoints[name] for name in names if name in wanted},
    )


def _mapping_notes(tested: Benchmark, mapped: Mapped, ignored: dict[str, int]) -> list[str]:
    notes = []
    if mapped.dropped:
        notes.append(
            f"the network's outputs {', '.join(mapped.dropped)} have no counterpart in"
            f" '{tested.name}'; their probability was shared out over the others"
            if tested.task == "classification"
            else f"the network's outputs {', '.join(mapped.dropped)} were not used"
        )
    if mapped.left_out:
        counts = [f"{name} ({ignored.get(name, 0)} samples)" for name in mapped.left_out]
        notes.append(f"the label map leaves out {', '.join(counts)} of '{tested.name}'")
    merged = [f"{name} as {to}" for name, to in mapped.truth.items() if name != to]
    if merged:
        notes.append(f"the label map counts {', '.join(merged)} of '{tested.name}'")
    return notes


def _prove_unseen(
    source: Source,
    tested: Benchmark,
    fold: Fold,
    index: Index,
    *,
    same_index: bool,
    within: bool,
    allow: bool,
) -> list[str]:
    """Prove that a network did not train on what it is tested on, nor what it started from.

    The digests of its checkpoint tell, of its own training and of all before it; within its own
    corpus so does the index of the training, and of a checkpoint without digests nothing else. That
    an epoch was chosen on its own test side its selection rule says, and so does every number.

    Returns: notes. Raises: ValueError: it did, or nobody can tell.
    """
    keys, theirs = set(fold.test["key"].map(str)), set(source.tested.get(fold.name, {}))
    same = source.benchmark.wordless == tested.wordless
    own = within and (keys == theirs or (same and same_index))
    weights = source.checkpoint(fold.name)
    seen = seen_of(weights.config, str(weights.path))
    problem, notes = "", list[str]()
    if within and not own:
        problem, notes = _by_the_index(source, tested, fold, index, same_index, told=seen is None)
    if problem and not allow:
        raise ValueError(problem)
    if problem:
        return [f"the network {SEEN}: {problem}"]
    chosen_on_it = source.facts.selection == "best-on-test" and (own or (within and keys < theirs))
    if seen is None or chosen_on_it:
        return notes
    return notes + refuse_seen(weights.path, seen, [found_in(seen, tested, fold)], allow=allow)


def _by_the_index(
    source: Source, tested: Benchmark, fold: Fold, index: Index, same_index: bool, *, told: bool
) -> tuple[str, list[str]]:
    """What the index of the training proves of a test side of the same corpus.

    Args:
        told: Whether nothing else tells, so that counts must.

    Returns: why the network may not be tested on it, empty if it may; and notes.
    """
    keys = set(fold.test["key"].map(str))
    training = index if same_index else _index_of_training(source)
    if training is not None:
        training = _instants(source, source.benchmark, training)
        rows, _ = usable_rows(source.benchmark, training.table)
        theirs = make_folds(source.benchmark, rows, folds=[fold.name])[0]
        both = Fold(name=fold.name, train=theirs.train, test=fold.test)
        shared = shared_values(both, tested.speaker)
        if source.benchmark.folds.shared_speakers and tested.folds.shared_speakers:
            shared = []
        repeated = keys & set(theirs.train["key"].map(str))
        if repeated or shared:
            what, names = (tested.speaker, shared) if shared else ("sample", sorted(repeated))
            return (
                f"fold {fold.name}: {what} {few(names)} of the test side was in the training of"
                f" {source.checkpoints[fold.name]}; a network is only tested on"
                f" {'people' if shared else 'samples'} it has not seen. Leave --shards and"
                " --benchmark out to test its own test side"
            ), []
        return "", []
    if not told:
        return "", []
    said = next(item for item in source.folds if item.name == fold.name)
    speakers = set(fold.test[tested.speaker].map(as_text)) if tested.speaker in fold.test else set()
    counted = (len(keys), len(speakers))
    if source.benchmark.name == tested.name and counted == (said.num_test, said.num_test_speakers):
        return "", [
            f"fold {fold.name}: these shards are not those of the training; that its test side is"
            f" the same was taken from its name and its counts ({counted[0]} samples,"
            f" {counted[1]} speakers)"
        ]
    return (
        f"fold {fold.name}: nobody can tell whether {source.path} has trained on its test side"
        f" ({counted[0]} samples of {counted[1]} speakers; {said.num_test} samples of"
        f" {said.num_test_speakers} were tested after the training, in other shards). Put the"
        " shards of the training back in their place, or name a benchmark of another corpus"
    ), []


def _instants(source: Source, benchmark: Benchmark, index: Index) -> Index:
    """The index of the instants of a benchmark over time, as the networks of a source see them."""
    if benchmark.over_time is None or WINDOW in index.table.columns:
        return index
    people = {who for fold in source.folds for who in fold.over_time.get("lags", {})}
    clip = source.checkpoint(next(iter(source.checkpoints))).model_config().input
    return instant_index(
        index,
        benchmark.targets,
        benchmark.over_time,
        clip.clip_seconds,
        annotator=people.pop() if len(people) == 1 else None,
    )


def _index_of_training(source: Source) -> Index | None:
    """The index that the networks were trained from, if it still is where it was."""
    folder = Path(source.facts.shards)
    table = folder / TABLE_NAME
    if not source.facts.shards or not table.is_file():
        return None
    return read_index(folder) if file_sha256(table) == source.facts.shards_digest else None
