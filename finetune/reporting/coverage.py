"""What a report says of not answering: the share of wrong answers against the share of answers.

Source: Geifman and El-Yaniv, 2017, Selective Classification for Deep Neural Networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.integrate import trapezoid

from finetune.benchmark import Benchmark
from finetune.predictions import Prediction, true_and_predicted
from finetune.record import Run
from finetune.reporting.breakdown import unit_name
from finetune.reporting.canvas import BLUE, GREY, ORANGE, make_figure, plain, save
from finetune.reporting.classes import calibrate
from finetune.reporting.document import Picture, Section, Table, measured, number
from finetune.scores import scored_units
from finetune.validation import calibrated

SHARES = (1.0, 0.9, 0.8, 0.6, 0.4, 0.2)


def coverage_section(run: Run, figures: Path, title: str) -> Section | None:
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
        told = (f"{limit:.3f}", f"{given:.1%}", number(risk), number(1 - risk))
        rows.append([f"{share:.0%}", *map(mark, told)])
    heads = ["answers wanted", "min_confidence", "answers", "wrong among them", "right among them"]
    folds = []
    for name, fitted in found.items():
        own = np.array([unit.fold == name for unit in units])
        given = own & answered
        cells = [f"{given.sum() / own.sum():.1%}", number(wrong[own].mean())]
        cells.append(number(wrong[given].mean()) if given.any() else "n/a")
        about = (fitted.num_samples, f"{fitted.temperature:.3f}", f"{fitted.threshold:.3f}")
        folds.append([name, *map(str, about), *map(mark, cells)])
    of_test = ("answers", "wrong of all", "wrong among answers")
    columns = ["fold", "fitted on", "temperature", "threshold"]
    errors = [calibrate(run.benchmark, each).expected_error for each in (run.units, units)]
    before_error, after_error = (mark(number(error)) for error in errors)
    return Section(
        title="Risk against coverage",
        parts=[
            "A network that may say “not sure” is wrong less often. Temperature and threshold of"
            " each fold were fitted on the part of its training side that was kept out of"
            " training, and stand in its checkpoint; prediction goes by them unless"
            " `--min_confidence` says otherwise. The numbers below are of the test side, which had"
            f" no part in the fit; the scores above are not touched. Selection {rule}. Expected"
            f" calibration error: {before_error} as trained, {after_error} at the temperature.",
            Table(columns=[*columns, *(measured(name, rule) for name in of_test)], rows=folds),
            Picture(path=path, caption="Share of wrong answers against the share of answers"),
            Table(columns=[heads[0], *(measured(name, rule) for name in heads[1:])], rows=rows),
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
    """The limit that leaves a share of the units an answer, or a few more where some are as sure;
    the share that it leaves; and the share of wrong ones among them.
    """
    rank = max(1, int(np.ceil(share * len(sure) - 1e-9)))
    limit = float(np.sort(sure)[::-1][rank - 1])
    given = sure >= limit
    return limit, float(given.mean()), float(wrong[given].mean())


def risk_curve(sure: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and risk at each limit that differs, from few answers to all of them."""
    order = np.argsort(-sure, kind="stable")
    counts = np.arange(1, len(sure) + 1)
    ends = np.append(np.diff(sure[order]) != 0, True)  # units as sure go together
    return (counts / len(sure))[ends], (np.cumsum(wrong[order]) / counts)[ends]


def coverage_figure(
    before: tuple[np.ndarray, np.ndarray],
    after: tuple[np.ndarray, np.ndarray],
    kept: tuple[float, float],
    path: Path,
    *,
    title: str,
) -> None:
    """Draw risk against coverage, as trained and calibrated, and where the thresholds put it."""
    figure = make_figure(6.4, 4.4)
    axes = figure.add_subplot()
    for (sure, wrong), colour, style, name in (
        (before, GREY, "--", "as trained"),
        (after, BLUE, "-", "calibrated"),
    ):
        coverage, risk = risk_curve(sure, wrong)
        label = f"{name}, area {trapezoid(risk, coverage):.3f}"
        axes.plot(coverage, risk, color=colour, linestyle=style, label=label)
    axes.plot(*kept, "o", color=ORANGE, label="at the thresholds of the checkpoints")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("coverage: share of answers")
    axes.set_ylabel("risk: share of wrong ones among them")
    axes.set_title(title, fontsize=11)
    axes.legend(fontsize=9, frameon=False)
    plain(axes)
    save(figure, path)
