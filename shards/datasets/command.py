"""The function behind ``hicmae shards manifest``: from a dataset's tree to a manifest."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hicmae.files import check_writable, whole_file
from shards.datasets import DATASETS, Listing, ReadOptions, find_dataset
from shards.datasets.base import Item, Media, check_files
from shards.datasets.traces import COLUMN, TABLE
from shards.manifest import printable, write_manifest
from shards.traces import TraceConfig

_TRACE = TraceConfig()
_FIRST_LINES = {  # of what is written here, by its option
    "out": re.compile(rb"key([,\t])path\1.*\n|\{\"key\": .*\n"),
    "missing": re.compile(rb"[^\t]+\t[^\t]+\n"),
}
_SHOWN = 3  # names of each cause on the screen; the list of missing files has all


def manifest(
    *,
    dataset: str | None = None,
    root: Path | None = None,
    out: Path | None = None,
    media: Media = "auto",
    labels: Path | None = None,
    folds: int | None = None,
    image_fps: float | None = None,
    trace: TraceConfig = _TRACE,
    missing: Path | None = None,
    strict: bool = False,
    list: bool = False,
) -> None:
    """Make a manifest of a dataset: what is there, with labels, speakers, folds and votes.

    Nothing is decoded. Counts are compared with the documented ones; every missing file is named.
    Then: hicmae shards build MANIFEST --out SHARDS.

    Args:
        dataset: Which; --list shows them.
        root: The folder it was unpacked into.
        out: The manifest, .csv, .tsv or .jsonl; none given: DATASET.csv here.
        media: Read videos (clips), folders of frame images (frames), or auto: videos where there
            are any.
        labels: The file of labels, where it is not found by its documented name.
        folds: For csv: make so many folds by speaker.
        image_fps: Frame rate of folders of images, frames per second.
        trace: For labels over time: how recordings are cut.
        missing: Where to list the missing files; none given: MANIFEST.missing.txt.
        strict: A missing file or a count that differs is an error, and no manifest is written.
        list: Show the datasets and what is expected of each.

    Raises:
        ValueError: No such dataset, another tree, or (with --strict) one that is not whole.
    """
    if list:
        print(_overview())
        return
    if dataset is None or root is None:
        raise ValueError(
            "a dataset and its root are needed: hicmae shards manifest DATASET ROOT (--list shows "
            "the datasets)"
        )
    if image_fps is not None and not 0 < image_fps < float("inf"):
        raise ValueError(f"image_fps = {image_fps} (must be more than 0)")
    known = find_dataset(dataset)
    options = ReadOptions(media=media, labels=labels, num_folds=folds, trace=trace)
    if folds is not None and known not in (DATASETS["csv"], DATASETS["traces"]):
        raise ValueError(f"folds is for csv and traces; {known.title} has its own")
    if labels is not None and not known.takes_labels:
        raise ValueError(f"labels = {labels}: {known.title} has its labels in its own files")
    if media not in known.media:
        raise ValueError(
            f"media = {media}: {known.title} is read with {' or '.join(known.media)} alone; leave "
            "it out (folders of frames can be named in a CSV: hicmae shards manifest csv ROOT "
            "--labels FILE)"
        )
    if trace != _TRACE and COLUMN not in known.columns:
        raise ValueError(f"trace is for values over time, which {known.title} has none of")
    path = out or Path(f"{dataset.lower().replace('_', '-')}.csv")
    if path.suffix.lower() not in (".csv", ".tsv", ".jsonl"):
        raise ValueError(f"out = {path} (must end in .csv, .tsv or .jsonl)")
    lacking = missing or path.with_name(f"{path.name}.missing.txt")
    table = labels or (root / TABLE if known is DATASETS["traces"] else None)
    for name, file in (("out", path), ("missing", lacking)):
        check_writable(file)
        if table is not None and file.exists() and table.exists() and file.samefile(table):
            raise ValueError(
                f"{name} = {file}: is the file of labels, which it would replace; name another"
            )
        if file.is_file() and root.resolve() in file.resolve().parents and not _is_ours(name, file):
            raise ValueError(
                f"{name} = {file}: is a file of the dataset, which it would replace; name another"
            )
    if lacking.resolve() == path.resolve():
        raise ValueError(f"missing = {lacking}: is the manifest too (--out); name another")
    listing = check_files(root, known.read(root, options))
    differences, problem = listing.differences(), ""
    if strict and (differences or listing.num_missing):
        reasons = differences[:2]
        if listing.num_missing:
            reasons.append(f"{listing.num_missing} files are missing ({lacking})")
        problem = f"not the whole of {known.title}: {'; '.join(reasons)}"
    elif not listing.items and not listing.num_missing:
        problem = f"none of {known.title} can be used: {_left_out(listing)}"
    elif not listing.items:
        other = ", or try --media" * ("frames" in known.media)
        problem = (
            f"none of {known.title} can be used ({listing.num_missing} files are missing, "
            f"see {lacking}); unpack them below it{other} (a copy of sound alone is to be listed "
            "in a CSV: hicmae shards manifest csv ROOT --labels FILE)"
        )
    with _missing_listed(lacking, listing):
        if not problem:
            write_manifest(path, _rows(root, path, listing.items, image_fps))
    _show(listing, lacking)
    if problem:
        raise ValueError(f"{root}: {problem}")
    for difference in differences:
        print(f"warning: {difference}")
    agree = len(listing.expected) - len(differences)
    if listing.expected:
        print(f"{agree} of {len(listing.expected)} documented numbers are met")
    speakers = len({item.speaker for item in listing.items} - {None})
    print(
        f"{known.title}: {len(listing.items)} recordings, speakers {speakers or 'unknown'}: {path}"
    )


def _rows(
    root: Path, path: Path, items: list[Item], image_fps: float | None
) -> Iterator[dict[str, Any]]:
    """Rows of the manifest; paths relative to its folder, and no column that nobody fills."""
    # Both ends resolved, because `..` after a link leads elsewhere than its text says.
    prefix = Path(os.path.relpath(root.resolve(), path.absolute().parent.resolve()))
    columns = dict.fromkeys(name for item in items for name in item.labels)
    used = [name for name in columns if any(item.labels.get(name) is not None for item in items)]
    optional = [
        name
        for name in ("audio", "speaker", "start", "end", "region")
        if any(getattr(item, name) is not None for item in items)
    ]
    for item in items:
        row: dict[str, Any] = {"key": item.key, "path": (prefix / item.path).as_posix()}
        for name in optional:
            row[name] = getattr(item, name)
        if item.audio is not None:
            row["audio"] = (prefix / item.audio).as_posix()
        row["split"] = item.split
        if image_fps is not None:
            row["fps"] = None
        row |= {name: item.labels.get(name) for name in used}
        if image_fps is not None and row["fps"] is None and (root / item.path).is_dir():
            row["fps"] = image_fps
        if row.get("boxes") is not None:  # a path too
            row["boxes"] = (prefix / str(row["boxes"])).as_posix()
        yield row


@contextmanager
def _missing_listed(path: Path, listing: Listing) -> Iterator[None]:
    """List every missing file with its cause, once what is done within is done; a list of an
    earlier call does not stay behind.
    """
    if not listing.missing:
        yield
        path.unlink(missing_ok=True)
        return
    lines = [
        f"{cause}\t{printable(name)}\n"
        for cause, names in sorted(listing.missing.items())
        for name in names
    ]
    with whole_file(path) as beside:
        beside.write_text("".join(lines), encoding="utf-8", newline="")
        yield


def _is_ours(name: str, file: Path) -> bool:
    """Whether a file is what an earlier call has written there."""
    with file.open("rb") as opened:
        return bool(_FIRST_LINES[name].fullmatch(opened.readline()))


def _left_out(listing: Listing) -> str:
    """Why there is no item although no file is missing."""
    causes = sorted(listing.left_out.items(), key=lambda pair: -len(pair[1]))
    told = ", ".join(f"{cause}: {len(names)}" for cause, names in causes[:_SHOWN])
    if not told:
        return "its lists name no recording; give lists that do"
    more = f", and {len(causes) - _SHOWN} more causes" if len(causes) > _SHOWN else ""
    return f"all are left out ({told}{more}); give the labels that belong to this copy"


def _show(listing: Listing, lacking: Path) -> None:
    for what, causes in (("missing", listing.missing), ("left out", listing.left_out)):
        for cause, names in sorted(causes.items()):
            shown = ", ".join(printable(name) for name in names[:_SHOWN])
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            print(f"{what}, {cause}: {len(names)} ({shown}{more})")
    if listing.missing:
        print(f"all {listing.num_missing} missing files: {lacking}")
    for note in listing.notes:
        print(f"note: {note}")


def _overview() -> str:
    lines = []
    for name, known in DATASETS.items():
        lines.append(f"{name}: {known.title}")
        lines.append(f"  expected: {known.layout}")
        lines.append(f"  access:   {known.access}")
        lines.append(f"  tried on: {known.seen}")
    return "\n".join(lines)
