"""Several networks of one run on one corpus, in one table.

For: ``networks.md`` and ``networks.json`` of an evaluation on another corpus. Not for: several
corpora (``matrix.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from finetune.record import Run, write_json, write_text
from finetune.reporting.tables import Table, number, spread
from finetune.scores import metric_name
from finetune.selection import rule_sentence


def write_network_summary(folder: Path, runs: Sequence[Run], together: Run) -> Table:
    """Write the scores of several networks on the same samples, and of their average.

    Args:
        folder: Where.
        runs: One a network.
        together: Of the averaged outputs.

    Returns: the table.
    """
    facts, metrics = runs[0].facts, list(runs[0].scores.pooled)
    mark = facts.mark
    rows = [
        [
            f"network of fold {run.facts.network}",
            str(run.scores.num_samples),
            *(mark(number(run.scores.pooled[m])) for m in metrics),
        ]
        for run in runs
    ]
    over = {m: network_spread(runs, m) for m in metrics}
    rows.append(["**mean ± sd**", "", *(mark(spread(*over[m])) for m in metrics)])
    rows.append(
        [
            "outputs averaged",
            str(together.scores.num_samples),
            *(mark(number(together.scores.pooled[m])) for m in metrics),
        ]
    )
    table = Table(
        columns=[f"selection: {facts.rule}", "samples", *map(metric_name, metrics)],
        rows=rows,
        title=f"{facts.benchmark}, selection: {facts.rule}",
    )
    parts = [
        f"# {facts.benchmark}",
        f"{len(runs)} networks of `{facts.evaluates}`, trained on {facts.trained_on}, each tested"
        " on all samples. *mean ± sd*: of the scores of single networks, which is what one of them"
        " is worth; *outputs averaged*: one prediction of all networks together, which no single"
        f" one reaches. Selection rule: {rule_sentence(facts.selection, facts.protocol)}.",
        table.markdown(),
        *(f"**Note.** {note}" for note in facts.notes),
        "\n".join(f"- [{run.name}]({run.name}/report.md)" for run in (*runs, together)),
    ]
    write_text(folder / "networks.md", "\n\n".join(parts) + "\n")
    write_json(
        folder / "networks.json",
        {
            "selection": facts.rule,
            "networks": {run.facts.network: _plain(run.scores.pooled) for run in runs},
            "mean": _plain({m: mean for m, (mean, _) in over.items()}),
            "sd": _plain({m: sd for m, (_, sd) in over.items()}),
            "ensemble": _plain(together.scores.pooled),
        },
    )
    return table


def network_spread(runs: Sequence[Run], metric: str) -> tuple[float, float]:
    """Mean and sample deviation of a pooled score over networks; no deviation of one."""
    values = [run.scores.pooled[metric] for run in runs]
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    """JSON has no not-a-number."""
    return {name: None if math.isnan(value) else value for name, value in values.items()}
