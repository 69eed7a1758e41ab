"""How pictures of a report look, and how they are written: one palette, one frame, small files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from hicmae.files import whole_file

# Hues that colour-blind readers tell apart.
# Source: Okabe and Ito, 2008, Color Universal Design; its yellow is too light on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# With another shape each time that the hues begin anew.
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
BLUE, ORANGE, GREEN = PALETTE[:3]
MODALITY_COLOURS = {"video": BLUE, "audio": ORANGE}
GREY = "#555555"
DOTS_PER_INCH = 130
_COLOURS = 128  # of a written PNG; drawings have few


def make_figure(width: float, height: float, *, arranged: bool = True) -> Figure:
    """An empty figure, inches; no window and no global state.

    Args:
        width: Of it.
        height: Of it.
        arranged: Whether what is drawn is to be moved until nothing overlaps.
    """
    figure = Figure(
        figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained" if arranged else None
    )
    FigureCanvasAgg(figure)
    return figure


def plain(axes: Axes) -> None:
    """Take away the frame that says nothing."""
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path, *, photographs: bool = False) -> None:
    """Write a PNG of few colours, or a JPEG of photographs, beside its place, then rename it.

    Args:
        figure: To write.
        path: Where.
        photographs: Whether it shows photographs, which few colours would spoil.
    """
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    dpi = (DOTS_PER_INCH, DOTS_PER_INCH)
    with whole_file(path) as beside:
        if photographs:
            image.save(beside, format="JPEG", quality=85, optimize=True, dpi=dpi)
        else:
            few = image.quantize(
                _COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
            )
            # A ninth level takes six times as long for files smaller by 8 %.
            few.save(beside, format="PNG", compress_level=6, dpi=dpi)
