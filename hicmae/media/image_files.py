"""Folders of frame images: which images belong together, and which frame each of them is.

For: aligned faces of OpenFace, frames of DFEW and MAFW, anything that numbers its images. Not
for: their pixels or times (``image_video.py``).
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from hicmae.media.errors import MediaError

IMAGE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png"))
SOUND_SUFFIXES = (".wav", ".flac", ".m4a", ".mp3", ".aac", ".ogg", ".opus", ".wma")

# Numbers further apart than this on average are times of day or identifiers.
_MOST_GAPS = 50
_LAST_NUMBER = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)
# OpenFace writes frame_det_<face>_<frame>.bmp into <name>_aligned, without the frames in which it
# lost the face; it counts from 1, always.
_OPENFACE, _OPENFACE_FOLDER = re.compile(r"frame_det_\d+_"), "_aligned"


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """Images of one face or picture, one a frame.

    Args:
        folder: Where they lie.
        paths: N files, in the order of their frames.
        frames: N frame numbers from 0, ascending; gaps are frames that have no image.
    """

    folder: Path
    paths: tuple[Path, ...]
    frames: tuple[int, ...]


def list_images(folder: Path) -> list[ImageFiles]:
    """The sequences of images in a folder, told apart by what stands before the number.

    The last number in a name is the frame's: counted from 0 if there is a 0, else from 1, so that
    frames missing at the beginning are missing and not shifted. Only numbers that begin later
    than there are images are taken for an excerpt, which begins with its first image (OpenFace's
    never are). Images without numbers are frames in a row, in the natural order of their names.

    Returns: sequences, in the order of their names; a folder without images has none.

    Raises:
        MediaError: ``unreadable``: two images of one frame, or a folder that cannot be read.
    """
    try:
        names = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise MediaError("unreadable", folder, f"cannot be read ({error.strerror})") from None
    names = [name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    groups: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for name in sorted(names):
        match = _LAST_NUMBER.fullmatch(Path(name).stem)
        if match is None:
            groups.clear()
            break
        before, number, after = match.groups()
        other = groups[before, after].setdefault(int(number), name)
        if other != name:
            raise MediaError(
                "unreadable", folder, f"{other} and {name} are both frame {int(number)}"
            )
    if not groups or all(len(group) == 1 for group in groups.values()):
        paths = tuple(folder / name for name in sorted(names, key=natural_order))
        row = ImageFiles(folder=folder, paths=paths, frames=tuple(range(len(paths))))
        return [row] if paths else []
    return [_sequence(folder, before, groups[before, after]) for before, after in sorted(groups)]


def is_sequence(folder: Path) -> bool:
    """Whether a folder holds numbered images, two or more of one name, and so is a recording."""
    try:
        return any(
            len(sequence.paths) > 1
            and all(_LAST_NUMBER.fullmatch(path.stem) for path in sequence.paths)
            for sequence in list_images(folder)
        )
    except MediaError:
        return True  # it is one, and says what is wrong with it when it is read


def sound_beside(folder: Path) -> Path | None:
    """The sound file of a folder of images: beside it under its name, or the only one inside.

    ``<name>_aligned`` of OpenFace also takes the sound of ``<name>``.
    """
    stems = [folder.name]
    if folder.name.endswith(_OPENFACE_FOLDER):
        stems.append(folder.name.removesuffix(_OPENFACE_FOLDER))
    for stem in stems:
        for suffix in SOUND_SUFFIXES:
            path = folder.with_name(f"{stem}{suffix}")
            if path.is_file():
                return path
    inside = [path for path in folder.iterdir() if path.suffix.lower() in SOUND_SUFFIXES]
    return inside[0] if len(inside) == 1 else None


def natural_order(name: str) -> list[tuple[int, str]]:
    """A sorting key by which ``f10`` comes after ``f9``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _sequence(folder: Path, before: str, group: dict[int, str]) -> ImageFiles:
    """Number the frames of one group from 0."""
    numbers = sorted(group)
    base = min(numbers[0], 1)
    if numbers[0] - base > len(numbers) and not _OPENFACE.fullmatch(before):
        base = numbers[0]
    if numbers[-1] - base > _MOST_GAPS * len(numbers) + 1000:
        raise MediaError(
            "unreadable",
            folder,
            f"its numbers do not count frames ({len(numbers)} images, {numbers[0]}..{numbers[-1]})",
        )
    return ImageFiles(
        folder=folder,
        paths=tuple(folder / group[number] for number in numbers),
        frames=tuple(number - base for number in numbers),
    )
