"""What all processes decide together after each optimizer step.

For: one small exchange a step, in which each process says what it has seen, so that all of them
stop, or leave a step out, at the same step. Not for: what is looked at (``pretrain/signals.py``,
``pretrain/finite.py``, ``pretrain/bad_samples.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import pytorch_lightning as pl
import torch

from pretrain.module import Batch


class Watcher(Protocol):
    """Looks at something that concerns all processes."""

    def seen(self) -> tuple[int, ...]:
        """What this process has seen since the last step: always as many numbers."""

    def settle(self, trainer: pl.Trainer, totals: tuple[int, ...]) -> bool:
        """Act on the sums over processes; whether the run is to stop after this step."""


class Agreement(pl.Callback):
    """Sums up what the watchers of all processes have seen, once an optimizer step.

    Args:
        watchers: The same in every process, in the same order.
    """

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self.watchers = watchers
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count from where the run begins."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Where a step is whole, tell each other."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        seen = [watcher.seen() for watcher in self.watchers]
        if trainer.world_size > 1:
            numbers = torch.tensor([n for part in seen for n in part], device=pl_module.device)
            totals = iter(trainer.strategy.reduce(numbers, reduce_op="sum").tolist())
            seen = [tuple(int(next(totals)) for _ in part) for part in seen]
        # Every watcher settles, though one may have decided already.
        decisions = [
            watcher.settle(trainer, part) for watcher, part in zip(self.watchers, seen, strict=True)
        ]
        if any(decisions):
            trainer.should_stop = True
