"""``hicmae report``: finished runs, one in full or several side by side."""

from __future__ import annotations

from pathlib import Path


def report(
    *,
    runs: list[Path],
    out: Path = Path("report.md"),
    html: bool = True,
    shards: Path | None = None,
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

    Raises: FileNotFoundError: no such run. ValueError: a run that is not finished or damaged, or
        two that share a name, or a report in place of a run's own.
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
    from finetune.reporting.run_report import REPORT, run_parts, scores_table, write_run_report

    found = [read_run(folder) for given in runs for folder in runs_in(given)]
    pairs = name_runs(found)
    if any(out.resolve() == (run.folder / REPORT).resolve() for run in found):
        raise ValueError(f"{out}: is a run's own report; choose another file for the comparison")
    groups = group_runs(pairs)
    parts = {name: run_parts(run, shards=shards) for name, run in pairs}
    for name, run in pairs:
        write_run_report(run, parts[name], html=html)
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
