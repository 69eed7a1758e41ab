"""What the shard commands show: how far they are, and the list of what was left out.

For: ``commands.py``. Not for: anything that another program reads.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bar,
)
from rich.table import Table

from hicmae.media.errors import CAUSES
from shards.building.build import REFUSED_NAME, BuildResult, Progress, Refusal
from shards.manifest import printable

_LINE_SECONDS = 30.0  # from one line of progress to the next, where there is no terminal
_MOST_NAMED = 200  # files of one cause that are printed; refused.jsonl has all
_MEANINGS = CAUSES | {
    "missing-file": "a manifest names it and it is not there",
    "frame-size": "its frames are smaller than the fixed box",
    "short-face": "some of its faces are seen for less than the least length",
    "error": "something unforeseen; please report it",
}


class BuildDisplay:
    """How far a build is: a bar on a terminal, else a line every half minute.

    Use it as a context manager, and hand ``update`` to the build.

    Args:
        console: Where.
        clock: Seconds that only grow.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._began = self._said = clock()
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("building", total=None, note="")

    def __enter__(self) -> BuildDisplay:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def update(self, now: Progress) -> None:
        """Show it."""
        note = progress_note(now, self._clock() - self._began)
        self._bar.update(self._task, completed=now.done, total=now.total, note=note)
        if not self._console.is_terminal and self._clock() - self._said >= _LINE_SECONDS:
            self._said = self._clock()
            print_line(self._console, f"{now.done} of {now.total} recordings: {note}")


def progress_note(now: Progress, seconds: float) -> str:
    """Rates, time left and refusals of a build that has been running for so many seconds."""
    new, notes = now.done - now.kept, []
    if new and seconds > 0:
        left = timedelta(seconds=round((now.total - now.done) * seconds / new))
        notes = [
            f"{new / seconds:.1f} recordings/s",
            f"{now.seconds / seconds:.1f} s of video/s",
            f"{left} left",
        ]
    notes.append(f"{now.num_samples} samples")
    causes = counted(now.refused)
    notes.append(f"{now.refused.total()} refused{causes and f' ({causes})'}")
    return ", ".join(notes)


def counted(causes: Counter[str]) -> str:
    """Counts by cause, the most frequent first."""
    return ", ".join(f"{count} {cause}" for cause, count in causes.most_common())


def progress_bar(console: Console) -> Bar:
    """A bar with counts, times and the field ``note`` of its task; on terminals, while it lasts."""
    return Bar(
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
