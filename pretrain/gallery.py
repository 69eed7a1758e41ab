"""Pictures of reconstructions while a run goes on, always of the same clips.

For: the callback that writes ``figures/``. Not for: how a picture looks (``pretrain/pictures.py``)
or what is in it (``hicmae/reconstruction.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from hicmae.reconstruction import reconstruct
from pretrain.module import Batch, PretrainModule
from pretrain.pictures import draw_reconstructions


class Gallery(pl.Callback):
    """Draws ``reconstruction-000100.png`` every so often, and when training ends.

    Args:
        folder: ``figures/`` of the run folder.
        every: Optimizer steps between pictures.
        clips: The batch to draw; see ``pretrain.data.fixed_clips``.
        title: Name of the run.
        paper_style: Whether brightness and contrast of the hidden truth are used.
        on_picture: Told the path and the step of a picture, on the first process.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: int,
        clips: Batch,
        title: str,
        paper_style: bool,
        on_picture: Callable[[Path, int], None] | None = None,
    ) -> None:
        self.folder = folder
        self.every = every
        self.clips = clips
        self.title = title
        self.paper_style = paper_style
        self.on_picture = on_picture
        self._drawn_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A resumed run has drawn this step already."""
        self._drawn_step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Draw when it is time."""
        if trainer.global_step != self._drawn_step and trainer.global_step % self.every == 0:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw where training ended."""
        if trainer.global_step != self._drawn_step:
            self._draw(trainer, pl_module)

    @torch.no_grad()
    def _draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """All processes compute, because negatives may be gathered; the first one draws."""
        assert isinstance(pl_module, PretrainModule)
        self._drawn_step = step = trainer.global_step
        was_training = pl_module.training
        pl_module.eval()
        try:
            tensors = ("frames", "waveform", "num_samples")
            batch = {name: self.clips[name].to(pl_module.device) for name in tensors}
            video, fbank = pl_module.transform(batch)
            assert video is not None
            assert fbank is not None
            with trainer.precision_plugin.forward_context():
                result = reconstruct(pl_module.model, video, fbank, paper_style=self.paper_style)
        finally:
            pl_module.train(was_training)
        if trainer.is_global_zero:
            path = self.folder / f"reconstruction-{step:06d}.png"
            title = f"{self.title}: reconstructions after {step} steps"
            draw_reconstructions(path, result, keys=self.clips["keys"], title=title)
            if self.on_picture is not None:
                self.on_picture(path, step)
