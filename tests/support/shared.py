"""What is expensive to make and only read: made once a session, by whichever worker is first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hicmae.files import locked


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that all tests of a session read and none changes, in every worker the same.

    Args:
        factory: pytest's ``tmp_path_factory``.
        name: Of the folder; one name, one content.
        make: Fills the empty folder that it is given, at its final place.

    Returns: the folder.
    """
    root = factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        root = root.parent  # that of the session; each worker has a folder in it
    folder, done = root / f"made-{name}", root / f"made-{name}.done"
    with locked(root / f"made-{name}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder
