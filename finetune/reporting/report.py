"""``hicmae report``: finished runs, one in full or several side by side."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

from hicmae.forked import forking

if TYPE_CHECKING:
    from finetune.record import Run
    from finetune.reporting.document import Part

# Processes that draw begin with five to seven seconds of imports, two runs' worth of figures.
_MANY_RUNS = 6


def report(
    *,
    runs: list[Path],
    out: Path = Path("report.md"),
    html: bool = True,
    shards: Path | None = None,
    workers: int | None = None,
) -> None:
    """Report on finished fine-tuning runs: one in full, or several side by side.

    Every metric is computed again from the runs' predictions; each run's own report and figures
    are refreshed. Runs of different benchmarks stand in tables of their own.

    Args:
        runs: Run folders of ``hicmae finetune``, or folders that hold several.
        out: Markdown file to write; its figures go into ``figures/`` beside it.
        html: Whether to write the same as one HTML file too, beside it, with its pictures inside.
        shards: Where the shards of the runs are now, for the frames of the most confident errors;
            null: where they were when the run was made.
        workers: Processes that draw the runs' own reports; null: one a core where there are six
            runs or more, else this one.

    Raises: FileNotFoundError: no such run. ValueError: a run that is not finished or damaged, or
        two that share a name, a report in place of a run's own, or no worker.
    """
    from finetune.record import read_run, runs_in
    from finetune.reporting.comparison import (
        comparison,
        group_runs,
        name_runs,
        runs_table,
        summary_table,
    )
    from finetune.reporting.document import Section, output_console, write_document
    from finetune.reporting.run_report import REPORT, scores_table

    if workers is not None and workers < 1:
        raise ValueError(f"workers = {workers} (must be at least 1, or null: one a core)")
    found = [read_run(folder) for given in runs for folder in runs_in(given)]
    pairs = name_runs(found)
    if any(out.resolve() == (run.folder / REPORT).resolve() for run in found):
        raise ValueError(f"{out}: is a run's own report; choose another file for the comparison")
    groups = group_runs(pairs)
    own = _own_reports([run for _, run in pairs], shards, html=html, workers=workers)
    parts = {name: said for (name, _), said in zip(pairs, own, strict=True)}
    console = output_console()
    for group in groups:
        several = runs_table(group) if len(pairs) > 1 else scores_table(group[0][1])
        console.print(several.terminal())
    if len(pairs) == 1:
        document = Section(title=pairs[0][0], parts=parts[pairs[0][0]])
    else:
        document = comparison(pairs, groups, out, parts)
        console.print(summary_table(pairs).terminal())
    for path in write_document(document, out, html=html):
        console.print(f"report: {path}")


def _own_reports(
    runs: Sequence[Run], shards: Path | None, *, html: bool, workers: int | None
) -> list[Sequence[Part]]:
    """Draw and write each run's own report; what they say."""
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if len(runs) >= _MANY_RUNS else 1
    workers = min(workers, len(runs))
    draw = functools.partial(_own_report, shards=shards, html=html)
    if workers == 1:
        return [draw(run) for run in runs]
    context = forking(("finetune.reporting.run_report",))
    with ProcessPoolExecutor(workers, context, _leave_interrupts) as pool:
        try:
            return list(pool.map(draw, runs))
        except BrokenProcessPool:
            raise ValueError(
                "report: a process that drew has died, as happens where memory runs out, and in a"
                ' script without `if __name__ == "__main__"`; --workers 1 draws one run after'
                " the other, in this process"
            ) from None


def _leave_interrupts() -> None:
    """Ctrl-C reaches all processes; the one that was started by hand ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _own_report(run: Run, *, shards: Path | None, html: bool) -> Sequence[Part]:
    from finetune.reporting.run_report import run_parts, write_run_report

    parts = run_parts(run, shards=shards)
    write_run_report(run, parts, html=html)
    return parts
