"""Any collection whose labels are traces: a table of recordings, and files of values over time.

The table has a column ``path`` and either ``trace``, a CSV of all annotators or of their mean, or
``trace.NAME``, a CSV for each annotator; otherwise the columns of ``csv``. What a file of a trace
looks like, and how a recording is cut into parts, is told in ``shards/traces.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hicmae.config import did_you_mean
from hicmae.media.container import open_container
from hicmae.media.errors import CAUSES, MediaError
from shards.datasets import csv_list
from shards.datasets.base import Dataset, Item, Listing, ReadOptions
from shards.manifest import name_in, safe_key
from shards.traces import MEAN, Notes, TraceConfig, check_times, joined, parts_of, read_notes

COLUMN, RECORDING = "trace", "recording"
TABLE = "recordings.csv"


def read(root: Path, options: ReadOptions) -> Listing:
    """List the parts of every recording."""
    labels = options.labels or root / TABLE
    if not labels.is_file():
        raise ValueError(
            f"traces: no table {labels}; name it with --labels FILE (columns path and trace, or"
            " trace.NAME for each annotator, and speaker, fold, … as far as there are)"
        )
    plain = csv_list.read(root, ReadOptions(labels=labels, num_folds=options.num_folds))
    listing = Listing(missing=plain.missing, left_out=plain.left_out, notes=plain.notes)
    head = list(dict.fromkeys(name for item in plain.items for name in item.labels))
    kinds = {name == COLUMN for name in head if _is_trace(name)}
    if len(kinds) > 1:
        raise ValueError(f"{labels}: columns trace and trace.NAME; keep one kind")
    if plain.items and not kinds:
        near = did_you_mean(COLUMN, head)
        found = ", ".join(["path", *head])
        raise ValueError(f"{labels}: no file in a column trace or trace.NAME (found {found}){near}")
    for item in plain.items:
        if item.start is not None or item.end is not None:
            raise ValueError(
                f"{labels}: {item.path} has a start or an end; a recording with a trace is read"
                " whole, leave them out"
            )
        files = {  # by annotator
            name.partition(".")[2] or MEAN: str(file)
            for name, file in item.labels.items()
            if _is_trace(name) and file is not None
        }
        lacking = [name for name in files.values() if not (root / name_in(root, name)).is_file()]
        for name in lacking:
            listing.lack("no such trace", name)
        if not files:
            listing.leave_out("no trace", item.path)
        if lacking or not files:
            continue
        kept = {name: value for name, value in item.labels.items() if not _is_trace(name)}
        notes = joined(
            [read_notes(root / name_in(root, name), annotator=who) for who, name in files.items()],
            item.path,
        )
        add_parts(listing, root, item, notes, kept, options.trace)
    return listing


def add_parts(
    listing: Listing,
    root: Path,
    item: Item,
    notes: Notes,
    labels: Mapping[str, Any],
    config: TraceConfig,
) -> None:
    """List the parts of one recording, or that it is damaged, or that none of them has a value.

    Raises: ValueError: as ``items_of``.
    """
    try:
        parts = items_of(root, item, notes, labels, config)
    except MediaError as error:  # other datasets are listed without opening any recording
        listing.lack(CAUSES[error.cause], item.path)
        return
    if not parts:
        listing.leave_out(f"no value at a step of {config.hop_seconds:g} s", item.path)
    listing.items += parts


def items_of(
    root: Path, item: Item, notes: Notes, labels: Mapping[str, Any], config: TraceConfig
) -> list[Item]:
    """The parts of one recording, keyed ``RECORDING/000``, ….

    Raises: ValueError: the trace leaves the recording. MediaError: its length cannot be told.
    """
    seconds = length_of(root / item.path)
    check_times(notes, seconds, item.path)
    key = safe_key(item.key)
    return [
        Item(
            key=f"{key}/{number:03d}",
            path=item.path,
            audio=item.audio,
            speaker=item.speaker,
            region=item.region,
            split=item.split,
            start=begin,
            end=end,
            labels={**labels, RECORDING: key, COLUMN: trace.text()},
        )
        for number, (begin, end, trace) in enumerate(parts_of(notes, key, seconds, config))
    ]


def length_of(path: Path) -> float:
    """Length of a recording as its container tells it, seconds.

    Raises: ValueError: it does not, or the recording is a folder of images.
    """
    if path.is_dir():
        raise ValueError(
            f"{path}: is a folder of images, whose length nobody tells; make it a video first"
        )
    with open_container(path) as container:
        if not container.duration:
            raise ValueError(
                f"{path}: its container does not tell its length; copy it into another one first"
                " (ffmpeg -i … -c copy)"
            )
        return container.duration / 1e6  # FFmpeg counts microseconds


def _is_trace(name: str) -> bool:
    return name == COLUMN or name.startswith(f"{COLUMN}.")


DATASET = Dataset(
    title="any collection with traces",
    layout=f"{TABLE} (or --labels FILE) with path and trace, or trace.NAME for each annotator",
    access="your own",
    read=read,
    media=("auto",),
    columns=(COLUMN, RECORDING),
    takes_labels=True,
    seen="made-up traces",
)
