"""Lists of raw recordings: from a folder, a CSV, JSON lines or a single file, each under its key.

Reserved columns: ``key, path, audio, boxes, region, fps, speaker, start, end, split``; every other
column is a label. Paths are relative to the manifest, and may name a folder of frame images.
Numbers of a CSV stay numbers; text that only looks like one (``007``) stays text, and a column is
of one kind throughout: see ``shards/tables.py``, which reads the table.

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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from hicmae.files import whole_file
from hicmae.media.images import SOUND_SUFFIXES, VIDEO_SUFFIXES, is_stack, sound_beside, walk
from shards.schema import Label
from shards.sides import Listed, refuse_two_sides
from shards.tables import TABLE_SUFFIXES, is_shortened, read_table

_TEXT_COLUMNS = ("key", "path", "audio", "boxes", "region", "speaker", "split")
_RESERVED = {  # and what for
    "key": "the names of the samples",
    "path": "files",
    "audio": "sound files",
    "boxes": "files of face boxes",
    "region": "parts of the picture",
    "speaker": "names of people",
    "split": "names of splits",
    "start": "seconds",
    "end": "seconds",
    "fps": "frame rates",
}

_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f]")
_DRIVE = re.compile(r"[A-Za-z]:[/\\]")
_PLAIN_NUMBER = re.compile(r"-?[0-9]{1,15}([.,][0-9]{1,15})?")
_MAX_KEY = 160  # leaves room for what tells keys apart; the schema allows 200
# What a build puts behind the key of a recording: a face, a segment, or both.
_SEGMENT, _FACE = re.compile(r"-\d{3,}\Z"), re.compile(r"_face\d+\Z")


@dataclass(frozen=True, kw_only=True)
class ManifestRow:
    """One recording, or a span of one.

    Args:
        key: Name of the sample; safe (see ``safe_key``).
        path: The video or sound file, or a folder of frame images (see
            ``hicmae/media/images.py``).
        name: The same relative to the folder or manifest that named it, for the sample's json.
        audio: A separate sound file that starts with the picture; none: the video's own sound.
        audio_name: The same relative to the manifest.
        fps: Frame rate of a folder of images, frames per second; none: the build's
            ``image_fps``. Not for videos, which know their own times.
        boxes: CSV of face boxes for ``--faces boxes``; none: ``<name>.csv`` beside the recording.
        region: Part of the picture in which faces are looked for: x0, y0, x1, y1 as shares of its
            width and height, 0..1 (a split screen: one speaker's half); none: all of it.
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
    """Read one source: a folder, a table (CSV, JSON lines, ``.xlsx``), or a recording.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: A manifest that cannot be understood: one line with the place and the remedy.
    """
    source = Path(source)
    if source.is_dir():
        return list_folder(source)[0]
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such folder, manifest or recording")
    if source.suffix.lower() in TABLE_SUFFIXES:
        return _rows(source, read_list(source, source.parent))
    return [ManifestRow(key=safe_key(source.stem), path=source, name=printable(source.name))]


def list_folder(folder: Path, *, sound_alone: bool = True) -> tuple[list[ManifestRow], list[Path]]:
    """List the recordings below a folder, links followed, in the order of their names.

    A recording is a file with the suffix of a video, a folder (this one too) of numbered images
    without a video among them or a .npy stack of images, whose sound file (see ``sound_beside``)
    belongs to it, or, with ``sound_alone``, a sound file; not one of a video's name beside it,
    which is its sound again.

    Returns: The rows, keyed by their path inside the folder; and the other files, ignored. Hidden
        files and folders are neither.
    """
    found, ignored, sounds = list(walk(folder)), [], set()
    for path, is_folder in found:
        if is_folder or is_stack(path):
            sounds.add(sound_beside(path))
    videos = {path.with_suffix("") for path, _ in found if path.suffix.lower() in VIDEO_SUFFIXES}
    rows = []
    for path, is_folder in found:
        suffix = path.suffix.lower()
        alone = sound_alone and suffix in SOUND_SUFFIXES and path.with_suffix("") not in videos
        name = path.relative_to(folder).as_posix() if path != folder else folder.resolve().name
        pictured = is_folder or suffix in VIDEO_SUFFIXES or is_stack(path)
        if pictured or (alone and path not in sounds):
            key = safe_key(name if is_folder else name.removesuffix(path.suffix))
            rows.append(ManifestRow(key=key, path=path, name=printable(name)))
        elif path not in sounds:
            ignored.append(path)
    return rows, ignored


def write_manifest(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a manifest that ``read_manifest`` reads back: CSV or JSON lines, by the suffix.

    Args: rows: Columns as in the module's docstring; ``path`` (and ``audio``) relative to the
        manifest's folder, None for what is missing.
    Raises: ValueError: a column with a name of the index, or a number that a table cannot hold.
    """
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if clashing := [name for name in columns if name in _index_columns()]:
        raise ValueError(f"{path}: column {clashing[0]!r} is a name of the index; rename it")
    of_cells = path.suffix.lower() in (".csv", ".tsv")
    for name, value in (cell for row in rows if of_cells for cell in row.items()):
        if is_shortened(str(value)):
            raise ValueError(
                f"{path}: {name} is {value}, which is refused where a table is read (it looks like"
                " a long number without its last digits); write JSON lines, to a name in .jsonl"
            )
    with whole_file(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        if of_cells:
            delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
            writer = csv.DictWriter(file, columns, delimiter=delimiter, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        else:
            for row in rows:
                file.write(json.dumps(dict(row), ensure_ascii=False, allow_nan=False) + "\n")


def printable(name: str | Path) -> str:
    """A file name as text on one line: bytes that are no UTF-8, and control characters, become
    backslash escapes.
    """
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def read_list(path: Path, folder: Path) -> list[tuple[int, dict[str, Any]]]:
    """Rows of a table of recordings with the numbers of their lines; empty cells are left out.

    ``folder`` is what its paths are relative to.

    Raises: ValueError: as ``read_table`` and ``refuse_two_sides``.
    """
    rows = read_table(path, needed="path", text=_TEXT_COLUMNS, taken=_index_columns())
    labels = set().union(*(values for _, values in rows)) - set(_RESERVED)
    if near := sorted(name for name in labels if name.lower() in _RESERVED):
        raise ValueError(
            f"{path}: column {near[0]!r} would be a label, and {near[0].lower()!r} is for"
            f" {_RESERVED[near[0].lower()]}; call it that, or, if it is a label, something else"
        )
    listed = (
        Listed(
            f"line {number}",
            _real(folder, str(values.get("path"))),
            (_number(values.get("start")), _number(values.get("end"))),
            (values.get("region"), values.get("boxes")),
            {"split": "train", **values},
        )
        for number, values in rows
    )
    refuse_two_sides(listed, f"{path} ")
    return rows


def _real(folder: Path, name: str) -> str:
    """The file that a name means, however it is spelled; the name where it can be none's."""
    try:
        return os.path.realpath(folder / name_in(folder, name))
    except ValueError:
        return name


def name_in(folder: Path, name: str) -> str:
    """A name from a table as the file below a folder is called.

    That is with ``/`` for the ``\\`` of Windows, and with accents as one character or two: those
    who unpack on a Mac have two. A name of no file stays, with ``/``.
    """
    if name.isascii() and "\\" not in name:
        return name
    slashed = name.replace("\\", "/")
    spelled = [
        unicodedata.normalize(form, each) for form in ("NFC", "NFD") for each in (name, slashed)
    ]
    there = (each for each in (name, slashed, *spelled) if os.path.lexists(folder / each))
    return next(there, slashed)


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
    """Typed rows; every problem is collected, and the first ones are told."""
    wrong: dict[str, list[tuple[int, str]]] = defaultdict(list)  # column → line, what
    rows: list[ManifestRow] = []
    first_line: dict[str, int] = {}
    for number, values in raw:
        found: dict[str, str] = {}
        row = _row(manifest, values, found)
        if "key" in values and first_line.setdefault(row.key, number) != number:
            found["key"] = f"key {_shown(values['key'])} is that of line {first_line[row.key]}"
        for name, what in found.items():
            wrong[name].append((number, what))
        rows.append(row)
    wrong |= _no_files(rows, raw)
    problems: list[str] = []
    for name, lines in wrong.items():
        number, what = lines[0]
        num_given = sum(name in values for _, values in raw)
        # Of a column that holds something else one line is said, and not one a row.
        half = 2 * len(lines) >= num_given if name == "key" else len(lines) == num_given
        if name in _RESERVED and name != "path" and half and len(lines) > 1:
            problems.append(
                f"column {name!r} is reserved for {_RESERVED[name]}, and {len(lines)} of its "
                f"{num_given} cells are wrong (line {number}: {what}); rename it if it is a label"
            )
        else:
            problems += [f"line {number}: {what}" for number, what in lines]
    if problems:
        more = f"; and {len(problems) - 3} more lines" if len(problems) > 3 else ""
        raise ValueError(f"{manifest}: {'; '.join(problems[:3])}{more}")
    return rows


def _no_files(
    rows: Sequence[ManifestRow], raw: Sequence[tuple[int, dict[str, Any]]]
) -> dict[str, list[tuple[int, str]]]:
    """Columns of files of which not one is there, although recordings are: column → line, what."""
    wrong: dict[str, list[tuple[int, str]]] = {}
    for name in ("audio", "boxes"):
        named = [
            (number, path, values[name])
            for row, (number, values) in zip(rows, raw, strict=True)
            if name in values and (path := getattr(row, name)) is not None
        ]
        there = (os.path.lexists(path) for _, path, _ in named)
        if len(named) > 1 and not any(there) and any(os.path.lexists(row.path) for row in rows):
            wrong[name] = [(n, f"no file {_shown(value)}") for n, _, value in named]
    return wrong


def _row(manifest: Path, values: dict[str, Any], wrong: dict[str, str]) -> ManifestRow:
    """One row; ``wrong`` gets what is wrong with it, by column."""

    def take(name: str, kind: Callable[[str, Any], Any]) -> Any:
        """The value of a reserved column, None where it is missing or wrong."""
        if values.get(name) is None:
            return None
        try:
            return kind(name, values[name])
        except ValueError as error:
            wrong[name] = str(error)
            return None

    if "path" not in values:
        wrong["path"] = "no path"
    name = take("path", _text)
    audio, boxes = take("audio", _text), take("boxes", _text)
    name, audio, boxes = (
        None if item is None else name_in(manifest.parent, item) for item in (name, audio, boxes)
    )
    if name and _DRIVE.match(name) and not os.path.lexists(manifest.parent / name):
        wrong["path"] = (
            f"path {_shown(name)} is on a drive of Windows (write it relative to the table)"
        )
    start, end = take("start", _seconds), take("end", _seconds)
    if end is not None and end <= (start or 0.0):
        wrong["end"] = f"end {end:g} s is not after start {start or 0:g} s"
    labels = {label: value for label, value in values.items() if label not in _RESERVED}
    for label, value in labels.items():
        try:
            _label(label, value)
        except ValueError as error:
            wrong[label] = str(error)
    name = name or ""
    key = take("key", _text)
    return ManifestRow(
        key=safe_key(_stem(name) if key is None else key),
        path=manifest.parent / name,
        name=name,
        audio=None if audio is None else manifest.parent / audio,
        audio_name=audio,
        fps=take("fps", _rate),
        boxes=None if boxes is None else manifest.parent / boxes,
        region=take("region", _region),
        speaker=take("speaker", _text),
        start=start,
        end=end,
        split=take("split", _split) or "train",
        labels=labels,
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str | int):
        raise ValueError(f"{name} is {_shown(value)} (must be text)")
    _check_characters(name, str(value))
    return str(value)


def _check_characters(name: str, text: str) -> None:
    """Refuse what a JSON can hold and no file name or UTF-8 text can."""
    if _NO_TEXT.search(text):
        raise ValueError(
            f"{name} is {_shown(text)} (must be text without half characters or zeros)"
        )


def _label(name: str, value: Any) -> None:
    if not isinstance(value, str | int | float | bool):
        raise ValueError(f"{name} is {type(value).__name__} (must be text, a number or true)")
    _check_characters("the name of a column", name)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value} (leave a missing value out)")
    _check_characters(name, str(value))


def _split(name: str, value: Any) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_]+", str(value)):
        raise ValueError(f"split {_shown(str(value))} (letters, digits and '_' are allowed)")
    return str(value)


def _stem(name: str) -> str:
    """A manifest's path without its suffix and without what leads out of the folder."""
    path = Path(name)
    path = path.with_suffix("") if path.name else path
    parts = [part for part in path.parts if part not in ("..", "/", "")]
    return parts[-1] if parts and path.is_absolute() else "/".join(parts)


def _rate(name: str, value: Any) -> float:
    rate = _number(value)
    if rate is None or not 0 < rate < math.inf:
        raise ValueError(f"{name} is {_shown(value)} (must be frames per second, more than 0)")
    return rate


def _region(name: str, value: Any) -> tuple[float, float, float, float]:
    """A part of the picture, written as four numbers with blanks or commas between them."""
    try:
        x0, y0, x1, y1 = (float(part) for part in str(value).replace(",", " ").split())
    except ValueError:
        x0, y0, x1, y1 = 1.0, 1.0, 0.0, 0.0
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError(
            f"{name} is {_shown(value)} (must be x0 y0 x1 y1 as shares of the picture, such as "
            "'0 0 0.5 1' for its left half)"
        )
    return x0, y0, x1, y1


def _seconds(name: str, value: Any) -> float:
    seconds = _number(value)
    if seconds is None or not 0 <= seconds < math.inf:
        raise ValueError(f"{name} is {_shown(value)} (must be seconds, 0 or more)")
    return seconds


def _number(value: Any) -> float | None:
    """A number, or text that is one because another cell of its column is none; else None."""
    if isinstance(value, str) and _PLAIN_NUMBER.fullmatch(value):
        return float(value.replace(",", "."))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _index_columns() -> set[str]:
    from shards.index import COLUMNS  # which imports pandas

    return COLUMNS.keys() - set(_RESERVED)


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
    return _followed(key, suffixes)


def _by_span(key: str, rows: Sequence[ManifestRow]) -> list[str]:
    """Put start and end behind, in milliseconds, if they differ."""
    spans = [
        "".join(f"_{round(1000 * (time or 0)):07d}" for time in (row.start, row.end))
        for row in rows
    ]
    return _followed(key, spans)


def _followed(key: str, ends: Sequence[str]) -> list[str]:
    """The key with each of these behind, if they tell any apart."""
    return [key + end for end in ends] if len(set(ends)) > 1 else [key] * len(ends)


def _numbered(keys: Sequence[str]) -> list[str]:
    """Put a number behind every second and later use of a key."""
    taken, result = set(keys), []
    used: set[str] = set()
    counted: dict[str, int] = defaultdict(lambda: 1)
    for key in keys:
        unique = key
        while unique in used or (unique != key and unique in taken):
            counted[key] += 1
            unique = f"{key}_{counted[key]}"
        used.add(unique)
        result.append(unique)
    return result
