"""What each network is tested on, and the proof that it has not trained on those people.

For: rows of an index for every network of a source: its own test side within a corpus, all of
another one. Not for: running networks (``views.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from finetune.benchmark import Benchmark
from finetune.evaluating.label_map import Mapped
from finetune.evaluating.sources import Source
from finetune.folds import Fold, as_text, make_folds, shared_values, usable_rows
from finetune.groups import group_columns
from finetune.provenance import file_digest
from finetune.units import check_units
from shards.index import TABLE_NAME, Index, read_index


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one network is tested on.

    Args:
        fold: Whose network it is.
        rows: Of the index, with the truth as the tested benchmark names it.
    """

    fold: str
    rows: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Sides:
    """What the networks of a source are tested on.

    Args:
        sides: One a network.
        same_corpus: Whether it is the corpus of the training, of which each has its own test side.
        ignored: Samples that are not tested, by label.
        groups: Columns by which scores are broken down.
        notes: Sentences a reader of the numbers should know.
    """

    sides: tuple[Side, ...]
    same_corpus: bool
    ignored: dict[str, int]
    groups: tuple[str, ...]
    notes: tuple[str, ...]


def same_corpus(trained: Benchmark, tested: Benchmark, *, same_index: bool) -> bool:
    """Whether two benchmarks are about the same recordings."""
    same_dataset = trained.dataset != "" and trained.dataset == tested.dataset
    return same_index or same_dataset or trained.name == tested.name


def find_sides(
    source: Source, tested: Benchmark, mapped: Mapped, index: Index, *, digest: str
) -> Sides:
    """Decide what each network is tested on.

    Within the corpus of the training a network is tested on the test side of its own fold, and
    nobody it trained on may be there. Another corpus is tested whole.

    Args:
        source: The networks.
        tested: The benchmark of the samples, as it is.
        mapped: The same, as these networks can be tested on it.
        index: Of the samples.
        digest: SHA-256 of it.

    Raises: ValueError: labels that are none of the benchmark's; folds that it does not have; a
        person on both sides, or nobody can tell.
    """
    rows, ignored = usable_rows(tested, index.table)
    check_units(tested, rows)
    same_index = digest == source.facts.shards_digest
    within = same_corpus(source.benchmark, tested, same_index=same_index)
    notes: list[str] = []
    if within:
        folds = make_folds(tested, rows, folds=",".join(source.checkpoints))
        for fold in folds:
            notes += _prove_unseen(source, tested, fold, index, same_index=same_index)
        chosen = [(fold.name, fold.test) for fold in folds]
    else:
        chosen = [(name, rows) for name in source.checkpoints]
    sides = []
    for name, own in chosen:
        kept, left_out = mapped.rows(own)
        sides.append(Side(fold=name, rows=kept))
        if within or not sides[1:]:  # every network of another corpus leaves out the same
            for label, count in left_out.items():
                ignored[label] = ignored.get(label, 0) + count
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
    return Sides(
        sides=tuple(sides),
        same_corpus=within,
        ignored=ignored,
        groups=group_columns(tested, rows),
        notes=tuple(notes),
    )


def _prove_unseen(
    source: Source, tested: Benchmark, fold: Fold, index: Index, *, same_index: bool
) -> list[str]:
    """Prove that a network of this corpus did not train on its test side. Returns: notes.

    Raises: ValueError: it did, or nobody can tell.
    """
    if source.benchmark == tested and same_index:
        return []  # make_folds divided the very index of the training
    keys = set(fold.test["key"].map(str))
    if keys == set(source.tested.get(fold.name, {})):
        return []  # the very samples that the run tested
    training = index if same_index else _index_of_training(source)
    if training is not None:
        rows, _ = usable_rows(source.benchmark, training.table)
        theirs = make_folds(source.benchmark, rows, folds=fold.name)[0]
        both = Fold(name=fold.name, train=theirs.train, test=fold.test)
        shared = shared_values(both, tested.speaker)
        allowed = source.benchmark.folds.shared_speakers and tested.folds.shared_speakers
        repeated = keys & set(theirs.train["key"].map(str))
        if repeated or (shared and not allowed):
            what, names = (tested.speaker, shared) if shared else ("sample", sorted(repeated))
            raise ValueError(
                f"fold {fold.name}: {what} {_few(names)} of the test side was in the training of"
                f" {source.checkpoints[fold.name]}; a network is only tested on people it has not"
                " seen. Leave --shards and --benchmark out to test its own test side"
            )
        return []
    said = next(item for item in source.folds if item.name == fold.name)
    speakers = set(fold.test[tested.speaker].map(as_text)) if tested.speaker in fold.test else set()
    counted = (len(keys), len(speakers))
    if source.benchmark.name == tested.name and counted == (said.num_test, said.num_test_speakers):
        return [
            f"fold {fold.name}: these shards are not those of the training; that its test side is"
            f" the same was taken from its name and its counts ({counted[0]} samples,"
            f" {counted[1]} speakers)"
        ]
    raise ValueError(
        f"fold {fold.name}: nobody can tell whether {source.path} has trained on its test side"
        f" ({counted[0]} samples of {counted[1]} speakers; {said.num_test} samples of"
        f" {said.num_test_speakers} were tested after the training, in other shards). Put the"
        " shards of the training back in their place, or name a benchmark of another corpus"
    )


def _index_of_training(source: Source) -> Index | None:
    """The index that the networks were trained from, if it still is where it was."""
    folder = Path(source.facts.shards)
    table = folder / TABLE_NAME
    if not source.facts.shards or not table.is_file():
        return None
    return read_index(folder) if file_digest(table) == source.facts.shards_digest else None


def _few(names: Sequence[str]) -> str:
    """Some names, quoted."""
    return ", ".join(f"'{name}'" for name in names[:5]) + (", …" if len(names) > 5 else "")
