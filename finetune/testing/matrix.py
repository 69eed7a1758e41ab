"""Who was trained on what and tested on what: scores over corpora in one table and picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.patches import Rectangle

from finetune.folds import left_out
from finetune.record import Run
from finetune.reporting import document as doc
from finetune.scores import chance_score, metric_name
from finetune.selection import rule_sentence
from hicmae.files import write_json


@dataclass(frozen=True, kw_only=True)
class MatrixCell:
    """Networks of one corpus on one corpus.

    Args:
        row: Corpus of the training, with modalities and rule where these differ.
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
        return doc.mean_and_sd(self.values)

    @property
    def text(self) -> str:
        """Mean ± deviation, marked as its rule wants it."""
        return self.runs[0].facts.mark(doc.spread(*self.summary))


def write_matrix(runs: Sequence[Run], out: Path) -> doc.Table:
    """Write runs and their evaluations on other corpora as one page, JSON and picture.

    Args:
        out: Markdown file; a JSON file of the same name and a figure go beside it.

    Returns: the table of corpora.
    Raises: ValueError: evaluations of one cell that were made in different ways, or of the same
        networks.
    """
    cells = make_cells(runs)
    table = _grid(cells)
    figure = out.parent / "figures" / f"{out.stem}.png"
    matrix_figure(cells, figure)
    rules = dict.fromkeys(rule_sentence(run.facts.selection, run.facts.protocol) for run in runs)
    parts: list[doc.Part] = [
        "Rows: what the networks were trained on; columns: what they were tested on, with its"
        " leading metric. A cell is mean ± sample standard deviation over single networks. **Bold:"
        " within a corpus**, each network on the test side of its own fold, whose people it has"
        f" not seen. Selection rule: {'; '.join(rules)}.",
        table,
        doc.Picture(path=figure, caption="Scores over corpora"),
        "## What each cell is",
        "Classes that only one side has are not tested, so columns of a row, and rows of a column,"
        " may be about different classes; chance says how hard each is (n/a where it depends on"
        " how many samples each class has, or on several heads).",
        _list(cells),
        *(
            f"**Note.** {cell.row} on {cell.column}: {note}"
            for cell in cells
            for note in dict.fromkeys(note for run in cell.runs for note in run.facts.notes)
        ),
    ]
    page = doc.Section(title="Trained on one corpus, tested on another", parts=parts)
    doc.write_document(page, out, html=False)
    write_json(out.with_suffix(".json"), [_plain(cell) for cell in cells])
    return table


def make_cells(runs: Sequence[Run]) -> list[MatrixCell]:
    """Sort runs into cells, in the order in which corpora come.

    Raises: ValueError: runs of one cell with other views, samples or labels, or the same networks;
        an average without any of its networks.
    """
    rows = _row_names(runs)
    members: dict[tuple[str, str], list[Run]] = {}
    for run, row in zip(runs, rows, strict=True):
        tested_on = run.facts.benchmark.removesuffix(f" from {run.facts.trained_on}")
        members.setdefault((row, tested_on), []).append(run)
    return [_cell(row, column, group) for (row, column), group in members.items()]


def matrix_figure(cells: Sequence[MatrixCell], path: Path) -> None:
    """Draw scores over corpora as shades; cells within a corpus have a frame."""
    rows = list(dict.fromkeys(cell.row for cell in cells))
    columns = list(dict.fromkeys(cell.column for cell in cells))
    title = "Scores over corpora; framed: within a corpus"
    figure, axes = doc.make_axes(3.4 + 1.5 * len(columns), 1.9 + 0.8 * len(rows), title)
    values = np.full((len(rows), len(columns)), np.nan)
    for cell in cells:
        values[rows.index(cell.row), columns.index(cell.column)] = cell.summary[0]
    low = min(0.0, float(np.nanmin(values, initial=0.0)))
    high = max(1.0, float(np.nanmax(values, initial=0.0)))  # a combination may be above 1
    image = axes.imshow(values, cmap="Blues", vmin=low, vmax=high, aspect="auto")
    for cell in cells:
        place = columns.index(cell.column), rows.index(cell.row)
        shade = (cell.summary[0] - low) / (high - low)
        axes.text(
            *place,
            cell.text.replace(" ± ", "\n± ").replace(" (", "\n("),
            ha="center",
            va="center",
            fontsize=9,
            color="white" if shade > 0.55 else "black",
        )
        if cell.within:
            corner = (place[0] - 0.48, place[1] - 0.48)
            axes.add_patch(
                Rectangle(corner, 0.96, 0.96, fill=False, edgecolor=doc.ORANGE, linewidth=2)
            )
    metrics = {cell.column: metric_name(cell.metric) for cell in cells}
    axes.set_xticks(
        range(len(columns)),
        [f"{name}\n({metrics[name]})" for name in columns],
        rotation=20,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel("tested on")
    axes.set_ylabel("trained on")
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03).set_label("leading metric")
    doc.save(figure, path)


def _cell(row: str, column: str, runs: Sequence[Run]) -> MatrixCell:
    other = next((run for run in runs if _way(run) != _way(runs[0])), None)
    if other is not None:
        raise ValueError(
            f"{runs[0].folder} and {other.folder}: both are {row} on {column}, tested in different"
            " ways (views, shards, labels or leading metric); give one of them"
        )
    known: dict[tuple[str, str], Run] = {}
    for run in runs:
        # An evaluation keeps the digests of the training: folders are named from anywhere, and move
        for fold in run.folds:
            network = fold.configuration_digest, fold.name
            if (other := known.setdefault(network, run)) is not run:
                raise ValueError(
                    f"{other.folder} and {run.folder}: both are {row} on {column} with the same"
                    f" network (fold {fold.name}), which would count twice; give one of them"
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
    if not values:
        raise ValueError(
            f"{runs[0].folder}: is the average of networks of {row}, and a cell is of single ones;"
            " give their folders (network-… beside it), or the folder that holds them all"
        )
    return MatrixCell(
        row=row,
        column=column,
        within=not runs[0].facts.network,
        runs=tuple(runs),
        values=tuple(values),
        ensemble=tuple(ensemble),
    )


def _way(run: Run) -> tuple[object, ...]:
    facts, tested = run.facts, run.benchmark
    labels = tested.columns, tested.ranking, tuple(head.names for head in tested.every_head)
    return facts.num_segments, facts.crops, facts.shards_digest, *labels


def _row_names(runs: Sequence[Run]) -> list[str]:
    """Corpus of the training of each run, with whatever else tells its rows apart."""
    extras = [(run.facts.modalities, run.facts.init, run.facts.rule) for run in runs]
    tells = [len({extra[place] for extra in extras}) > 1 for place in range(3)]
    return [
        ", ".join(
            [
                run.facts.trained_on or run.facts.benchmark,
                *(text for text, shown in zip(extra, tells, strict=True) if shown),
            ]
        )
        for run, extra in zip(runs, extras, strict=True)
    ]


def _grid(cells: Sequence[MatrixCell]) -> doc.Table:
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
    return doc.Table(columns=["trained on", *heads], rows=lines, title="Trained on, tested on")


def _list(cells: Sequence[MatrixCell]) -> doc.Table:
    rows = []
    for cell in cells:
        run = cell.runs[0]
        benchmark = run.benchmark
        named = benchmark.task == "classification"
        heads = [f"{head.name} ({', '.join(head.names)})" for head in benchmark.heads]
        rows.append(
            [
                cell.row,
                cell.column + (" (within)" if cell.within else ""),
                metric_name(cell.metric),
                cell.text,
                run.facts.mark(doc.number(float(np.mean(cell.ensemble)))) if cell.ensemble else "",
                run.facts.rule,
                str(len(cell.values)),
                str(run.scores.num_samples),
                "; ".join(heads) or ", ".join(benchmark.classes if named else benchmark.targets),
                doc.number(chance_score(benchmark)),
                left_out(run.facts.ignored) or "none",
            ]
        )
    columns = ["trained on", "tested on", "metric", "mean ± sd", "outputs averaged", "selection"]
    columns += ["networks", "samples", "classes or targets", "chance", "left out"]
    return doc.Table(columns=columns, rows=rows)


def _plain(cell: MatrixCell) -> dict[str, object]:
    mean, sd = map(doc.json_number, cell.summary)
    return {
        "trained_on": cell.row,
        "tested_on": cell.column,
        "within": cell.within,
        "metric": cell.metric,
        "selection": cell.runs[0].facts.rule,
        "networks": [doc.json_number(value) for value in cell.values],
        "mean": mean,
        "sd": sd,
        "runs": [str(run.folder) for run in cell.runs],
    }
