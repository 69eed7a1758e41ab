"""A benchmark as data: what is predicted, how it is split, measured and compared.

One is a YAML file of ``configs/benchmarks/`` and no code.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from finetune.heads import FALLING, METRICS, Head, known_metrics, score_names
from finetune.instants import OverTime
from finetune.losses import loss_terms
from hicmae.config import config_path, config_root, did_you_mean, from_dict, load_yaml
from hicmae.settings import outside, raise_all

Task = Literal["classification", "regression", "joint"]
_TASKS = ("classification", "regression", "joint")


@dataclass(frozen=True, kw_only=True)
class FoldProtocol:
    """How samples are divided into training and test.

    Args:
        column: Column of the index that divides. Without ``test``, each of its values is a fold:
            fold k tests the samples whose value is k and trains on all others.
        train: Values of an explicit training side; none given: every value not tested.
        test: Values of an explicit test side, for a benchmark with one fixed split.
        shared_speakers: The benchmark's own protocol puts a speaker on both sides. Otherwise
            that is refused before training.
        disjoint: Further columns none of whose values may be on both sides (dialogue, video), a
            shared speaker or not.
        ignore: Values of ``column`` that the protocol leaves out (empty: samples without one); such
            samples are counted.
    """

    column: str = "fold"
    train: tuple[str | int, ...] | None = None
    test: tuple[str | int, ...] | None = None
    shared_speakers: bool = False
    disjoint: tuple[str, ...] = ()
    ignore: tuple[str | int, ...] = field(default=(), metadata={"omit_default": True})

    def __post_init__(self) -> None:
        if self.train is not None and self.test is None:
            raise ValueError("train is given and test is not; give both, or neither for folds")
        both = set(map(str, self.train or ())) & set(map(str, self.test or ()))
        if both:
            raise ValueError(f"{', '.join(sorted(both))} in train and in test")
        if self.test is not None and not self.test:
            raise ValueError("test is empty")


@dataclass(frozen=True, kw_only=True)
class BenchmarkRecipe:
    """What a benchmark changes of the recipe; the user's own settings come before it.

    The settings are those of ``finetune.settings``: of the run, its optimizer and its recipe.
    """

    epochs: int | None = None
    learning_rate: float | None = None
    loss: str | None = None
    frame_stride: int | None = None

    def __post_init__(self) -> None:
        bounds = {"1 or more": "epochs frame_stride", "positive and finite": "learning_rate"}
        raise_all("recipe", outside(self, bounds))


@dataclass(frozen=True, kw_only=True)
class Published:
    """A number that somebody else has published; it never shares a column with measured ones.

    Args:
        method: Who or what reached it.
        scores: Metric to value: fractions (0.65, not 65 %); errors and combinations of any size.
        source: Where it is written.
        modalities: What the method sees and hears.
        note: What differs from this protocol.
    """

    method: str
    scores: dict[str, float]
    source: str
    modalities: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        problems = [f"{name} is empty" for name in ("method", "source") if not getattr(self, name)]
        if not self.scores:
            problems.append("no score")
        raise_all(f"published {self.method}", problems)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark.

    Args:
        name: Short name, used in tables.
        task: ``classification``, ``regression``, or ``joint``: several heads.
        title: What it is, one sentence.
        label: Classification: column of the index that holds the class.
        classes: Classification: the classes, in the order of the network's outputs.
        ignore: Classification: labels that the protocol leaves out; their samples are counted.
        targets: Regression: columns of the index that hold the real values, in order.
        folds: How it is split.
        speaker: Column of the index that holds the speaker, or whatever else must not be on both
            sides (a session, say).
        dataset: Name for ``hicmae shards manifest``, where its layout is known.
        votes: Classification: columns that hold how many raters chose each class, in the order
            of ``classes``.
        groups: Columns by which scores are broken down.
        average_over: Column whose equal values make one scored unit: its samples' outputs are
            averaged (clips of one recording).
        heads: Joint: what is predicted; a score is called ``HEAD.METRIC``.
        combinations: Joint: scores of its own, by name: factors of others, such as
            ``{emotion.weighted_f1: 1, dimensions.mse: -0.25}``.
        over_time: Regression: targets are values over time, and what is scored are instants.
        metrics: What is reported; none given: those of the task but mse. Heads name their own.
        leading: The metric that ranks; none given: the first.
        recipe: What it changes of the recipe.
        published: Numbers of others.
        licence: Under what terms the recordings may be used.
        access: How to get them.
    """

    name: str
    task: Task
    title: str = ""
    label: str | None = None
    classes: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    folds: FoldProtocol = field(default_factory=FoldProtocol)
    speaker: str = "speaker"
    dataset: str = ""
    votes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    average_over: str | None = None
    heads: tuple[Head, ...] = field(default=(), metadata={"omit_default": True})
    combinations: dict[str, dict[str, float]] = field(
        default_factory=dict, hash=False, metadata={"omit_default": True}
    )
    over_time: OverTime | None = field(default=None, metadata={"omit_default": True})
    metrics: tuple[str, ...] = ()
    leading: str | None = None
    recipe: BenchmarkRecipe = field(default_factory=BenchmarkRecipe)
    published: tuple[Published, ...] = ()
    licence: str = ""
    access: str = ""

    def __post_init__(self) -> None:
        problems = [] if self.name.strip() else ["name is empty, by which its numbers are called"]
        problems += self._task_problems()
        known = self._known_metrics()
        for metric in (*self.metrics, *([self.leading] if self.leading else [])):
            if metric not in known:
                problems.append(
                    f"metric '{metric}' is none of {self.task}"
                    f"{did_you_mean(metric, known)} (allowed: {', '.join(known)})"
                )
        # Of heads, a score of one target may lead, and it stands in no head's metrics.
        lacks = self.leading and self.metrics and self.leading not in self.metrics
        if lacks and not self.heads:
            problems.append(f"leading = {self.leading} is not among metrics")
        problems += [
            f"published {item.method}: '{name}' is no metric of {self.task}"
            for item in self.published
            for name in item.scores
            if name not in {*known, *(f"{m}_{target}" for m in known for target in self.targets)}
        ]
        for item in self.published:
            for name, value in item.scores.items():
                of_any_size = name in self.combinations or _falls(name)
                if not (math.isfinite(value) if of_any_size else -1 <= value <= 1):
                    allowed = "finite" if of_any_size else "a fraction, such as 0.65 for 65 %"
                    problems.append(
                        f"published {item.method}: {name} = {value} (must be {allowed})"
                    )
        lead = self.leading or next(iter(self.metrics or self._told()), "")
        if _falls(lead):
            problems.append(
                f"leading = {lead}, which is the better the lower it is; name a combination"
                " in which its factor is negative"
            )
        for what in ("groups", "metrics", "votes"):
            problems += _repeated(what, getattr(self, what))
        if self.over_time is not None and (self.task != "regression" or self.average_over):
            problems.append("over_time is for regression without average_over")
        if self.recipe.loss is not None and self.task in METRICS:
            try:
                loss_terms(self.recipe.loss, self.task)
            except ValueError as error:
                problems.append(f"recipe.{error}")
        raise_all("", problems)
        if not self.metrics:
            metrics = self._told() if self.heads else METRICS[self.task]
            object.__setattr__(self, "metrics", metrics)
        if self.leading is None:
            object.__setattr__(self, "leading", self.metrics[0])

    def _task_problems(self) -> list[str]:
        """What the task needs, and what it has no use for."""
        problems = []
        if self.task == "joint":
            return self._joint_problems()
        problems += [
            f"{name} is for joint" for name in ("heads", "combinations") if getattr(self, name)
        ]
        if self.task == "classification":
            if not self.label:
                problems.append("missing key 'label' (column of the class)")
            if len(self.classes) < 2:
                problems.append(f"classes has {len(self.classes)} entries (2 or more needed)")
            problems += _repeated("classes", self.classes)
            if "" in self.classes:
                problems.append("a class has no name; samples without one are left out by ignore")
            kept_and_left = sorted(set(self.classes) & set(self.ignore))
            if kept_and_left:
                problems.append(f"{', '.join(kept_and_left)} in classes and in ignore")
            if self.targets:
                problems.append("targets is for regression")
            if self.votes and len(self.votes) != len(self.classes):
                problems.append(
                    f"votes has {len(self.votes)} columns for {len(self.classes)} classes (one for"
                    " each, in their order)"
                )
        elif self.task == "regression":
            if not self.targets:
                problems.append("missing key 'targets' (columns of the real values)")
            problems += _repeated("targets", self.targets)
            problems += [
                f"{name} is for classification"
                for name in ("label", "classes", "ignore", "votes")
                if getattr(self, name)
            ]
        else:
            problems.append(f"task = {self.task} (must be one of {', '.join(_TASKS)})")
        return problems

    def _joint_problems(self) -> list[str]:
        """The same of several heads."""
        names = [head.name for head in self.heads]
        problems = [] if self.heads else ["missing key 'heads' (what is predicted, a list)"]
        problems += _repeated("heads", names)
        if "" in names:
            problems.append("a head has no name, by which its scores are called")
        problems += [
            f"{name} stands in a head"
            for name in ("label", "classes", "ignore", "targets", "votes")
            if getattr(self, name)
        ]
        if self.metrics and self.metrics != self._told():
            problems.append("metrics stand in each head")
        if self.recipe.loss is not None:
            problems.append("recipe.loss stands in a head (its loss)")
        scores = self._told(every=True)
        for name, parts in self.combinations.items():
            if "." in name or not parts:
                problems.append(f"combination '{name}' (a name without a point, and its parts)")
            problems += [
                f"combination {name}: '{part}' is no score{did_you_mean(part, scores)} (scores:"
                f" {', '.join(scores)})"
                for part in parts
                if part not in scores
            ]
            problems += [
                f"combination {name}: {part} = {factor} (must be a finite number)"
                for part, factor in parts.items()
                if not math.isfinite(factor)
            ]
        return problems

    def _told(self, *, every: bool = False) -> tuple[str, ...]:
        """Scores of heads: those that are reported, with those of single targets if ``every``."""
        found = []
        for head in self.heads:
            for metric in head.scored if every else head.metrics:
                found.append(f"{head.name}.{metric}")
                if every and len(head.targets) > 1:
                    found += [f"{head.name}.{metric}_{target}" for target in head.targets]
        return (*found, *(() if every else self.combinations))

    def _known_metrics(self) -> tuple[str, ...]:
        """Whatever may lead or be reported."""
        if self.task != "joint":
            return known_metrics(self.task) if self.task in METRICS else ()
        lead = [f"{h.name}.{name}" for h in self.heads for name in score_names(h, h.metrics)]
        return (*lead, *self.combinations)

    @property
    def wordless(self) -> Benchmark:
        """What of it decides numbers: without the words about it, and the numbers of others."""
        return dataclasses.replace(self, title="", published=(), licence="", access="")

    @property
    def every_head(self) -> tuple[Head, ...]:
        """What is predicted: the heads, or the one, without a name, of a single task."""
        if self.heads:
            return self.heads
        return (self._only_head,)

    @functools.cached_property
    def _only_head(self) -> Head:
        assert self.task != "joint"
        return Head(
            name="",
            kind=self.task,
            label=self.label,
            classes=self.classes,
            ignore=self.ignore,
            targets=self.targets,
            metrics=self.metrics,
        )

    def of_head(self, head: Head) -> Benchmark | None:
        """The benchmark of one head alone, levels as classes; none of kinds that have none."""
        if not self.heads:
            return self
        if head.kind not in ("classification", "ordinal", "regression"):
            return None
        named: Any = "regression" if head.kind == "regression" else "classification"
        return dataclasses.replace(
            self,
            task=named,
            heads=(),
            combinations={},
            label=head.label,
            classes=head.classes,
            ignore=head.ignore,
            targets=head.targets,
            metrics=tuple(m for m in head.metrics if m in METRICS[named]),
            leading=None,
            recipe=BenchmarkRecipe(),
            published=(),
        )

    @property
    def placed(self) -> list[tuple[Head, slice]]:
        """Each of several heads with the place of its outputs."""
        ends = itertools.accumulate(len(head.names) for head in self.heads)
        return [
            (head, slice(end - len(head.names), end))
            for head, end in zip(self.heads, ends, strict=True)
        ]

    @property
    def num_outputs(self) -> int:
        """Outputs of the network: classes, or real values, of all heads."""
        return sum(len(head.names) for head in self.every_head)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the index that hold the truth."""
        return tuple(dict.fromkeys(c for head in self.every_head for c in head.sources))

    @property
    def disjoint(self) -> tuple[str, ...]:
        """Columns, besides the speaker's, none of whose values may be on both sides of a fold."""
        own = (self.average_over,) if self.average_over else ()
        return tuple(dict.fromkeys((*own, *self.folds.disjoint)))

    @property
    def ranking(self) -> str:
        """The leading metric's name."""
        assert self.leading is not None  # set in __post_init__
        return self.leading


def load_benchmark(name_or_path: str | Path) -> Benchmark:
    """Read a benchmark: a YAML file, or a name out of ``configs/benchmarks/``.

    Raises: FileNotFoundError: no such file. ValueError: one line with every problem in it.
    """
    name = str(name_or_path)
    known = sorted(file.stem for file in (config_root() / "benchmarks").glob("*.yaml"))
    is_name = "/" not in name and not name.endswith((".yaml", ".yml")) and not Path(name).is_file()
    if is_name and name not in known:
        near = did_you_mean(name.lower().replace("-", "_"), known)
        raise FileNotFoundError(
            f"benchmark '{name}': no such benchmark{near} (benchmarks: {', '.join(known)}; or give"
            " a YAML file)"
        )
    path = config_path(f"configs/benchmarks/{name}.yaml" if name in known else name)
    return from_dict(Benchmark, load_yaml(path), str(path))


def _falls(name: str) -> bool:
    """Whether a score, of a head or a target too, is an error: the lower, the better."""
    return name.rpartition(".")[2].partition("_")[0] in FALLING


def _repeated(what: str, names: Sequence[str]) -> list[str]:
    """A complaint if a name stands twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    return [f"{what} names {', '.join(twice)} twice"] if twice else []
