"""How far off real values are, by where the truth lies.

For: bias and error in ranges of the truth, which show what a correlation hides (everybody is put
into the middle). Not for: CCC and PCC (``finetune/scores.py``) or drawing
(``finetune/reporting/figures_values.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finetune.facts import RunFacts
from finetune.reporting.tables import Table, measured, number, signed

# Ranges of the truth, each with about as many samples; fewer where values repeat.
NUM_RANGES = 5
# So few different truths are steps of a scale, and each is a range of its own.
_MAX_STEPS = 9


@dataclass(frozen=True, kw_only=True)
class RangeError:
    """Errors of the samples whose truth lies in one range.

    Args:
        low: Lowest truth in it.
        high: Highest.
        count: Samples.
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
        return f"{self.low:.3g}" if self.low == self.high else f"{self.low:.3g} to {self.high:.3g}"


def errors_by_range(true: np.ndarray, predicted: np.ndarray) -> list[RangeError]:
    """Bias and error in ranges of the truth.

    Args:
        true: (N,).
        predicted: (N,).

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


def range_table(target: str, ranges: list[RangeError], facts: RunFacts) -> Table:
    """One row a range.

    Args:
        target: Whose values.
        ranges: As ``errors_by_range`` gives them.
        facts: Of the run, for the selection rule.
    """
    rows = [
        [
            item.name,
            str(item.count),
            facts.mark(signed(item.bias)),
            facts.mark(number(item.rmse)),
        ]
        for item in ranges
    ]
    heads = [measured(name, facts.rule) for name in ("bias (predicted minus true)", "RMSE")]
    return Table(columns=[f"true {target}", "samples", *heads], rows=rows)
