"""What a report says of predicted real values: against the truth, by its range, and over time.

Bias and error in ranges of the truth show what a correlation hides (everybody is put into the
middle).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.over_time import per_recording, recording_scores
from finetune.predictions import true_and_predicted
from finetune.record import Run, RunFacts
from finetune.reporting import document as doc
from finetune.scores import metric_name

# Ranges of the truth, each with about as many samples; fewer where values repeat.
NUM_RANGES = 5
# So few different truths are steps of a scale, and each is a range of its own.
_MAX_STEPS = 9
# More points than this hide each other; they are counted in hexagons.
_MANY_POINTS = 2000
_SHOWN = 40  # recordings


def value_sections(run: Run, figures: Path, title: str) -> list[doc.Section]:
    """Predicted against true, and error by where the truth lies."""
    true, predicted = true_and_predicted(run.benchmark, run.units)
    scatter, ranges = figures / "predicted_against_true.png", figures / "error_by_range.png"
    scatter_figure(run, true, predicted, scatter, title=title)
    by_target = {
        target: errors_by_range(true[:, place], predicted[:, place])
        for place, target in enumerate(run.benchmark.targets)
    }
    range_figure(by_target, ranges, title=title)
    return [
        doc.Section(
            title="Predicted against true",
            parts=[doc.Picture(path=scatter, caption="Predicted against true values")],
        ),
        doc.Section(
            title="Error by range",
            parts=[
                f"Ranges of the true value with about as many samples each (selection:"
                f" {run.facts.rule}). A bias that falls from the lowest range to the highest means"
                " that predictions are drawn to the middle.",
                doc.Picture(path=ranges, caption="Bias and error by range of the true value"),
                *(range_table(target, found, run.facts) for target, found in by_target.items()),
            ],
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class RangeError:
    """Errors of the samples whose truth lies between ``low`` and ``high``.

    Args:
        bias: Mean of predicted minus true.
        rmse: Root of the mean square of it.
    """

    low: float
    high: float
    count: int
    bias: float
    rmse: float

    @property
    def name(self) -> str:
        """The range as text."""
        low, high = (doc.short(value) for value in (self.low, self.high))
        return low if self.low == self.high else f"{low} to {high}"


def errors_by_range(true: np.ndarray, predicted: np.ndarray) -> list[RangeError]:
    """Bias and error in ranges of the truth (N,).

    Returns: ranges in ascending order; together they hold every sample once.
    """
    steps = np.unique(true)
    if len(steps) <= _MAX_STEPS:
        places = np.searchsorted(steps, true)
    else:
        inner = np.quantile(true, np.linspace(0, 1, NUM_RANGES + 1)[1:-1])
        places = np.searchsorted(np.unique(inner), true, side="left")
    found = []
    for place in np.unique(places):
        own = places == place
        error = predicted[own] - true[own]
        found.append(
            RangeError(
                low=float(true[own].min()),
                high=float(true[own].max()),
                count=int(own.sum()),
                bias=float(error.mean()),
                rmse=float(np.sqrt((error**2).mean())),
            )
        )
    return found


def range_table(target: str, ranges: list[RangeError], facts: RunFacts) -> doc.Table:
    """One row a range."""
    rows = [
        [
            item.name,
            str(item.count),
            facts.mark(doc.short(item.bias, "+")),
            facts.mark(doc.short(item.rmse)),
        ]
        for item in ranges
    ]
    heads = [doc.measured(name, facts.rule) for name in ("bias (predicted minus true)", "RMSE")]
    return doc.Table(columns=[f"true {target}", "samples", *heads], rows=rows)


def scatter_figure(
    run: Run, true: np.ndarray, predicted: np.ndarray, path: Path, *, title: str
) -> None:
    """Draw predicted against true (N, D), a panel a target, with the line of perfect prediction."""
    panels = len(run.benchmark.targets)
    many = len(true) > _MANY_POINTS
    figure = doc.make_figure((4.9 if many else 4.3) * panels + 0.4, 4.6, title)
    for panel, target in enumerate(run.benchmark.targets):
        axes = figure.add_subplot(1, panels, panel + 1)
        x, y = true[:, panel], predicted[:, panel]
        ends = [min(x.min(), y.min()), max(x.max(), y.max())]
        if many:
            cells = axes.hexbin(
                x, y, gridsize=40, mincnt=1, bins="log", cmap="viridis_r", linewidths=0
            )
            figure.colorbar(cells, ax=axes, label="samples", fraction=0.046)
        else:
            axes.scatter(x, y, s=22, alpha=0.55, color=doc.BLUE, edgecolors="none")
        axes.plot(ends, ends, color=doc.GREY, linewidth=1, linestyle="--", label="predicted = true")
        ccc = run.scores.pooled.get(f"ccc_{target}", run.scores.pooled.get("ccc"))
        axes.set_title(target if ccc is None else f"{target} (CCC {doc.number(ccc)})", fontsize=11)
        axes.set_xlabel(f"true {target}")
        axes.set_ylabel(f"predicted {target}")
        axes.set_aspect("equal", adjustable="datalim")
        axes.legend(fontsize=9, loc="upper left", frameon=False)
        doc.plain(axes)
    doc.save(figure, path)


def range_figure(by_target: Mapping[str, Sequence[RangeError]], path: Path, *, title: str) -> None:
    """Draw bias and error in ranges of the truth, one panel a target."""
    figure = doc.make_figure(4.9 * len(by_target) + 0.4, 4.2, title)
    panels = figure.subplots(1, len(by_target), squeeze=False)[0]
    for axes, (target, ranges) in zip(panels, by_target.items(), strict=True):
        places = np.arange(len(ranges))
        axes.bar(
            places - 0.2,
            [item.bias for item in ranges],
            width=0.38,
            color=doc.BLUE,
            label="bias (predicted minus true)",
        )
        axes.bar(
            places + 0.2, [item.rmse for item in ranges], width=0.38, color=doc.ORANGE, label="RMSE"
        )
        axes.axhline(0, color=doc.GREY, linewidth=1)
        names = [
            "\n".join((item.name.replace(" to ", "\nto "), f"n={item.count}")) for item in ranges
        ]
        axes.set_xticks(places, names, fontsize=8)
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.25 * (high - low))  # room for the legend
        axes.set_xlabel(f"true {target}")
        axes.set_ylabel("error")
        axes.set_title(target, fontsize=11)
        axes.legend(fontsize=8, loc="upper right", ncols=2, frameon=False)
        doc.plain(axes)
    doc.save(figure, path)


def lowest_first(each: Mapping[str, dict[str, float]]) -> list[tuple[str, dict[str, float]]]:
    """Recordings with their scores by CCC, the lowest first and those without one last."""
    return sorted(each.items(), key=lambda item: np.nan_to_num(item[1]["ccc"], nan=np.inf))


def over_time_section(run: Run) -> doc.Section | None:
    """CCC pooled over instants and per recording; nothing of a benchmark that is not over time."""
    if run.benchmark.over_time is None:
        return None
    each, mark = recording_scores(run.benchmark, run.predictions), run.facts.mark
    means = per_recording(run.benchmark, run.predictions)
    names = list(means)
    undefined = sum(not np.isfinite(values["ccc"]) for values in each.values())
    pooled = [mark(doc.number(run.scores.pooled.get(name, float("nan")), name)) for name in names]
    rows = [
        [f"pooled over {len(run.predictions)} instants", *pooled],
        [
            f"per recording, mean of {len(each) - undefined}",
            *(mark(doc.number(means[name], name)) for name in names),
        ],
    ]
    parts: list[doc.Part] = [
        "CCC pooled is of all instants together, so differences between recordings count; CCC per"
        " recording is the mean of what each reaches alone, so changes over time count alone.",
        doc.Table(columns=["", *map(metric_name, names)], rows=rows),
    ]
    if undefined:
        parts.append(f"Recordings with constant labels, which have no CCC: {undefined}.")
    shown = [
        [recording, *(mark(doc.number(values[name], name)) for name in names)]
        for recording, values in lowest_first(each)[:_SHOWN]
    ]
    which = "" if len(shown) == len(each) else f" (the {len(shown)} with the lowest)"
    parts += [
        f"CCC per recording{which}:",
        doc.Table(columns=["recording", *map(metric_name, names)], rows=shown),
        "Decided on the training side of each fold:",
        doc.Table(columns=["fold", "what", "of", "value"], rows=_decided(run)),
    ]
    return doc.Section(title="Over time", parts=parts)


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
            [
                fold.name,
                f"{metric_name(name)} of the shared network",
                "test side",
                doc.number(value, name),
            ]
            for name, value in told.get("shared", {}).items()
        ]
        rows.append(
            [fold.name, "smoothing", "predictions", f"{told.get('smoothing_seconds', 0.0):g} s"]
        )
    return rows
