"""Who was trained on what and tested on what: scores over corpora in one table.

For: ``hicmae evaluate matrix``. Not for: making the evaluations (``evaluate.py``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from finetune.evaluating.figures import matrix_figure
from finetune.record import Run, read_run, runs_in, write_json, write_text
from finetune.reporting.tables import Table, number, output_console, spread
from finetune.scores import metric_name
from finetune.selection import rule_sentence


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Networks of one corpus on one corpus.

    Args:
        row: Corpus of the training, with modalities and rule where these differ.
        column: Corpus of the test.
        within: Whether they are the same: each network on people it has not seen.
        runs: The evaluations, or the runs themselves.
        values: Leading metric of each single network.
        ensemble: The same of their averaged outputs, over seeds; empty within a corpus.
    """

    row: str
    column: str
    within: bool
    runs: tuple[Run, ...]
    values: tuple[float, ...]
    ensemble: tuple[float, ...]

    @property
    def metric(self) -> str:
        """The leading metric of the tested corpus."""
        return self.runs[0].benchmark.ranking

    @property
    def summary(self) -> tuple[float, float]:
        """Mean and sample deviation over networks; no deviation of one."""
        sd = float(np.std(self.values, ddof=1)) if len(self.values) > 1 else float("nan")
        return float(np.mean(self.values)), sd

    @property
    def text(self) -> str:
        """Mean ± deviation, marked as its rule wants it."""
        return self.runs[0].facts.mark(spread(*self.summary))


def matrix(*, runs: list[Path], out: Path = Path("matrix.md")) -> None:
    """Put runs and their evaluations on other corpora into one table of corpora.

    A row is what networks were trained on, a column what they were tested on. A cell is the mean
    and the deviation of single networks (folds, and seeds if several are given); where both are
    the same corpus, each network was tested on the test side of its own fold.

    Args:
        runs: Run folders of hicmae finetune and folders of hicmae evaluate.
        out: Markdown file to write; a JSON file of the same name and a figure go beside it.

    Raises: FileNotFoundError: no such run. ValueError: evaluations of one cell that were made in
        different ways.
    """
    found = [read_run(folder) for given in runs for folder in runs_in(given)]
    cells = make_cells(found)
    table = _grid(cells)
    figure = out.parent / "figures" / f"{out.stem}.png"
    matrix_figure(cells, figure)
    rules = dict.fromkeys(rule_sentence(run.facts.selection, run.facts.protocol) for run in found)
    link = quote(Path(os.path.relpath(figure.resolve(), out.resolve().parent)).as_posix())
    parts = [
        "# Trained on one corpus, tested on another",
        "Rows: what the networks were trained on; columns: what they were tested on, with its"
        " leading metric. A cell is mean ± sample standard deviation over single networks. **Bold:"
        " within a corpus**, each network on the test side of its own fold, whose people it has"
        f" not seen. Selection rule: {'; '.join(rules)}.",
        table.markdown(),
        f"![Scores over corpora]({link})",
        "## What each cell is",
        "Classes that only one side has are not tested, so columns of a row, and rows of a column,"
        " may be about different classes; chance says how hard each is.",
        _list(cells).markdown(),
        *(
            f"**Note.** {cell.row} on {cell.column}: {note}"
            for cell in cells
            for note in dict.fromkeys(note for run in cell.runs for note in run.facts.notes)
        ),
    ]
    write_text(out, "\n\n".join(parts) + "\n")
    write_json(out.with_suffix(".json"), [_plain(cell) for cell in cells])
    console = output_console()
    console.print(table.terminal())
    console.print(f"matrix: {out}")


def make_cells(runs: Sequence[Run]) -> list[Cell]:
    """Sort runs into cells, in the order in which corpora come.

    Raises: ValueError: runs of one cell with other views or samples.
    """
    rows = _row_names(runs)
    members: dict[tuple[str, str], list[Run]] = {}
    for run, row in zip(runs, rows, strict=True):
        members.setdefault((row, _tested_on(run)), []).append(run)
    return [_cell(row, column, group) for (row, column), group in members.items()]


def _cell(row: str, column: str, runs: Sequence[Run]) -> Cell:
    other = next((run for run in runs if _way(run) != _way(runs[0])), None)
    if other is not None:
        raise ValueError(
            f"{runs[0].folder} and {other.folder}: both are {row} on {column}, tested in different"
            " ways (views or shards); give one of them"
        )
    metric = runs[0].benchmark.ranking
    values: list[float] = []
    ensemble = []
    for run in runs:
        if run.facts.network == "ensemble":
            ensemble.append(run.scores.pooled[metric])
        elif run.facts.network:
            values.append(run.scores.pooled[metric])
        else:
            values += [scores[metric] for scores in run.scores.folds.values()]
    return Cell(
        row=row,
        column=column,
        within=not runs[0].facts.network,
        runs=tuple(runs),
        values=tuple(values),
        ensemble=tuple(ensemble),
    )


def _way(run: Run) -> tuple[object, ...]:
    """What has to agree within a cell."""
    facts = run.facts
    return facts.num_segments, facts.crops, facts.shards_digest, run.benchmark.columns


def _trained_on(run: Run) -> str:
    return run.facts.trained_on or run.facts.benchmark


def _tested_on(run: Run) -> str:
    return run.facts.benchmark.removesuffix(f" from {run.facts.trained_on}")


def _row_names(runs: Sequence[Run]) -> list[str]:
    """Corpus of the training of each run, with whatever else tells its rows apart."""
    extras = [(run.facts.modalities, run.facts.init, run.facts.rule) for run in runs]
    tells = [len({extra[place] for extra in extras}) > 1 for place in range(3)]
    return [
        ", ".join(
            [_trained_on(run), *(text for text, shown in zip(extra, tells, strict=True) if shown)]
        )
        for run, extra in zip(runs, extras, strict=True)
    ]


def _grid(cells: Sequence[Cell]) -> Table:
    """Rows and columns of corpora."""
    by_place = {(cell.row, cell.column): cell for cell in cells}
    rows, columns = (list(dict.fromkeys(names)) for names in zip(*by_place, strict=True))
    metrics = {cell.column: metric_name(cell.metric) for cell in cells}
    lines = []
    for row in rows:
        line = [row]
        for column in columns:
            cell = by_place.get((row, column))
            text = "" if cell is None else cell.text
            line.append(f"**{text}**" if cell is not None and cell.within else text)
        lines.append(line)
    heads = [f"{column} ({metrics[column]})" for column in columns]
    return Table(columns=["trained on", *heads], rows=lines, title="Trained on, tested on")


def _list(cells: Sequence[Cell]) -> Table:
    """Everything that a cell's number needs beside it."""
    rows = []
    for cell in cells:
        run = cell.runs[0]
        benchmark = run.benchmark
        named = benchmark.task == "classification"
        ignored = ", ".join(f"{name}: {count}" for name, count in run.facts.ignored.items())
        rows.append(
            [
                cell.row,
                cell.column + (" (within)" if cell.within else ""),
                metric_name(cell.metric),
                cell.text,
                run.facts.mark(number(float(np.mean(cell.ensemble)))) if cell.ensemble else "",
                run.facts.rule,
                str(len(cell.values)),
                str(run.scores.num_samples),
                ", ".join(benchmark.classes if named else benchmark.targets),
                number(1 / len(benchmark.classes)) if named else number(0.0),
                ignored or "none",
            ]
        )
    heads = ["trained on", "tested on", "metric", "mean ± sd", "outputs averaged", "selection"]
    heads += ["networks", "samples", "classes or targets", "chance", "left out"]
    return Table(columns=heads, rows=rows)


def _plain(cell: Cell) -> dict[str, object]:
    """A cell in JSON."""
    mean, sd = (None if value != value else value for value in cell.summary)
    return {
        "trained_on": cell.row,
        "tested_on": cell.column,
        "within": cell.within,
        "metric": cell.metric,
        "selection": cell.runs[0].facts.rule,
        "networks": [None if value != value else value for value in cell.values],
        "mean": mean,
        "sd": sd,
        "runs": [str(run.folder) for run in cell.runs],
    }
