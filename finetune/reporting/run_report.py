"""The report of one run: ``report.md`` and ``figures/`` in its folder.

For: everything a reader of one run's numbers has to know, on one page. Not for: comparing runs
(``finetune/reporting/report.py``).
"""

from __future__ import annotations

from pathlib import Path

import yaml

from finetune.benchmark import Benchmark
from finetune.record import CONFIG, Run, write_text
from finetune.reporting.breakdown import absent_classes, class_table, group_sections, unit_name
from finetune.reporting.figures import confusion_figure, layer_weight_figure, scatter_figure
from finetune.reporting.tables import Table, facts_table, mean_and_sd, number, range_of
from finetune.scores import metric_name, undefined
from finetune.selection import rule_sentence


def write_run_report(run: Run) -> Path:
    """Draw the figures of a run and write its report. Returns: path of the report."""
    figures = draw_figures(run)
    parts = [
        f"# {run.name}",
        _introduction(run),
        "## Measured",
        scores_table(run).markdown(),
        _notes(run),
        *([class_table(run).markdown()] if run.benchmark.label else []),
        *(f"![{caption}]({path.relative_to(run.folder).as_posix()})" for path, caption in figures),
        *group_sections(run),
        *published_section(run.benchmark),
        "## What was run",
        facts_table(_facts(run)).markdown(),
        "## Folds",
        _fold_table(run).markdown(),
        *_configuration(run.folder),
        *_terms(run.benchmark),
    ]
    path = run.folder / "report.md"
    write_text(path, "\n\n".join(part for part in parts if part) + "\n")
    return path


def draw_figures(run: Run) -> list[tuple[Path, str]]:
    """Draw what is worth seeing of a run. Returns: paths and captions."""
    folder, names = run.folder / "figures", list(run.scores.folds)
    pooled = f"{len(names)} folds pooled" if len(names) > 1 else f"fold {names[0]}"
    title = f"{run.name}: {run.facts.benchmark}, {pooled}\nselection {run.facts.rule}"
    made = []
    if run.benchmark.task == "classification":
        path = folder / "confusion.png"
        confusion_figure(run.benchmark, run.units, path, title=title)
        made.append((path, f"Confusion matrix, {pooled}"))
    else:
        path = folder / "predicted_against_true.png"
        scatter_figure(run.benchmark, run.units, run.scores, path, title=title)
        made.append((path, f"Predicted against true values, {pooled}"))
    weights = [fold.layer_weights for fold in run.folds if fold.layer_weights]
    if weights and any(len(values) > 1 for values in weights[0].values()):
        path = folder / "layer_weights.png"
        layer_weight_figure(weights, path, title="Learned layer weights")
        made.append((path, "Learned weights of the encoder layers"))
    return made


def scores_table(run: Run) -> Table:
    """Every metric per fold, pooled with its interval, and as mean and deviation."""
    scores, mark = run.scores, run.facts.mark
    metrics = list(scores.pooled)
    rows = [
        [f"fold {name}", str(scores.counts[name]), *(mark(number(values[m])) for m in metrics)]
        for name, values in scores.folds.items()
    ]
    rows.append(
        ["**pooled**", str(scores.num_samples), *(mark(number(scores.pooled[m])) for m in metrics)]
    )
    rows.append(["95 % interval", "", *(mark(range_of(*run.intervals.values[m])) for m in metrics)])
    if len(scores.folds) > 1:
        rows.append(["mean ± sd", "", *(mark(mean_and_sd(scores, m)) for m in metrics)])
    return Table(
        columns=[f"selection: {run.facts.rule}", unit_name(run), *map(metric_name, metrics)],
        rows=rows,
        title=f"{run.facts.benchmark}, selection: {run.facts.rule}",
    )


def published_section(benchmark: Benchmark) -> list[str]:
    """Numbers of others, in a table of their own."""
    if not benchmark.published:
        return []
    metrics = list(dict.fromkeys(name for item in benchmark.published for name in item.scores))
    rows = [
        [
            item.method,
            item.modalities,
            *(number(item.scores[m]) if m in item.scores else "" for m in metrics),
            item.source,
            item.note,
        ]
        for item in benchmark.published
    ]
    columns = ["method", "modalities", *map(metric_name, metrics), "source", "note"]
    return [
        "## Published by others, not measured here",
        Table(columns=columns, rows=rows).markdown(),
    ]


def chance(benchmark: Benchmark) -> str:
    """What guessing reaches in the leading metric, as a sentence."""
    if benchmark.task == "regression":
        return "Guessing one value for everybody has a CCC of 0."
    size = len(benchmark.classes)
    return f"Guessing has a UAR of 1/{size} = {1 / size:.3f}."


def _introduction(run: Run) -> str:
    """What the numbers are of, in two sentences."""
    facts, benchmark = run.facts, run.benchmark
    start = (
        f"fine-tuned from `{facts.checkpoint}`"
        if facts.init == "checkpoint"
        else "trained from scratch"
    )
    title = f" ({benchmark.title.rstrip('.')})" if benchmark.title else ""
    return (
        f"Benchmark **{benchmark.name}**{title}; {facts.modalities}, {start}. "
        f"Leading metric: **{metric_name(benchmark.ranking)}**. {chance(benchmark)}"
    )


def _notes(run: Run) -> str:
    """How to read the table, and what is odd about it."""
    selection = rule_sentence(run.facts.selection, run.facts.protocol)
    lines = [
        "Pooled: the metric over the test predictions of all folds together; every sample is"
        f" predicted once, by the fold that did not train on it. Selection rule: {selection}."
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
    return "\n\n".join(lines)


def _facts(run: Run) -> dict[str, object]:
    """What every number is reported with."""
    facts = run.facts
    ignored = ", ".join(f"{name}: {count}" for name, count in facts.ignored.items())
    return {
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
        "samples left out by the benchmark": ignored or "none",
        "epochs": facts.epochs,
        "batch": facts.batch_size,
        "highest learning rate": f"{facts.learning_rate:.3g}",
        "loss": facts.loss,
        "test-time views": facts.num_segments,
        "trained parameters": f"{facts.num_parameters:,}",
        "precision": facts.precision,
        "shards": f"{facts.shards} ({facts.shards_digest[:12]})",
        "configuration": facts.configuration_digest[:12],
        "commit": facts.git_commit,
        "version": facts.version,
    }


def _fold_table(run: Run) -> Table:
    """How many samples and speakers each fold has on each side."""
    inner = any(fold.num_validation for fold in run.folds)
    rows = [
        [
            fold.name,
            str(fold.num_train),
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


def _configuration(folder: Path) -> list[str]:
    """The configuration that was run, as it can be run again."""
    path = folder / CONFIG
    if not path.is_file():
        return []
    text = yaml.safe_dump(yaml.safe_load(path.read_text(encoding="utf-8")), sort_keys=False)
    return [
        "## Configuration",
        f"`hicmae finetune --config {CONFIG} --out FOLDER` runs it again.",
        f"<details><summary>{CONFIG}</summary>\n\n```yaml\n{text.strip()}\n```\n\n</details>",
    ]


def _terms(benchmark: Benchmark) -> list[str]:
    """Licence of the recordings and how to get them."""
    lines = [
        f"{name}: {value}"
        for name, value in (("Licence", benchmark.licence), ("Access", benchmark.access))
        if value
    ]
    return ["## The recordings", "\n\n".join(lines)] if lines else []


def _count(value: int | None) -> str:
    """A count, or that nobody counted."""
    return "not named" if value is None else str(value)
