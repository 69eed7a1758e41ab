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

# What stands where a column of numbers has none.
_NO_NUMBER = ("", "n/a", "not named")


# Between a measured column's name and its selection rule.
_SELECTION = ", selection "


@dataclass(frozen=True, kw_only=True)
class Table:
    """Text in rows; numbers are aligned right, the first column and words left.

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
        rule = ["---:" if right else ":---" for right in self._right]
        lines = [self.columns, rule, *self.rows]
        return "\n".join(
            "| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines
        )

    def terminal(self) -> rich.table.Table:
        """The table for a rich console; the selection rule is left to its title or a column."""
        # Columns of a terminal are narrow: a sign behind the number, its meaning below the table.
        chosen = any(CHOSEN_ON_TEST in cell for row in self.rows for cell in row)
        table = rich.table.Table(
            title=self.title or None,
            title_justify="left",
            caption=f"†{CHOSEN_ON_TEST}" if chosen else None,
            caption_justify="left",
        )
        for column, right in zip(self.columns, self._right, strict=True):
            short = column.partition(_SELECTION)[0]
            table.add_column(short, justify="right" if right else "left", overflow="fold")
        for row in self.rows:
            cells = (cell.strip("*") for cell in row)  # no Markdown on a terminal
            table.add_row(*(cell.replace(CHOSEN_ON_TEST, " †") for cell in cells))
        return table

    @property
    def _right(self) -> list[bool]:
        """Which columns are aligned right."""
        columns = [[row[place] for row in self.rows] for place in range(len(self.columns))]
        return [place > 0 and all(map(_is_number, cells)) for place, cells in enumerate(columns)]


def output_console() -> Console:
    """Where a verb writes; wide enough for any table where nobody looks at a terminal."""
    width = None if sys.stdout.isatty() else 160
    return Console(soft_wrap=True, highlight=False, width=width)


def measured(name: str, rule: str) -> str:
    """The head of a column of measured numbers, which names their selection rule."""
    return f"{name}{_SELECTION}{rule}"


def number(value: float) -> str:
    """A score with three decimals; an undefined one is ``n/a``."""
    return "n/a" if math.isnan(value) else f"{value:.3f}"


def signed(value: float) -> str:
    """A difference with three decimals and its sign; an undefined one is ``n/a``."""
    return "n/a" if math.isnan(value) else f"{value:+.3f}"


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


def _is_number(cell: str) -> bool:
    """Whether a cell is a number, or says that there is none."""
    return cell in _NO_NUMBER or cell.strip("*<±+- ")[:1].isdecimal()


def _escaped(cell: str) -> str:
    """A cell that cannot end its column."""
    return cell.replace("|", "\\|").replace("\n", " ")
