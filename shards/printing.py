"""What the shard commands show: a progress bar, and the list of what was left out.

For: ``commands.py``. Not for: anything that another program reads.
"""

from __future__ import annotations

from collections import defaultdict

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from hicmae.media.errors import CAUSES
from shards.build import REFUSED_NAME, BuildResult, Refusal
from shards.manifest import printable

_MOST_NAMED = 200  # files of one cause that are printed; refused.jsonl has all
_MEANINGS = CAUSES | {
    "missing-file": "a manifest names it and it is not there",
    "frame-size": "its frames are smaller than the fixed box",
    "error": "something unforeseen; please report it",
}


def progress_bar(console: Console) -> Progress:
    """A bar with counts, times and the field ``note`` of its task; on terminals, while it lasts."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def print_left_out(console: Console, result: BuildResult) -> None:
    """Every file that is not in the shards, by cause."""
    by_cause: dict[str, list[Refusal]] = defaultdict(list)
    for refusal in result.refusals:
        by_cause[refusal.cause].append(refusal)
    if by_cause:
        table = Table("refused", "files", "meaning")
        for cause, refusals in sorted(by_cause.items()):
            table.add_row(cause, str(len(refusals)), _MEANINGS.get(cause, ""))
        console.print(table)
    for cause, refusals in sorted(by_cause.items()):
        for refusal in refusals[:_MOST_NAMED]:
            print_line(console, f"{cause}: {refusal.message}")
        if len(refusals) > _MOST_NAMED:
            print_line(
                console, f"{cause}: and {len(refusals) - _MOST_NAMED} more, in {REFUSED_NAME}"
            )
    if result.ignored:
        names = ", ".join(printable(path) for path in result.ignored[:_MOST_NAMED])
        more = ", …" if len(result.ignored) > _MOST_NAMED else ""
        print_line(
            console, f"ignored, no videos by their suffix ({len(result.ignored)}): {names}{more}"
        )


def print_line(console: Console, text: str) -> None:
    """A whole line, whatever the width of the terminal, so that it can be searched for."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
