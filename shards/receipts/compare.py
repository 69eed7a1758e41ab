"""What differs between two preparations: the command ``hicmae shards compare A B``.

For: two folders of shards, or receipts that people mailed; what each comparison is, and how it is
printed, is in the files beside. Not for: whether shards are whole (``check.py``): the digests that
builds recorded are believed.
"""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from shards.index import Index, read_index
from shards.receipts.compare_printing import print_comparison
from shards.receipts.compare_refusals import compare_refusals
from shards.receipts.compare_samples import compare_samples
from shards.receipts.compare_signals import SignalConfig, compare_signals
from shards.receipts.compare_verdict import SAME, judge
from shards.receipts.distributions import (
    QUANTITIES,
    exact_distance,
    histogram_distance,
    shift_in_words,
)
from shards.receipts.receipt import RECEIPT_JSON, make_receipt, read_receipt, recorded_versions
from shards.receipts.sample_facts import SampleFacts, read_facts


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """One side of a comparison.

    Args:
        name: As the user gave it.
        about: Its receipt.
        index: Of the folder; None if only the receipt is there.
        facts: From its samples, likewise.
    """

    name: str
    about: dict[str, Any]
    index: Index | None = None
    facts: SampleFacts | None = None


def compare(
    *,
    first: Path,
    second: Path,
    signals: int = 0,
    most: int = 5,
    json: Path | None = None,
) -> int:
    """Say what differs between two preparations.

    The last line is the verdict, the first of these that holds:

    identical bytes: all shards had the same digests when they were built; `hicmae shards check`
    says whether they still do.
    same content: pictures, sound, times and labels are the same bytes by key; they lie otherwise
    in shards, or come from files of other names.
    same samples, other encoding: keys, times, sound, labels and how faces were found are the
    same; settings differ at most in face_size, jpeg_quality, chroma and samples_per_shard.
    comparable: settings that shape samples are the same but for these (others may decide which
    samples there are); at least 95% of either side's samples are in both; of these at most 1%
    differ in label, speaker or split, or by more than one frame; no distribution of duration,
    face size, coverage or loudness is further than 0.1 (Kolmogorov-Smirnov) from the other's.
    Of receipts without their folders, numbers of samples are compared in place of keys, and
    shares of classes (within 5%) in place of labels.
    different: anything else; also if --signals finds more than 5% of its samples shifted in time,
    or their pictures further apart than 25 dB (median PSNR).

    The exit status is 0 for the first two, 1 for the others, and 2 for what cannot be compared.

    Args:
        first: A folder of shards, or a receipt.json.
        second: Another.
        signals: Also decode so many of the samples that both have, and compare their pictures and
            sound, and when things happen in them; needs two folders.
        most: Examples that are shown of each difference.
        json: Also write everything into this file.

    Raises:
        FileNotFoundError: There is no such folder or file.
        ValueError: It is no folder of shards and no receipt, or a number is out of range.
    """
    if signals < 0 or most < 0:
        raise ValueError(f"signals = {signals}, most = {most} (each must be 0 or more)")
    found = compare_preparations(
        read_preparation(first), read_preparation(second), num_signals=signals
    )
    if json is not None:
        _write_json(json, found)
    width = None if sys.stdout.isatty() else 140  # of a file; a terminal knows its own
    print_comparison(Console(width=width), found, most=most)
    return 0 if found["verdict"] in SAME else 1


def read_preparation(path: Path) -> Preparation:
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
        return Preparation(name=str(path), about=about, index=index, facts=facts)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such folder of shards, and no such {RECEIPT_JSON}")
    return Preparation(name=str(path), about=read_receipt(path))


def compare_preparations(
    first: Preparation, second: Preparation, *, num_signals: int = 0
) -> dict[str, Any]:
    """Compare everything there is.

    Args:
        first: One side, A.
        second: The other, B.
        num_signals: Samples to decode.

    Returns: plain data: ``first``, ``second`` (names), ``verdict``, ``reasons``,
        ``configuration``, ``counts``, ``refused``, ``versions`` (name → [A, B], those that
        differ), ``digests`` (aspect → whether they agree), ``distributions``, and, None unless
        two folders were given, ``samples``, ``refusals`` and (if asked for) ``signals``.

    Raises:
        ValueError: Signals are asked for and a folder is missing.
        ShardError: A sample that cannot be read.
    """
    a, b = first.about, second.about
    found: dict[str, Any] = {
        "first": first.name,
        "second": second.name,
        "configuration": differing(a["configuration"], b["configuration"]),
        "counts": differing(a["counts"], b["counts"]),
        "refused": differing(a["refused"], b["refused"], absent=0),
        "versions": differing(a["versions"], b["versions"])
        if a["versions"] and b["versions"]
        else None,
        "digests": _digests(a["digests"], b["digests"]),
        "distributions": _distributions(first, second),
        "classes": _classes(a["labels"], b["labels"]),
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
            config = SignalConfig(num_samples=num_signals)
            found["signals"] = compare_signals(first.index, second.index, config)
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


def _digests(first: dict[str, Any], second: dict[str, Any]) -> dict[str, bool]:
    return {name: first[name] == second.get(name) for name in first}


def _distributions(first: Preparation, second: Preparation) -> dict[str, Any]:
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
        counts = [
            {value: group["num_samples"] for value, group in side[name].get("classes", {}).items()}
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


def _write_json(path: Path, data: Any) -> None:
    """Write beside and rename."""
    beside = path.with_name(f".{path.name}.part")
    text = json_format.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    beside.write_text(text + "\n", encoding="utf-8")
    beside.replace(path)
