"""Lists of raw recordings: from a folder, a CSV, JSON lines or a single file, each under its key.

Reserved columns: ``key, path, audio, boxes, region, fps, speaker, start, end, split``; every other
column is a label. Paths are relative to the manifest, and may name a folder of frame images.
Numbers of a CSV stay numbers; text that only looks like one (``007``) stays text, and a column is
of one kind throughout.

A key is the name of a sample: safe inside a tar, and unique in a collection. It is made of ASCII
letters, digits, ``_``, ``-`` and ``/``; no dot, because webdataset takes what follows a member's
first dot for its extension.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import math
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from hicmae.config import did_you_mean
from hicmae.files import whole_file
from hicmae.media.image_folder import VIDEO_SUFFIXES, sound_beside, walk
from shards.schema import Label

_TEXT_COLUMNS = ("key", "path", "audio", "boxes", "region", "speaker", "split")
_RESERVED = (*_TEXT_COLUMNS, "start", "end", "fps")

# Numbers as a program writes them; ids with leading zeros are none.
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
_NUMBER = re.compile(r"-?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][-+]?\d+)?")

_MAX_KEY = 160  # leaves room for what tells keys apart; the schema allows 200
# What a build puts behind the key of a recording: a face, a segment, or both.
_SEGMENT, _FACE = re.compile(r"-\d{3,}\Z"), re.compile(r"_face\d+\Z")


@dataclass(frozen=True, kw_only=True)
class ManifestRow:
    """One recording, or a span of one.

    Args:
        key: Name of the sample; safe (see ``safe_key``).
        path: The video file, or a folder of frame images (see ``hicmae/media/image_folder.py``).
        name: The same relative to the folder or manifest that named it, for the sample's json.
        audio: A separate sound file that starts with the picture; none: the video's own sound.
        audio_name: The same relative to the manifest.
        fps: Frame rate of a folder of images, frames per second; none: the build's
            ``image_fps``. Not for videos, which know their own times.
        boxes: CSV of face boxes for ``--faces boxes``; none: ``<name>.csv`` beside the recording.
        region: Part of the picture in which faces are looked for: x0, y0, x1, y1 as shares of its
            width and height, 0..1 (a split screen: one speaker's half); none: all of it.
        speaker: Who speaks, if known.
        start: Start of the span, seconds as players count them; none: the picture's beginning.
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
        path: The manifest.
        rows: Columns as in the module's docstring; ``path`` (and ``audio``) relative to the
            manifest's folder, None for what is missing.
    """
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    _check_columns(path, columns)
    with whole_file(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        if path.suffix.lower() in (".csv", ".tsv"):
            writer = csv.DictWriter(file, columns, delimiter=_delimiter(path), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        else:
            for row in rows:
                file.write(json.dumps(dict(row), ensure_ascii=False, allow_nan=False) + "\n")


def printable(name: str | Path) -> str:
    """A file name as text: bytes that are no UTF-8 become backslash escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def read_csv(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Rows with their line numbers; empty cells are left out and each column is of one kind."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=_delimiter(path))
            header = [name.strip() for name in next(reader, [])]
            _check_columns(path, header)
            lines = [(reader.line_num, cells) for cells in reader if any(cells)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read as CSV ({error}); save it as UTF-8") from error
    for number, cells in lines:
        if len(cells) != len(header):
            raise ValueError(
                f"{path} line {number}: {len(cells)} cells under {len(header)} columns; quote "
                "cells that hold a comma"
            )
    columns = {
        name: _typed([cells[place] for _, cells in lines], text=name in _TEXT_COLUMNS)
        for place, name in enumerate(header)
    }
    return [
        (number, {name: values[at] for name, values in columns.items() if values[at] is not None})
        for at, (number, _) in enumerate(lines)
    ]


def read_json_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Rows with their line numbers; nulls are left out."""
    rows = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no UTF-8 text ({error.reason})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"{path} line {number}: no JSON ({error}); each line is one object"
            ) from error
        if not isinstance(row, dict):
            raise ValueError(f"{path} line {number}: {type(row).__name__}, not an object")
        _check_columns(path, list(row), f" line {number}")
        rows.append((number, {name: value for name, value in row.items() if value is not None}))
    return rows


def safe_key(name: str) -> str:
    """Turn a path without its suffix into a key.

    Accents are dropped, letters of other scripts become their code points (``u89c6``), anything
    else unsafe becomes ``_``, and a long key ends with a digest of what it stands for. Different
    names can give the same key: see ``unique_keys``.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    key = "/".join(_safe_part(part) for part in parts) or "_"
    if len(key) > _MAX_KEY:
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:12]
        key = f"{key[: _MAX_KEY - 13].rstrip('/')}_{digest}"
    return key


def segment_key(key: str, number: int) -> str:
    """The key of one segment of a recording that was cut."""
    return f"{key}-{number:03d}"


def face_key(key: str, number: int) -> str:
    """The key of one of several faces of a recording."""
    return f"{key}_face{number}"


def unique_keys(rows: Sequence[ManifestRow]) -> list[ManifestRow]:
    """Give every recording its own key; one that is alone with its key keeps it.

    Those that share a key get as much of their folders in front as tells them apart; two in one
    folder get their suffix behind, two spans of one file their times, and two of the very same a
    number. The result depends on the rows and their order only. A key that looks like a segment
    or a face of another (``a-000``, ``a_face0`` beside ``a``) gets a ``_`` behind.
    """
    keys = [row.key for row in rows]
    for tell_apart in (_by_folders, _by_suffix, _by_span):
        places: dict[str, list[int]] = defaultdict(list)
        for at, key in enumerate(keys):
            places[key].append(at)
        for key, shared in places.items():
            if len(shared) > 1:
                longer = tell_apart(key, [rows[at] for at in shared])
                for at, new in zip(shared, longer, strict=True):
                    keys[at] = safe_key(new)
    keys = _numbered(keys)
    taken = set(keys)
    for at, key in enumerate(keys):
        whole = _SEGMENT.sub("", key)
        if taken & ({whole, _FACE.sub("", whole)} - {key}):
            while key in taken:
                key += "_"
            taken.add(key)
            keys[at] = key
    return [dataclasses.replace(row, key=key) for row, key in zip(rows, keys, strict=True)]


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
    for name in _TEXT_COLUMNS:
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
    labels = {name: value for name, value in values.items() if name not in _RESERVED}
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
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value!r} (must be seconds, 0 or more)")
    return float(value)


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _typed(cells: Sequence[str], *, text: bool) -> list[Any]:
    """The values of a CSV column: all whole numbers, all numbers or all text; None if empty."""
    cells = [cell.strip() for cell in cells]
    given = [cell for cell in cells if cell]
    kind: Any = str
    if not text and all(_INTEGER.fullmatch(cell) for cell in given):
        kind = int
    elif not text and all(_NUMBER.fullmatch(cell) for cell in given):
        kind = float
    return [kind(cell) if cell else None for cell in cells]


def _check_columns(path: Path, names: list[str], where: str = "") -> None:
    """Refuse a manifest without paths, and names that the index needs for itself."""
    from shards.index import COLUMNS  # which imports pandas

    problems = []
    if "path" not in names:
        near = next((name for name in names if did_you_mean(name.lower(), ["path"])), None)
        problems.append(
            f"no column 'path' (found: {', '.join(names) or 'nothing'}"
            + (f"; is it {near!r}?)" if near else ")")
        )
    for name in names:
        if not name:
            problems.append("a column without a name")
        elif names.count(name) > 1:
            problems.append(f"column {name!r} is there twice")
        elif name in COLUMNS and name not in _RESERVED:
            problems.append(f"column {name!r} is a name of the index; rename it")
    if problems:
        raise ValueError(f"{path}{where}: {'; '.join(dict.fromkeys(problems))}")


def _safe_part(part: str) -> str:
    letters = []
    for letter in unicodedata.normalize("NFKD", part):
        if letter.isascii():
            letters.append(letter if letter.isalnum() or letter in "-_" else "_")
        elif letter.isalnum():
            letters.append(f"u{ord(letter):04x}")
        elif not unicodedata.combining(letter):
            letters.append("_")
    text = "".join(letters)
    # A leading dash would be an option to whoever unpacks the tar and names its files.
    return f"_{text}" if text.startswith("-") or not text else text


def _by_folders(key: str, rows: Sequence[ManifestRow]) -> list[str]:
    """Put in front the fewest folders above that tell the most of these recordings apart."""
    paths = []
    for row in rows:
        name = PurePath(row.name)
        inside = 1 if name.is_absolute() else len(name.parts)
        paths.append(row.path.absolute().parts[1:-inside])
    different = len(set(paths))
    if different == 1:
        return [key] * len(rows)
    depth = next(
        depth
        for depth in range(1, max(map(len, paths)) + 1)
        if len({path[-depth:] for path in paths}) == different
    )
    return ["/".join([*path[-depth:], key]) for path in paths]


def _by_suffix(key: str, rows: Sequence[ManifestRow]) -> list[str]:
    suffixes = [row.path.suffix.lower().replace(".", "_") for row in rows]
    return [key + suffix if len(set(suffixes)) > 1 else key for suffix in suffixes]


def _by_span(key: str, rows: Sequence[ManifestRow]) -> list[str]:
    """Put start and end behind, in milliseconds, if they differ."""
    spans = [
        "".join(f"_{round(1000 * (time or 0)):07d}" for time in (row.start, row.end))
        for row in rows
    ]
    return [key + span if len(set(spans)) > 1 else key for span in spans]


def _numbered(keys: Sequence[str]) -> list[str]:
    """Put a number behind every second and later use of a key."""
    taken, result = set(keys), []
    used: set[str] = set()
    for key in keys:
        unique, number = key, 1
        while unique in used or (unique != key and unique in taken):
            number += 1
            unique = f"{key}_{number}"
        used.add(unique)
        result.append(unique)
    return result
