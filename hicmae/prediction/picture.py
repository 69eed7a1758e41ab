"""The picture of a recording's timelines, with faces above them.

For: ``timeline.png``. Not for: the annotated video (``annotate.py``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from hicmae.media.jpeg import decode_jpeg

if TYPE_CHECKING:
    from hicmae.prediction.results import Prediction, Track

_MOST_TRACKS = 8
_INCHES, _DPI = 11.0, 110
_FACE_INCHES = 0.72


def draw_timeline(prediction: Prediction, file: Path) -> None:
    """Draw the outputs of every track over time as a PNG; of many tracks, the longest.

    Args:
        prediction: What to draw.
        file: The PNG.
    """
    longest = sorted(prediction.tracks, key=lambda track: track.start_seconds - track.end_seconds)
    shown = sorted(longest[:_MOST_TRACKS], key=lambda track: prediction.tracks.index(track))
    figure = Figure(figsize=(_INCHES, 0.9 + 2.9 * len(shown)), dpi=_DPI, layout="constrained")
    title = _printable(prediction.path.name)
    left = len(prediction.tracks) - len(shown)
    figure.suptitle(f"{title}{f' (and {left} shorter tracks)' if left else ''}", parse_math=False)
    ratios = [1.0, 3.0] * len(shown)
    axes = figure.subplots(2 * len(shown), 1, height_ratios=ratios, sharex=True, squeeze=False)
    for number, track in enumerate(shown):
        faces, curves = axes[2 * number, 0], axes[2 * number + 1, 0]
        _curves(curves, track)
        _faces(faces, track, prediction.seconds)
    last = axes[-1, 0]
    last.set_xlim(0, max(prediction.seconds, 1e-3))
    last.set_xlabel("seconds")
    for axis in axes[1:-1:2, 0]:
        axis.tick_params(labelbottom=True)
    figure.savefig(file, format="png")


def _curves(axis: Axes, track: Track) -> None:
    """Outputs over the middle of the windows, held to both ends of what was predicted."""
    middles = track.spans.mean(axis=1)
    times = np.concatenate([track.spans[:1, 0], middles, track.spans[-1:, 1]])
    values = np.concatenate([track.values[:1], track.values, track.values[-1:]])
    palette = colormaps["tab10" if values.shape[1] <= 10 else "tab20"]
    for number, name in enumerate(track.labels.names):
        axis.plot(
            times,
            values[:, number],
            color=palette(number % palette.N),
            label=_printable(name),
            marker="o" if len(middles) <= 60 else None,
            markevery=slice(1, -1),
            markersize=3,
        )
    if track.labels.task == "classification":
        axis.set_ylim(-0.02, 1.02)
        axis.set_ylabel("probability")
    else:
        axis.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        axis.set_ylabel("value")
    axis.grid(alpha=0.3)
    legend = axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _faces(axis: Axes, track: Track, seconds: float) -> None:
    """A face every so often, as many as fit side by side, above the time it was seen at."""
    axis.set_ylim(0, 1)
    axis.set_axis_off()
    axis.set_title(_heading(track), fontsize=10, loc="left", parse_math=False)
    room = max(seconds, 1e-3) * _FACE_INCHES / (0.8 * _INCHES)
    free = -np.inf
    for moment, jpeg in track.thumbnails:
        if moment < free:
            continue
        free = moment + room
        pixels = decode_jpeg(jpeg)
        side = round(_FACE_INCHES * _DPI)
        small = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
        box = AnnotationBbox(OffsetImage(small, zoom=72 / _DPI), (moment, 0.5), frameon=False)
        axis.add_artist(box)


def _heading(track: Track) -> str:
    summary = track.summary
    span = f"{track.start_seconds:.1f} to {track.end_seconds:.1f} s"
    if summary.prediction is not None:
        mean = summary.mean[summary.prediction]
        return f"{track.name}, {span}: {_printable(summary.prediction)} (mean {mean:.2f})"
    means = ", ".join(f"{_printable(name)} {value:+.2f}" for name, value in summary.mean.items())
    return f"{track.name}, {span}: {means} on average"


def _printable(text: str) -> str:
    """Names without what no font draws."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)
