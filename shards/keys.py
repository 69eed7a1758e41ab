"""Names of samples: safe inside a tar, and unique in a collection.

For: turning any file name into a key that every tool reads alike, and telling apart recordings of
the same name. Not for: which recordings there are (``manifest.py``).

A key is made of ASCII letters, digits, ``_``, ``-`` and ``/``; no dot, because webdataset takes
what follows a member's first dot for its extension.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shards.manifest import ManifestRow

_MAX_LENGTH = 160  # leaves room for what tells keys apart; the schema allows 200
# What a build puts behind the key of a recording: a face, a segment, or both.
_SEGMENT, _FACE = re.compile(r"-\d{3,}\Z"), re.compile(r"_face\d+\Z")


def safe_key(name: str) -> str:
    """Turn a path without its suffix into a key.

    Accents are dropped, letters of other scripts become their code points (``u89c6``), anything
    else unsafe becomes ``_``, and a long key ends with a digest of what it stands for. Different
    names can give the same key: see ``unique_keys``.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    key = "/".join(_safe_part(part) for part in parts) or "_"
    if len(key) > _MAX_LENGTH:
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:12]
        key = f"{key[: _MAX_LENGTH - 13].rstrip('/')}_{digest}"
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


def _safe_part(part: str) -> str:
    """One component of a key."""
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
    """Put the files' suffixes behind, if they differ."""
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
