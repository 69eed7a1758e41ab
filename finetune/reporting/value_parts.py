"""The parts of a report about predicted real values: scatter, error by range.

For: sections of a run of a regression benchmark. Not for: classes
(``finetune/reporting/class_parts.py``).
"""

from __future__ import annotations

from pathlib import Path

from finetune.predictions import true_and_predicted
from finetune.record import Run
from finetune.reporting.document import Picture, Section
from finetune.reporting.figures_values import range_figure, scatter_figure
from finetune.reporting.ranges import errors_by_range, range_table


def value_sections(run: Run, figures: Path, title: str) -> list[Section]:
    """Predicted against true, and error by where the truth lies.

    Args:
        run: Of a regression benchmark.
        figures: Folder for the pictures.
        title: Above each picture.
    """
    true, predicted = true_and_predicted(run.benchmark, run.units)
    scatter, ranges = figures / "predicted_against_true.png", figures / "error_by_range.png"
    scatter_figure(run.benchmark, true, predicted, run.scores, scatter, title=title)
    by_target = {
        target: errors_by_range(true[:, place], predicted[:, place])
        for place, target in enumerate(run.benchmark.targets)
    }
    range_figure(by_target, ranges, title=title)
    return [
        Section(
            title="Predicted against true",
            parts=[Picture(path=scatter, caption="Predicted against true values")],
        ),
        Section(
            title="Error by range",
            parts=[
                f"Ranges of the true value with about as many samples each (selection:"
                f" {run.facts.rule}). A bias that falls from the lowest range to the highest means"
                " that predictions are drawn to the middle.",
                Picture(path=ranges, caption="Bias and error by range of the true value"),
                *(range_table(target, found, run.facts) for target, found in by_target.items()),
            ],
        ),
    ]
