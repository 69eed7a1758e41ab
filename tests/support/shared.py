"""What tests of several rooms share: what is expensive to make and only read, made once a session
by whichever worker is first; and a process that writes where another would.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


@contextmanager
def another_writer(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds a run folder for itself, until the end of the block or its own."""
    holder = "import sys\nfrom pathlib import Path\nfrom hicmae.files import only_writer\n"
    holder += "file = only_writer(Path(sys.argv[1]))\nprint(flush=True)\nsys.stdin.read()\n"
    words = [sys.executable, "-c", holder, str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        yield other
        other.kill()


def shards_once(
    factory: pytest.TempPathFactory, name: str, write: Callable[..., Path], *more: Any, **how: Any
) -> Path:
    """The same of shards that a function writes into the folder it is given."""
    return made_once(factory, name, lambda at: write(at / "shards", *more, **how)) / "shards"
