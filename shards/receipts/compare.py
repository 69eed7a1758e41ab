"""Two preparations compared, judged by one word, and printed: ``hicmae shards compare A B``.

Each is a folder of shards, or a receipt that somebody mailed. The digests that builds recorded are
believed; ``hicmae shards check`` computes them. The docstring of the verb states the criteria.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hicmae.terminal import print_line
from shards.index import Index, read_index
from shards.receipts.differences import compare_refusals, compare_samples, compare_signals
from shards.receipts.facts import (
    ASPECTS,
    QUANTITIES,
    SampleFacts,
    exact_distance,
    histogram_distance,
    read_facts,
    shift_in_words,
)
from shards.receipts.receipt import RECEIPT_JSON, make_receipt, read_receipt, recorded_versions
from shards.settings import in_full

IDENTICAL = "identical bytes"
SAME_CONTENT = "same content"
OTHER_ENCODING = "same samples, other encoding"
COMPARABLE = "comparable"
DIFFERENT = "different"
# Verdicts by which a result does not depend on which of the two was used.
SAME = (IDENTICAL, SAME_CONTENT)
# Settings by which the same sample is coded, or lies in shards, in another way.
ENCODING = frozenset({"face_size", "jpeg_quality", "chroma", "samples_per_shard"})
# Settings that decide which recordings become samples, or what their sound is called: what they
# did is seen in the samples themselves.
SELECTION = frozenset({"min_coverage", "min_seconds", "sound", "silence_db"})
MIN_SHARED = 0.95
MAX_RELABELLED = 0.01
MAX_RETIMED = 0.01
MAX_CLASS_SHARE = 0.05
MAX_DISTANCE = 0.1
# Of quantiles of a measured label, in the larger of its two standard deviations.
MAX_LABEL_GAP = 0.5
MIN_PSNR_DB = 25.0
MAX_SHIFTED = 0.05
# How large an image is in bytes says how it was coded, and not what it shows.
_COMPARED = ("seconds", "face_pixels", "face_coverage", "loudness_db")
_COLOURS = {"identical bytes": "green", "same content": "green", "different": "red"}


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a comparison.

    Args:
        index: Of the folder; None if only the receipt is there.
        facts: From its samples, likewise.
    """

    name: str
    about: dict[str, Any]
    index: Index | None = None
    facts: SampleFacts | None = None


def read_preparation(path: Path) -> Side:
    """Read a folder of shards, or a receipt.

    Raises:
        FileNotFoundError: There is no such folder or file.
        ShardError: It is neither; names what is wrong.
    """
    path = Path(path)
    if path.is_dir():
        index = read_index(path)
        facts = read_facts(index)
        about = make_receipt(index, facts, recorded_versions(path))
        return Side(name=str(path), about=about, index=index, facts=facts)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such folder of shards, and no such {RECEIPT_JSON}")
    return Side(name=str(path), about=read_receipt(path))


def compare_preparations(first: Side, second: Side, *, num_signals: int = 0) -> dict[str, Any]:
    """Compare everything there is of A and B, and decode so many samples of both.

    Returns: plain data: ``first``, ``second`` (names), ``verdict``, ``reasons``,
        ``configuration``, ``counts``, ``refused``, ``versions`` (name → [A, B], those that differ;
        versions None where one side knows none), ``schema_versions`` and ``num_samples`` ([A, B]),
        ``digests`` (aspect → whether they agree), ``distributions``, ``classes``, ``measured``,
        and, None unless two folders were given, ``samples``, ``refusals`` and ``signals``.

    Raises:
        ValueError: Signals are asked for and a folder is missing.
        ShardError: A sample that cannot be read.
    """
    a, b = first.about, second.about
    found: dict[str, Any] = {
        "first": first.name,
        "second": second.name,
        "configuration": differing(in_full(a["configuration"]), in_full(b["configuration"])),
        "counts": differing(a["counts"], b["counts"]),
        "refused": differing(a["refused"], b["refused"], absent=0),
        "versions": differing(a["versions"], b["versions"])
        if a["versions"] and b["versions"]
        else None,
        "digests": {name: value == b["digests"].get(name) for name, value in a["digests"].items()},
        "distributions": _distributions(first, second),
        "classes": _classes(a["labels"], b["labels"]),
        "measured": _measured(a["labels"], b["labels"]),
        "schema_versions": [a.get("schema_version"), b.get("schema_version")],
        "num_samples": [a["counts"]["num_samples"], b["counts"]["num_samples"]],
        "samples": None,
        "refusals": None,
        "signals": None,
    }
    if first.index and second.index and first.facts and second.facts:
        found["samples"] = compare_samples(first.index, first.facts, second.index, second.facts)
        found["refusals"] = compare_refusals(
            first.index.folder, first.facts, second.index.folder, second.facts
        )
        if num_signals:
            found["signals"] = compare_signals(first.index, second.index, num_signals)
    elif num_signals:
        given = first if first.index is None else second
        raise ValueError(
            f"{given.name}: a receipt holds no pictures and no sound; give its folder of shards, "
            "or leave out --signals"
        )
    verdict, reasons = judge(found)
    return {"verdict": verdict, "reasons": reasons, **found}


def differing(
    first: dict[str, Any], second: dict[str, Any], absent: Any = None
) -> dict[str, list[Any]]:
    """Name → [value in the first, value in the second], where they are not the same."""
    names = [*first, *(name for name in second if name not in first)]
    pairs = {name: [first.get(name, absent), second.get(name, absent)] for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def judge(found: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Judge what ``compare_preparations`` found.

    Returns: the verdict, and what stands against the next better one.
    """
    digests = found["digests"]
    if digests["shards"] and digests["ordered_samples"]:
        return IDENTICAL, []
    if digests["content"]:
        return SAME_CONTENT, [_not_identical(found)]
    if reasons := list(_beyond_comparable(found)):
        return DIFFERENT, reasons
    if reasons := list(_beyond_encoding(found)):
        return COMPARABLE, reasons
    return OTHER_ENCODING, ["the bytes of the images differ"]


def print_comparison(console: Console, found: Mapping[str, Any], *, most: int) -> None:
    """Print what ``compare_preparations`` found, ``most`` examples of each difference, and the
    verdict as the last line.
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
    rows = [(name, *label["sides"]) for name, label in found["measured"].items()]
    _table(console, "measured labels", ("label", "A", "B"), rows)
    if found["samples"] is None:
        # Of receipts: which aspects agree. Which samples differ, only folders can tell.
        aspects = {"keys": "names of the samples", **ASPECTS}
        words = {name: "same" if found["digests"][name] else "differ" for name in aspects}
        rows = [(name, words[name], text) for name, text in aspects.items()]
        _table(console, "digests over all samples", ("aspect", "", "of"), rows)
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


def _distributions(first: Side, second: Side) -> dict[str, Any]:
    """Of each quantity: both means and medians, distance, and the shift in words."""
    found: dict[str, Any] = {}
    for name in QUANTITIES:
        a, b = (side.about["distributions"][name] for side in (first, second))
        exact = None
        if first.index and second.index:
            exact = exact_distance(name, first.index.table, second.index.table)
        found[name] = {
            "num": [a["num"], b["num"]],
            "mean": [a["mean"], b["mean"]],
            "median": [a["quantiles"].get("0.5"), b["quantiles"].get("0.5")],
            "distance": exact[0] if exact else histogram_distance(a, b),
            "p_value": exact[1] if exact else None,
            "from_histograms": exact is None,
            "shift": shift_in_words(name, a, b),
        }
    return found


def _classes(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Label columns of one side only, and classes whose numbers of samples differ."""
    shares = {}
    for name in first.keys() & second.keys():
        if "classes" not in first[name] or "classes" not in second[name]:
            continue  # of many values no receipt counts each
        counts = [
            {value: group["num_samples"] for value, group in side[name]["classes"].items()}
            for side in (first, second)
        ]
        if different := differing(counts[0], counts[1], absent=0):
            totals = [max(1, sum(count.values())) for count in counts]
            shares[name] = {
                "counts": different,
                "largest_share_difference": max(
                    abs(pair[0] / totals[0] - pair[1] / totals[1]) for pair in different.values()
                ),
            }
    return {
        "only_first": sorted(first.keys() - second.keys()),
        "only_second": sorted(second.keys() - first.keys()),
        "differing": dict(sorted(shares.items())),
    }


def _measured(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Labels that both sides measured and that are spread otherwise: both receipts' words, and the
    largest gap of a quantile in standard deviations. One that is counted by class on one side has
    no quantiles there, and no gap.
    """
    found = {}
    for name in sorted(first.keys() & second.keys()):
        sides = first[name], second[name]
        if all("quantiles" not in side for side in sides) or sides[0] == sides[1]:
            continue
        gap = None
        if all("quantiles" in side for side in sides):
            a, b = (side["quantiles"] for side in sides)
            gap = max(abs(a[share] - b[share]) for share in ("0.05", "0.25", "0.5", "0.75", "0.95"))
            gap /= max(*(side["sd"] for side in sides), 1e-9)
        found[name] = {"gap": gap, "sides": list(map(_spread, sides))}
    return found


def _spread(label: Mapping[str, Any]) -> str:
    if "quantiles" not in label:
        return f"{label['num_values'] if 'num_values' in label else len(label['classes'])} classes"
    low, middle, high = (label["quantiles"][share] for share in ("0", "0.5", "1"))
    return f"{low:g} to {high:g}, median {middle:g}"


def _not_identical(found: Mapping[str, Any]) -> str:
    # Parts that were merged have the settings and the order of the whole, and more shards.
    if found["digests"]["ordered_samples"] or "samples_per_shard" in found["configuration"]:
        return "samples are dealt to shards in another way"
    if len(set(found["schema_versions"])) > 1:
        return f"jsons are of versions {' and '.join(map(str, found['schema_versions']))}"
    if not found["digests"]["faces"]:
        return "what is recorded of how faces were found differs"
    return "samples have another order, or recordings another name"


def _beyond_encoding(found: Mapping[str, Any]) -> Iterator[str]:
    """What differs besides the bytes of the images."""
    words = {
        "keys": "the keys differ",
        "time": "times differ",
        "sound": "the sound differs",
        "labels": "labels, speakers or splits differ",
        "faces": "faces were found otherwise",
    }
    for aspect, text in words.items():
        # Of other keys every digest differs: nothing more is known from that.
        if not found["digests"][aspect] and (aspect == "keys" or found["digests"]["keys"]):
            yield text
    if settings := sorted(found["configuration"].keys() - ENCODING):
        yield f"settings differ: {', '.join(settings)}"


def _beyond_comparable(found: Mapping[str, Any]) -> Iterator[str]:
    """What makes a result on one side say nothing about the other."""
    if settings := sorted(found["configuration"].keys() - ENCODING - SELECTION):
        yield f"settings that shape samples differ: {', '.join(settings)}"
    first, second = found["num_samples"]
    samples = found["samples"]
    shared = min(first, second) if samples is None else samples["num_shared"]
    share = shared / max(first, second)
    if share < MIN_SHARED:
        what = "as many samples" if samples is None else "samples in both"
        yield f"{what}: {share:.1%} of the larger side (at least {MIN_SHARED:.0%})"
    if samples is None:
        for name, label in found["classes"]["differing"].items():
            gap = label["largest_share_difference"]
            if gap > MAX_CLASS_SHARE:
                limit = f"at most {MAX_CLASS_SHARE:.0%}"
                yield f"a class of {name} has another share by {gap:.1%} ({limit})"
        for name, label in found["measured"].items():
            if label["gap"] is None or label["gap"] > MAX_LABEL_GAP:
                yield f"{name} is spread otherwise: {' against '.join(label['sides'])}"
    elif shared:
        for number, what, most in (
            (samples["num_relabelled"], "have another label, speaker or split", MAX_RELABELLED),
            (samples["num_retimed"], "differ by more than one frame", MAX_RETIMED),
        ):
            if number / shared > most:
                yield f"{number} of {shared} samples {what} (at most {most:.0%})"
    for name in _COMPARED:
        distance = found["distributions"][name]["distance"]
        if distance is not None and distance > MAX_DISTANCE:
            yield f"{name} are spread otherwise: distance {distance:.2f} (at most {MAX_DISTANCE})"
        known = found["distributions"][name]["num"]
        if distance is None and max(known) > 0:
            yield f"{name} are known of one side only"
    signals = found["signals"]
    if signals is None:
        return
    compared = len(signals["samples"])
    if compared and signals["num_shifted"] / compared > MAX_SHIFTED:
        yield (
            f"{signals['num_shifted']} of {compared} decoded samples are shifted in time "
            f"(at most {MAX_SHIFTED:.0%})"
        )
    psnr = signals["median_psnr_db"]
    if psnr is not None and psnr < MIN_PSNR_DB:
        yield f"pictures are {psnr:.1f} dB apart in the median (at least {MIN_PSNR_DB:g})"


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


def _print_samples(console: Console, samples: Mapping[str, Any], most: int) -> None:
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
    heads = {
        "picture_shift_frames": "picture later, frames",
        "sound_correlation": "sound correlation",
        "sound_shift_samples": "sound later, samples",
        "sync_change_ms": "sound against picture, ms",
    }
    by_psnr = sorted(samples, key=lambda x: math.inf if x["psnr_db"] is None else x["psnr_db"])
    worst = sorted(by_psnr, key=lambda sample: not sample["shifted"])
    rows = [
        (
            sample["key"],
            *_pixels(sample),
            *(_text(sample[name]) for name in heads),
        )
        for sample in worst[: max(most, 1)]
    ]
    titles = ("sample", "levels of 255", "PSNR, dB", *heads.values())
    _table(console, "pictures and sound, B against A; the worst first", titles, rows)
    psnr = signals["median_psnr_db"]
    median = "same pictures in the median" if psnr is None else f"median PSNR {psnr:.1f} dB"
    if all(sample["mean_difference"] is None for sample in samples):
        median = "no pictures on both sides"
    print_line(
        console,
        f"{len(samples)} samples decoded: {median}, {signals['num_shifted']} shifted in time",
    )


def _pixels(sample: Mapping[str, Any]) -> tuple[str, str]:
    difference, psnr = sample["mean_difference"], sample["psnr_db"]
    if difference is None:
        return "-", "-"
    return f"{difference:.2f}", "same" if psnr is None else f"{psnr:.1f}"


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
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)
