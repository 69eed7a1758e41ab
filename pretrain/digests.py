"""Files that are known to be whole: written, forced to the disk, read back, and noted by digest.

For: the bytes of a checkpoint and the note beside it. Not for: what is in a checkpoint
(``pretrain/checkpoint_files.py``) or which one to take (``pretrain/folder.py``).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

FileNote = dict[str, int | str]  # bytes, sha256


def save_tensors(path: Path, data: Any) -> FileNote:
    """Write with ``torch.save``, force it to the disk, and read it back.

    Returns: its length and digest.
    Raises: OSError: it cannot be written, or what is read back is something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        digesting = _Digesting(file)
        torch.save(data, digesting)  # type: ignore[arg-type]
        _force(file)
    note: FileNote = {"bytes": digesting.length, "sha256": digesting.digest.hexdigest()}
    problem = _compare(path, note)
    if problem:
        raise OSError(f"{path}: {problem} just after it was written; look at the disk")
    return note


def save_note(path: Path, note: Mapping[str, Any]) -> None:
    """Write a note as JSON, beside its place and then renamed into it."""
    beside = path.with_name(f".{path.name}.part")
    with beside.open("wb") as file:
        file.write((json.dumps(note, indent=2) + "\n").encode())
        _force(file)
    beside.replace(path)


def read_note(path: Path) -> dict[str, Any]:
    """Read a note.

    Raises: ValueError: not there, or not readable.
    """
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(note["files"], dict)
    except FileNotFoundError:
        raise ValueError(f"no {path.name} beside it") from None
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise ValueError(f"{path.name} is damaged") from None
    return dict(note)


def damage(folder: Path, files: Mapping[str, FileNote]) -> str:
    """What is wrong with files, or nothing: lengths first, then what they hold.

    Args:
        folder: That the names are in.
        files: Notes by name.
    """
    for name, note in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != note["bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {note['bytes']}"
    for name, note in files.items():
        problem = _compare(folder / name, note)
        if problem:
            return f"{name} {problem}"
    return ""


def force_folder(folder: Path) -> None:
    """Force the names in a folder to the disk, as renaming does not."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def force_files(folder: Path) -> None:
    """Force every file of a folder to the disk."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    force_folder(folder)


class _Digesting:
    """A file that digests what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.length = 0

    def write(self, data: Any) -> int:
        """Write and digest."""
        self.digest.update(data)
        self.length += len(data)
        return self.file.write(data)

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self.file.flush()


def _force(file: BinaryIO) -> None:
    """To the disk, and out of the cache, so that reading it back reads the disk."""
    file.flush()
    os.fsync(file.fileno())
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _compare(path: Path, note: FileNote) -> str:
    """What differs from the note, or nothing."""
    digest = hashlib.sha256()
    length = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            length += len(block)
    if length != note["bytes"]:
        return f"has {length} bytes instead of {note['bytes']}"
    return "" if digest.hexdigest() == note["sha256"] else "does not have its digest"
