"""What a report says of predicted classes: confusion, recall, calibration, and of not answering.

Source of the calibration: Guo et al., 2017, On Calibration of Modern Neural Networks: equal bins of
the highest probability; the error is the gap between probability and accuracy, averaged over
samples. Source of the share of wrong answers against the share of answers: Geifman and El-Yaniv,
2017, Selective Classification for Deep Neural Networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any

import numpy as np
from scipy.integrate import trapezoid

from finetune.benchmark import Benchmark
from finetune.predictions import Prediction, true_and_predicted
from finetune.record import Run, RunFacts
from finetune.reporting import document as doc
from finetune.reporting.breakdown import unit_name
from finetune.reporting.resampling import class_intervals
from finetune.scores import scored_units
from finetune.validation import calibrated
from hicmae.metrics import confusion_matrix

NUM_BINS = 15
# More classes than this are drawn in small cells that have no room for counts.
_FEW_CLASSES = 14
_MOST_INCHES = 32.0  # of all cells: 118 classes that can be read, and more without their names
SHARES = (1.0, 0.9, 0.8, 0.6, 0.4, 0.2)


def class_sections(run: Run, figures: Path, title: str) -> list[doc.Section]:
    """Confusion, recall and calibration of a run."""
    counts = run_counts(run)
    confusion, recall = figures / "confusion.png", figures / "recall.png"
    confusion_figure(run.benchmark, counts, confusion, title=title)
    sure = class_intervals(run.benchmark, run.units)
    recall_figure(run.benchmark, counts, sure, recall, title=title)
    return [
        doc.Section(
            title="Classes",
            parts=[
                "Recall: how many of a class were found; their mean is the UAR. Precision: how many"
                " that were called so are so. 95 %: of the recall, bootstrap by"
                f" {run.intervals.by}.",
                _class_table(run, counts, sure),
                doc.Picture(path=recall, caption="Recall of each class"),
                doc.Picture(path=confusion, caption="Confusion matrix"),
            ],
        ),
        _calibration(run, figures, title),
    ]


def run_counts(run: Run) -> np.ndarray:
    """Confusion matrix of a run, int64 (C, C): true class by predicted class."""
    true, predicted = true_and_predicted(run.benchmark, run.units)
    return confusion_matrix(true, predicted, len(run.benchmark.classes))


def absent_classes(run: Run) -> list[str]:
    """Sentences about folds that test no sample of a class, and what their scores then mean."""
    if not run.benchmark.label:
        return []
    sentences = []
    for fold in run.scores.folds:
        seen = {item.true for item in run.units if item.fold == fold}
        absent = [doc.literal(name) for name in run.benchmark.classes if name not in seen]
        if absent:
            sentences.append(
                f"Fold {fold} tests no sample of {', '.join(absent)}: its UAR is the mean over the"
                " classes it tests."
            )
    return sentences


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How probabilities and accuracy go together.

    Args:
        edges: (bins + 1,) of the highest probability.
        counts: (bins,) samples.
        confidence: (bins,) their mean highest probability; not-a-number in an empty bin.
        accuracy: (bins,) share of them that is right; the same.
        expected_error: Gap between both, averaged over samples.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    mean_confidence: float
    mean_accuracy: float
    expected_error: float
    largest_error: float

    def verdict(self, facts: RunFacts) -> str:
        """Too sure, or not sure enough, as a sentence with the run's mark on its numbers."""
        gap = self.mean_confidence - self.mean_accuracy
        sure, right, by = (
            facts.mark(doc.number(value))
            for value in (self.mean_confidence, self.mean_accuracy, abs(gap))
        )
        verdict = f"{'too sure of itself' if gap > 0 else 'not sure enough of itself'} by {by}"
        if doc.number(abs(gap)) == doc.number(0):
            verdict = "as sure of itself as it may be"
        return (
            f"On average the network gives its choice a probability of {sure} and is right in"
            f" {right} of the cases: {verdict}."
        )


def calibrate(benchmark: Benchmark, units: Sequence[Prediction]) -> Calibration:
    """Compare the highest probability of each unit with whether it was right."""
    sure, wrong = confidence(benchmark, units)
    edges = np.linspace(0, 1, NUM_BINS + 1)
    # A probability of 1 is in the last bin (torchmetrics 1.9 has one bin more for it, so that its
    # errors are not of the bins that are drawn), one on an edge in the bin above it.
    places = np.clip(np.searchsorted(edges, sure, side="right") - 1, 0, NUM_BINS - 1)
    counts = np.bincount(places, minlength=NUM_BINS)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(places, weights=sure, minlength=NUM_BINS) / counts
        hits = np.bincount(places, weights=~wrong, minlength=NUM_BINS) / counts
    gaps = np.abs(mean - hits)  # NaN of an empty bin
    return Calibration(
        edges=edges,
        counts=counts,
        confidence=mean,
        accuracy=hits,
        mean_confidence=float(sure.mean()),
        mean_accuracy=float((~wrong).mean()),
        expected_error=float(np.nansum(gaps * counts) / len(sure)),
        largest_error=float(np.nanmax(gaps)),
    )


def confusion_figure(benchmark: Benchmark, counts: np.ndarray, path: Path, *, title: str) -> None:
    """Draw the confusion matrix: shares of each true class as shades, counts as text.

    Args: counts: (C, C) true class by predicted class.
    """
    size = len(benchmark.classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    few, side = size <= _FEW_CLASSES, 0.27 * size
    named = side <= _MOST_INCHES
    side = 2.6 + (0.72 * size if few else min(side, _MOST_INCHES))
    figure, axes = doc.make_axes(side + 0.8, side, title)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(shares >= (0 if few else 0.095 if named else np.inf)):
        share = f"{100 * shares[row, column]:.0f}"
        text = f"{share} %\n({counts[row, column]})" if few else share
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=9 if few else 6,
            color="white" if shares[row, column] > 0.55 else "black",
        )
    small, names = None if few else 7, benchmark.classes if named else ()
    axes.set_xticks(
        range(len(names)),
        names,
        rotation=35 if few else 90,
        ha="right",
        rotation_mode="anchor",
        va="top" if few else "center",
        fontsize=small,
    )
    axes.set_yticks(range(len(names)), names, fontsize=small)
    numbers = "numbers: per cent of the true class" if named else f"{size} classes, in their order"
    axes.set_xlabel("predicted" if few else f"predicted ({numbers})")
    axes.set_ylabel("true")
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label("share of the true class")
    doc.save(figure, path)


def recall_figure(
    benchmark: Benchmark,
    counts: np.ndarray,
    intervals: Sequence[tuple[float, float]],
    path: Path,
    *,
    title: str,
) -> None:
    """Draw the recall of each class with its interval and its number of samples.

    Args:
        counts: (C, C) true class by predicted class.
        intervals: Low and high of each class; not-a-number where there is none.
    """
    size = len(benchmark.classes)
    support = counts.sum(axis=1)
    height, named = doc.rows_height(size, 0.34)
    figure, axes = doc.make_axes(7.4, 1.5 + height, title)
    places = np.arange(size)[::-1]
    for index, place in enumerate(places):
        if not support[index]:
            told = "no sample" if named else ""
            axes.text(0.01, place, told, va="center", fontsize=9, color=doc.GREY)
            continue
        recall = counts[index, index] / support[index]
        axes.barh(place, recall, height=0.64, color=doc.BLUE, alpha=0.75)
        low, high = intervals[index]
        if not np.isnan(low):
            axes.plot([low, high], [place, place], color="black", linewidth=1.3)
        if not named:
            continue
        right = max(recall, 0 if np.isnan(high) else high)
        axes.text(
            right + 0.012,
            place,
            f"{recall:.2f} of {support[index]}",
            va="center",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )
    seen = support > 0
    mean = float((counts.diagonal()[seen] / support[seen]).mean())
    axes.axvline(mean, color=doc.GREY, linewidth=1, linestyle="--", label=f"UAR {mean:.3f}")
    axes.axvline(1 / size, color=doc.GREY, linewidth=1, linestyle=":", label=f"chance 1/{size}")
    axes.set_yticks(places if named else [], benchmark.classes if named else [])
    axes.set_ylabel("" if named else f"{size} classes, in their order")
    axes.set_xlim(0, 1.17)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_ylim(-0.6, size - 0.4)
    axes.set_xlabel("recall (line: 95 %)")
    figure.legend(*axes.get_legend_handles_labels(), fontsize=9, ncols=2, loc="outside lower right")
    doc.plain(axes)
    doc.save(figure, path)


def reliability_figure(found: Calibration, path: Path, *, title: str) -> None:
    """Draw accuracy against the highest probability, and how often each probability is given."""
    figure = doc.make_figure(5.6, 6.4, title)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.1))
    place: dict[str, Any] = {"width": found.edges[1] - found.edges[0], "align": "edge"}
    bars: dict[str, Any] = place | {"color": doc.BLUE, "alpha": 0.75, "edgecolor": "white"}
    filled = found.counts > 0
    left, accuracy = found.edges[:-1][filled], found.accuracy[filled]
    above.bar(left, accuracy, label="accuracy", **bars)
    above.bar(
        left,
        found.confidence[filled] - accuracy,
        bottom=accuracy,
        facecolor="none",
        edgecolor=doc.ORANGE,
        hatch="///",
        linewidth=0.8,
        label="gap to the mean probability",
        **place,
    )
    above.plot([0, 1], [0, 1], color=doc.GREY, linewidth=1, linestyle="--", label="calibrated")
    above.set_xlim(0, 1)
    above.set_ylim(0, 1)
    above.set_ylabel("accuracy")
    above.set_title(f"calibration error {found.expected_error:.3f}", fontsize=10, loc="right")
    below.bar(found.edges[:-1], found.counts / found.counts.sum(), **bars)
    below.axvline(
        found.mean_confidence,
        color=doc.ORANGE,
        label=f"mean probability {found.mean_confidence:.2f}",
    )
    below.axvline(
        found.mean_accuracy,
        color="black",
        linestyle="--",
        label=f"accuracy {found.mean_accuracy:.2f}",
    )
    below.set_ylabel("share of samples")
    below.set_xlabel("highest probability")
    shown = [axes.get_legend_handles_labels() for axes in (above, below)]
    handles, names = ([*one, *other] for one, other in zip(*shown, strict=True))
    figure.legend(handles, names, fontsize=9, ncols=2, loc="outside lower right")
    doc.plain(above)
    doc.plain(below)
    doc.save(figure, path)


def coverage_section(run: Run, figures: Path, title: str) -> doc.Section | None:
    """Risk against coverage of the test side, where every fold was calibrated; else nothing."""
    found = {fold.name: each for fold in run.folds if (each := fold.calibration) is not None}
    if set(found) != set(run.scores.folds):
        return None
    units = scored_units(run.benchmark, calibrated(run.benchmark, run.predictions, found))
    sure, wrong = confidence(run.benchmark, units)
    limits = np.array([found[unit.fold].threshold for unit in units])
    answered: np.ndarray = sure >= limits
    kept = float(wrong[answered].mean()) if answered.any() else float("nan")
    path = figures / "coverage.png"
    before = confidence(run.benchmark, run.units)
    coverage_figure(before, (sure, wrong), (float(answered.mean()), kept), path, title=title)
    mark, rule = run.facts.mark, run.facts.rule
    rows = []
    for share in SHARES:
        limit, given, risk = at_share(sure, wrong, share)
        written = np.format_float_positional(limit, min_digits=3)
        told = (written, f"{given:.1%}", doc.number(risk), doc.number(1 - risk))
        rows.append([f"{share:.0%}", *map(mark, told)])
    heads = ["answers wanted", "min_confidence", "answers", "wrong among them", "right among them"]
    folds = []
    for name, fitted in found.items():
        own = np.array([unit.fold == name for unit in units])
        given = own & answered
        cells = [f"{given.sum() / own.sum():.1%}", doc.number(wrong[own].mean())]
        cells.append(doc.number(wrong[given].mean()) if given.any() else "n/a")
        about = (fitted.num_samples, f"{fitted.temperature:.3f}", f"{fitted.threshold:.3f}")
        folds.append([name, *map(str, about), *map(mark, cells)])
    of_test = ("answers", "wrong of all", "wrong among answers")
    columns = ["fold", "fitted on", "temperature", "threshold"]
    errors = [calibrate(run.benchmark, each).expected_error for each in (run.units, units)]
    before_error, after_error = (mark(doc.number(error)) for error in errors)
    return doc.Section(
        title="Risk against coverage",
        parts=[
            "A network that may say “not sure” is wrong less often. Temperature and threshold of"
            " each fold were fitted on the part of its training side that was kept out of"
            " training, and stand in its checkpoint; prediction goes by them unless"
            " `--min_confidence` says otherwise. The numbers below are of the test side, which had"
            f" no part in the fit; the scores above are not touched. Selection {rule}. Expected"
            f" calibration error: {before_error} as trained, {after_error} at the temperature.",
            doc.Table(
                columns=[*columns, *(doc.measured(name, rule) for name in of_test)], rows=folds
            ),
            doc.Picture(path=path, caption="Share of wrong answers against the share of answers"),
            doc.Table(
                columns=[heads[0], *(doc.measured(name, rule) for name in heads[1:])], rows=rows
            ),
            f"To have about so many answers on samples like these {len(units)} {unit_name(run)},"
            " pass that `--min_confidence`.",
        ],
    )


def confidence(benchmark: Benchmark, units: Sequence[Prediction]) -> tuple[np.ndarray, np.ndarray]:
    """The highest probability of each unit (N,), and whether it is of a wrong class (N,) bool."""
    true, _ = true_and_predicted(benchmark, units)
    probabilities = np.array([unit.probabilities for unit in units], dtype=np.float64)
    return probabilities.max(axis=1), probabilities.argmax(axis=1) != true


def at_share(sure: np.ndarray, wrong: np.ndarray, share: float) -> tuple[float, float, float]:
    """The limit that leaves a share of the units an answer, or a few more where some are as sure,
    of three digits or as many as it takes; the share that it leaves; and the share of wrong ones
    among them.
    """
    rank = max(1, int(np.ceil(share * len(sure) - 1e-9)))
    limit = float(np.sort(sure)[::-1][rank - 1])
    given = sure >= limit
    exact, below = Decimal(repr(limit)), sure[~given].max(initial=-1.0)
    # Rounded up, it would leave out whom it is made for: of networks that are very sure, everybody.
    shorter = (float(exact.quantize(Decimal(1).scaleb(-n), ROUND_FLOOR)) for n in range(3, 17))
    limit = next((each for each in shorter if each > below), limit)
    return limit, float(given.mean()), float(wrong[given].mean())


def risk_curve(sure: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and risk at each limit that differs, from few answers to all of them."""
    order = np.argsort(-sure, kind="stable")
    counts = np.arange(1, len(sure) + 1)
    ends = np.append(np.diff(sure[order]) != 0, True)  # units as sure go together
    return (counts / len(sure))[ends], (np.cumsum(wrong[order]) / counts)[ends]


def risk_area(coverage: np.ndarray, risk: np.ndarray) -> float:
    """Area under a risk curve from no answer to all; fewer answers than the surest, which go
    together, are as often wrong as these.
    """
    return float(trapezoid([risk[0], *risk], [0, *coverage]))


def coverage_figure(
    before: tuple[np.ndarray, np.ndarray],
    after: tuple[np.ndarray, np.ndarray],
    kept: tuple[float, float],
    path: Path,
    *,
    title: str,
) -> None:
    """Draw risk against coverage, as trained and calibrated, and where the thresholds put it."""
    figure, axes = doc.make_axes(6.4, 4.4, title)
    for (sure, wrong), colour, style, name in (
        (before, doc.GREY, "--", "as trained"),
        (after, doc.BLUE, "-", "calibrated"),
    ):
        coverage, risk = risk_curve(sure, wrong)
        label = f"{name}, area {risk_area(coverage, risk):.3f}"
        # From no answer on, as the area is meant: units that are all as sure are one point.
        axes.plot([0, *coverage], [risk[0], *risk], color=colour, linestyle=style, label=label)
    axes.plot(*kept, "o", color=doc.ORANGE, label="at the thresholds of the checkpoints")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("coverage: share of answers")
    axes.set_ylabel("risk: share of wrong ones among them")
    axes.legend(fontsize=9, frameon=False)
    doc.plain(axes)
    doc.save(figure, path)


def _class_table(run: Run, counts: np.ndarray, sure: list[tuple[float, float]]) -> doc.Table:
    mark, rule = run.facts.mark, run.facts.rule
    rows = []
    for index, name in enumerate(run.benchmark.classes):
        hits, samples, calls = counts[index, index], counts[index].sum(), counts[:, index].sum()
        recall = mark(doc.number(hits / samples)) if samples else "n/a"
        precision = mark(doc.number(hits / calls)) if calls else "n/a"
        interval = mark(doc.range_of(*sure[index])) if samples else "n/a"
        rows.append([name, str(samples), recall, interval, precision, str(calls)])
    heads = ["class", unit_name(run), doc.measured("recall", rule)]
    heads += [doc.measured("95 %", rule), doc.measured("precision", rule), "called so"]
    return doc.Table(columns=heads, rows=rows)


def _calibration(run: Run, figures: Path, title: str) -> doc.Section:
    found = calibrate(run.benchmark, run.units)
    path = figures / "reliability.png"
    reliability_figure(found, path, title=title)
    mark = run.facts.mark
    rows = [
        [
            f"{low:.2f} to {high:.2f}",
            str(count),
            mark(doc.number(confidence)),
            mark(doc.number(accuracy)),
        ]
        for low, high, count, confidence, accuracy in zip(
            found.edges[:-1],
            found.edges[1:],
            found.counts.tolist(),
            found.confidence,
            found.accuracy,
            strict=True,
        )
        if count
    ]
    heads = ["highest probability", unit_name(run)]
    heads += [doc.measured(name, run.facts.rule) for name in ("mean probability", "accuracy")]
    return doc.Section(
        title="Calibration",
        parts=[
            f"Expected calibration error: **{mark(doc.number(found.expected_error))}**"
            f" (selection {run.facts.rule}): {NUM_BINS} bins of equal width over the highest"
            " probability; the gap between mean probability and accuracy of each, averaged over"
            f" {unit_name(run)} (Guo et al., 2017). Largest gap of a bin:"
            f" {mark(doc.number(found.largest_error))}. {found.verdict(run.facts)}",
            doc.Picture(path=path, caption="Reliability, and how often each probability is given"),
            doc.Table(columns=heads, rows=rows),
        ],
    )
