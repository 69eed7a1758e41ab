"""The verbs ``hicmae shards receipt`` and ``hicmae shards compare``."""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path

from rich.console import Console

from hicmae.files import write_text


def receipt(*, folder: Path) -> None:
    """Make the receipt of a folder of shards again: receipt.json, receipt.md and its pictures.

    Builds write one by themselves. The libraries it names are those of the build, if the receipt
    that is replaced told of the same shards; else they are not known.

    Args:
        folder: Of the shards.
    """
    from shards.receipts.receipt import RECEIPT_PAGE, recorded_versions, write_receipt

    write_receipt(folder, versions=recorded_versions(folder))
    Console().print(
        f"receipt: {folder / RECEIPT_PAGE}", markup=False, highlight=False, soft_wrap=True
    )


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
    from shards.receipts.compare import (
        SAME,
        compare_preparations,
        print_comparison,
        read_preparation,
    )

    if signals < 0 or most < 0:
        raise ValueError(f"signals = {signals}, most = {most} (each must be 0 or more)")
    found = compare_preparations(
        read_preparation(first), read_preparation(second), num_signals=signals
    )
    if json is not None:
        text = json_format.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
        write_text(json, text + "\n")
    width = None if sys.stdout.isatty() else 140  # of a file; a terminal knows its own
    print_comparison(Console(width=width), found, most=most)
    return 0 if found["verdict"] in SAME else 1
