"""A comparison of two preparations, as tables for people.

For: ``hicmae shards compare``. Not for: the comparison (``compare.py``), nor machines (``--json``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shards.printing import print_line
from shards.receipts.compare_verdict import SAME
from shards.receipts.distributions import QUANTITIES
from shards.receipts.sample_facts import ASPECTS

_COLOURS = {"identical bytes": "green", "same content": "green", "different": "red"}


def print_comparison(console: Console, found: Mapping[str, Any], *, most: int) -> None:
    """Print what differs, and the verdict as the last line.

    Args:
        console: Where.
        found: What ``compare_preparations`` returns.
        most: Examples of each difference.
    """
    print_line(console, f"A: {found['first']}")
    print_line(console, f"B: {found['second']}")
    _table(console, "configuration", ("setting", "A", "B"), _pairs(found["configuration"]))
    _table(console, "counts", ("", "A", "B"), _pairs(found["counts"]))
    _table(console, "refused", ("cause", "A", "B"), _pairs(found["refused"]))
    if found["versions"] is None:
        print_line(console, "libraries: not known of both (see `hicmae shards receipt --help`)")
    else:
        _table(console, "libraries", ("library", "A", "B"), _pairs(found["versions"]))
    _print_classes(console, found["classes"])
    if found["samples"] is None:
        _print_digests(console, found["digests"])
    else:
        _print_samples(console, found["samples"], most)
        _print_refusals(console, found["refusals"], most)
    _print_distributions(console, found["distributions"])
    if found["signals"] is not None:
        _print_signals(console, found["signals"], most)
    for reason in found["reasons"]:
        print_line(console, f"- {reason}")
    verdict = found["verdict"]
    if verdict in SAME and found["samples"] is not None:
        told = "digests are those of the builds; whether files are still whole: hicmae shards check"
        print_line(console, f"({told})")
    console.print(f"verdict: [bold {_COLOURS.get(verdict, 'yellow')}]{verdict}[/]")


def _print_classes(console: Console, classes: Mapping[str, Any]) -> None:
    for side, name in (("A", "only_first"), ("B", "only_second")):
        if classes[name]:
            print_line(console, f"labels only in {side}: {', '.join(classes[name])}")
    rows = [
        (name, value, *map(_text, pair))
        for name, label in classes["differing"].items()
        for value, pair in label["counts"].items()
    ]
    _table(console, "samples of a class", ("label", "class", "A", "B"), rows)


def _print_digests(console: Console, digests: Mapping[str, bool]) -> None:
    """Of receipts: which aspects agree; which samples differ, only folders can tell."""
    aspects = {"keys": "names of the samples", **ASPECTS}
    rows = [
        (aspect, "same" if digests[aspect] else "differ", text) for aspect, text in aspects.items()
    ]
    _table(console, "digests over all samples", ("aspect", "", "of"), rows)


def _print_samples(console: Console, samples: Mapping[str, Any], most: int) -> None:
    """Which samples, aspects and columns differ."""
    only = {"A": samples["only_first"], "B": samples["only_second"]}
    print_line(
        console,
        f"samples: {samples['num_shared']} in both, {len(only['A'])} only in A, {len(only['B'])} "
        "only in B",
    )
    for side, keys in only.items():
        for key in keys[:most]:
            print_line(console, f"  only in {side}: {key}")
        _more(console, len(keys), most)
    rows = [
        (aspect, f"{item['num']} of {samples['num_shared']}", ASPECTS[aspect])
        for aspect, item in samples["aspects"].items()
        if item["num"]
    ]
    _table(console, "samples in both that differ", ("aspect", "samples", "of"), rows)
    changes: list[Sequence[str]] = []
    for name, column in samples["columns"].items():
        examples = [f"{key}: {_text(a)} → {_text(b)}" for key, a, b in column["examples"][:most]]
        mean, largest = (
            f"{column[word]:+.4g}" if word in column else "" for word in ("mean", "largest")
        )
        changes.append((name, str(column["num"]), mean, largest, "\n".join(examples)))
    heads = ("column", "samples", "mean of B - A", "largest", "examples, A → B")
    _table(console, "columns of the index that differ", heads, changes)


def _print_refusals(console: Console, refusals: Mapping[str, Any], most: int) -> None:
    for side, other, name in (("A", "B", "only_first"), ("B", "A", "only_second")):
        for item in refusals[name][:most]:
            there = "a sample" if item["sample"] else "neither refused nor a sample"
            print_line(
                console,
                f"refused only in {side}: {item['path']} ({item['cause']}; in {other} {there})",
            )
        _more(console, len(refusals[name]), most)
    for item in refusals["other_cause"][:most]:
        a, b = item["causes"]
        print_line(console, f"refused for another cause: {item['path']} ({a} → {b})")
    _more(console, len(refusals["other_cause"]), most)


def _print_distributions(console: Console, distributions: Mapping[str, Any]) -> None:
    """Every quantity, whether it differs or not: the middle of each, distance and shift."""
    rows = []
    for name, item in distributions.items():
        distance = item["distance"]
        known = "-" if distance is None else f"{distance:.3f}"
        if distance is not None and item["from_histograms"]:
            known = f"≥ {known}"
        rows.append(
            (QUANTITIES[name].title, *map(_text, item["median"]), known, f"B: {item['shift']}")
        )
    heads = ("", "median A", "median B", "Kolmogorov-Smirnov", "shift of the mean")
    _table(console, "distributions", heads, rows)


def _print_signals(console: Console, signals: Mapping[str, Any], most: int) -> None:
    """The samples that agree least, first those that are shifted."""
    samples = signals["samples"]
    worst = sorted(
        samples,
        key=lambda sample: (
            not sample["shifted"],
            float("inf") if sample["psnr_db"] is None else sample["psnr_db"],
        ),
    )
    rows = [
        (
            sample["key"],
            f"{sample['mean_difference']:.2f}",
            "same" if sample["psnr_db"] is None else f"{sample['psnr_db']:.1f}",
            _text(sample["picture_shift_frames"]),
            _text(sample["sound_correlation"]),
            _text(sample["sound_shift_samples"]),
            _text(sample["sync_change_ms"]),
        )
        for sample in worst[: max(most, 1)]
    ]
    heads = (
        "sample",
        "levels of 255",
        "PSNR, dB",
        "picture later, frames",
        "sound correlation",
        "sound later, samples",
        "sound against picture, ms",
    )
    _table(console, "pictures and sound, B against A; the worst first", heads, rows)
    psnr = signals["median_psnr_db"]
    median = "same pictures in the median" if psnr is None else f"median PSNR {psnr:.1f} dB"
    print_line(
        console,
        f"{len(samples)} samples decoded: {median}, {signals['num_shifted']} shifted in time",
    )


def _pairs(pairs: Mapping[str, Sequence[Any]]) -> list[tuple[str, str, str]]:
    return [(name, _text(a), _text(b)) for name, (a, b) in pairs.items()]


def _table(
    console: Console, title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]
) -> None:
    """A table with its title; nothing without rows."""
    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    if table.row_count:
        console.print(table)


def _more(console: Console, number: int, shown: int) -> None:
    if number > shown:
        print_line(console, f"  and {number - shown} more (all with --json FILE)")


def _text(value: Any) -> str:
    """A value for a cell."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)
