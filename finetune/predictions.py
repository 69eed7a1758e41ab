"""What a run predicted, one line a sample, and nothing else is needed to score it again.

From a network's outputs, view by view, to one prediction a sample, with proof that each was seen
exactly as often as it should be; and ``predictions.jsonl``, checked when it is read.

Deviation: the reference averages the recalls of its processes, samples repeated to fill the last
batches included; here every sample counts exactly once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from finetune.benchmark import Benchmark
from finetune.folds import Fold, as_text, group_columns
from finetune.heads import Head, chosen, digits, parsed, read_truth, truth_of
from hicmae.files import text_of, whole_file
from hicmae.heads import Thresholds
from hicmae.settings import InputConfig
from hicmae.views import ViewGrid, first_equal_segments
from shards.reading.random_access import WINDOW

if TYPE_CHECKING:
    from torch import Tensor

FILE_NAME = "predictions.jsonl"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One sample, tested once.

    Args:
        fold: The fold whose test side it is on.
        speaker: Who speaks, empty if nobody said.
        true: Class name, or the real values in the order and units of the benchmark; of several
            heads nothing; in one of those, nothing too where nobody has labelled the sample.
        probabilities: Of each class, averaged over the views; none for real values.
        views: Of each view, probabilities or real values.
        view_names: Segment and crop of each view (``hicmae.views.ViewGrid``); none where views are
            something else (samples of a recording), and in files of early versions.
        unit: Value of the benchmark's ``average_over`` column; empty where it has none.
        groups: Values of its ``groups`` columns, by name.
        heads: Joint: what each head says, by its name. Of several classes at once, truth and
            prediction are zeros and ones; of shares, the shares.
        thresholds: Of several classes at once: the least probability at which each is named; of
            shares that name blends, those of ``hicmae.heads``.
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
    heads: dict[str, Prediction] = field(default_factory=dict)
    thresholds: tuple[float, ...] = ()

    @property
    def outputs(self) -> tuple[float, ...]:
        """The mean over the views: probabilities, or real values, those of all heads in a row."""
        if self.heads:
            return tuple(value for item in self.heads.values() for value in item.outputs)
        if self.probabilities is not None:
            return self.probabilities
        assert isinstance(self.predicted, tuple)
        return self.predicted

    @property
    def limits(self) -> dict[str, tuple[float, ...]]:
        """Thresholds of the heads that have some."""
        return {name: item.thresholds for name, item in self.heads.items() if item.thresholds}

    @property
    def truths(self) -> Any:
        """What is true, of each head."""
        return {name: item.true for name, item in self.heads.items()} or self.true


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
    thresholds: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> Prediction:
    """Average the views of one sample; seven digits are kept, as float32 has.

    Args:
        views: Probabilities (V, C), or real values (V, D) in the benchmark's units.
        true: As of ``Prediction``; of several heads, by their names.

    Raises: ValueError: an output that is no finite number.
    """
    if not np.isfinite(views).all():
        raise ValueError(
            f"fold {fold}: the network's output for sample '{key}' is no finite number;"
            " the training diverged, lower optimizer.learning_rate or set optimizer.clip_norm"
        )
    about: dict[str, Any] = {
        "key": key,
        "fold": fold,
        "speaker": speaker,
        "view_names": tuple(view_names),
        "unit": unit,
        "groups": dict(groups),
    }
    kept_views = tuple(digits(view) for view in views)
    whole = views.mean(axis=0)  # (C,)
    if not benchmark.heads:
        true = str(true) if benchmark.task == "classification" else tuple(map(float, true))

    def said(head: Head, place: slice) -> dict[str, Any]:
        own = digits(whole[place])
        limits = head.labels(thresholds.get(head.name, ())).thresholds
        return {
            "true": true[head.name] if benchmark.heads else true,
            "predicted": chosen(head, np.array(own), limits),
            "probabilities": None if head.kind == "regression" else own,
            "thresholds": limits,
        }

    return _joint(benchmark, about, kept_views, said)


def predictions_of_fold(
    benchmark: Benchmark,
    fold: Fold,
    outputs: Iterable[dict[str, Tensor]],
    *,
    num_segments: int,
    clip: InputConfig,
    thresholds: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> list[Prediction]:
    """Average the views of every test sample, as ``predictions_of_rows`` does.

    Args:
        fold: Its test rows, in the order in which the loader numbers samples.
        outputs: Of batches, as ``FinetuneModule.predict_step`` gives them.
        num_segments: Views of a sample: clips along time, of the whole picture.
    """
    views = collect_views(
        outputs,
        num_samples=len(fold.test),
        num_views=num_segments,
        num_outputs=benchmark.num_outputs,
    )
    return predictions_of_rows(
        benchmark,
        fold.test,
        views,
        fold=fold.name,
        grid=ViewGrid(segments=num_segments),
        equal=equal_segments(fold.test, clip, num_segments),
        groups=group_columns(benchmark, pd.concat([fold.train, fold.test])),
        thresholds=thresholds,
    )


def predictions_of_rows(
    benchmark: Benchmark,
    rows: pd.DataFrame,
    views: np.ndarray,
    *,
    fold: str,
    grid: ViewGrid,
    equal: Sequence[list[int]],
    groups: Sequence[str] = (),
    thresholds: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> list[Prediction]:
    """Average the views of every sample, each clip once.

    Args:
        views: (N, V, C) of the N rows, as ``collect_views`` gives them.
        grid: What the V views are.
        equal: Which of them are the same clip, as ``equal_segments`` gives it; such a view is kept
            once.
        groups: Columns by which scores are broken down.

    Returns: one prediction a row, in the order of the rows.
    Raises: ValueError: an output that is no finite number.
    """
    truth: Any
    if benchmark.heads:
        truth = _joint_truth(benchmark, rows)
    elif benchmark.task == "classification":
        truth = _texts(rows, benchmark.label)
    else:
        truth = rows[list(benchmark.targets)].apply(pd.to_numeric).to_numpy(dtype=np.float64)
    keys = [str(key) for key in rows["key"]]
    speakers = _texts(rows, benchmark.speaker)
    units = _texts(rows, benchmark.average_over)
    cells = {name: _texts(rows, name) for name in groups}
    differing = [grid.differing(firsts) for firsts in equal]
    return [
        make_prediction(
            benchmark,
            key=keys[sample],
            fold=fold,
            speaker=speakers[sample],
            true=truth[sample],
            views=views[sample, differing[sample]],
            view_names=[grid.names[view] for view in differing[sample]],
            unit=units[sample],
            groups={name: values[sample] for name, values in cells.items()},
            thresholds=thresholds,
        )
        for sample in range(len(rows))
    ]


def equal_segments(rows: pd.DataFrame, clip: InputConfig, segments: int) -> list[list[int]]:
    """For each sample, for each of its segments, the first one that is the same clip."""
    lengths = rows[WINDOW if WINDOW in rows else "num_frames"]
    return [first_equal_segments(int(n), clip, segments) for n in lengths]


def collect_views(
    outputs: Iterable[dict[str, Tensor]], *, num_samples: int, num_views: int, num_outputs: int
) -> np.ndarray:
    """Put the outputs of batches into their places.

    Args:
        outputs: ``sample`` (B,), ``view`` (B,) and ``output`` (B, C).
        num_samples, num_views, num_outputs: S, V and C.

    Returns: float64 (S, V, C).
    Raises: AssertionError: a view that came twice, or did not come.
    """
    collected = np.zeros((num_samples, num_views, num_outputs))
    times = np.zeros((num_samples, num_views), dtype=np.int64)
    for batch in outputs:
        place = (batch["sample"].cpu().numpy(), batch["view"].cpu().numpy())
        np.add.at(times, place, 1)
        collected[place] = batch["output"].double().cpu().numpy()
    assert (times == 1).all(), f"views seen {times.min()} to {times.max()} times instead of once"
    return collected


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write predictions as JSON lines, whole or not at all."""
    with whole_file(path, sync=True) as beside, beside.open("w", encoding="utf-8") as file:
        for item in predictions:
            line = json.dumps(prediction_line(item), ensure_ascii=False, allow_nan=False)
            file.write(line + "\n")


def read_predictions(path: Path, benchmark: Benchmark) -> list[Prediction]:
    """Read predictions and check that they are of this benchmark, each sample once.

    Raises: FileNotFoundError: no such file. ValueError: a line that is no prediction, a class or
        a number of values that is not the benchmark's, or a sample that stands twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no predictions there; is the run finished?")
    found: list[Prediction] = []
    seen: dict[str, int] = {}
    # A name may hold what else ``str.splitlines`` takes for the end of a line.
    lines = text_of(path).removesuffix("\n").split("\n")
    for number, line in enumerate(lines if lines != [""] else [], start=1):
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
    (head,) = benchmark.every_head
    return head_arrays(head, predictions)


def of_head(head: Head, predictions: Sequence[Prediction]) -> list[Prediction]:
    """What one head says of the samples that have its label."""
    if not head.name:
        return list(predictions)
    found = (item.heads[head.name] for item in predictions)
    return [item for item in found if item.true]


def head_arrays(head: Head, predictions: Sequence[Prediction]) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction of one head, of samples that have its label.

    Returns: numbers of classes or levels (N,) int64, or numbers (N, K) float64: zeros and ones,
        shares, or real values.
    """
    true = [item.true for item in predictions]
    predicted = [item.predicted for item in predictions]
    if head.kind in ("classification", "ordinal"):
        classes = pd.Index(head.classes)
        return classes.get_indexer(pd.Index(true)), classes.get_indexer(pd.Index(predicted))
    return np.array(true, dtype=np.float64), np.array(predicted, dtype=np.float64)


def named_shares(head: Head, units: Sequence[Prediction]) -> np.ndarray:
    """The blends (N, K) that a head of shares names, of each unit at its own thresholds."""
    thresholds = np.array([item.thresholds for item in units], dtype=np.float64)
    shares = np.array([item.predicted for item in units], dtype=np.float64)
    return head.labels().blends(shares, Thresholds(*thresholds.T))


def prediction_line(item: Prediction) -> dict[str, Any]:
    """A prediction's line; classes stand under ``label``, real values under ``target``."""
    named = item.probabilities is not None
    line: dict[str, Any] = {
        "key": item.key,
        "fold": item.fold,
        "speaker": item.speaker,
    }
    if not item.heads:
        line |= {"label" if named else "target": item.true, "prediction": item.predicted}
    if item.unit:
        line["unit"] = item.unit
    if item.groups:
        line["groups"] = item.groups
    if named:
        line["probabilities"] = item.probabilities
    if item.heads:
        line["heads"] = {}
        for name, own in item.heads.items():
            told: dict[str, Any] = {"truth": own.true or None, "prediction": own.predicted}
            if own.probabilities is not None:
                told["probabilities"] = own.probabilities
            if own.thresholds:
                told["thresholds"] = own.thresholds
            line["heads"][name] = told
    if item.view_names:
        line["view_names"] = item.view_names
    return line | {"views": item.views}


def parse_prediction(line: dict[str, Any], benchmark: Benchmark) -> Prediction:
    """The prediction that a line holds.

    Raises: KeyError, TypeError, ValueError: it holds none of this benchmark.
    """
    if benchmark.heads and set(line["heads"]) != {head.name for head in benchmark.heads}:
        raise ValueError(f"heads {', '.join(line['heads'])} are not those of the benchmark")
    if benchmark.average_over and not line.get("unit"):
        raise ValueError(f"no unit, though the benchmark averages over {benchmark.average_over}")
    views = tuple(tuple(map(float, view)) for view in line["views"])
    if any(len(view) != benchmark.num_outputs for view in views):
        raise ValueError(f"{benchmark.num_outputs} values are expected for each view")
    names = tuple(map(str, line.get("view_names", ())))
    if names and len(names) != len(views):
        raise ValueError(f"{len(names)} view_names for {len(views)} views")
    about: dict[str, Any] = {
        "key": str(line["key"]),
        "fold": str(line["fold"]),
        "speaker": str(line["speaker"]),
        "view_names": names,
        "unit": str(line.get("unit", "")),
        "groups": {str(name): str(value) for name, value in line.get("groups", {}).items()},
    }

    def said(head: Head, place: slice) -> dict[str, Any]:
        own = line["heads"][head.name] if head.name else line
        is_real = head.kind == "regression"
        truth = own["truth" if head.name else "target" if is_real else "label"]
        values = own["prediction" if is_real else "probabilities"]
        if len(values) != len(head.names):
            raise ValueError(f"{head.where}{len(head.names)} values are expected")
        return {
            "true": () if head.name and truth is None else parsed(head, truth),
            "predicted": parsed(head, own["prediction"]),
            "probabilities": None if is_real else tuple(map(float, values)),
            "thresholds": tuple(map(float, own.get("thresholds", ()))),
        }

    return _joint(benchmark, about, views, said)


def _joint_truth(benchmark: Benchmark, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """What is true of each row, by head; nothing where nobody says."""
    found: list[dict[str, Any]] = [{} for _ in range(len(rows))]
    for head in benchmark.heads:
        truth, known = read_truth(head, rows)
        for place, item in enumerate(found):
            item[head.name] = truth_of(head, truth[place]) if known[place] else ()
    return found


def _joint(
    benchmark: Benchmark,
    about: dict[str, Any],
    views: tuple[tuple[float, ...], ...],
    said: Callable[[Head, slice], dict[str, Any]],
) -> Prediction:
    """The prediction of all heads; ``said`` is what one says at the place of its outputs."""
    if not benchmark.heads:
        return Prediction(views=views, **said(benchmark.every_head[0], slice(None)), **about)
    heads = {
        head.name: Prediction(
            views=tuple(view[place] for view in views), **said(head, place), **about
        )
        for head, place in benchmark.placed
    }
    return Prediction(true=(), predicted=(), probabilities=None, views=views, heads=heads, **about)


def _texts(rows: pd.DataFrame, column: str | None) -> list[str]:
    """The cells of a column as text; empty where there is no such column."""
    if column is None or column not in rows.columns:
        return [""] * len(rows)
    return [as_text(value) for value in rows[column]]
