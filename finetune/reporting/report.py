"""Comparing runs: every metric computed again from predictions, in one report.

For: ``hicmae report RUN… --out FILE``. Not for: the report of one run
(``finetune/reporting/run_report.py``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from finetune.benchmark import Benchmark
from finetune.record import Run, read_run, runs_in, write_text
from finetune.reporting.breakdown import absent_classes
from finetune.reporting.comparison import paired_parts, seed_parts
from finetune.reporting.figures import comparison_figure
from finetune.reporting.run_report import chance, published_section, write_run_report
from finetune.reporting.seeds import group_seeds
from finetune.reporting.tables import Table, mean_and_sd, number, output_console, range_of
from finetune.scores import metric_name, undefined
from finetune.selection import rule_sentence


def report(*, runs: list[Path], out: Path = Path("report.md")) -> None:
    """Compare finished fine-tuning runs in one table.

    Every metric is computed again from the runs' predictions; each run's own report and figures
    are refreshed. Runs of different benchmarks stand in tables of their own.

    Args:
        runs: Run folders of ``hicmae finetune``, or folders that hold several.
        out: Markdown file to write; its figures go into ``figures/`` beside it.

    Raises: FileNotFoundError: no such run. ValueError: a run that is not finished or damaged, or
        two that share a name, or a report in place of a run's own.
    """
    found = [read_run(folder) for given in runs for folder in runs_in(given)]
    names = _names(found)
    if any(out.resolve() == (run.folder / "report.md").resolve() for run in found):
        raise ValueError(f"{out}: is a run's own report; choose another file for the comparison")
    console = output_console()
    pairs = list(zip(names, found, strict=True))
    parts = ["# Comparison of runs", _how_to_read(found), _summary(pairs).markdown()]
    for benchmark_name in dict.fromkeys(run.facts.benchmark for run in found):
        group = [pair for pair in pairs if pair[1].facts.benchmark == benchmark_name]
        parts += _section(group, out)
        console.print(_table(group).terminal())
    console.print(_summary(pairs).terminal())
    write_text(out, "\n\n".join(part for part in parts if part) + "\n")
    console.print(f"report: {out}")


def _summary(pairs: Sequence[tuple[str, Run]]) -> Table:
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


def _section(group: Sequence[tuple[str, Run]], out: Path) -> list[str]:
    """Everything about the runs of one benchmark."""
    runs = [run for _, run in group]
    benchmark = runs[0].benchmark
    for run in runs:
        _require_same(benchmark, runs[0], run)
        write_run_report(run)
    leading = benchmark.ranking
    entries = group_seeds(group)
    figure = out.parent / "figures" / f"comparison-{_slug(benchmark.name)}.png"
    comparison_figure(
        [run.facts.mark(name) for name, run in group],
        [run.scores for run in runs],
        leading,
        figure,
        title=f"{benchmark.name}: {metric_name(leading)}, selection {_rules(runs)}",
    )
    parts = [f"## {benchmark.name}"]
    if benchmark.title:
        parts.append(benchmark.title)
    parts += [
        _table(group).markdown(),
        chance(benchmark),
        _spread(group),
        *dict.fromkeys(run.intervals.sentence() for run in runs),
        *seed_parts(entries),
        *paired_parts(entries),
        *(
            f"**Note.** {name}: {sentence}"
            for name, run in group
            for sentence in (*undefined(run.scores), *absent_classes(run), *run.disagreements)
        ),
        f"![{metric_name(leading)} of the runs]({_link(figure, out)})",
    ]
    for name, run in group:
        parts.append(f"### {name}")
        parts.append(f"[Its report]({_link(run.folder / 'report.md', out)})")
        parts += [
            f"![{picture.stem} of {name}]({_link(picture, out)})"
            for picture in sorted((run.folder / "figures").glob("*.png"))
        ]
    parts += [
        text.replace("## Published", "### Published", 1) for text in published_section(benchmark)
    ]
    return parts


def _table(group: Sequence[tuple[str, Run]]) -> Table:
    """One row a run."""
    benchmark = group[0][1].benchmark
    leading = benchmark.ranking
    metrics = list(group[0][1].scores.pooled)
    metrics.sort(key=lambda metric: metric != leading)
    heads = ["run", "start", "modalities", "selection", "folds", "samples", "seed"]
    for metric in metrics:
        heads.append(metric_name(metric))
        if metric == leading:
            heads += ["95 %", "mean ± sd"]
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


def _spread(group: Sequence[tuple[str, Run]]) -> str:
    """A caution where the runs cannot be compared sample by sample, or are few."""
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
    return "\n\n".join(sentences)


def _rules(runs: Sequence[Run]) -> str:
    """The selection rules of runs, each once."""
    return ", ".join(dict.fromkeys(run.facts.rule for run in runs))


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


def _link(target: Path, out: Path) -> str:
    """A link from the report to a file."""
    relative = os.path.relpath(target.resolve(), out.resolve().parent)
    return quote(Path(relative).as_posix())


def _slug(name: str) -> str:
    """A name that is a portable file name."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
