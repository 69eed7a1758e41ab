"""A folder that is there whole or not at all.

For: checkpoints, predictions and whatever else is several files that belong together. Not for:
single files, which are written beside their place and renamed by whoever writes them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder beside its place; it is renamed into it when everything is written.

    Args:
        folder: Where it goes; what is there is replaced. Its parents are made.

    Yields: an empty folder to write into; it is gone again if anything is raised.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield beside
        beside.chmod(0o755)
        if folder.exists():
            # A folder cannot be replaced in one step: the old one is moved away, then removed.
            aside = beside.with_name(beside.name + "-old")
            folder.replace(aside)
            beside.replace(folder)
            shutil.rmtree(aside)
        else:
            beside.replace(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
