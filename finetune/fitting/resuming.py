"""Saving a fold in progress after its epochs, so that a killed one goes on where it was.

For: the callback that saves, the file it writes, and the parts of ``metrics.csv`` that a fold in
several attempts leaves. Not for: portable checkpoints (``saving.py``) or finished folds
(``finetune/sweep.py``).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

_PARTS = "parts"


def saved_epoch(folder: Path, digest: str) -> Path:
    """Where a fold of this configuration is saved; a file of another one is never taken up."""
    return folder / f"saved-{digest[:16]}.ckpt"


class EpochSaver(Checkpoint):
    """Save everything that the rest of the training depends on.

    Args:
        path: The file, written beside and then renamed.
        every: Epochs between savings; 0: never.

    Attributes:
        seconds: Time of training so far, earlier attempts included.
    """

    def __init__(self, path: Path, *, every: int) -> None:
        self.path, self.every = path, every
        self._before, self._started = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since the first attempt began, without what was lost to kills."""
        return self._before + time.monotonic() - self._started

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the epoch. Lightning calls savers after all others, the module included."""
        if self.every == 0 or (trainer.current_epoch + 1) % self.every:
            return
        beside = self.path.with_name(f".{self.path.name}")
        trainer.save_checkpoint(beside)
        if trainer.is_global_zero:
            beside.replace(self.path)

    def state_dict(self) -> dict[str, Any]:
        """The time so far."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from there."""
        self._before, self._started = float(state_dict["seconds"]), time.monotonic()


def next_part(folder: Path) -> Path:
    """A folder for the rows that this attempt logs."""
    parts = folder / _PARTS
    return parts / f"{len(list(parts.glob('*'))):03d}"


def join_parts(folder: Path, into: Path) -> None:
    """Write ``metrics.csv`` of what all attempts logged; a repeated epoch is the later one's."""
    tables = [
        pd.read_csv(path, dtype=str, keep_default_na=False)
        for path in sorted((folder / _PARTS).glob("*/metrics.csv"))
    ]
    kept: list[pd.DataFrame] = []
    first = float("inf")
    for table in reversed(tables):
        epochs = pd.to_numeric(table["epoch"])
        kept.append(table[epochs < first])
        first = min(first, float(epochs.min()))
    if kept:
        rows = pd.concat(kept[::-1]).fillna("")
        rows[sorted(rows.columns)].to_csv(into / "metrics.csv", index=False)
