"""Where uploads lie while they are looked at: a private folder, and nothing else.

For: files under names that nobody can guess or choose, deleted when they are done with, when the
page ends, and, after a crash, when the next page begins. Not for: results (``jobs.py``).
"""

from __future__ import annotations

import atexit
import os
import re
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

_PREFIX = "hicmae-page-"
_BLOCK = 1 << 20


class UploadFolder:
    """A folder that only this user may enter; it is gone when the process ends.

    Args:
        parent: Where to make it; none given: the system's folder for temporary files.
    """

    def __init__(self, parent: Path | None = None) -> None:
        root = Path(tempfile.gettempdir()) if parent is None else parent
        _remove_leftovers(root)
        # mkdtemp makes it with mode 0700.
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=root))
        atexit.register(self.close)

    def save(self, source: BinaryIO) -> Path:
        """Copy an upload under a random name, which has nothing of the user's name in it."""
        path = self.path / secrets.token_hex(16)
        try:
            with path.open("xb") as file:
                shutil.copyfileobj(source, file, _BLOCK)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def close(self) -> None:
        """Delete the folder with everything in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        atexit.unregister(self.close)


def shown_name(name: str | None) -> str:
    """A file's name as it may be shown: the last part of it, printable, not too long."""
    last = re.split(r"[/\\]", name or "")[-1]
    return "".join(character for character in last if character.isprintable())[:120] or "recording"


def _remove_leftovers(root: Path) -> None:
    """Delete the folders of pages that were killed; those of others cannot be, and stay."""
    for folder in root.glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).split("-")[0]
        if owner.isdigit() and not _is_running(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(process: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
