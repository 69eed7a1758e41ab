"""How much each modality matters, computed from the predictions of spoiled samples alone.

For: scores of every condition, their loss against unspoiled samples, overall and class by class.
Not for: spoiling and predicting (``modalities.py``) or showing (``modality_page.py``).

Importance is what is lost when a modality is that of another sample: its information is gone, while
everything else about the input stays as it was. Source: permutation importance, Breiman, 2001,
Random Forests, section 10.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.benchmark import Benchmark
from finetune.evaluating.perturbations import SPOILS, UNSPOILED, Condition
from finetune.facts import RunFacts
from finetune.predictions import Prediction, parse_prediction, true_and_predicted
from finetune.record import BENCHMARK
from finetune.reporting.tables import Table, number, spread
from finetune.scores import Values, metric_name, score_units
from finetune.units import scored_units
from hicmae.config import load_yaml
from hicmae.plain import from_dict

LINES = "predictions.jsonl"


@dataclass(frozen=True, kw_only=True)
class SpoiledPrediction:
    """What a network said of one spoiled sample."""

    condition: Condition
    prediction: Prediction


@dataclass(frozen=True, kw_only=True)
class Spoiled:
    """Scores in one kind and level of condition, over its permutations.

    Args:
        condition: Without its repeat.
        scores: Metrics of each permutation, one where nothing is drawn; pooled over folds.
        recalls: Recall of each class of each permutation; empty for real values.
        losses: Leading metric of unspoiled samples minus that of each permutation.
        recall_losses: The same of each class.
    """

    condition: Condition
    scores: tuple[Values, ...]
    recalls: tuple[Values, ...]
    losses: tuple[float, ...]
    recall_losses: tuple[Values, ...]

    def mean_and_sd(self, metric: str) -> tuple[float, float]:
        """Of a metric over permutations."""
        return mean_and_sd([values[metric] for values in self.scores])

    def recall_loss(self, name: str) -> tuple[float, float]:
        """Of a class's loss over permutations."""
        return mean_and_sd([values[name] for values in self.recall_losses])


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Scores in every condition, the unspoiled one first.

    Args:
        benchmark: What is predicted.
        conditions: In the order of the file.
    """

    benchmark: Benchmark
    conditions: tuple[Spoiled, ...]

    def of(self, kind: str) -> list[Spoiled]:
        """The levels of a kind."""
        return [item for item in self.conditions if item.condition.kind == kind]


def read_spoiled(folder: Path) -> Importance:
    """Read the predictions of every condition and score them.

    Raises: FileNotFoundError: no such file. ValueError: a line that is no prediction; a condition
        that lacks a sample or has one twice.
    """
    path = folder / LINES
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no predictions of spoiled samples there")
    benchmark = from_dict(Benchmark, load_yaml(folder / BENCHMARK), str(folder / BENCHMARK))
    found: dict[Condition, dict[str, Prediction]] = {}
    with path.open(encoding="utf-8") as file:
        for place, text in enumerate(file, start=1):
            try:
                line = json.loads(text)
                level = line["level"]
                condition = Condition(
                    kind=line["condition"],
                    level=None if level is None else float(level),
                    repeat=int(line["repeat"]),
                )
                if condition.kind not in SPOILS:
                    raise ValueError(f"condition '{condition.kind}' is none of {', '.join(SPOILS)}")
                item = parse_prediction(line, benchmark)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path} line {place}: no prediction ({error})") from error
            # The networks of several folds may have tested the same samples (another corpus).
            members = found.setdefault(condition, {})
            name = f"{item.fold}\n{item.key}"
            if name in members:
                raise ValueError(f"{path} line {place}: sample '{item.key}' stands twice")
            members[name] = item
    plain = Condition(kind=UNSPOILED)
    if plain not in found:
        raise ValueError(f"{path}: holds no unspoiled sample")
    for condition, members in found.items():
        if members.keys() != found[plain].keys():
            raise ValueError(f"{path}: '{condition.name}' is not of all samples; make it again")
    return make_importance(
        benchmark, {key: list(members.values()) for key, members in found.items()}
    )


def make_importance(
    benchmark: Benchmark, predictions: dict[Condition, list[Prediction]]
) -> Importance:
    """Score every condition.

    Args:
        benchmark: What is predicted.
        predictions: Of the same samples in each condition; an unspoiled one is among them.
    """
    values = {condition: _score(benchmark, items) for condition, items in predictions.items()}
    plain, plain_recalls = values[Condition(kind=UNSPOILED)]
    leading = benchmark.ranking
    members: dict[tuple[str, float | None], list[Condition]] = {}
    for condition in predictions:
        members.setdefault((condition.kind, condition.level), []).append(condition)
    made = []
    for (kind, level), repeats in members.items():
        repeats.sort(key=lambda condition: condition.repeat)
        scores = [values[condition][0] for condition in repeats]
        recalls = [values[condition][1] for condition in repeats]
        made.append(
            Spoiled(
                condition=Condition(kind=kind, level=level),
                scores=tuple(scores),
                recalls=tuple(recalls),
                losses=tuple(plain[leading] - one[leading] for one in scores),
                recall_losses=tuple(
                    {name: plain_recalls[name] - one[name] for name in one} for one in recalls
                ),
            )
        )
    order = list(SPOILS)
    made.sort(key=lambda item: order.index(item.condition.kind))
    return Importance(benchmark=benchmark, conditions=tuple(made))


def importance_table(importance: Importance, facts: RunFacts) -> Table:
    """One row a condition: every metric, and what the leading one lost."""
    metrics = list(importance.conditions[0].scores[0])
    rows = [
        [
            item.condition.name,
            *(facts.mark(spread(*item.mean_and_sd(metric))) for metric in metrics),
            ""
            if item.condition.kind == UNSPOILED
            else facts.mark(spread(*mean_and_sd(item.losses))),
        ]
        for item in importance.conditions
    ]
    lost = f"lost {metric_name(importance.benchmark.ranking)}"
    return Table(
        columns=[f"selection: {facts.rule}", *map(metric_name, metrics), lost],
        rows=rows,
        title=f"{facts.benchmark}, {facts.modalities}",
    )


def class_table(importance: Importance, facts: RunFacts) -> Table:
    """One row a condition: the recall of every class."""
    names = list(importance.conditions[0].recalls[0])
    rows = [
        [
            item.condition.name,
            *(
                facts.mark(spread(*mean_and_sd([one[name] for one in item.recalls])))
                for name in names
            ),
        ]
        for item in importance.conditions
    ]
    return Table(columns=[f"recall (selection: {facts.rule})", *names], rows=rows)


def class_importance_table(importance: Importance, facts: RunFacts) -> Table:
    """One row a class: what it loses when one modality is another sample's."""
    swaps = importance.of("sound-swapped") + importance.of("picture-swapped")
    plain = importance.of(UNSPOILED)[0].recalls[0]
    rows = [
        [
            name,
            facts.mark(number(plain[name])),
            *(facts.mark(spread(*swap.recall_loss(name))) for swap in swaps),
        ]
        for name in plain
    ]
    heads = {"sound-swapped": "sound matters", "picture-swapped": "picture matters"}
    return Table(
        columns=["class", "recall", *(heads[swap.condition.kind] for swap in swaps)], rows=rows
    )


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample deviation; the latter is not-a-number of a single value."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return float(np.mean(values)), sd


def _score(benchmark: Benchmark, predictions: Sequence[Prediction]) -> tuple[Values, Values]:
    """Metrics, and the recall of each class that occurs."""
    units = scored_units(benchmark, predictions)
    values = score_units(benchmark, units)
    if benchmark.task == "regression":
        return values, {}
    true, predicted = true_and_predicted(benchmark, units)
    return values, {
        name: float(np.mean(predicted[true == place] == place))
        for place, name in enumerate(benchmark.classes)
        if (true == place).any()
    }
