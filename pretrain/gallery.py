"""Pictures of reconstructions while a run goes on, always of the same clips.

A picture has, for each clip, its faces and its filter bank (or what is trained on of them):
original, masked and filled in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hicmae.figures import plain_words
from hicmae.files import whole_file
from hicmae.reconstruction import Reconstruction, Versions, reconstruct
from pretrain.module import Batch, PretrainModule, StepCallback

ROWS = ("original", "masked", "reconstructed")
HIDDEN_COLOUR = "0.5"
DOTS_PER_INCH = 110
_ROW_INCHES = 0.92  # height of one row of faces
_CLIP_GAP_INCHES = 0.5
_GAP_PIXELS = 3

HONEST_CAPTION = (
    "Hidden patches are predicted up to brightness and contrast; here both are interpolated from "
    "the visible patches."
)
PAPER_CAPTION = (
    "paper_style: brightness and contrast of hidden patches are taken from the hidden truth, as in "
    "published figures."
)


class Gallery(StepCallback):
    """Draws ``reconstruction-000100.png`` every so often, and when training ends.

    ``on_picture`` is told name, path and step of a picture, on the first process.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: int,
        clips: Batch,
        title: str,
        paper_style: bool,
        on_picture: Callable[[str, Path, int], None] | None = None,
    ) -> None:
        self.folder = folder
        self.every = every
        self.clips = clips
        self.title = title
        self.paper_style = paper_style
        self.on_picture = on_picture

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.act_once(trainer, pl_module)

    @torch.no_grad()
    def act(self, trainer: pl.Trainer, module: PretrainModule, batch: Batch | None) -> None:
        """All processes compute, because negatives may be gathered; the first one draws."""
        was_training = module.training
        module.eval()
        try:
            tensors = ("frames", "waveform", "num_samples")
            clips = {
                name: self.clips[name].to(module.device) for name in tensors if name in self.clips
            }
            video, fbank = module.transform(clips)
            with trainer.precision_plugin.forward_context():
                result = reconstruct(module.model, video, fbank, paper_style=self.paper_style)
        finally:
            module.train(was_training)
        if trainer.is_global_zero:
            step = trainer.global_step
            path = self.folder / f"reconstruction-{step:06d}.png"
            title = f"{self.title}: reconstructions after {step} steps"
            draw_reconstructions(path, result, keys=self.clips["keys"], title=title)
            if self.on_picture is not None:
                self.on_picture("reconstruction", path, step)


def draw_reconstructions(
    path: Path, reconstruction: Reconstruction, *, keys: Sequence[str], title: str
) -> None:
    """Write a PNG: for each clip, under its key, three rows of faces beside three filter banks.

    Eight frames are shown of each clip, spread over all of it.
    """
    num_clips = len(keys)
    pictures, fbanks = reconstruction.pictures, reconstruction.banks
    total = pictures.original.shape[1] if pictures else 0
    shown = np.linspace(0, max(total - 1, 0), min(8, total)).round().astype(int)
    # Any two neighbours may fall on first frames of tubelets; second frames, where the difference
    # is added, are shown as often.
    if total >= 2 * len(shown):
        shown = np.array([2 * (index // 2) + place % 2 for place, index in enumerate(shown)])
    width_faces = max(_ROW_INCHES * len(shown), 0.1)  # a column of its own even without
    width_bank = 4.2 if fbanks else 0.1
    height = num_clips * (3 * _ROW_INCHES + _CLIP_GAP_INCHES)
    figure = Figure(
        figsize=(width_faces + width_bank + 1.0, height + 0.95), dpi=DOTS_PER_INCH, facecolor="w"
    )
    figure_width, figure_height = figure.get_size_inches()
    figure.suptitle(title, fontsize=12, fontweight="bold", y=1 - 0.12 / figure_height, va="top")
    figure.text(
        0.5,
        0.1 / figure_height,
        PAPER_CAPTION if reconstruction.paper_style else HONEST_CAPTION,
        ha="center",
        va="bottom",
        fontsize=8.5,
        color="0.25",
    )
    grid = figure.add_gridspec(
        num_clips,
        2,
        width_ratios=(width_faces, width_bank),
        left=0.95 / figure_width,
        right=1 - 0.12 / figure_width,
        bottom=0.4 / figure_height,
        top=1 - 0.68 / figure_height,
        hspace=_CLIP_GAP_INCHES / (3 * _ROW_INCHES),
        wspace=0.03,
    )
    for clip, key in enumerate(keys):
        faces = figure.add_subplot(grid[clip, 0])
        faces.set_title(key, fontsize=9, loc="left", pad=4)
        if pictures:
            _draw_faces(faces, pictures, clip, shown)
        else:
            faces.set_axis_off()
        banks = grid[clip, 1].subgridspec(3, 1, hspace=0.06)
        if fbanks:
            for row in range(3):
                _draw_bank(figure.add_subplot(banks[row]), fbanks, clip, row)
    with whole_file(path) as beside, plain_words(figure):
        figure.savefig(beside, format="png")


def _draw_faces(axes: Axes, pictures: Versions, clip: int, shown: np.ndarray) -> None:
    """Three rows of frames as one image."""
    rows = [version[clip, shown].numpy() for version in pictures]  # (frames, H, W, 3) each
    side = rows[0].shape[1]
    gap = max(1, round(_GAP_PIXELS * side / (_ROW_INCHES * DOTS_PER_INCH)))
    step = side + gap
    canvas = np.ones((3 * step - gap, len(shown) * step - gap, 3), dtype=np.float32)
    for row, frames in enumerate(rows):
        for column, frame in enumerate(frames):
            top, left = row * step, column * step
            canvas[top : top + side, left : left + side] = frame
    axes.imshow(canvas, interpolation="nearest" if side < 64 else "antialiased", aspect="auto")
    axes.set_yticks([row * step + side / 2 for row in range(3)], ROWS, fontsize=8)
    axes.set_xticks(
        [column * step + side / 2 for column in range(len(shown))],
        [f"frame {frame + 1}" for frame in shown],
        fontsize=7,
        color="0.35",
    )
    axes.tick_params(length=0, pad=2)
    axes.spines[:].set_visible(False)


def _draw_bank(axes: Axes, versions: Versions, clip: int, row: int) -> None:
    """One filter bank: time to the right, frequency upwards, one colour scale for all three."""
    low, high = np.percentile(versions.original[clip].numpy(), (1, 99))
    axes.set_facecolor(HIDDEN_COLOUR)
    axes.imshow(
        versions[row][clip].numpy().T,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=low,
        vmax=max(high, low + 1e-3),
        interpolation="nearest",
    )
    axes.set_xticks([])
    axes.set_yticks([])
    if row == 0:
        axes.set_title("filter bank (log-mel; time →, frequency ↑)", fontsize=8, loc="left", pad=4)
