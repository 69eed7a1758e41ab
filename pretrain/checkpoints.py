"""When a run is saved.

For: the Lightning callback. Not for: how (``pretrain/checkpoint_files.py``), nor what DeepSpeed
gathers (``pretrain/zero_state.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from hicmae.checkpoint import save_checkpoint
from hicmae.pretraining import HiCMAE
from pretrain.checkpoint_files import CheckpointFiles
from pretrain.digests import force_files
from pretrain.module import Batch


class Checkpoints(pl.Callback):
    """Saves ``step-000100.ckpt`` to resume from, and the portable ``last/`` with it.

    Training goes on while a checkpoint is written. The next one waits for it, and so does the end
    of the run; if it could not be written, that is where all processes stop.

    Args:
        folder: ``checkpoints/`` of the run folder.
        files: Writes them.
        every: Optimizer steps between them; one is also saved when training ends.
    """

    def __init__(self, folder: Path, files: CheckpointFiles, *, every: int) -> None:
        self.folder = folder
        self.files = files
        self.every = every
        self._saved_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What a run was resumed from need not be saved again."""
        self._saved_step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Save when it is time."""
        if trainer.global_step != self._saved_step and trainer.global_step % self.every == 0:
            self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save where the run ended, or was stopped, and wait until it is written."""
        if trainer.global_step != self._saved_step:
            self._save(trainer)
        self._finish(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Finish what was begun, as far as this process can alone."""
        self.files.abandon()
        self.files.finish()

    def _save(self, trainer: pl.Trainer) -> None:
        """All processes take part: some engines have a part of the state in each."""
        self._finish(trainer)
        step = trainer.global_step
        trainer.save_checkpoint(self.folder / f"step-{step:06d}.ckpt")
        self._saved_step = step

    def _finish(self, trainer: pl.Trainer) -> None:
        """Wait for the checkpoint that is being written; if one process failed, all fail."""
        error = self.files.finish()
        failed = error is not None
        if trainer.world_size > 1:
            failed = trainer.strategy.reduce_boolean_decision(failed, all=False)
        if error is not None:
            raise error
        if failed:
            raise ValueError(f"{self.folder}: another process could not write its checkpoint")


class Portable:
    """Writes ``last/``: weights and configuration, which fine-tuning takes.

    Args:
        folder: Where.
        sections: Configuration that it carries; ``model`` and ``objective`` are the network's.
    """

    def __init__(self, folder: Path, sections: Mapping[str, Any]) -> None:
        self.folder = folder
        self.sections = dict(sections)
        # Only names and shapes: the weights are handed over, whoever has gathered them.
        with torch.device("meta"):
            self._network = HiCMAE(sections["model"], sections["objective"])

    def __call__(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Write it and force it to the disk."""
        self._network.load_state_dict(weights, assign=True)
        config = {**self.sections, "step": step}
        save_checkpoint(self.folder, self._network, kind="pretraining", config=config)
        force_files(self.folder)
