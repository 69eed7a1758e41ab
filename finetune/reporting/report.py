"""One report of one run or of several: every metric computed again from predictions.

For: ``hicmae report RUN… --out FILE``. Not for: what is said of a run
by itself (``finetune/reporting/run_report.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune.benchmark import Benchmark
from finetune.record import Run, read_run, runs_in
from finetune.reporting.class_parts import absent_classes, run_counts
from finetune.reporting.comparison import paired_parts, seed_parts
from finetune.reporting.document import Folded, Link, Part, Picture, Section, write_document
from finetune.reporting.figures_scores import comparison_figure
from finetune.reporting.run_report import REPORT, run_parts, write_run_report
from finetune.reporting.score_tables import chance, published_names, published_section, scores_table
from finetune.reporting.seeds import group_seeds
from finetune.reporting.tables import Table, mean_and_sd, measured, number, output_console, range_of
from finetune.scores import metric_name, undefined
from finetune.selection import rule_sentence

Named = Sequence[tuple[str, Run]]


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
    found = [read_run(folder) for given in runs for folder in runs_in(given)]
    names = _names(found)
    if any(out.resolve() == (run.folder / REPORT).resolve() for run in found):
        raise ValueError(f"{out}: is a run's own report; choose another file for the comparison")
    pairs = list(zip(names, found, strict=True))
    groups = [
        [pair for pair in pairs if pair[1].facts.benchmark == name]
        for name in dict.fromkeys(run.facts.benchmark for run in found)
    ]
    for group in groups:
        for _, run in group:
            _require_same(group[0][1].benchmark, group[0][1], run)
    parts = {name: run_parts(run, shards=shards) for name, run in pairs}
    for name, run in pairs:
        write_run_report(run, parts[name], html=html)
    console = output_console()
    for group in groups:
        several = _table(group) if len(pairs) > 1 else scores_table(group[0][1])
        console.print(several.terminal())
    if len(pairs) == 1:
        document = Section(title=names[0], parts=parts[names[0]])
    else:
        document = Section(
            title="Comparison of runs",
            parts=[
                _how_to_read(found),
                _summary(pairs),
                *(_section(group, out, parts) for group in groups),
            ],
        )
        console.print(_summary(pairs).terminal())
    for path in write_document(document, out, html=html):
        console.print(f"report: {path}")


def _summary(pairs: Named) -> Table:
    """All runs in one table, each with the leading metric of its benchmark."""
    rows = [
        [
            name,
            run.facts.benchmark,
            run.benchmark.task,
            run.facts.init,
            run.facts.modalities,
            run.facts.rule,
            f"{len(run.scores.folds)}",
            f"{run.scores.num_samples}",
            metric_name(run.benchmark.ranking),
            run.facts.mark(number(run.scores.pooled[run.benchmark.ranking])),
            run.facts.mark(mean_and_sd(run.scores, run.benchmark.ranking)),
        ]
        for name, run in pairs
    ]
    heads = ["run", "benchmark", "task", "start", "modalities", "selection"]
    heads += ["folds", "samples", "metric"]
    return Table(columns=[*heads, "pooled", "mean ± sd"], rows=rows, title="All runs")


def _section(group: Named, out: Path, whole: Mapping[str, Sequence[Part]]) -> Section:
    """Everything about the runs of one benchmark."""
    runs = [run for _, run in group]
    benchmark = runs[0].benchmark
    leading = benchmark.ranking
    entries = group_seeds(group)
    figure = out.parent / "figures" / f"comparison-{_slug(benchmark.name)}.png"
    comparison_figure(
        [f"{name}\n{run.facts.rule}" for name, run in group],
        [run.scores for run in runs],
        [run.intervals.values[leading] for run in runs],
        leading,
        figure,
        title=f"{benchmark.name}: {measured(metric_name(leading), _rules(runs))}",
    )
    published = published_section(benchmark)
    parts: list[Part] = [
        benchmark.title,
        _with_published(group),
        chance(benchmark),
        *_cautions(group),
        *dict.fromkeys(run.intervals.sentence() for run in runs),
        Picture(path=figure, caption=f"{metric_name(leading)} of the runs"),
        *seed_parts(entries),
        *paired_parts(entries),
        *([_recalls(group)] if benchmark.label else []),
        *(
            f"**Note.** {name}: {sentence}"
            for name, run in group
            for sentence in (*undefined(run.scores), *absent_classes(run), *run.disagreements)
        ),
        *([published] if published else []),
        Section(
            title="The runs in full", parts=[_folded(name, run, whole[name]) for name, run in group]
        ),
    ]
    return Section(title=benchmark.name, parts=parts)


def _folded(name: str, run: Run, whole: Sequence[Part]) -> Folded:
    """The report of a run inside that of several."""
    score = run.facts.mark(number(run.scores.pooled[run.benchmark.ranking]))
    parts: list[Part] = [
        Link(path=run.folder / REPORT, text="Its own report"),
        Section(title=name, parts=whole),
    ]
    return Folded(summary=f"{name}: {metric_name(run.benchmark.ranking)} {score}", parts=parts)


def _table(group: Named) -> Table:
    """One row a run."""
    benchmark, rules = group[0][1].benchmark, _rules([run for _, run in group])
    leading = benchmark.ranking
    metrics = list(group[0][1].scores.pooled)
    metrics.sort(key=lambda metric: metric != leading)
    heads = ["run", "start", "modalities", "selection", "folds", "samples", "seed"]
    for metric in metrics:
        heads.append(measured(metric_name(metric), rules))
        if metric == leading:
            heads += [measured("95 %", rules), measured("mean ± sd", rules)]
    rows = []
    for name, run in group:
        cells = [
            name,
            run.facts.init,
            run.facts.modalities,
            run.facts.rule,
            str(len(run.scores.folds)),
            str(run.scores.num_samples),
            str(run.facts.seed),
        ]
        for metric in metrics:
            cells.append(run.facts.mark(number(run.scores.pooled[metric])))
            if metric == leading:
                cells.append(run.facts.mark(range_of(*run.intervals.values[metric])))
                cells.append(run.facts.mark(mean_and_sd(run.scores, metric)))
        rows.append(cells)
    return Table(columns=heads, rows=rows, title=f"{benchmark.name} (pooled over folds)")


def _with_published(group: Named) -> Table:
    """One row a run, then one for each published entry, whose numbers have columns of their own."""
    measured, benchmark = _table(group), group[0][1].benchmark
    if not benchmark.published:
        return measured
    metrics = list(dict.fromkeys(name for item in benchmark.published for name in item.scores))
    heads = [*measured.columns, *(f"{metric_name(metric)}, published" for metric in metrics)]
    rows = [[*row, *[""] * len(metrics)] for row in measured.rows]
    for name, item in zip(published_names(benchmark), benchmark.published, strict=True):
        cells = [f"published: {name}", "", item.modalities, *[""] * (len(measured.columns) - 3)]
        cells += [number(item.scores[m]) if m in item.scores else "" for m in metrics]
        rows.append(cells)
    return Table(columns=heads, rows=rows)


def _recalls(group: Named) -> Section:
    """The recall of each class, a column a run."""
    benchmark = group[0][1].benchmark
    columns = []
    for _, run in group:
        counts = run_counts(run)
        columns.append(
            [
                run.facts.mark(number(hits / samples)) if samples else "n/a"
                for hits, samples in zip(counts.diagonal(), counts.sum(axis=1), strict=True)
            ]
        )
    heads = ["class", *(measured(name, run.facts.rule) for name, run in group)]
    rows = [list(row) for row in zip(benchmark.classes, *columns, strict=True)]
    return Section(title="Recall by class", parts=[Table(columns=heads, rows=rows)])


def _how_to_read(runs: Sequence[Run]) -> str:
    """What the columns mean, and how the tested weights were chosen."""
    rules = dict.fromkeys(rule_sentence(run.facts.selection, run.facts.protocol) for run in runs)
    return (
        "All numbers here were measured by these runs and computed again from their predictions."
        " Every column is pooled over the test predictions of all folds; `mean ± sd` is the"
        " leading metric over folds, with the sample standard deviation; `95 %` is the bootstrap"
        " interval of the pooled leading metric."
        f" Selection rule: {'; '.join(rules)}."
    )


def _cautions(group: Named) -> list[str]:
    """Cautions where the runs cannot be compared sample by sample, or are few."""
    keys = {frozenset(item.key for item in run.predictions) for _, run in group}
    sentences = []
    if len(keys) > 1:
        sentences.append(
            "**Note.** These runs did not test the same samples (other folds, or other shards);"
            " their rows are not comparable."
        )
    if len(group) > 1 and len({run.facts.seed for _, run in group}) == 1:
        sentences.append(
            "One seed each: a gap that is no larger than the spread over folds proves nothing."
        )
    return sentences


def _rules(runs: Sequence[Run]) -> str:
    """The selection rule of runs; where they have several, it stands in each row."""
    rules = dict.fromkeys(run.facts.rule for run in runs)
    return next(iter(rules)) if len(rules) == 1 else "as in each row"


def _require_same(benchmark: Benchmark, first: Run, run: Run) -> None:
    """Refuse runs of one name that mean different things by it."""
    theirs = run.benchmark
    for part in ("task", "classes", "targets", "metrics"):
        ours, other = getattr(benchmark, part), getattr(theirs, part)
        if ours != other:
            raise ValueError(
                f"{run.folder}: benchmark '{benchmark.name}' has other {part} than in"
                f" {first.folder} ({other} against {ours}); compare them in separate reports"
            )


def _names(runs: Sequence[Run]) -> list[str]:
    """A name for each run that no other has: of its folder, with as many parents as it takes."""
    parts = [run.folder.resolve().parts for run in runs]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-count:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    twice = sorted(
        {str(run.folder) for run, path in zip(runs, parts, strict=True) if parts.count(path) > 1}
    )
    raise ValueError(f"{', '.join(twice)}: given twice")


def _slug(name: str) -> str:
    """A name that is a portable file name."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
