"""Lists of raw recordings: from a folder, a CSV, JSON lines or a single file.

For: what the build is to read, under which key, with which labels. Not for: the layouts of known
datasets (``shards/datasets/``), which make such lists, nor for the recordings themselves.

Reserved columns: ``key, path, audio, boxes, region, fps, speaker, start, end, split``; every other
column is a label. Paths are relative to the manifest, and may name a folder of frame images.
Numbers of a CSV stay numbers; text that only looks like one (``007``) stays text, and a column is
of one kind throughout.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hicmae.media.folders import VIDEO_SUFFIXES, walk
from hicmae.media.image_files import sound_beside
from shards.keys import safe_key
from shards.schema import Label
from shards.tables import (
    RESERVED,
    TEXT_COLUMNS,
    check_columns,
    delimiter,
    read_csv,
    read_json_lines,
)


@dataclass(frozen=True, kw_only=True)
class ManifestRow:
    """One recording, or a span of one.

    Args:
        key: Name of the sample; safe (see ``shards/keys.py``).
        path: The video file, or a folder of frame images (see ``hicmae/media/image_video.py``).
        name: The same relative to the folder or manifest that named it, for the sample's json.
        audio: A separate sound file that starts with the picture; none: the video's own sound.
        audio_name: The same relative to the manifest.
        fps: Frame rate of a folder of images, frames per second; none: the build's
            ``image_fps``. Not for videos, which know their own times.
        boxes: CSV of face boxes for ``--faces boxes``; none: ``<name>.csv`` beside the recording.
        region: Part of the picture in which faces are looked for: x0, y0, x1, y1 as shares of its
            width and height, 0..1 (a split screen: one speaker's half); none: all of it.
        speaker: Who speaks, if known.
        start: Start of the span, seconds after the first frame; none: the beginning.
        end: End of the span; none: the end.
        split: Which shards it goes into: ``train``, ``test``, …
        labels: Every other column.
    """

    key: str
    path: Path
    name: str
    audio: Path | None = None
    audio_name: str | None = None
    fps: float | None = None
    boxes: Path | None = None
    region: tuple[float, float, float, float] | None = None
    speaker: str | None = None
    start: float | None = None
    end: float | None = None
    split: str = "train"
    labels: dict[str, Label] = field(default_factory=dict)


def read_manifest(source: Path | str) -> list[ManifestRow]:
    """Read one source: a folder, a ``.csv``, a ``.jsonl``, or a video file.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: A manifest that cannot be understood: one line with the place and the remedy.
    """
    source = Path(source)
    if source.is_dir():
        return list_folder(source)[0]
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such folder, manifest or video")
    if source.suffix.lower() in (".csv", ".tsv"):
        return _rows(source, read_csv(source))
    if source.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        return _rows(source, read_json_lines(source))
    return [ManifestRow(key=safe_key(source.stem), path=source, name=printable(source.name))]


def list_folder(folder: Path) -> tuple[list[ManifestRow], list[Path]]:
    """List the recordings below a folder, links followed, in the order of their names.

    A recording is a file with the suffix of a video, or a folder (this one too) of numbered
    images without a video among them; its sound file (see ``sound_beside``) belongs to it.

    Returns: The rows, keyed by their path inside the folder; and the other files, ignored. Hidden
        files and folders are neither.
    """
    rows, ignored, sounds = [], [], set()
    for path, is_folder in walk(folder):
        name = path.relative_to(folder).as_posix() if path != folder else folder.resolve().name
        if is_folder or path.suffix.lower() in VIDEO_SUFFIXES:
            key = safe_key(name if is_folder else name.removesuffix(path.suffix))
            rows.append(ManifestRow(key=key, path=path, name=printable(name)))
        else:
            ignored.append(path)
        if is_folder:
            sounds.add(sound_beside(path))
    return rows, [path for path in ignored if path not in sounds]


def write_manifest(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a manifest that ``read_manifest`` reads back: CSV or JSON lines, by the suffix.

    Args:
        path: The manifest; written beside and renamed.
        rows: Columns as in the module's docstring; ``path`` (and ``audio``) relative to the
            manifest's folder, None for what is missing.
    """
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    check_columns(path, columns)
    beside = path.with_name(f".{path.name}.part")
    with beside.open("w", encoding="utf-8", newline="") as file:
        if path.suffix.lower() in (".csv", ".tsv"):
            writer = csv.DictWriter(file, columns, delimiter=delimiter(path), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        else:
            for row in rows:
                file.write(json.dumps(dict(row), ensure_ascii=False, allow_nan=False) + "\n")
    beside.replace(path)


def printable(name: str | Path) -> str:
    """A file name as text: bytes that are no UTF-8 become backslash escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _rows(manifest: Path, raw: list[tuple[int, dict[str, Any]]]) -> list[ManifestRow]:
    """Typed rows; every problem is collected (the first ones are told)."""
    problems: list[str] = []
    rows: list[ManifestRow] = []
    first_line: dict[str, int] = {}
    for number, values in raw:
        try:
            row = _row(manifest, values)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
            continue
        if "key" in values and first_line.setdefault(row.key, number) != number:
            problems.append(
                f"line {number}: key {values['key']!r} is that of line {first_line[row.key]}"
            )
        rows.append(row)
    if problems:
        more = f"; and {len(problems) - 3} more lines" if len(problems) > 3 else ""
        raise ValueError(f"{manifest}: {'; '.join(problems[:3])}{more}")
    return rows


def _row(manifest: Path, values: dict[str, Any]) -> ManifestRow:
    """One row, or a ValueError that says what is wrong with it."""
    for name in TEXT_COLUMNS:
        if name in values and not isinstance(values[name], str | int):
            raise ValueError(f"{name} is {values[name]!r} (must be text)")
    if "path" not in values:
        raise ValueError("no path")
    split = str(values.get("split", "train"))
    if not re.fullmatch(r"[A-Za-z0-9_]+", split):
        raise ValueError(f"split {split!r} (letters, digits and '_' are allowed)")
    span = {name: _seconds(name, values.get(name)) for name in ("start", "end")}
    if span["end"] is not None and span["end"] <= (span["start"] or 0.0):
        raise ValueError(f"end {span['end']:g} s is not after start {span['start'] or 0:g} s")
    labels = {name: value for name, value in values.items() if name not in RESERVED}
    for name, value in labels.items():
        if not isinstance(value, str | int | float | bool):
            raise ValueError(f"{name} is {type(value).__name__} (must be text, a number or true)")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value} (leave a missing value out)")
    name = str(values["path"])
    audio = str(values["audio"]) if "audio" in values else None
    boxes = str(values["boxes"]) if "boxes" in values else None
    return ManifestRow(
        key=safe_key(str(values["key"]) if "key" in values else _stem(name)),
        path=manifest.parent / name,
        name=name,
        audio=None if audio is None else manifest.parent / audio,
        audio_name=audio,
        fps=_rate(values.get("fps")),
        boxes=None if boxes is None else manifest.parent / boxes,
        region=_region(values.get("region")),
        speaker=str(values["speaker"]) if "speaker" in values else None,
        start=span["start"],
        end=span["end"],
        split=split,
        labels=labels,
    )


def _stem(name: str) -> str:
    """A manifest's path without its suffix and without what leads out of the folder."""
    parts = [part for part in Path(name).with_suffix("").parts if part not in ("..", "/", "")]
    return parts[-1] if Path(name).is_absolute() else "/".join(parts)


def _rate(value: Any) -> float | None:
    """A frame rate of the manifest."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"fps is {value!r} (must be frames per second, more than 0)")
    return float(value)


def _region(value: Any) -> tuple[float, float, float, float] | None:
    """A part of the picture, written as four numbers with blanks or commas between them."""
    if value is None:
        return None
    try:
        x0, y0, x1, y1 = (float(part) for part in str(value).replace(",", " ").split())
    except ValueError:
        x0, y0, x1, y1 = 1.0, 1.0, 0.0, 0.0
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError(
            f"region is {value!r} (must be x0 y0 x1 y1 as shares of the picture, such as "
            "'0 0 0.5 1' for its left half)"
        )
    return x0, y0, x1, y1


def _seconds(name: str, value: Any) -> float | None:
    """A time of the manifest."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value!r} (must be seconds, 0 or more)")
    return float(value)
