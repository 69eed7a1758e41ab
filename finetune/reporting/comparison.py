"""Entries side by side: over seeds, and each against the first.

For: the parts of a comparison that need several runs. Not for: the page around them
(``finetune/reporting/report.py``) or the mathematics (``finetune/reporting/resampling.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

from finetune.reporting.document import Part, Section
from finetune.reporting.resampling import LEVEL, NUM_DRAWS, Comparison, compare
from finetune.reporting.seeds import SeedGroup, how_to_read_seeds, seeds_table
from finetune.reporting.tables import Table, number, range_of, signed
from finetune.scores import metric_name


def seed_parts(groups: Sequence[SeedGroup]) -> list[Section]:
    """A table over seeds, where any entry has several."""
    several = [group for group in groups if len(group.runs) > 1]
    if not several:
        return []
    reading = dict.fromkeys(how_to_read_seeds(group) for group in several)
    return [Section(title="Over seeds", parts=[seeds_table(several), *reading])]


def paired_parts(groups: Sequence[SeedGroup]) -> list[Section]:
    """Each entry against the first, in the leading metric.

    Only entries that scored the very same samples are compared; others are named.
    """
    if len(groups) < 2:
        return []
    first, *others = groups
    alike = [group for group in others if _same_samples(first, group)]
    rows = [_row(first, group, compare_groups(first, group)) for group in alike]
    name = metric_name(first.runs[0].benchmark.ranking)
    parts: list[Part] = []
    if rows:
        columns = ["entry", "selection", f"{name} minus {first.name}", "95 %", "p", "swaps"]
        parts += [Table(columns=columns, rows=rows), _how_to_read(len(rows))]
    parts += [
        f"**Note.** {group.name} did not score the samples of {first.name}, so there is no paired"
        " comparison."
        for group in others
        if group not in alike
    ]
    return [Section(title=f"Each against {first.name}", parts=parts)]


def compare_groups(first: SeedGroup, group: SeedGroup) -> Comparison:
    """The leading metric of an entry minus that of the first."""
    benchmark = first.runs[0].benchmark
    return compare(benchmark, [run.units for run in group.runs], [run.units for run in first.runs])


def _same_samples(first: SeedGroup, group: SeedGroup) -> bool:
    """Whether two entries scored the same samples with the same truths."""
    truths = [{item.key: item.true for item in one.runs[0].units} for one in (first, group)]
    return truths[0] == truths[1]


def _row(first: SeedGroup, group: SeedGroup, found: Comparison) -> list[str]:
    """One entry against the first; a number with test-chosen weights on either side says so."""
    facts = group.runs[0].facts
    chosen = next(
        (one.runs[0].facts for one in (group, first) if one.runs[0].facts.mark("0") != "0"), facts
    )
    return [
        group.name,
        facts.rule,
        chosen.mark(signed(found.difference)),
        chosen.mark(range_of(found.low, found.high)),
        _p_value(found),
        found.method,
    ]


def _p_value(found: Comparison) -> str:
    """Three decimals, and no 0 where nothing so small can be known."""
    if found.p_value != found.p_value:
        return "n/a"
    return f"< {0.001:.3f}" if found.p_value < 0.001 else number(found.p_value)


def _how_to_read(count: int) -> str:
    """Method of the intervals and p-values."""
    many = f" The {count} p-values are not corrected for being {count}." if count > 1 else ""
    return (
        f"Difference in the score pooled over folds (mean over seeds). {LEVEL:.0%} interval: paired"
        f" bootstrap, {NUM_DRAWS} draws, the same for both. p: two-sided permutation test; swapping"
        " both runs' predictions of a whole speaker (of a sample, where speakers are unknown)"
        " would change nothing if they were alike, and p is the share of swaps that give a"
        " difference at least as large; seeds are swapped in pairs, and entries with other numbers"
        f" of seeds have no p. Neither sees the chance of training again.{many}"
    )
