"""One table, shown in Markdown and on the terminal alike."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import rich.table
from rich.console import Console

from finetune.scores import Scores
from finetune.selection import CHOSEN_ON_TEST


@dataclass(frozen=True, kw_only=True)
class Table:
    """Text in rows; the first column is aligned left, the others right.

    Args:
        columns: Heads.
        rows: As many cells each.
        title: Shown on the terminal.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""

    def markdown(self) -> str:
        """The table in Markdown, without a line break at its end."""
        rule = [":---", *["---:"] * (len(self.columns) - 1)]
        lines = [self.columns, rule, *self.rows]
        return "\n".join(
            "| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines
        )

    def terminal(self) -> rich.table.Table:
        """The table for a rich console."""
        # Columns of a terminal are narrow: a sign behind the number, its meaning below the table.
        chosen = any(CHOSEN_ON_TEST in cell for row in self.rows for cell in row)
        table = rich.table.Table(
            title=self.title or None,
            title_justify="left",
            caption=f"†{CHOSEN_ON_TEST}" if chosen else None,
            caption_justify="left",
        )
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
        for row in self.rows:
            cells = (cell.strip("*") for cell in row)  # no Markdown on a terminal
            table.add_row(*(cell.replace(CHOSEN_ON_TEST, " †") for cell in cells))
        return table


def output_console() -> Console:
    """Where a verb writes; wide enough for any table where nobody looks at a terminal."""
    width = None if sys.stdout.isatty() else 160
    return Console(soft_wrap=True, highlight=False, width=width)


def number(value: float) -> str:
    """A score with three decimals; an undefined one is ``n/a``."""
    return "n/a" if math.isnan(value) else f"{value:.3f}"


def mean_and_sd(scores: Scores, metric: str) -> str:
    """Mean ± deviation over folds; the mean alone of a single fold."""
    return spread(scores.mean[metric], scores.sd[metric])


def spread(mean: float, sd: float) -> str:
    """Mean ± deviation; the mean alone where there is no deviation."""
    return number(mean) if math.isnan(mean) or math.isnan(sd) else f"{mean:.3f} ± {sd:.3f}"


def range_of(low: float, high: float) -> str:
    """An interval; an undefined one is ``n/a``."""
    return "n/a" if math.isnan(low) or math.isnan(high) else f"{low:.3f} to {high:.3f}"


def facts_table(facts: Mapping[str, object]) -> Table:
    """Two columns of what is known."""
    rows = [(name, "none" if value is None else str(value)) for name, value in facts.items()]
    return Table(columns=("", ""), rows=rows)


def _escaped(cell: str) -> str:
    """A cell that cannot end its column."""
    return cell.replace("|", "\\|").replace("\n", " ")
