"""``hicmae`` with a clip that is no number on one process, for the tests of two processes.

A script that tests start in place of ``python -m hicmae``; the launcher starts its other processes
with the same words. ``POISON`` in the environment says where: ``<rank>:<step>,<step>…``, from 1.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from hicmae.__main__ import main
from pretrain.module import PretrainModule

_RANK, _STEPS = os.environ["POISON"].split(":")
_AT = {int(step) for step in _STEPS.split(",")}
_original = PretrainModule.on_after_batch_transfer


def _poisoned(self: PretrainModule, batch: Any, dataloader_idx: int) -> Any:
    batch = _original(self, batch, dataloader_idx)
    if self.global_rank == int(_RANK) and self.global_step + 1 in _AT:
        batch["fbank"][0] = float("nan")
    return batch


PretrainModule.on_after_batch_transfer = _poisoned  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
