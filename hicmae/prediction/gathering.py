"""Which recordings a command is about, and where the prediction of each goes.

For: files, folders of any depth, and names that never meet. Not for: opening them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from hicmae.media.folders import VIDEO_SUFFIXES, walk
from hicmae.media.image_files import SOUND_SUFFIXES, is_sequence

_SUFFIXES = VIDEO_SUFFIXES | frozenset(SOUND_SUFFIXES)


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recording that is to be predicted.

    Args:
        path: The file, or a folder of images.
        name: Of its folder of results, relative to that of all.
    """

    path: Path
    name: str


def gather(sources: Sequence[Path], out: Path) -> list[Recording]:
    """List what is named, and below folders every video, sound file and folder of images.

    Results are called as the file is within the folder that was named; where two would be called
    the same, the folders above them are told too.

    Args:
        sources: Files and folders. A file that is not there is listed, and fails when it is opened.
        out: Folder of the results; what lies in it is no source.

    Raises: ValueError: a folder in which there is nothing.
    """
    found: dict[Path, int] = {}  # path -> how many of its last parts are its name
    for source in sources:
        if not source.is_dir():
            found.setdefault(source, 1)
            continue
        inside = dict(_below(source, out))
        if not inside:
            raise ValueError(
                f"{source}: holds no recording (looked for {', '.join(sorted(_SUFFIXES)[:4])}, …, "
                "below it, and for folders of images)"
            )
        for path, depth in inside.items():
            found.setdefault(path, depth)
    distinct: dict[Path, tuple[Path, int]] = {}
    for path, depth in found.items():
        distinct.setdefault(path.resolve(), (path, depth))
    parts = {whole: whole.parts[1:] for whole in distinct}
    depths = {whole: depth for whole, (_, depth) in distinct.items()}
    while True:
        names = {whole: _name(parts[whole], depths[whole]) for whole in distinct}
        counts = Counter(names.values())
        longer = [
            whole
            for whole, name in names.items()
            if counts[name] > 1 and depths[whole] < len(parts[whole])
        ]
        if not longer:
            break
        for whole in longer:
            depths[whole] += 1
    return [Recording(path=path, name=names[whole]) for whole, (path, _) in distinct.items()]


def _below(folder: Path, out: Path) -> list[tuple[Path, int]]:
    """Recordings below a folder, each with the number of parts of its path within it."""
    results = out.resolve()
    found = []
    if is_sequence(folder):
        return [(folder, 1)]
    for path, is_images in walk(folder):
        if results in path.resolve().parents:
            continue
        if is_images or path.suffix.lower() in _SUFFIXES:
            found.append((path, max(1, len(path.relative_to(folder).parts))))
    return found


def _name(parts: Sequence[str], depth: int) -> str:
    return PurePath(*parts[-depth:]).as_posix() if parts else "recording"
