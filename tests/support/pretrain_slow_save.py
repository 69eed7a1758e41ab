"""``hicmae`` on a slow file system, for the test of a signal that comes while a run is saved.

A module that ``Runs`` starts in place of ``hicmae``. A checkpoint takes ``SAVE_SECONDS``
more, and ``saving`` in the run's folder says that one has begun. Readers of older code, which
ended some time after a signal, end within a second here. A SIGHUP is heard also where the tests are
run under ``nohup``.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pretrain.data
from pretrain.checkpoints import CheckpointFiles

_original = CheckpointFiles._write


def _slowly(self: CheckpointFiles, whole: dict[str, Any], path: Path) -> None:
    (path.parent.parent / "saving").touch()
    deadline = time.monotonic() + float(os.environ["SAVE_SECONDS"])
    while time.monotonic() < deadline:
        time.sleep(0.05)
    _original(self, whole, path)


CheckpointFiles._write = _slowly  # type: ignore[method-assign]
vars(pretrain.data)["_GRACE_SECONDS"] = 1
signal.signal(signal.SIGHUP, signal.SIG_DFL)
