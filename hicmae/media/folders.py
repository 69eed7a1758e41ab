"""What lies below a folder: videos, and folders of images that are one recording each.

For: folders of recordings, to build or to predict. Not for: opening what is found.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hicmae.media.image_files import IMAGE_SUFFIXES, is_sequence

# What a folder's files are taken for; a manifest may name any file.
# fmt: off
VIDEO_SUFFIXES = frozenset((
    ".3g2", ".3gp", ".amv", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".m2ts", ".m2v", ".m4v",
    ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm",
    ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv",
))
# fmt: on


def walk(folder: Path, seen: set[tuple[int, int]] | None = None) -> Iterator[tuple[Path, bool]]:
    """What is below a folder and not hidden, in order: files, and folders of images in one piece.

    Args:
        folder: Where to begin.
        seen: Folders that were read already, by device and inode: one linked twice is read once.

    Returns: a file and False, or a folder that is one recording and True.
    """
    seen = set() if seen is None else seen
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    entries = [entry for entry in entries if not entry.name.startswith(".")]
    suffixes = {Path(entry.name).suffix.lower() for entry in entries}
    # Pictures beside videos are thumbnails and covers.
    images = bool(suffixes & IMAGE_SUFFIXES) and not suffixes & VIDEO_SUFFIXES
    if images and is_sequence(folder):
        yield folder, True
    else:
        images = False
    for entry in entries:
        if entry.is_dir():
            yield from walk(Path(entry.path), seen)
        elif not (images and Path(entry.name).suffix.lower() in IMAGE_SUFFIXES):
            yield Path(entry.path), False
