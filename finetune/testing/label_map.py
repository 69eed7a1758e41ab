"""Classes of one corpus read as classes of another: one YAML file in ``configs/label_maps/`` each.

Shape letters: N samples, V views, A and K classes (or targets) of the two sides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from finetune.benchmark import Benchmark
from finetune.folds import as_text
from hicmae.config import config_path, from_dict, load_yaml


@dataclass(frozen=True, kw_only=True)
class LabelMap:
    """What each output of a network means in another benchmark.

    Args:
        trained_on: Name of the benchmark of the network.
        tested_on: Name of the benchmark of the samples.
        classes: Every class of ``trained_on`` → a class of ``tested_on``, or null: dropped, so
            the network's probability of it is shared out over the others.
        merge: Classes of ``tested_on`` whose samples count as another of its classes.
        leave_out: Classes of ``tested_on`` whose samples are not tested, because the network
            knows nothing like them.
        targets: Real values: target of ``trained_on`` → target of ``tested_on``, or null.
        rescale: Real values: target of ``tested_on`` → factor and offset that turn the network's
            values into its unit; left out: the same unit.
    """

    trained_on: str
    tested_on: str
    classes: dict[str, str | None] = field(default_factory=dict)
    merge: dict[str, str] = field(default_factory=dict)
    leave_out: tuple[str, ...] = ()
    targets: dict[str, str | None] = field(default_factory=dict)
    rescale: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.classes) == bool(self.targets):
            raise ValueError("give either classes or targets")


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """A benchmark as a foreign network can be tested on it.

    Args:
        benchmark: ``tested_on`` with the classes (or targets) that are left.
        truth: Class of ``tested_on`` → class of ``benchmark`` that its samples count as; empty
            for real values.
        left_out: Classes whose samples are not tested.
        dropped: Classes or targets of the network that are read as nothing.
        weights: (A, K): output a counts as class or target k.
        offset: (K,) added to real values.
    """

    benchmark: Benchmark
    truth: Mapping[str, str]
    left_out: tuple[str, ...]
    dropped: tuple[str, ...]
    weights: np.ndarray
    offset: np.ndarray

    @property
    def keeps_classes(self) -> bool:
        """Whether each output stands for itself alone."""
        return not self.dropped and bool((np.count_nonzero(self.weights, axis=0) == 1).all())

    def rows(self, rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
        """Rows that can be tested, with their truth renamed; and how many were left out, by class.

        Raises: ValueError: none is left.
        """
        label = self.benchmark.label
        if label is None:
            return rows, {}
        true = rows[label].map(as_text)
        kept = true.isin(list(self.truth))
        counts = {str(name): int(n) for name, n in true[~kept].value_counts().items()}
        if not kept.any():
            raise ValueError(
                f"no sample is left to test: all {len(rows)} are of"
                f" {', '.join(counts)}, which the label map leaves out"
            )
        renamed = rows[kept].copy()
        renamed[label] = true[kept].map(dict(self.truth))
        return renamed, counts

    def outputs(self, views: np.ndarray) -> np.ndarray:
        """The network's outputs (N, V, A) as outputs of the benchmark (N, V, K).

        Probabilities of classes that mean the same are added, and what is left after dropping
        others is scaled to a sum of 1: the network chooses among the classes that both sides have.
        """
        found: np.ndarray = views @ self.weights + self.offset
        if self.benchmark.task == "regression" or not self.dropped:
            return found
        total = found.sum(axis=-1, keepdims=True)
        even = np.full_like(found, 1 / found.shape[-1])
        return np.divide(found, total, out=even, where=total > 0)


def load_label_map(name_or_path: str) -> LabelMap:
    """Read a label map: a YAML file, or a name out of ``configs/label_maps/``.

    Raises: FileNotFoundError: no such file. ValueError: one line with every problem in it.
    """
    name = name_or_path
    if "/" not in name and not name.endswith((".yaml", ".yml")):
        name = f"configs/label_maps/{name}.yaml"
    path = config_path(name)
    return from_dict(LabelMap, load_yaml(path), str(path))


def map_benchmark(trained: Benchmark, tested: Benchmark, names: LabelMap | None) -> Mapped:
    """What of a benchmark a network of another one can be tested on.

    Args:
        trained: Benchmark of the network.
        tested: Benchmark of the samples.
        names: How their classes correspond; none: they are the same, in any order.

    Raises: ValueError: other tasks; classes that are not the same and no map; a map of other
        benchmarks, or one that forgets a class or names one that does not exist.
    """
    if trained.wordless == tested.wordless and names is None:
        return _itself(tested)
    if trained.heads or tested.heads:
        if names is None and trained.heads == tested.heads:
            return _itself(tested)
        raise ValueError(
            f"'{trained.name}' and '{tested.name}': a network of several heads is tested on a"
            " benchmark of the same heads alone (a label map says what the classes of one task are"
            " in another; heads of several kinds have no such table)"
        )
    if trained.task != tested.task:
        raise ValueError(
            f"'{trained.name}' is {trained.task} and '{tested.name}' is {tested.task}: a network"
            " of the one cannot be tested on the other"
        )
    ours, theirs = _names(trained), _names(tested)
    if names is None:
        if set(ours) != set(theirs):
            raise ValueError(
                f"'{trained.name}' has {', '.join(ours)} and '{tested.name}' {', '.join(theirs)};"
                " say which are the same with --label_map (see configs/label_maps)"
            )
        same: Any = {name: name for name in ours}
        key = "classes" if trained.task == "classification" else "targets"
        names = LabelMap(trained_on=trained.name, tested_on=tested.name, **{key: same})
    _check(names, trained, tested)
    given = names.classes or names.targets
    target_of = {name: names.merge.get(to, to) for name, to in given.items() if to is not None}
    kept = [name for name in theirs if name in target_of.values()]
    weights = np.zeros((len(ours), len(kept)))
    offset = np.zeros(len(kept))
    for row, name in enumerate(ours):
        if name in target_of:
            column = kept.index(target_of[name])
            factor, shift = names.rescale.get(target_of[name], (1.0, 0.0))
            weights[row, column] = factor
            offset[column] = shift
    truth = {name: names.merge.get(name, name) for name in tested.classes}
    truth = {name: to for name, to in truth.items() if to in kept}
    return Mapped(
        benchmark=_left(trained, tested, kept),
        truth=MappingProxyType(truth),
        left_out=tuple(name for name in tested.classes if name not in truth),
        dropped=tuple(name for name in ours if name not in target_of),
        weights=weights,
        offset=offset,
    )


def _itself(benchmark: Benchmark) -> Mapped:
    size = benchmark.num_outputs
    return Mapped(
        benchmark=benchmark,
        truth=MappingProxyType({name: name for name in benchmark.classes}),
        left_out=(),
        dropped=(),
        weights=np.eye(size),
        offset=np.zeros(size),
    )


def _left(trained: Benchmark, tested: Benchmark, kept: Sequence[str]) -> Benchmark:
    """The benchmark with the classes or targets that are left, under a name that says so."""
    changes: dict[str, Any] = {
        "name": f"{tested.name} from {trained.name}",
        "title": f"Networks of '{trained.name}', tested on '{tested.name}'",
        "votes": (),
        # Of others who trained on this very corpus: not to be compared with.
        "published": (),
    }
    if tested.task == "classification":
        changes["classes"] = tuple(kept)
    else:
        changes["targets"] = tuple(kept)
    if len(kept) < (2 if tested.task == "classification" else 1):
        raise ValueError(
            f"label map from '{trained.name}' to '{tested.name}': {len(kept)} classes or targets"
            " are left, too few to test"
        )
    return dataclasses.replace(tested, **changes)


def _check(names: LabelMap, trained: Benchmark, tested: Benchmark) -> None:
    """Refuse a map that is not about these benchmarks or not of all their classes."""
    ours, theirs = _names(trained), _names(tested)
    given = names.classes or names.targets
    problems = []
    for what, said, is_now in (
        ("trained_on", names.trained_on, trained.name),
        ("tested_on", names.tested_on, tested.name),
    ):
        if said != is_now:
            problems.append(f"{what} = {said} (here it is {is_now})")
    if bool(names.classes) != (tested.task == "classification"):
        problems.append(f"classes are for classification, targets for regression ({tested.task})")
    foreign = ("rescale",) if names.classes else ("merge", "leave_out")
    problems += [
        f"{part} is not for {'classes' if names.classes else 'targets'}"
        for part in foreign
        if getattr(names, part)
    ]
    forgotten = [name for name in ours if name not in given]
    problems += [f"{name} of {trained.name} is forgotten (null drops it)" for name in forgotten]
    problems += [f"'{name}' is none of {trained.name}" for name in given if name not in ours]
    named = [
        *(to for to in given.values() if to is not None),
        *names.merge,
        *names.merge.values(),
        *names.leave_out,
        *names.rescale,
    ]
    problems += [
        f"'{to}' is none of {tested.name}" for to in dict.fromkeys(named) if to not in theirs
    ]
    hit = {to for to in given.values() if to is not None}
    problems += [
        f"merge counts {name} as {to}, which nothing in classes is"
        for name, to in names.merge.items()
        if to in theirs and to not in hit
    ]
    problems += [
        f"merge counts {name} as {to}, which itself counts as {names.merge[to]}"
        for name, to in names.merge.items()
        if to in names.merge
    ]
    if tested.task == "regression":
        into = [to for to in given.values() if to is not None]
        problems += [f"two targets become {to}" for to in sorted(hit) if into.count(to) > 1]
        problems += [
            f"rescale is of {to}, which nothing in targets is"
            for to in names.rescale
            if to in theirs and to not in hit
        ]
    else:
        problems += [
            f"{name} of {tested.name} is forgotten (name it in classes, merge or leave_out)"
            for name in theirs
            if name not in hit | set(names.merge) | set(names.leave_out)
        ]
        problems += [
            f"{name} is in leave_out and is mapped to"
            for name in names.leave_out
            if name in hit | set(names.merge) | set(names.merge.values())
        ]
    if problems:
        raise ValueError(
            f"label map from '{names.trained_on}' to '{names.tested_on}': {'; '.join(problems)}"
        )


def _names(benchmark: Benchmark) -> tuple[str, ...]:
    return benchmark.classes if benchmark.task == "classification" else benchmark.targets
