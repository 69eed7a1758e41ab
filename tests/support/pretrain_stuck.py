"""``hicmae`` whose first process waits for its device without end, as where NCCL's kernels spin.

A script that tests start in place of ``python -m hicmae``. The step after the third never ends
there, while a checkpoint is being written for longer than a process is given to end by itself;
``stuck`` in the run's folder says that this has begun.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from hicmae.__main__ import main
from pretrain.checkpoints import CheckpointFiles
from pretrain.module import PretrainModule

SAVE_SECONDS = 12
_training_step, _write = PretrainModule.training_step, CheckpointFiles._write


def _stuck(self: PretrainModule, batch: Any, batch_idx: int) -> Any:
    if self.global_rank == 0 and self.global_step == 3:
        (self.config.out / "stuck").touch()
        time.sleep(3600)
    return _training_step(self, batch, batch_idx)


def _slowly(self: CheckpointFiles, whole: dict[str, Any], path: Path) -> None:
    time.sleep(SAVE_SECONDS)
    _write(self, whole, path)


PretrainModule.training_step = _stuck  # type: ignore[method-assign]
CheckpointFiles._write = _slowly  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
