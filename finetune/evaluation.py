"""From a network's outputs, view by view, to one prediction a sample.

For: collecting the outputs of all test views and proving that each sample was seen exactly as
often as it should be. Not for: running the network, or scores.

Deviation: the reference averages the recalls of its processes, samples repeated to fill the last
batches included; here every sample counts exactly once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from finetune.benchmark import Benchmark
from finetune.folds import Fold, as_text, true_values
from finetune.groups import group_columns
from finetune.predictions import Prediction, make_prediction
from hicmae.views import ViewGrid


def predictions_of_fold(
    benchmark: Benchmark, fold: Fold, outputs: Iterable[dict[str, Tensor]], *, num_segments: int
) -> list[Prediction]:
    """Average the views of every test sample.

    Args:
        benchmark: What is predicted.
        fold: Its test rows, in the order in which the loader numbers samples.
        outputs: Of batches, as ``FinetuneModule.predict_step`` gives them.
        num_segments: Views of a sample: clips along time, of the whole picture.

    Returns: one prediction a row, in the order of the rows.
    Raises: ValueError: an output that is no finite number.
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
        groups=group_columns(benchmark, pd.concat([fold.train, fold.test])),
    )


def predictions_of_rows(
    benchmark: Benchmark,
    rows: pd.DataFrame,
    views: np.ndarray,
    *,
    fold: str,
    grid: ViewGrid,
    groups: Sequence[str] = (),
) -> list[Prediction]:
    """Average the views of every sample.

    Args:
        benchmark: What is predicted.
        rows: N rows of an index.
        views: (N, V, C), as ``collect_views`` gives them.
        fold: Name of the fold, in the predictions.
        grid: What the V views are.
        groups: Columns by which scores are broken down.

    Returns: one prediction a row, in the order of the rows.
    Raises: ValueError: an output that is no finite number.
    """
    truth = _truth(benchmark, rows)
    keys = [str(key) for key in rows["key"]]
    speakers = _texts(rows, benchmark.speaker)
    units = _texts(rows, benchmark.average_over)
    cells = {name: _texts(rows, name) for name in groups}
    return [
        make_prediction(
            benchmark,
            key=keys[sample],
            fold=fold,
            speaker=speakers[sample],
            true=truth[sample],
            views=views[sample],
            view_names=grid.names,
            unit=units[sample],
            groups={name: values[sample] for name, values in cells.items()},
        )
        for sample in range(len(rows))
    ]


def collect_views(
    outputs: Iterable[dict[str, Tensor]], *, num_samples: int, num_views: int, num_outputs: int
) -> np.ndarray:
    """Put the outputs of batches into their places.

    Args:
        outputs: ``sample`` (B,), ``view`` (B,) and ``output`` (B, C).
        num_samples: Samples there are.
        num_views: Views of each.
        num_outputs: C.

    Returns: float64 (samples, views, C).
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


def _texts(rows: pd.DataFrame, column: str | None) -> list[str]:
    """The cells of a column as text; empty where there is no such column."""
    if column is None or column not in rows.columns:
        return [""] * len(rows)
    return [as_text(value) for value in rows[column]]


def _truth(benchmark: Benchmark, rows: pd.DataFrame) -> list[str] | np.ndarray:
    """Class names, or real values (N, D)."""
    if benchmark.label:
        return [as_text(value) for value in rows[benchmark.label]]
    return true_values(benchmark, rows)
