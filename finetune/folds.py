"""Dividing a collection into folds, and proving that the division is honest.

From a benchmark and an index to training and test rows, with every fault of labels, speakers and
classes named before anything is trained; the columns by which scores are broken down; and proof
that neither a checkpoint nor the run itself was trained on what it is to be tested on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from finetune.benchmark import Benchmark
from finetune.heads import NAMED, as_text, plain, read_truth
from finetune.instants import COLUMNS as OF_INSTANTS
from hicmae.checkpoints.checkpoint import Checkpoint, Seen, digests, seen_of, union
from hicmae.config import did_you_mean
from hicmae.files import portable, with_a_point
from shards.index import COLUMNS, Index
from shards.reading.random_access import SAMPLE
from shards.receipts.facts import sample_infos

# A column with more values than this is a measurement or a name and no group.
MAX_VALUES = 12
# What a sample has, where some lack a modality.
HELD = "modalities there"
# What every note about a network that has seen too much says.
SEEN = "may have seen what was tested"
_PLACE = ["shard", "json_offset"]  # by which a sample is known in a folder of shards
_UNSEEN = (
    " a class that is never seen cannot be learned; name other folds by --folds, or move it from"
    " classes to ignore"
)
_REMEDY = (
    "take a checkpoint that has not seen them, or pass --allow_seen, which every report of"
    " the run then says"
)


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One split. Both tables are subsets of the index; their row labels are its row numbers.

    Args:
        name: Value of the fold column, or ``split`` for a benchmark with one fixed split.
    """

    name: str
    train: pd.DataFrame
    test: pd.DataFrame


def usable_rows(
    benchmark: Benchmark, table: pd.DataFrame, *, sides: bool = True
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Keep the rows that the benchmark is about, with their truth checked.

    Args: sides: Leave out what is in neither side of an explicit split; otherwise all is tested.
    Returns: the rows (row labels are positions in ``table``), and how many were left out by
        ``ignore``, label by label, by ``folds.ignore`` or for their side.
    Raises: ValueError: a missing column; a label outside the benchmark's list or a value that is
        no finite number, with the key of the first such sample; a side named that no sample has;
        no row that is kept.
    """
    kept, ignored = _divided_rows(benchmark, table.reset_index(drop=True), sides)
    if kept.empty:
        raise ValueError(
            f"benchmark '{benchmark.name}' leaves out all {len(table)} samples of the index"
            f" ({left_out(ignored) or 'it has none'}); name other shards, or mend ignore and"
            " folds.ignore"
        )
    return kept, ignored


def _divided_rows(
    benchmark: Benchmark, table: pd.DataFrame, sides: bool
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The same, of which none may be left."""
    for column in benchmark.columns:
        need_column(table, column, f"benchmark '{benchmark.name}'")
    protocol, divider = benchmark.folds, benchmark.folds.column
    if divider in table.columns:
        value = table[divider].map(as_text)
        unasked = set(map(as_text, protocol.ignore))
        if sides and protocol.test is not None:
            known = sorted(set(value) - {""}, key=numbers_first)
            named = [as_text(item) for item in (*(protocol.train or ()), *protocol.test)]
            if unknown := [name for name in named if name not in known]:
                raise ValueError(
                    f"benchmark '{benchmark.name}' (folds.train, folds.test): no sample has"
                    f" {divider} {few(unknown)} (there are: {few(known)})"
                    f"{did_you_mean(unknown[0], known)}"
                )
            unasked |= set(known).difference(named) if protocol.train is not None else set()
        out = value.isin(unasked)
        kept, counts = _usable(benchmark, table[~out])
        left = value[out].value_counts()
        return kept, counts | {f"{divider} '{name}'": int(n) for name, n in left.items()}
    return _usable(benchmark, table)


def _usable(benchmark: Benchmark, table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """The same of those that the protocol divides."""
    if benchmark.heads:
        has = np.any([read_truth(head, table)[1] for head in benchmark.heads], axis=0)
        if not has.any():
            raise ValueError(f"no sample has a label of any head of benchmark '{benchmark.name}'")
        without = int((~has).sum())
        return held_of(table[has]), {"without a label of any head": without} if without else {}
    if benchmark.task == "regression":
        for column in benchmark.targets:
            values = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=np.float64)
            wrong = np.flatnonzero(~np.isfinite(values))
            if len(wrong):
                row = table.iloc[int(wrong[0])]
                if not as_text(row[column]):
                    empty = int((table[column].map(as_text) == "").sum())
                    raise ValueError(
                        f"sample '{row['key']}' has no {column} ({empty} such samples; benchmark"
                        f" '{benchmark.name}'); label them, or make {column} a head of task: joint,"
                        " which goes without"
                    )
                raise ValueError(
                    f"sample '{row['key']}': {column} = {plain(row[column])!r} is no finite number"
                    f" ({len(wrong)} such samples; benchmark '{benchmark.name}')"
                    f"{with_a_point(row[column])}"
                )
        return held_of(table), {}
    assert benchmark.label is not None
    labels = table[benchmark.label].map(as_text)
    ignored = labels.isin(benchmark.ignore)
    wrong = np.flatnonzero(~labels.isin(benchmark.classes) & ~ignored)
    if len(wrong):
        row = table.iloc[int(wrong[0])]
        found = as_text(row[benchmark.label])
        if not found:
            raise ValueError(
                f"sample '{row['key']}' has no {benchmark.label}"
                f" ({int((labels == '').sum())} such samples; benchmark '{benchmark.name}'); label"
                ' them, or leave them out with ignore: [""] in the benchmark'
            )
        raise ValueError(
            f"sample '{row['key']}': {benchmark.label} '{found}' is no class of benchmark"
            f" '{benchmark.name}' ({len(wrong)} such samples; classes:"
            f" {', '.join(benchmark.classes)}){did_you_mean(found, benchmark.classes)}"
        )
    counts = {str(name): int(count) for name, count in labels[ignored].value_counts().items()}
    return held_of(table[~ignored]), counts


def left_out(ignored: Mapping[str, int]) -> str:
    """Counts of ``usable_rows`` as text."""
    return ", ".join(f"{name or 'without a label'}: {count}" for name, count in ignored.items())


def make_folds(
    benchmark: Benchmark, rows: pd.DataFrame, *, folds: str | Sequence[str] = "all"
) -> list[Fold]:
    """Divide checked rows by the benchmark's protocol.

    Args:
        rows: What ``usable_rows`` returned.
        folds: As of ``asked_folds``.

    Raises: ValueError: a missing fold column or value; a fold that does not exist; an empty side;
        a speaker on both sides, or no speaker at all, unless the protocol shares speakers; a
        class without a training sample; folds that would have the same folder.
    """
    protocol = benchmark.folds
    need_column(rows, protocol.column, f"benchmark '{benchmark.name}' (folds.column)")
    value = rows[protocol.column].map(as_text)
    missing = np.flatnonzero((value == "").to_numpy())
    if len(missing):
        raise ValueError(
            f"sample '{rows.iloc[int(missing[0])]['key']}' has no {protocol.column}"
            f" ({len(missing)} such samples); without it nobody knows its side"
        )
    if protocol.test is None:
        names = fold_names(benchmark, rows)
        if len(names) < 2:
            raise ValueError(f"column '{protocol.column}' has one value ({names[0]}): no folds")
        _check_folders(protocol.column, names)
        made = {
            name: Fold(name=name, train=rows[value != name], test=rows[value == name])
            for name in names
        }
    else:
        test = value.isin([as_text(item) for item in protocol.test])
        train = ~test
        if protocol.train is not None:
            train = value.isin([as_text(item) for item in protocol.train])
        made = {"split": Fold(name="split", train=rows[train], test=rows[test])}
    wanted = asked_folds(folds, list(made))
    unknown = [name for name in wanted if name not in made]
    if unknown or not wanted:
        what = f"no fold {', '.join(unknown)}" if unknown else "no fold is named"
        told = folds if isinstance(folds, str) else ",".join(folds)
        raise ValueError(f"folds = {told}: {what} (folds: {', '.join(made)}, or all)")
    chosen = [fold for name, fold in made.items() if name in wanted]
    for fold in chosen:
        check_fold(benchmark, fold)
    return chosen


def fold_names(benchmark: Benchmark, rows: pd.DataFrame) -> list[str]:
    """Names of all folds into which checked rows are divided, in order."""
    if benchmark.folds.test is not None:
        return ["split"]
    return sorted(rows[benchmark.folds.column].map(as_text).unique(), key=numbers_first)


def asked_folds(folds: str | Sequence[str], known: Sequence[str]) -> list[str]:
    """Names of folds as they were asked for, known or not.

    Args: folds: ``all``, one known name, which may hold commas, or names separated by commas; or a
        list of names.
    """
    if not isinstance(folds, str):
        return list(folds)
    if folds.strip() == "all":
        return list(known)
    if folds in known:
        return [folds]
    return [part.strip() for part in folds.split(",") if part.strip()]


def check_fold(benchmark: Benchmark, fold: Fold) -> None:
    """Prove that a fold can be trained on and that nobody is on both sides.

    Raises: ValueError: as ``make_folds``.
    """
    for side, rows in (("training", fold.train), ("test", fold.test)):
        if rows.empty:
            raise ValueError(
                f"fold {fold.name}: no {side} sample (column '{benchmark.folds.column}')"
            )
    if not benchmark.folds.shared_speakers:
        _check_disjoint(
            benchmark,
            fold,
            benchmark.speaker,
            remedy="set folds.shared_speakers: true if the benchmark's own protocol says so",
        )
    for column in benchmark.disjoint:
        _check_disjoint(benchmark, fold, column, remedy=f"mend '{benchmark.folds.column}'")
    check_heads(benchmark, fold.train, f"fold {fold.name}")
    if benchmark.label:
        present = set(fold.train[benchmark.label].map(as_text))
        absent = [name for name in benchmark.classes if name not in present]
        if absent:
            raise ValueError(
                f"fold {fold.name}: no training sample of {', '.join(absent)};{_UNSEEN}"
            )


def check_heads(benchmark: Benchmark, rows: pd.DataFrame, where: str) -> None:
    """Prove that training rows have labels of every head, and of each class of those with names.

    Raises: ValueError: as ``make_folds``; ``where`` is what its sentence begins with.
    """
    for head in benchmark.heads:
        truth, known = read_truth(head, rows)
        if not known.any():
            raise ValueError(f"{where}: no training sample has a label of '{head.name}'")
        absent = [name for name, n in zip(head.names, truth.sum(axis=0), strict=True) if n <= 0]
        if absent and head.kind in NAMED:
            raise ValueError(
                f"{where}: no training sample of {', '.join(absent)} (head '{head.name}');{_UNSEEN}"
            )


def need_column(table: pd.DataFrame, column: str, who: str) -> None:
    """Refuse an index without a column, naming those it has."""
    if column not in table.columns:
        known = [str(name) for name in table.columns]
        raise ValueError(
            f"the index has no column '{column}', which {who} needs"
            f"{did_you_mean(column, known)} (columns: {', '.join(known)})"
        )


def shared_values(fold: Fold, column: str) -> list[str]:
    """Values of a column that both sides have, numbers first; empty ones do not count.

    Returns: none too where the index has no such column.
    """
    if column not in fold.train.columns:
        return []
    sides = (set(rows[column].map(as_text)) for rows in (fold.train, fold.test))
    return sorted(set.intersection(*sides) - {""}, key=numbers_first)


def numbers_first(name: str) -> tuple[int, float, str]:
    """Sort key: 2 before 10, numbers before words."""
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name


def few(names: Sequence[str], most: int = 5) -> str:
    """The first of some names, for a message."""
    return ", ".join(f"'{name}'" for name in names[:most]) + (", …" if len(names) > most else "")


def num_speakers(benchmark: Benchmark, rows: pd.DataFrame) -> int | None:
    """Speakers of one side; none where somebody is not named."""
    if benchmark.speaker not in rows.columns:
        return None
    names = set(rows[benchmark.speaker].map(as_text))
    return None if "" in names else len(names)


def held_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of an index; where a sample lacks a modality, with the column ``HELD``: what each has.

    So scores and counts are told apart by it, as by any group.
    """
    seen, heard = rows["mjpg_length"] > 0, rows["wav_length"] > 0
    if (seen & heard).all():
        return rows
    words = np.select([seen & heard, seen], ["picture and sound", "picture alone"], "sound alone")
    return rows.assign(**{HELD: words})


def group_columns(benchmark: Benchmark, rows: pd.DataFrame) -> tuple[str, ...]:
    """Columns by whose values predictions are grouped: the benchmark's, then those found.

    A column is found if the manifest brought it, at least two and at most ``MAX_VALUES`` values
    occur in it, each more than once, and it is text, whole numbers or yes and no. The truth, the
    speaker and what divides the folds are no groups, nor is what tells the class (a finer label):
    all of such a group have the same, and its score is the recall that stands in the class table.
    """
    named = [name for name in (HELD, *benchmark.groups) if name in rows.columns]
    taken = {
        *COLUMNS,
        *OF_INSTANTS,
        *benchmark.columns,
        *benchmark.votes,
        benchmark.speaker,
        benchmark.folds.column,
        *benchmark.disjoint,
    }
    labels = [head.label for head in benchmark.every_head if head.kind != "multilabel"]
    found = [
        str(name)
        for name in rows.columns
        if name not in taken
        and name not in named
        and _is_group(rows[name])
        and not any(_tells(rows[name], rows[label]) for label in labels if label)
    ]
    return (*named, *found)


def seen_by(
    benchmark: Benchmark, weights: Checkpoint | None, fold: str, sides: Iterable[pd.DataFrame]
) -> Seen:
    """What the network of a fold has seen.

    A network carries digests of the samples that trained it or chose its epoch, and of their
    speakers, with those of the network that it started from (``Seen``, in its checkpoint). A
    sample is known by the names of its dataset and itself, and, whatever the dataset is called, by
    its name and its lengths: neither depends on labels, folds or how faces were cut.

    Args:
        weights: What its training started from.
        sides: Rows that trained it or chose its epoch.
    """
    rows = pd.concat(list(sides))
    own = Seen(
        trainings=(f"{benchmark.name}, fold {fold}",),
        samples=np.unique(np.concatenate(_samples(benchmark, rows))),
        speakers=np.unique(_speakers(benchmark, rows)[1]),
    )
    before = None if weights is None else seen_of(weights.config, str(weights.path))
    return own if before is None else union([before, own])


def check_unseen(
    benchmark: Benchmark, weights: Checkpoint | None, folds: Sequence[Fold], *, allow: bool
) -> list[str]:
    """Prove that the run's checkpoint has seen no test sample and nobody of a test side.

    Speakers are compared unless the benchmark's protocol shares them.

    Args: allow: Whether a checkpoint that has is taken all the same.
    Returns: sentences about what it has seen, for the reader of the numbers.
    Raises: ValueError: it has, or nobody can tell, and that is not allowed.
    """
    if weights is None or weights.kind != "emotion":
        return []
    seen = seen_of(weights.config, str(weights.path))
    theirs = str((weights.config.get("benchmark") or {}).get("dataset") or "")
    is_of_another = "" not in (theirs, benchmark.dataset) and theirs != benchmark.dataset
    if seen is None and not is_of_another:
        problems = ["it was trained on labels and does not say on whose"]
    else:
        problems = [found_in(seen, benchmark, fold) for fold in folds if seen is not None]
    return refuse_seen(weights.path, seen, problems, allow=allow)


def check_copies(index: Index, folds: Sequence[Fold], *, modalities: str, allow: bool) -> list[str]:
    """Prove that nothing of a test side is trained on under another name, byte for byte the same.

    Only samples that the index cannot tell apart are looked at. Silence tells nothing.

    Args:
        modalities: Those that the network reads, of which all must be the same.
        allow: Whether it may be all the same.

    Returns: sentences about what is, for the reader of the numbers.
    Raises: ValueError: something is, and that is not allowed; a sample that cannot be read.
    """
    kinds = [kind for kind, name in (("mjpg", "video"), ("wav", "audio")) if name in modalities]
    told = {"mjpg": ["mjpg_length", "num_frames"], "wav": ["wav_length", "loudness_db"]}
    rows = pd.concat([side for fold in folds for side in (fold.train, fold.test)])
    rows = rows.drop_duplicates(_PLACE)
    tells = (rows["mjpg_length"] > 0) & ("mjpg" in kinds)
    tells |= rows["loudness_db"].notna() & ("wav" in kinds)
    alike = [column for kind in kinds for column in told[kind]]
    rows = rows[tells & rows.duplicated(alike, keep=False)]
    places = rows[_PLACE].itertuples(index=False, name=None)
    infos = sample_infos(dataclasses.replace(index, table=rows))
    content = {
        place: tuple(getattr(info.digests, kind) for kind in kinds)
        for place, (_, info) in zip(places, infos, strict=True)
    }

    def known(side: pd.DataFrame) -> list[tuple[Any, str]]:
        """Content and key of those of a side that were looked at."""
        named = zip(side[_PLACE].itertuples(index=False, name=None), side["key"], strict=True)
        return [(content[place], str(key)) for place, key in named if place in content]

    problems = []
    for fold in folds:
        trained = dict(known(fold.train))
        if both := sorted((key, trained[it]) for it, key in known(fold.test) if it in trained):
            one, other = both[0]
            problems.append(
                f"fold {fold.name}: it trains on {len(both)} of its test samples under other names,"
                f" byte for byte the same (such as '{one}' as '{other}')"
            )
    if problems and not allow:
        raise ValueError(
            f"{index.folder}: {'; '.join(problems)}; leave one of each out of the manifest, or pass"
            " --allow_seen, which every report of the run then says"
        )
    return [f"the network {SEEN}: {problem}" for problem in problems]


def found_in(seen: Seen, benchmark: Benchmark, fold: Fold) -> str:
    """What of a fold's test side a network has seen, in words; empty for nothing."""
    known = [np.isin(part, seen.samples) for part in _samples(benchmark, fold.test)]
    keys = fold.test["key"][np.logical_or.reduce(known)].map(str)
    if len(keys):
        what = f"{len(keys)} of its {len(fold.test)} test samples ({few(list(keys), 3)})"
        return f"fold {fold.name}: it was trained on {what}"
    if not benchmark.folds.shared_speakers:
        names, found = _speakers(benchmark, fold.test)
        met = np.array(names, dtype=np.str_)[np.isin(found, seen.speakers)].tolist()
        if met:
            what = f"{benchmark.speaker} {few(met, 3)} of its test side"
            return f"fold {fold.name}: it was trained on {what}"
    return ""


def refuse_seen(
    path: Path, seen: Seen | None, problems: Iterable[str], *, allow: bool
) -> list[str]:
    """Refuse a network that has seen what it is tested on, or say so to the reader.

    Args:
        seen: What it has seen, where it says so.
        problems: Sentences of ``found_in``; empty ones are none.

    Returns: sentences for the reader of the numbers. Raises: ValueError: not allowed.
    """
    found = [problem for problem in problems if problem]
    if found and not allow:
        trained = "" if seen is None else f" ({'; '.join(seen.trainings)})"
        raise ValueError(f"{path}{trained}: {'; '.join(found)}; {_REMEDY}")
    return [f"the checkpoint {SEEN}: {problem}" for problem in found]


def _check_disjoint(benchmark: Benchmark, fold: Fold, column: str, *, remedy: str) -> None:
    """Refuse a value (a speaker, a session, a video) on both sides, and one that nobody named."""
    need_column(fold.train, column, f"benchmark '{benchmark.name}' (to tell its sides; {remedy})")
    for rows in (fold.train, fold.test):
        unnamed = np.flatnonzero((rows[column].map(as_text) == "").to_numpy())
        if len(unnamed):
            raise ValueError(
                f"fold {fold.name}: sample '{rows.iloc[int(unnamed[0])]['key']}' has no"
                f" {column} ({len(unnamed)} such samples), so nobody can tell that the sides"
                f" share none; name it in the manifest, or {remedy}"
            )
    shared = shared_values(fold, column)
    if shared:
        train, test = (
            int(rows[column].map(as_text).isin(shared).sum()) for rows in (fold.train, fold.test)
        )
        verb = "is" if len(shared) == 1 else "are"
        raise ValueError(
            f"fold {fold.name}: {column} {few(shared)} {verb} on both sides ({train} training and"
            f" {test} test samples of {len(shared)} such); {remedy}"
        )


def _check_folders(column: str, names: Sequence[str]) -> None:
    """Refuse folds whose names are the same as part of a file's: results would be taken for one."""
    folders: dict[str, str] = {}
    for name in names:
        other = folders.setdefault(portable(name), name)
        if other != name:
            raise ValueError(
                f"column '{column}': folds '{other}' and '{name}' would have the same folder"
                f" (fold-{portable(name)}); name them apart by letters or digits in the manifest,"
                " and build its shards again"
            )


def _is_group(column: pd.Series) -> bool:
    """Whether few values occur often."""
    if pd.api.types.is_float_dtype(column) and not (column.dropna() % 1 == 0).all():
        return False
    if column.nunique(dropna=True) > MAX_VALUES:  # before the slow way
        return False
    counts = column.map(as_text).value_counts()
    counts = counts[counts.index != ""]
    return 2 <= len(counts) <= MAX_VALUES and int(counts.min()) >= 2


def _tells(column: pd.Series, labels: pd.Series) -> bool:
    """Whether each value goes with one label alone."""
    return bool((labels.groupby(column.map(as_text)).nunique() <= 1).all())


def _samples(benchmark: Benchmark, rows: pd.DataFrame) -> list[np.ndarray]:
    """Digests of each row (N,): by name and lengths, and by dataset and name where it has one."""
    names = rows.get(SAMPLE, rows["key"])
    lengths = zip(names, rows["num_frames"], rows["num_samples"], strict=True)
    found = [digests(f"{key}\n{frames}\n{samples}" for key, frames, samples in lengths)]
    if benchmark.dataset:
        found.append(digests(f"{benchmark.dataset}\n{key}" for key in names))
    return found


def _speakers(benchmark: Benchmark, rows: pd.DataFrame) -> tuple[list[str], np.ndarray]:
    """Names of the speakers of some rows, and their digests; of unnamed ones there is none."""
    if benchmark.speaker not in rows.columns:
        return [], digests([])
    names = sorted(set(rows[benchmark.speaker].map(as_text)) - {""})
    corpus = benchmark.dataset or benchmark.name
    return names, digests(f"{corpus}\n{benchmark.speaker}\n{name}" for name in names)
