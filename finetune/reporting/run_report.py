"""The report of one run: ``report.md``, ``report.html`` and ``figures/`` in its folder.

Published and measured numbers never share a column, and every measured column names its selection
rule. Of a joint network, a head of one class, of levels or of real values has the sections of a run
of its own, made of the samples that have its label; several classes at once and shares have a table
each.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shlex
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import yaml
from threadpoolctl import threadpool_limits

from finetune.benchmark import Benchmark, Published
from finetune.folds import left_out
from finetune.heads import Head
from finetune.predictions import head_arrays, named_shares, of_head
from finetune.record import CONFIG, Run
from finetune.reporting.breakdown import group_section, speaker_section, unit_name
from finetune.reporting.classes import absent_classes, class_sections, coverage_section
from finetune.reporting.document import (
    Folded,
    ForeignMarkdown,
    Part,
    Section,
    Table,
    fold_spread,
    literal,
    measured,
    number,
    range_of,
    signed,
    write_document,
)
from finetune.reporting.errors import error_section
from finetune.reporting.features import feature_section, layer_section
from finetune.reporting.values import over_time_section, value_sections
from finetune.scores import metric_name, score_run, undefined
from finetune.selection import rule_sentence
from hicmae.config import load_yaml
from hicmae.files import text_of
from hicmae.heads import blend_metrics
from hicmae.processes import end_with_starter, forking, num_cores

REPORT = "report.md"
# Runs from which on several processes draw: each begins with the imports of one, six seconds.
_MANY_RUNS = 6
# Markdown in a run folder that others wrote, each file a section of the report: what each modality
# is worth, and whatever the user puts into sections/ (a matrix over corpora, notes).
OTHERS = ("modalities/modalities.md", "sections/*.md")


def write_run_report(run: Run, parts: Sequence[Part] | None = None, *, html: bool = True) -> Path:
    """Write a run's own report.

    Args:
        parts: What ``run_parts`` gave, if it was asked already.
        html: Whether to write one HTML file too.

    Returns: path of ``report.md``.
    """
    parts = run_parts(run) if parts is None else parts
    return write_document(Section(title=run.title, parts=parts), run.folder / REPORT, html=html)[0]


def write_run_reports(
    runs: Sequence[Run], *, shards: Path | None, html: bool, workers: int | None
) -> list[Sequence[Part]]:
    """Draw and write the runs' own reports.

    Args:
        shards: As of ``run_parts``.
        html: Whether to write one HTML file of each too.
        workers: Processes that share the runs; null: one a core where there are six runs or more,
            else this one.

    Returns: what each says.
    Raises: ValueError: as ``run_parts`` and ``forking``, or a process died.
    """
    if workers is None:
        workers = num_cores() if len(runs) >= _MANY_RUNS else 1
    workers = min(workers, len(runs))
    draw = functools.partial(_own_report, shards=shards, html=html)
    if workers == 1:
        return [draw(run) for run in runs]
    context = forking((__name__,))
    with ProcessPoolExecutor(workers, context, _begin_drawing) as pool:
        try:
            return list(pool.map(draw, runs))
        except BrokenProcessPool:
            raise ValueError(
                "report: a process that drew has died, as happens where memory runs out; "
                "--workers 1 draws one run after the other, in this process"
            ) from None


def _begin_drawing() -> None:
    """In a process of several: Ctrl-C, which reaches all, is for the one that was started by hand
    and ends the others, as does whatever kills it; and each has a core.
    """
    end_with_starter(lambda: os._exit(1))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threadpool_limits(1)


def _own_report(run: Run, *, shards: Path | None, html: bool) -> Sequence[Part]:
    parts = run_parts(run, shards=shards)
    write_run_report(run, parts, html=html)
    return parts


def run_parts(run: Run, *, shards: Path | None = None) -> Sequence[Part]:
    """Draw the figures of a run.

    Args: shards: Where the run's shards are now, for the frames of errors; none given: where they
        were.
    Returns: all that its report says below the heading.
    Raises: ValueError: a damaged file in the run folder.
    """
    figures, folds = run.folder / "figures", list(run.scores.folds)
    pooled = f"{len(folds)} folds pooled" if len(folds) > 1 else f"fold {folds[0]}"
    title = f"{run.title}: {run.facts.benchmark}, {pooled}\nselection {run.facts.rule}"
    of_classes = run.benchmark.task == "classification"
    heads = [(head, run_of_head(run, head)) for head in run.benchmark.every_head]
    alone = [(head, own) for head, own in heads if own is not None]
    # The picture of features is coloured by the first head of which every sample has the label.
    whole = (each for each in alone if len(each[1].predictions) == len(run.predictions))
    shown = next(whole, None)
    found = [
        Section(title="Measured", parts=[metrics_table(run), scores_table(run), *_notes(run)]),
        published_section(run.benchmark),
        over_time_section(run),
        *head_sections(run, figures, title),
        coverage_section(run, figures, title) if of_classes else None,
        speaker_section(run, figures),
        group_section(run, figures),
        *_others(run.folder),
        None if shown is None else feature_section(shown[1], figures, of=shown[0].name),
        layer_section(run, figures),
        *(error_section(own, figures / head.name, shards, of=head.name) for head, own in alone),
        Section(title="What was run", parts=[_facts_table(run)]),
        Section(title="Folds", parts=[_fold_table(run)]),
        _configuration(run),
        _terms(run.benchmark),
    ]
    return [_introduction(run), *(section for section in found if section is not None)]


def metrics_table(run: Run) -> Table:
    """One row a metric: pooled, its interval, mean and deviation, and each published number."""
    scores, mark, rule = run.scores, run.facts.mark, run.facts.rule
    leading = run.benchmark.ranking
    published = run.benchmark.published
    rows = []
    for metric in sorted(scores.pooled, key=lambda name: name != leading):
        name = metric_name(metric)
        cells = [f"**{name}**" if metric == leading else name]
        cells.append(mark(number(scores.pooled[metric], metric)))
        cells.append(mark(range_of(*run.intervals.values[metric], metric)))
        if len(scores.folds) > 1:
            cells.append(mark(fold_spread(scores, metric)))
        cells += [
            number(item.scores[metric], metric) if metric in item.scores else ""
            for item in published
        ]
        rows.append(cells)
    heads = ["metric", measured("pooled", rule), measured("95 %", rule)]
    heads += [measured("mean ± sd over folds", rule)] if len(scores.folds) > 1 else []
    heads += [f"published: {name}" for name in published_names(run.benchmark)]
    return Table(columns=heads, rows=rows)


def scores_table(run: Run) -> Table:
    """Every metric per fold, pooled with its interval, and as mean and deviation."""
    scores, mark = run.scores, run.facts.mark
    metrics = list(scores.pooled)
    rows = [
        [f"fold {name}", str(scores.counts[name]), *(mark(number(values[m], m)) for m in metrics)]
        for name, values in scores.folds.items()
    ]
    rows.append(
        [
            "**pooled**",
            str(scores.num_samples),
            *(mark(number(scores.pooled[m], m)) for m in metrics),
        ]
    )
    rows.append(
        ["95 % interval", "", *(mark(range_of(*run.intervals.values[m], m)) for m in metrics)]
    )
    if len(scores.folds) > 1:
        rows.append(["mean ± sd", "", *(mark(fold_spread(scores, m)) for m in metrics)])
    heads = [measured(metric_name(metric), run.facts.rule) for metric in metrics]
    return Table(
        columns=[f"selection: {run.facts.rule}", unit_name(run), *heads],
        rows=rows,
        title=f"{run.facts.benchmark}, selection: {run.facts.rule}",
        notes=[run.intervals.caution],
    )


def published_names(benchmark: Benchmark) -> list[str]:
    """A name for each published entry that no other has."""
    names = [item.method for item in benchmark.published]

    def named(item: Published) -> str:
        twice = names.count(item.method) > 1 and item.modalities
        return f"{item.method} ({item.modalities})" if twice else item.method

    return [named(item) for item in benchmark.published]


def published_section(benchmark: Benchmark) -> Section | None:
    """Numbers of others with their sources, in a table of their own; nothing without any."""
    if not benchmark.published:
        return None
    metrics = list(dict.fromkeys(name for item in benchmark.published for name in item.scores))
    rows = [
        [
            item.method,
            item.modalities,
            *(number(item.scores[m], m) if m in item.scores else "" for m in metrics),
            item.source,
            item.note,
        ]
        for item in benchmark.published
    ]
    names = [f"{metric_name(metric)}, published" for metric in metrics]
    return Section(
        title="Published by others, not measured here",
        parts=[
            Table(columns=["method", "modalities", *names, "source", "what differs"], rows=rows)
        ],
    )


def chance(benchmark: Benchmark) -> str:
    """What guessing reaches in the leading metric, as a sentence."""
    if benchmark.heads:
        return (
            f"It is of {len(benchmark.heads)} heads: "
            + ", ".join(f"{head.name} ({head.kind})" for head in benchmark.heads)
            + "."
        )
    if benchmark.task == "regression":
        return "Guessing one value for everybody has a CCC of 0."
    size = len(benchmark.classes)
    return f"Guessing has a UAR of 1/{size} = {1 / size:.3f}."


def run_of_head(run: Run, head: Head) -> Run | None:
    """The run as if it had this head alone; none of kinds without a task of their own, or where no
    tested sample has its label.
    """
    benchmark, predictions = run.benchmark.of_head(head), of_head(head, run.predictions)
    if benchmark is None or not predictions:
        return None
    if not head.name:
        return run
    return dataclasses.replace(
        run,
        benchmark=benchmark,
        predictions=tuple(predictions),
        scores=score_run(benchmark, predictions),
        disagreements=(),
    )


def head_sections(run: Run, figures: Path, title: str) -> list[Section]:
    """One section a head; of a single task its sections themselves."""
    sections = []
    for head in run.benchmark.every_head:
        own = run_of_head(run, head)
        about = title if not head.name else f"{title}, head {head.name}"
        parts: list[Section] = []
        if own is not None:
            of_values = head.kind == "regression"
            make: Callable[..., list[Section]] = value_sections if of_values else class_sections
            parts = make(own, figures / head.name, about)
        if not head.name:
            return parts
        labelled = len(of_head(head, run.units))
        told: list[Part] = [
            f"Kind {head.kind}, loss {head.loss_text} with weight {head.weight:g}; {labelled} of"
            f" {len(run.units)} tested have a label."
        ]
        if labelled and head.kind == "multilabel":
            told.append(_class_table(run, head))
        if labelled and head.kind == "distribution":
            told.append(_share_table(run, head))
        if labelled and head.names_blends:
            told += _blend_parts(run, head)
        sections.append(Section(title=f"Head {head.name}", parts=[*told, *parts]))
    return sections


def _introduction(run: Run) -> str:
    facts, benchmark = run.facts, run.benchmark
    start = (
        f"fine-tuned from `{facts.checkpoint}`"
        if facts.init == "checkpoint"
        else "trained from scratch"
    )
    if facts.evaluates:
        trained = f" on {facts.trained_on}" if facts.trained_on else ""
        start = f"networks of `{facts.evaluates}` ({start}{trained}), tested again"
    title = f" ({literal(benchmark.title.rstrip('.'))})" if benchmark.title else ""
    return (
        f"Benchmark **{literal(benchmark.name)}**{title}; {facts.modalities}, {start}. "
        f"Leading metric: **{metric_name(benchmark.ranking)}**. {chance(benchmark)}"
    )


def _notes(run: Run) -> list[str]:
    selection = rule_sentence(run.facts.selection, run.facts.protocol)
    one, who = run.facts.network, "the fold that did not train on it"
    if one:  # of those that were tested on another corpus
        who = "all networks together" if one == "ensemble" else f"the network of fold {one}"
    lines = [
        "Pooled: the metric over the test predictions of all folds together; every sample is"
        f" predicted once, by {who}. Selection rule: {selection}."
        f" Seed {run.facts.seed}. {run.intervals.sentence()}",
    ]
    if run.benchmark.average_over:
        lines.append(
            f"The outputs of all {len(run.predictions)} samples are averaged over"
            f" {run.benchmark.average_over}, of which there are {len(run.units)}; these are scored."
        )
    known = (*undefined(run.scores), *absent_classes(run), *run.disagreements, *run.facts.notes)
    lines += [f"**Note.** {sentence}" for sentence in known]
    lines += [f"**Note.** Fold {fold.name}: {note}" for fold in run.folds for note in fold.notes]
    return lines


def _facts_table(run: Run) -> Table:
    facts = run.facts
    crops = "" if facts.crops == ("whole",) else f" x {len(facts.crops)} ({', '.join(facts.crops)})"
    told = {
        "start": facts.init,
        "checkpoint": facts.checkpoint,
        "modalities": facts.modalities,
        "protocol": facts.protocol,
        "selection rule": facts.selection,
        "seed": facts.seed,
        "folds": ", ".join(run.scores.folds),
        "speakers": (
            "on both sides of a fold (the benchmark's protocol says so)"
            if run.benchmark.folds.shared_speakers
            else "on one side of each fold alone (checked before training)"
        ),
        "samples tested": len(run.predictions),
        "samples left out by the benchmark": left_out(facts.ignored) or "none",
        "epochs": facts.epochs,
        "batch": facts.batch_size,
        "highest learning rate": (
            None if facts.learning_rate is None else f"{facts.learning_rate:.3g}"
        ),
        "loss": facts.loss,
        "test-time views": f"{facts.num_segments}{crops}",
        "trained parameters": f"{facts.num_parameters:,}",
        "precision": facts.precision,
        "shards": f"{facts.shards} ({facts.shards_digest[:12]})",
        "configuration": facts.configuration_digest[:12],
        "commit": facts.git_commit,
        "version": facts.version,
    }
    if facts.network:  # the folds are those of another corpus
        del told["speakers"]
    rows = [(name, "none" if value is None else str(value)) for name, value in told.items()]
    return Table(columns=("", ""), rows=rows)


def _fold_table(run: Run) -> Table:
    inner = any(fold.num_validation for fold in run.folds)
    rows = [
        [
            fold.name,
            _count(fold.num_train),
            _count(fold.num_train_speakers),
            *([str(fold.num_validation), _count(fold.num_validation_speakers)] if inner else []),
            str(fold.num_test),
            _count(fold.num_test_speakers),
            "" if fold.epoch is None else str(fold.epoch),
            "" if fold.train_loss is None else f"{fold.train_loss:.4f}",
            f"{fold.seconds:.0f}",
        ]
        for fold in run.folds
    ]
    columns = ["fold", "training samples", "training speakers"]
    columns += ["inner validation samples", "inner validation speakers"] if inner else []
    columns += ["test samples", "test speakers", "tested epoch", "last training loss", "seconds"]
    return Table(columns=columns, rows=rows)


def _configuration(run: Run) -> Section | None:
    path = run.folder / CONFIG
    verb = f"evaluate {shlex.quote(run.facts.evaluates)}" if run.facts.evaluates else "finetune"
    if not path.is_file():
        return None
    text = yaml.safe_dump(load_yaml(path), sort_keys=False)
    return Section(
        title="Configuration",
        parts=[
            f"`hicmae {verb} --config {CONFIG} --out FOLDER` runs it again.",
            Folded(summary=CONFIG, parts=[f"```yaml\n{text.strip()}\n```"]),
        ],
    )


def _others(folder: Path) -> list[Section]:
    """What others wrote for the report; a first heading is the title."""
    sections = []
    for path in (path for pattern in OTHERS for path in sorted(folder.glob(pattern))):
        first, _, rest = text_of(path).strip().partition("\n")
        title = first.removeprefix("# ") if first.startswith("# ") else path.stem
        text = rest if first.startswith("# ") else f"{first}\n{rest}"
        prepared = ForeignMarkdown(text=text, folder=path.parent, top=2)
        sections.append(Section(title=title, parts=[prepared]))
    return sections


def _terms(benchmark: Benchmark) -> Section | None:
    lines = [
        f"{name}: {value}"
        for name, value in (("Licence", benchmark.licence), ("Access", benchmark.access))
        if value
    ]
    return Section(title="The recordings", parts=lines) if lines else None


def _count(value: int | None) -> str:
    return "not named" if value is None else str(value)


def _class_table(run: Run, head: Head) -> Table:
    """Several classes at once: of each how often it is there, named, and rightly so."""
    units, mark = of_head(head, run.units), run.facts.mark
    true, predicted = head_arrays(head, units)
    limits = np.array([unit.thresholds for unit in units])
    hits, there, named = (true * predicted).sum(0), true.sum(0), predicted.sum(0)
    rows = []
    for place, name in enumerate(head.classes):
        low, high = limits[:, place].min(), limits[:, place].max()
        ratios = [
            (hits[place], named[place]),
            (hits[place], there[place]),
            (2 * hits[place], there[place] + named[place]),
        ]
        rows.append(
            [
                name,
                f"{there[place]:.0f}",
                f"{named[place]:.0f}",
                f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}",
                *(mark(number(over / below if below else float("nan"))) for over, below in ratios),
            ]
        )
    heads = [measured(name, run.facts.rule) for name in ("precision", "recall", "F1")]
    return Table(
        columns=["class", "there", "named", "named from a probability of", *heads], rows=rows
    )


def _share_table(run: Run, head: Head) -> Table:
    """Shares: of each class the mean, as labelled and as predicted, and the gap."""
    true, predicted = head_arrays(head, of_head(head, run.units))
    mark = run.facts.mark
    rows = [
        [
            name,
            number(true[:, place].mean()),
            mark(number(predicted[:, place].mean())),
            mark(signed(float((predicted - true)[:, place].mean()))),
            mark(number(float(np.abs(predicted - true)[:, place].mean()))),
        ]
        for place, name in enumerate(head.classes)
    ]
    names = ("mean share, predicted", "bias", "mean distance")
    heads = [measured(name, run.facts.rule) for name in names]
    return Table(columns=["class", "mean share, true", *heads], rows=rows)


def _blend_parts(run: Run, head: Head) -> list[Part]:
    """Blends: the thresholds of each fold, and of what is shown how often it is named rightly."""
    units, mark = of_head(head, run.units), run.facts.mark
    true, named = head_arrays(head, units)[0], named_shares(head, units)
    limits = dict.fromkeys((unit.fold, *map("{:.2f}".format, unit.thresholds)) for unit in units)
    shown = np.array(["+".join(np.array(head.classes)[row > 0]) for row in true])
    rows = []
    for name in sorted(set(shown), key=lambda name: (name.count("+"), name)):
        found = blend_metrics(true[shown == name], named[shown == name])
        counted = str(int((shown == name).sum()))
        rows.append([name, counted, *(mark(number(value)) for value in found.values())])
    heads = [measured(f"{name} accuracy", run.facts.rule) for name in ("presence", "salience")]
    return [
        "Presence: exactly the emotions that are shown are named. Salience: two are shown, and they"
        " are named in their proportions.",
        Table(
            columns=["fold", "second named from a share of", "equal up to a difference of"],
            rows=[list(row) for row in limits],
        ),
        Table(columns=["shown", "samples", *heads], rows=rows),
    ]
