"""The files below a dataset's root, found by name whatever the folders around them are called, and
its tables by the names of their columns, every cell as text.

Cells of manifests have kinds: see ``shards/tables.py``, which reads both.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from filecmp import cmp
from pathlib import Path

from hicmae.config import did_you_mean
from hicmae.media.images import IMAGE_SUFFIXES
from shards.datasets.base import Listing, Media, fault_of
from shards.manifest import VIDEO_SUFFIXES
from shards.tables import check_widths, read_cells

# In the order of preference where a recording comes in several.
SOUND_SUFFIXES = (".wav", ".flac", ".m4a", ".aac", ".mp3", ".ogg", ".opus", ".wma")
_DECIMAL_COMMA = re.compile(r"\A(-?\d+),(\d+)\Z")  # as spreadsheets of many languages save it
_ALIGNED = "_aligned"  # the folder of face images that OpenFace writes beside NAME.csv


class Tree:
    """The files below a root; every path is relative to it, with ``/``.

    Args: root: The folder; links are followed, hidden files and folders are not looked at.

    Attributes:
        videos: Name without suffix → the videos of that name.
        sounds: The same for sound files.
        frames: Folder name (without ``_aligned``) → the folders of images of that name.
        files: Every other file.
        copies: What was taken, of several files that it might be, and the others.

    Raises: FileNotFoundError: there is no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise FileNotFoundError(f"{root}: no such folder")
        self.root = root
        self.videos: dict[str, list[str]] = {}
        self.sounds: dict[str, list[str]] = {}
        self.frames: dict[str, list[str]] = {}
        self.files: list[str] = []
        self.copies: dict[str, list[str]] = {}
        self._walk(str(root), "", set())

    def video(self, name: str, *, prefer: str = "", within: str = "") -> str | None:
        """The video of a name, from a folder ``prefer`` where there are several.

        Args: within: Only below a folder of this name.
        """
        return self.choose(self.videos.get(name, ()), prefer=prefer, within=within)

    def sound(self, name: str, *, prefer: str = "", within: str = "") -> str | None:
        """The sound file of a name; an uncompressed one where there are several."""
        return self.choose(self.sounds.get(name, ()), prefer=prefer, within=within)

    def picture(self, name: str, media: Media, *, prefer: str = "", within: str = "") -> str | None:
        """The video or folder of images of a name; ``auto`` takes the video where there is one."""
        path = None
        if media != "frames":
            path = self.video(name, prefer=prefer, within=within)
        if path is None and media != "clips":
            path = self.choose(self.frames.get(name, ()), prefer=prefer, within=within)
        return path

    def is_sound(self, pattern: re.Pattern[str], media: Media, listing: Listing) -> bool:
        """Whether a copy has sound alone, no file of a dataset's names being a picture; noted."""
        named = any(pattern.fullmatch(name) for name in (*self.videos, *self.frames))
        if named or media != "auto":
            return False
        listing.notes.append("there is no picture; listed is the sound alone")
        return True

    def choose(self, paths: Iterable[str], *, prefer: str = "", within: str = "") -> str | None:
        """One of several files that may be the wanted one, and note the others as its copies.

        From a preferred folder if any is, then by ``SOUND_SUFFIXES``, then the first that is not
        plainly no recording.
        """
        paths = [path for path in paths if f"/{within}/" in f"/{path}" or not within]
        paths = [path for path in paths if f"/{prefer}/" in f"/{path}" and prefer] or paths
        paths = [path for path in paths if _rank(path) == min(map(_rank, paths))]
        if len(paths) < 2:
            return paths[0] if paths else None
        whole = (path for path in paths if fault_of(self.root / path) is None)
        taken = next(whole, paths[0])
        self.copies[taken] = [path for path in paths if path != taken]
        return taken

    def ending(self, tail: str) -> str | None:
        """The file whose path ends so (in any case of letters); the shortest such path."""
        wanted = tail.lower()
        found = [
            path
            for path in self.files
            if path.lower() == wanted or path.lower().endswith("/" + wanted)
        ]
        taken = min(found, key=lambda path: (path.count("/"), path), default=None)
        if taken is not None:
            first = self.root / taken
            if others := [path for path in found if not cmp(first, self.root / path, False)]:
                self.copies[taken] = others
        return taken

    def read_text(self, path: str) -> str:
        """A small file as text; bytes that are no UTF-8 are kept apart, not refused."""
        return (self.root / path).read_text(encoding="utf-8-sig", errors="backslashreplace")

    def _walk(self, folder: str, prefix: str, above: set[tuple[int, int]]) -> None:
        """List a folder, in the order of names, and those below it."""
        status = Path(folder).stat()
        me = (status.st_dev, status.st_ino)
        if me in above:  # a link to a folder above
            return
        has_images = False
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        for entry in listed:
            if entry.name.startswith("."):
                continue
            path = prefix + entry.name
            if os.path.isdir(entry.path):  # noqa: PTH112 (an entry raises for a link to itself)
                self._walk(entry.path, path + "/", above | {me})
                continue
            suffix = _suffix(entry.name)
            stem = entry.name[: len(entry.name) - len(suffix)]
            if suffix in VIDEO_SUFFIXES:
                self.videos.setdefault(stem, []).append(path)
            elif suffix in SOUND_SUFFIXES:
                self.sounds.setdefault(stem, []).append(path)
            elif suffix in IMAGE_SUFFIXES:
                has_images = True
            else:
                self.files.append(path)
        if has_images and prefix:
            name = prefix[:-1].rpartition("/")[2].removesuffix(_ALIGNED)
            self.frames.setdefault(name, []).append(prefix[:-1])


def _suffix(name: str) -> str:
    """``.mp4`` of a file name, in small letters; empty where there is none."""
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem and "/" not in suffix else ""


def _rank(path: str) -> int:
    """How far behind a sound file comes by its suffix; 0 for all else."""
    suffix = _suffix(path)
    return SOUND_SUFFIXES.index(suffix) if suffix in SOUND_SUFFIXES else 0


Row = dict[str, str]


def read_sheet(path: Path, *, keep: Sequence[str] = ()) -> list[Row]:
    """Rows of a CSV or TSV (by its suffix), or of the first sheet of an ``.xlsx``.

    Names of columns lose the blanks around them; so do cells, and a whole number of a spreadsheet
    has no decimal point. A row that ends early, as the last one of a file that was cut off, has
    empty cells there.

    Args: keep: Columns to keep of a large table; none given: all.
    Raises: ValueError: it cannot be read; one line with the remedy.
    """
    numbered = read_cells(path).lines
    if not numbered:
        raise ValueError(f"{path}: holds no table")
    lines = [cells for _, cells in numbered]
    check_widths(path, lines[0], numbered[1:])
    kept = [(place, name) for place, name in enumerate(lines[0]) if not keep or name in keep]
    return [
        {name: line[place] if place < len(line) else "" for place, name in kept}
        for line in lines[1:]
    ]


def column(rows: Sequence[Row], names: Sequence[str], path: Path) -> str:
    """The first of some names that is a column, letters in any case.

    Raises: ValueError: none is; one line with the columns there are. There is no row.
    """
    if not rows:
        raise ValueError(f"{path}: holds no row below the names of its columns; give the whole one")
    known = list(rows[0])
    for name in names:
        for there in known:
            if there.lower() == name.lower():
                return there
    near = did_you_mean(names[0], known)
    raise ValueError(f"{path}: no column {' or '.join(names)} (found: {', '.join(known)}){near}")


def told_column(rows: Sequence[Row], name: str, path: Path, notes: list[str]) -> str:
    """A column that a list need not have, letters in any case; empty, and noted, where it has none.

    Args: notes: Of the listing; gets a sentence if there is no such column.
    """
    there = next((known for known in (rows[0] if rows else ()) if known.lower() == name), "")
    if not there:
        notes.append(f"{path.name}: no column {name}")
    return there


def number(text: str) -> float | None:
    """A cell as a number, with a decimal comma too; None if it is none (``NaN`` included)."""
    try:
        value = float(_DECIMAL_COMMA.sub(r"\1.\2", text))
    except ValueError:
        return None
    return None if value != value or value in (float("inf"), float("-inf")) else value
