"""What a report says of labels over time: both kinds of CCC, and what the training side decided."""

from __future__ import annotations

import numpy as np

from finetune.over_time import per_recording, recording_scores
from finetune.record import Run
from finetune.reporting.document import Part, Section, Table, number
from finetune.scores import metric_name

_SHOWN = 40  # recordings


def over_time_section(run: Run) -> Section | None:
    """CCC pooled over instants and per recording; nothing of a benchmark that is not over time."""
    if run.benchmark.over_time is None:
        return None
    each, mark = recording_scores(run.benchmark, run.predictions), run.facts.mark
    means = per_recording(run.benchmark, run.predictions)
    names = list(means)
    undefined = sum(not np.isfinite(values["ccc"]) for values in each.values())
    pooled = [mark(number(run.scores.pooled.get(name, float("nan")))) for name in names]
    rows = [
        [f"pooled over {len(run.predictions)} instants", *pooled],
        [f"per recording, mean of {len(each)}", *(mark(number(means[name])) for name in names)],
    ]
    parts: list[Part] = [
        "CCC pooled is of all instants together, so differences between recordings count; CCC per"
        " recording is the mean of what each reaches alone, so changes over time count alone.",
        Table(columns=["", *map(metric_name, names)], rows=rows),
    ]
    if undefined:
        parts.append(f"{undefined} recordings have constant labels, and no CCC of their own.")
    shown = [
        [recording, *(mark(number(values[name])) for name in names)]
        for recording, values in sorted(each.items(), key=lambda item: item[1]["ccc"])[:_SHOWN]
    ]
    which = "" if len(shown) == len(each) else f" (the {len(shown)} with the lowest)"
    parts += [
        f"CCC per recording{which}:",
        Table(columns=["recording", *map(metric_name, names)], rows=shown),
        "Decided on the training side of each fold:",
        Table(columns=["fold", "what", "of", "value"], rows=_decided(run)),
    ]
    return Section(title="Over time", parts=parts)


def _decided(run: Run) -> list[list[str]]:
    """Lags, weights and windows, one a row."""
    rows = []
    for fold in run.folds:
        told = fold.over_time
        rows += [
            [fold.name, "lag", who, f"{lag:.2f} s"] for who, lag in told.get("lags", {}).items()
        ]
        rows += [
            [fold.name, f"weight in {target}", who, f"{weight:.3f}"]
            for target, weights in told.get("weights", {}).items()
            for who, weight in weights.items()
        ]
        rows += [
            [fold.name, f"{metric_name(name)} of the shared network", "test side", number(value)]
            for name, value in told.get("shared", {}).items()
        ]
        rows.append(
            [fold.name, "smoothing", "predictions", f"{told.get('smoothing_seconds', 0.0):g} s"]
        )
    return rows
