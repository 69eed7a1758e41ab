"""Reading other people's pickles without running what is in them.

For: ``.pth`` and ``.pt`` files of unknown origin. Not for: this project's own format, which holds
no code at all.
"""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

# The one class that the authors' files hold besides tensors and plain data: their options.
_ALLOWED: tuple[type[Any], ...] = (argparse.Namespace,)


def read_pickle(path: Path, *, also: Iterable[type[Any]] = ()) -> Any:
    """Read a file of ``torch.save``; it may hold tensors, plain data and ``argparse.Namespace``.

    Args:
        path: The file.
        also: Further classes it may hold.

    Raises: FileNotFoundError: no such file. ValueError: damaged, or anything else is in it; the
        classes and functions are named, and none of them was run.
    """
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: {what}")
    allowed = (*_ALLOWED, *also)
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError) as error:
        names = _foreign(path, allowed) or _named(error)
        if names:
            raise ValueError(
                f"{path}: holds {', '.join(names)}, which could run code; only tensors, plain data "
                "and argparse.Namespace are read. If you trust its maker, save its weights alone"
            ) from error
        raise ValueError(f"{path}: damaged, or no file of torch.save ({_short(error)})") from error


def _foreign(path: Path, allowed: tuple[type[Any], ...]) -> list[str]:
    """Names of what a zip-format file would import besides what is allowed."""
    if not zipfile.is_zipfile(path):
        return []
    known = {f"{item.__module__}.{item.__qualname__}" for item in allowed}
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError):
        return []
    return sorted(set(found) - known)


def _named(error: Exception) -> list[str]:
    """The name that an old-format file was refused for, out of torch's message."""
    for line in str(error).splitlines():
        _, found, rest = line.partition("GLOBAL ")
        if found:
            return [rest.split(" ")[0]]
    return []


def _short(error: Exception) -> str:
    """The first sentence of an error, short enough for one line."""
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__
