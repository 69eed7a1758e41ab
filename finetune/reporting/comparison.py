"""Runs side by side: tables, published numbers, seeds, and each entry against the first."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.benchmark import Benchmark
from finetune.record import CONFIG, Run
from finetune.reporting import document as doc
from finetune.reporting.classes import absent_classes, run_counts
from finetune.reporting.entries import (
    SeedGroup,
    group_seeds,
    how_to_read_seeds,
    label_curve_parts,
    mark_of,
    seeds_table,
)
from finetune.reporting.resampling import LEVEL, NUM_DRAWS, Comparison
from finetune.reporting.run_report import REPORT, chance, published_names, published_section
from finetune.scores import metric_name, undefined
from finetune.selection import rule_sentence
from hicmae.config import load_yaml
from hicmae.files import portable

Named = Sequence[tuple[str, Run]]
# What decides scores in a run's configuration and has no column in the table of runs.
_DECISIVE = {"protocol", "validation_share", "epochs", "accumulate", "recipe"}
_DECISIVE |= {"optimizer", "mixing", "augment", "precision"}


def name_runs(runs: Sequence[Run], given: Sequence[Path] = ()) -> list[tuple[str, Run]]:
    """Give each run a name that no other has: of its folder, with as many parents as it takes.

    Args: given: For each run the folder that the user named, its own or one that holds several:
        names tell where in that folder a run lies, and in which where there are more.
    Raises: ValueError: one that is given twice.
    """
    parts = [run.folder.resolve().parts for run in runs]
    several = len(set(given)) > 1
    below = [
        len(run.folder.relative_to(top).parts) + several
        for run, top in zip(runs, given or [run.folder for run in runs], strict=True)
    ]
    twice = {str(run.folder) for run, own in zip(runs, parts, strict=True) if parts.count(own) > 1}
    if twice:
        raise ValueError(f"{', '.join(sorted(twice))}: given twice")
    for count in itertools.count(1):
        names = [
            "/".join(path[-max(count, least) :]) for path, least in zip(parts, below, strict=True)
        ]
        if len(set(names)) == len(names):
            break
    return list(zip(names, runs, strict=True))


def group_runs(pairs: Named) -> Sequence[Named]:
    """Put runs of one benchmark together, all led by the metric that leads the first.

    Raises: ValueError: runs that mean different things by its name.
    """
    groups = [
        [pair for pair in pairs if pair[1].facts.benchmark == name]
        for name in dict.fromkeys(run.facts.benchmark for _, run in pairs)
    ]
    for (_, first), *others in groups:
        means = _meanings(first.benchmark)
        for _, run in others:
            for part, other in _meanings(run.benchmark).items():
                if other != (ours := means[part]):
                    raise ValueError(
                        f"{run.folder}: benchmark '{first.benchmark.name}' has other {part} than in"
                        f" {first.folder} ({other} against {ours}); compare them in separate"
                        " reports"
                    )
    return [[(name, _led_as(group[0][1], run)) for name, run in group] for group in groups]


def _led_as(first: Run, run: Run) -> Run:
    """A run whose benchmark has another leading metric, as if it had that of the first."""
    if run.benchmark.leading == first.benchmark.leading:
        return run
    benchmark = dataclasses.replace(run.benchmark, leading=first.benchmark.leading)
    return dataclasses.replace(run, benchmark=benchmark)


def _meanings(benchmark: Benchmark) -> dict[str, Any]:
    """What scores are of, part by part; weights and losses of heads are not of them."""
    found: dict[str, Any] = {"task": benchmark.task}
    found["heads"] = tuple(head.name for head in benchmark.heads)
    for head in benchmark.heads:
        what = {"kind": head.kind, "outputs": head.names}
        found |= {f"{name} of head {head.name}": value for name, value in what.items()}
    found |= {part: getattr(benchmark, part) for part in ("classes", "targets", "metrics")}
    factors = benchmark.combinations.items()
    return found | {f"factors of {name}": parts for name, parts in factors}


def comparison(
    pairs: Named, groups: Sequence[Named], out: Path, whole: Mapping[str, Sequence[doc.Part]]
) -> doc.Section:
    """Draw and say everything about several runs.

    Args:
        groups: The same runs by benchmark.
        out: Markdown file that it is for; figures go beside it.
        whole: What each run's own report says, by its name.
    """
    return doc.Section(
        title="Comparison of runs",
        parts=[
            _how_to_read_columns([run for _, run in pairs]),
            summary_table(pairs),
            *(
                _benchmark_section(group, out, whole, file_name)
                for group, file_name in zip(groups, _file_names(groups), strict=True)
            ),
        ],
    )


def summary_table(pairs: Named) -> doc.Table:
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
            run.facts.mark(doc.number(run.scores.pooled[run.benchmark.ranking])),
            run.facts.mark(doc.fold_spread(run.scores, run.benchmark.ranking)),
        ]
        for name, run in pairs
    ]
    heads = ["run", "benchmark", "task", "start", "modalities", "selection"]
    heads += ["folds", "samples", "metric"]
    return doc.Table(columns=[*heads, "pooled", "mean ± sd"], rows=rows, title="All runs")


def _file_names(groups: Sequence[Named]) -> list[str]:
    """Part of the names of each benchmark's figures, with a number where another has the same."""
    found: list[str] = []
    for (_, run), *_ in groups:
        name = own = portable(run.benchmark.name)
        tried = itertools.count(2)
        while own in found:
            own = f"{name}-{next(tried)}"
        found.append(own)
    return found


def _benchmark_section(
    group: Named, out: Path, whole: Mapping[str, Sequence[doc.Part]], file_name: str
) -> doc.Section:
    runs = [run for _, run in group]
    benchmark = runs[0].benchmark
    leading = benchmark.ranking
    entries = group_seeds(group)
    # Reports of one folder have pictures of their own.
    figure = out.parent / "figures" / f"{out.stem}-comparison-{file_name}.png"
    comparison_figure(group, figure)
    labels = label_curve_parts(entries, figure.with_name(f"{out.stem}-labels-{file_name}.png"))
    published = published_section(benchmark)
    parts: list[doc.Part] = [
        doc.literal(benchmark.title),
        _with_published(group),
        chance(benchmark),
        *_cautions(group, entries),
        *dict.fromkeys(run.intervals.sentence() for run in runs),
        doc.Picture(path=figure, caption=f"{metric_name(leading)} of the runs"),
        *settings_parts(group),
        *labels,
        *seed_parts(entries),
        *paired_parts(entries),
        *([_recalls(group)] if benchmark.label else []),
        *(
            f"**Note.** {doc.literal(name)}: {sentence}"
            for name, run in group
            for sentence in (*undefined(run.scores), *absent_classes(run), *run.disagreements)
        ),
        *([published] if published else []),
        doc.Section(
            title="The runs in full", parts=[_folded(name, run, whole[name]) for name, run in group]
        ),
    ]
    return doc.Section(title=benchmark.name, parts=parts)


def runs_table(group: Named) -> doc.Table:
    """One row a run."""
    benchmark, rules = group[0][1].benchmark, _rules([run for _, run in group])
    leading = benchmark.ranking
    metrics = list(group[0][1].scores.pooled)
    metrics.sort(key=lambda metric: metric != leading)
    heads = ["run", "start", "modalities", "selection", "folds", "samples", "seed"]
    for metric in metrics:
        heads.append(doc.measured(metric_name(metric), rules))
        if metric == leading:
            heads += [doc.measured("95 %", rules), doc.measured("mean ± sd", rules)]
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
            cells.append(run.facts.mark(doc.number(run.scores.pooled[metric], metric)))
            if metric == leading:
                cells.append(run.facts.mark(doc.range_of(*run.intervals.values[metric])))
                cells.append(run.facts.mark(doc.fold_spread(run.scores, metric)))
        rows.append(cells)
    return doc.Table(
        columns=heads,
        rows=rows,
        title=f"{benchmark.name} (pooled over folds)",
        notes=[run.intervals.caution for _, run in group],
    )


def settings_parts(group: Named) -> list[doc.Section]:
    """The settings by which scores of runs may differ that are not the same in all; none: nothing.

    What a configuration leaves out has its default, and is called so.
    """
    trained = [(run.folder / CONFIG) if not run.facts.evaluates else None for _, run in group]
    found = [_settings(path) if path and path.is_file() else {} for path in trained]
    known = [each for each in found if each]
    names = [
        name
        for name in dict.fromkeys(itertools.chain.from_iterable(known))
        if len({each.get(name, "default") for each in known}) > 1
    ]
    if not names:
        return []
    rows = [["run", *names]]
    for (run, _), each in zip(group, found, strict=True):
        rows.append([run, *(each.get(name, "default") if each else "not known" for name in names)])
    if len(names) > len(group):  # of recipes that have little in common
        rows = [list(row) for row in zip(*rows, strict=True)]
        rows[0][0] = "setting"
    table = doc.Table(columns=rows[0], rows=rows[1:])
    return [doc.Section(title="Settings in which the runs differ", parts=[table])]


def _settings(path: Path) -> dict[str, str]:
    """What decides scores in a configuration, as it says it, by the names of its options."""
    decisive = {name: value for name, value in load_yaml(path).items() if name in _DECISIVE}
    return dict(_flat(decisive))


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{above}{name}", text


def seed_parts(groups: Sequence[SeedGroup]) -> list[doc.Section]:
    """A table over seeds, where any entry has several."""
    several = [group for group in groups if len(group.runs) > 1]
    if not several:
        return []
    reading = dict.fromkeys(how_to_read_seeds(group) for group in several)
    return [doc.Section(title="Over seeds", parts=[seeds_table(several), *reading])]


def paired_parts(groups: Sequence[SeedGroup]) -> list[doc.Section]:
    """Each entry against the first, in the leading metric.

    Only entries that scored the very same samples by the same labels are compared; others are
    named.
    """
    if len(groups) < 2:
        return []
    first, *others = groups
    truths, *theirs = (one.scored for one in groups)
    alike = [one for one, own in zip(others, theirs, strict=True) if own == truths]
    rows = [_row(first, group, group.minus(first)) for group in alike]
    name = metric_name(first.runs[0].benchmark.ranking)
    parts: list[doc.Part] = []
    if rows:
        columns = ["entry", "selection", f"{name} minus {first.name}", "95 %", "p", "swaps"]
        parts += [doc.Table(columns=columns, rows=rows), _how_to_read_pairs(len(rows))]
    parts += [
        f"**Note.** {doc.literal(group.name)} did not score the samples of"
        f" {doc.literal(first.name)}"
        f"{' by the same labels' if own.keys() == truths.keys() else ''}, so there is no paired"
        " comparison."
        for group, own in zip(others, theirs, strict=True)
        if group not in alike
    ]
    return [doc.Section(title=f"Each against {first.name}", parts=parts)]


def comparison_figure(group: Named, path: Path) -> None:
    """Draw the pooled leading metric of runs of one benchmark, with interval and folds."""
    runs = [run for _, run in group]
    benchmark, metric = runs[0].benchmark, runs[0].benchmark.ranking
    title = f"{benchmark.name}: {doc.measured(metric_name(metric), _rules(runs))}"
    figure, axes = doc.make_axes(8.4, 1.5 + 0.55 * len(runs), title)
    places = np.arange(len(runs))[::-1]
    for place, run in zip(places, runs, strict=True):
        pooled, (low, high) = run.scores.pooled[metric], run.intervals.values[metric]
        folds = [values[metric] for values in run.scores.folds.values()]
        shown = 0.0 if np.isnan(pooled) else pooled
        axes.barh(place, shown, height=0.62, color=doc.BLUE, alpha=0.6)
        axes.plot([low, high], [place, place], color="black", linewidth=1.5)
        axes.scatter(folds, [place] * len(folds), s=22, color=doc.ORANGE, zorder=3)
        right = max([shown, *(value for value in (*folds, high) if not np.isnan(value))])
        axes.text(max(right, 0) + 0.015, place, doc.number(pooled), va="center", fontsize=10)
    axes.set_yticks(places, [f"{name}\n{run.facts.rule}" for name, run in group])
    axes.set_xlim(min(0.0, axes.get_xlim()[0]), max(1.0, axes.get_xlim()[1]) + 0.08)
    axes.set_xlabel(
        f"{metric_name(metric)} (bar: pooled over folds; line: 95 %; dots: single folds)"
    )
    doc.plain(axes)
    doc.save(figure, path)


def _folded(name: str, run: Run, whole: Sequence[doc.Part]) -> doc.Folded:
    score = run.facts.mark(doc.number(run.scores.pooled[run.benchmark.ranking]))
    parts: list[doc.Part] = [
        doc.Link(path=run.folder / REPORT, text="Its own report"),
        doc.Section(title=name, parts=whole),
    ]
    return doc.Folded(summary=f"{name}: {metric_name(run.benchmark.ranking)} {score}", parts=parts)


def _with_published(group: Named) -> doc.Table:
    """One row a run, then one for each published entry, whose numbers have columns of their own."""
    measured, benchmark = runs_table(group), group[0][1].benchmark
    if not benchmark.published:
        return measured
    metrics = list(dict.fromkeys(name for item in benchmark.published for name in item.scores))
    heads = [*measured.columns, *(f"{metric_name(metric)}, published" for metric in metrics)]
    rows = [[*row, *[""] * len(metrics)] for row in measured.rows]
    for name, item in zip(published_names(benchmark), benchmark.published, strict=True):
        cells = [f"published: {name}", "", item.modalities, *[""] * (len(measured.columns) - 3)]
        cells += [doc.number(item.scores[m], m) if m in item.scores else "" for m in metrics]
        rows.append(cells)
    return doc.Table(columns=heads, rows=rows)


def _recalls(group: Named) -> doc.Section:
    benchmark = group[0][1].benchmark
    columns = []
    for _, run in group:
        counts = run_counts(run)
        columns.append(
            [
                run.facts.mark(doc.number(hits / samples)) if samples else "n/a"
                for hits, samples in zip(counts.diagonal(), counts.sum(axis=1), strict=True)
            ]
        )
    heads = ["class", *(doc.measured(name, run.facts.rule) for name, run in group)]
    rows = [list(row) for row in zip(benchmark.classes, *columns, strict=True)]
    return doc.Section(title="Recall by class", parts=[doc.Table(columns=heads, rows=rows)])


def _how_to_read_columns(runs: Sequence[Run]) -> str:
    rules = dict.fromkeys(rule_sentence(run.facts.selection, run.facts.protocol) for run in runs)
    return (
        "All numbers here were measured by these runs and computed again from their predictions."
        " Every column is pooled over the test predictions of all folds; `mean ± sd` is the"
        " leading metric over folds, with the sample standard deviation; `95 %` is the bootstrap"
        " interval of the pooled leading metric."
        f" Selection rule: {'; '.join(rules)}."
    )


def _cautions(group: Named, entries: Sequence[SeedGroup]) -> list[str]:
    """Cautions where the runs cannot be compared sample by sample, or are few."""
    keys = {frozenset(item.key for item in run.units) for _, run in group}
    sentences = []
    if len(keys) > 1:
        sentences.append(
            "**Note.** These runs did not test the same samples (other folds, or other shards);"
            " their rows are not comparable."
        )
    if len(group) > 1 and len(entries) == len(group):
        sentences.append(
            "One seed each: a gap that is no larger than the spread over folds proves nothing."
        )
    return sentences


def _rules(runs: Sequence[Run]) -> str:
    rules = dict.fromkeys(run.facts.rule for run in runs)
    return next(iter(rules)) if len(rules) == 1 else "as in each row"


def _row(first: SeedGroup, group: SeedGroup, found: Comparison) -> list[str]:
    mark = mark_of(group, first)
    return [
        group.name,
        group.runs[0].facts.rule,
        mark(doc.signed(found.difference)),
        mark(doc.range_of(found.low, found.high)),
        _p_value(found),
        found.method,
    ]


def _p_value(found: Comparison) -> str:
    """Three decimals, and no 0 where nothing so small can be known."""
    return "< 0.001" if found.p_value < 0.001 else doc.number(found.p_value)


def _how_to_read_pairs(count: int) -> str:
    many = f" The {count} p-values are not corrected for being {count}." if count > 1 else ""
    return (
        f"Difference in the score pooled over folds (mean over seeds). {LEVEL:.0%} interval: paired"
        f" bootstrap, {NUM_DRAWS} draws, the same for both. p: two-sided permutation test; swapping"
        " both runs' predictions of a whole speaker (of a sample, or of the recording of instants,"
        " where speakers are unknown or there is one) would change nothing if they were alike, and"
        " p is the share of swaps that give a difference at least as large; seeds are swapped in"
        " pairs, and entries with other numbers of seeds have no p. Neither sees the chance of"
        f" training again.{many}"
    )
