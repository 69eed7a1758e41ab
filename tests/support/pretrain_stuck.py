"""``hicmae`` whose first process waits for its device without end, as where NCCL's kernels spin.

A module that ``Runs`` starts in place of ``hicmae``. The step after the third never ends there,
and ``stuck`` in the run's folder says that this has begun. The checkpoint of the third is still
being written when the process is given up, and what it gets to end by itself is short.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pretrain.processes
from pretrain.checkpoints import CheckpointFiles
from pretrain.module import PretrainModule

_training_step = PretrainModule.training_step
_write, _teardown = CheckpointFiles._write, CheckpointFiles.teardown
_given_up = threading.Event()


def _stuck(self: PretrainModule, batch: Any, batch_idx: int) -> Any:
    if self.global_rank == 0 and self.global_step == 3:
        (self.config.out / "stuck").touch()
        time.sleep(3600)
    return _training_step(self, batch, batch_idx)


def _slowly(self: CheckpointFiles, whole: dict[str, Any], path: Path) -> None:
    assert _given_up.wait(600)
    time.sleep(0.5)  # in which a process that did not wait for this would end
    _write(self, whole, path)


def _give_up(self: CheckpointFiles) -> None:
    _given_up.set()
    _teardown(self)


PretrainModule.training_step = _stuck  # type: ignore[method-assign]
CheckpointFiles._write = _slowly  # type: ignore[method-assign]
CheckpointFiles.teardown = _give_up  # type: ignore[method-assign]
vars(pretrain.processes)["GRACE_SECONDS"] = 2
