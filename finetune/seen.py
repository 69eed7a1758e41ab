"""Proof that a checkpoint was not trained on what it is to be tested on.

A fold's network carries digests of the samples that trained it or chose its epoch, and of their
speakers, together with those of the network that it started from (``Seen``, in its checkpoint).
A sample is known by the names of its dataset and itself, and, whatever the dataset is called, by
its name and its lengths: neither depends on labels, folds or how faces were cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from finetune.benchmark import Benchmark
from finetune.folds import Fold, as_text
from finetune.plan import Plan
from hicmae.checkpoints.checkpoint import Checkpoint, Seen, digests, seen_of, union
from shards.reading.random_access import SAMPLE

# What every note about a network that has seen too much says.
SEEN = "may have seen what was tested"
_REMEDY = (
    "take a checkpoint that has not seen them, or pass --allow_seen, which every report of"
    " the run then says"
)


def seen_by(plan: Plan, fold: str, sides: Iterable[pd.DataFrame]) -> Seen:
    """What the network of a fold has seen.

    Args:
        sides: Rows that trained it or chose its epoch.
    """
    benchmark, rows = plan.benchmark, pd.concat(list(sides))
    own = Seen(
        trainings=(f"{benchmark.name}, fold {fold}",),
        samples=np.unique(np.concatenate(_samples(benchmark, rows))),
        speakers=np.unique(_speakers(benchmark, rows)[1]),
    )
    weights = plan.checkpoint
    before = None if weights is None else seen_of(weights.config, str(weights.path))
    return own if before is None else union([before, own])


def check_unseen(plan: Plan, folds: Sequence[Fold], *, allow: bool) -> list[str]:
    """Prove that the run's checkpoint has seen no test sample and nobody of a test side.

    Speakers are compared unless the benchmark's protocol shares them.

    Args:
        allow: Whether a checkpoint that has is taken all the same.

    Returns: sentences about what it has seen, for the reader of the numbers.
    Raises: ValueError: it has, or nobody can tell, and that is not allowed.
    """
    weights, benchmark = plan.checkpoint, plan.benchmark
    if weights is None or weights.kind != "emotion":
        return []
    seen = seen_of(weights.config, str(weights.path))
    if seen is None and not _of_another_dataset(weights, benchmark):
        problems = ["it was trained on labels and does not say on whose"]
    else:
        problems = [found_in(seen, benchmark, fold) for fold in folds if seen is not None]
    return refuse_seen(weights.path, seen, problems, allow=allow)


def found_in(seen: Seen, benchmark: Benchmark, fold: Fold) -> str:
    """What of a fold's test side a network has seen, in words; empty for nothing."""
    known = [np.isin(part, seen.samples) for part in _samples(benchmark, fold.test)]
    keys = fold.test["key"][np.logical_or.reduce(known)].map(str)
    if len(keys):
        what = f"{len(keys)} of its {len(fold.test)} test samples ({_few(list(keys))})"
        return f"fold {fold.name}: it was trained on {what}"
    if not benchmark.folds.shared_speakers:
        names, found = _speakers(benchmark, fold.test)
        met = np.array(names, dtype=np.str_)[np.isin(found, seen.speakers)].tolist()
        if met:
            what = f"{benchmark.speaker} {_few(met)} of its test side"
            return f"fold {fold.name}: it was trained on {what}"
    return ""


def refuse_seen(
    path: Path, seen: Seen | None, problems: Iterable[str], *, allow: bool
) -> list[str]:
    """Refuse a network that has seen what it is tested on, or say so to the reader.

    Args:
        path: Of the network.
        seen: What it has seen, where it says so.
        problems: Sentences of ``found_in``; empty ones are none.

    Returns: sentences for the reader of the numbers. Raises: ValueError: not allowed.
    """
    found = [problem for problem in problems if problem]
    if found and not allow:
        trained = "" if seen is None else f" ({'; '.join(seen.trainings)})"
        raise ValueError(f"{path}{trained}: {'; '.join(found)}; {_REMEDY}")
    return [f"the checkpoint {SEEN}: {problem}" for problem in found]


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


def _of_another_dataset(weights: Checkpoint, benchmark: Benchmark) -> bool:
    """Whether a checkpoint says that it is of another dataset than the benchmark."""
    theirs = str((weights.config.get("benchmark") or {}).get("dataset") or "")
    return "" not in (theirs, benchmark.dataset) and theirs != benchmark.dataset


def _few(names: Sequence[str]) -> str:
    """Some names, for a message."""
    return ", ".join(f"'{name}'" for name in names[:3]) + (", …" if len(names) > 3 else "")
