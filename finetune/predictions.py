"""What a run predicted, one line a sample, and nothing else is needed to score it again.

For: ``predictions.jsonl``, written whole or not at all and checked when read. Not for: making
predictions (``finetune/evaluation.py``) or metrics (``finetune/scores.py``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from finetune.benchmark import Benchmark

FILE_NAME = "predictions.jsonl"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One sample, tested once.

    Args:
        key: The sample.
        fold: The fold whose test side it is on.
        speaker: Who speaks, empty if nobody said.
        true: Class name, or the real values in the order and units of the benchmark.
        predicted: The same, predicted.
        probabilities: Of each class, averaged over the views; none for real values.
        views: Of each view, probabilities or real values.
        view_names: Segment and crop of each view (``hicmae.views.ViewGrid``); none where views are
            something else (samples of a recording), and in files of early versions.
        unit: Value of the benchmark's ``average_over`` column; empty where it has none.
        groups: Values of its ``groups`` columns, by name.
    """

    key: str
    fold: str
    speaker: str
    true: str | tuple[float, ...]
    predicted: str | tuple[float, ...]
    probabilities: tuple[float, ...] | None
    views: tuple[tuple[float, ...], ...]
    view_names: tuple[str, ...] = ()
    unit: str = ""
    groups: dict[str, str] = field(default_factory=dict)


def make_prediction(
    benchmark: Benchmark,
    *,
    key: str,
    fold: str,
    speaker: str,
    true: Any,
    views: np.ndarray,
    view_names: Sequence[str] = (),
    unit: str = "",
    groups: Mapping[str, str] = MappingProxyType({}),
) -> Prediction:
    """Average the views of one sample; seven digits are kept, as float32 has.

    Args:
        benchmark: What is predicted.
        key: The sample.
        fold: Of it.
        speaker: Of it.
        true: Class name, or real values (D,).
        views: Probabilities (V, C), or real values (V, D) in the benchmark's units.
        view_names: Of each view.
        unit: Of it.
        groups: Of it.

    Raises: ValueError: an output that is no finite number.
    """
    if not np.isfinite(views).all():
        raise ValueError(
            f"fold {fold}: the network's output for sample '{key}' is no finite number;"
            " the training diverged, lower optimizer.learning_rate or set optimizer.clip_norm"
        )
    mean = _digits(views.mean(axis=0))
    kept_views = tuple(_digits(view) for view in views)
    named = benchmark.task == "classification"
    return Prediction(
        key=key,
        fold=fold,
        speaker=speaker,
        true=str(true) if named else tuple(float(value) for value in true),
        predicted=benchmark.classes[int(np.argmax(mean))] if named else mean,
        probabilities=mean if named else None,
        views=kept_views,
        view_names=tuple(view_names),
        unit=unit,
        groups=dict(groups),
    )


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write predictions as JSON lines, beside the place and then renamed into it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            for item in predictions:
                file.write(
                    json.dumps(prediction_line(item), ensure_ascii=False, allow_nan=False) + "\n"
                )
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read_predictions(path: Path, benchmark: Benchmark) -> list[Prediction]:
    """Read predictions and check that they are of this benchmark, each sample once.

    Raises: FileNotFoundError: no such file. ValueError: a line that is no prediction, a class or
        a number of values that is not the benchmark's, or a sample that stands twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no predictions there; is the run finished?")
    found: list[Prediction] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        where = f"{path} line {number}"
        try:
            item = parse_prediction(json.loads(line), benchmark)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{where}: no prediction of '{benchmark.name}' ({error})") from error
        if item.key in seen:
            raise ValueError(f"{where}: sample '{item.key}' stands in line {seen[item.key]} too")
        seen[item.key] = number
        found.append(item)
    if not found:
        raise ValueError(f"{path}: holds no prediction")
    return found


def true_and_predicted(
    benchmark: Benchmark, predictions: Sequence[Prediction]
) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction as arrays: class numbers (N,) int64, or values (N, D) float64."""
    if benchmark.task == "classification":
        number = {name: index for index, name in enumerate(benchmark.classes)}
        return (
            np.array([number[str(item.true)] for item in predictions], dtype=np.int64),
            np.array([number[str(item.predicted)] for item in predictions], dtype=np.int64),
        )
    return (
        np.array([item.true for item in predictions], dtype=np.float64),
        np.array([item.predicted for item in predictions], dtype=np.float64),
    )


def _digits(values: np.ndarray) -> tuple[float, ...]:
    """Seven significant digits of each value."""
    return tuple(float(f"{value:.7g}") for value in values)


def prediction_line(item: Prediction) -> dict[str, Any]:
    """A prediction's line; classes stand under ``label``, real values under ``target``."""
    named = item.probabilities is not None
    line: dict[str, Any] = {
        "key": item.key,
        "fold": item.fold,
        "speaker": item.speaker,
        "label" if named else "target": item.true,
        "prediction": item.predicted,
    }
    if item.unit:
        line["unit"] = item.unit
    if item.groups:
        line["groups"] = item.groups
    if named:
        line["probabilities"] = item.probabilities
    if item.view_names:
        line["view_names"] = item.view_names
    return line | {"views": item.views}


def parse_prediction(line: dict[str, Any], benchmark: Benchmark) -> Prediction:
    """The prediction that a line holds."""
    named = benchmark.task == "classification"
    true, predicted = line["label" if named else "target"], line["prediction"]
    if named:
        for name in (true, predicted):
            if name not in benchmark.classes:
                raise ValueError(f"class '{name}' is none of {', '.join(benchmark.classes)}")
    if benchmark.average_over and not line.get("unit"):
        raise ValueError(f"no unit, though the benchmark averages over {benchmark.average_over}")
    vectors = [*line["views"], line["probabilities"] if named else predicted]
    if any(len(vector) != benchmark.num_outputs for vector in vectors):
        raise ValueError(f"{benchmark.num_outputs} values are expected for each view")
    names = tuple(map(str, line.get("view_names", ())))
    if names and len(names) != len(line["views"]):
        raise ValueError(f"{len(names)} view_names for {len(line['views'])} views")
    return Prediction(
        key=str(line["key"]),
        fold=str(line["fold"]),
        speaker=str(line["speaker"]),
        true=true if named else tuple(map(float, true)),
        predicted=predicted if named else tuple(map(float, predicted)),
        probabilities=tuple(map(float, line["probabilities"])) if named else None,
        views=tuple(tuple(map(float, view)) for view in line["views"]),
        view_names=names,
        unit=str(line.get("unit", "")),
        groups={str(name): str(value) for name, value in line.get("groups", {}).items()},
    )
