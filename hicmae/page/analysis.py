"""What a fine-tuned network says about a recording, as the page shows it.

For: predictions of both modalities and of each alone, boxes, the filter bank, as plain data in
the form of ``answers.py``. Not for: a pretrained network (``restoring.py``), or predicting, which
is ``hicmae.prediction``'s.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from hicmae.page.bank import WholeBank
from hicmae.page.jobs import Report
from hicmae.page.pictures import jpeg_url
from hicmae.prediction.messages import Progress, Window
from hicmae.prediction.model import EmotionPredictor
from hicmae.prediction.results import Prediction, Track
from hicmae.prediction.settings import WindowConfig

STAGES = {"faces": "Looking for faces", "windows": "Looking and listening"}
# Boxes a second that the page is sent; it draws what is between them.
_BOX_RATE = 12.5
# What the page calls them, and what the network does.
_KINDS = {"both": "audio-video", "video": "video", "audio": "audio"}


class EmotionAnalyst:
    """Looks at recordings with a fine-tuned network.

    Args:
        predictor: The network.
        config: Its windows.
        most_seconds: Longest recording that is looked at.
    """

    def __init__(
        self, predictor: EmotionPredictor, config: WindowConfig, *, most_seconds: float
    ) -> None:
        self._predictor, self._config, self._most_seconds = predictor, config, most_seconds

    def describe(self) -> dict[str, Any]:
        """See ``hicmae.page.answers.Model``."""
        members = self._predictor.network.members
        input = self._predictor.input
        return {
            "name": Path(str(self._predictor.source)).name or str(self._predictor.source),
            "kind": "emotion",
            "task": self._predictor.labels.task,
            "labels": list(self._predictor.labels.names),
            "modalities": self._predictor.modalities,
            "num_parameters": sum(p.numel() for net in members for p in net.parameters()),
            "window_seconds": self._config.window or input.clip_seconds,
            "hop_seconds": self._config.hop,
        }

    def analyse(self, path: Path, report: Report) -> dict[str, Any]:
        """See ``hicmae.page.answers.Prediction``.

        Raises: PredictionError, ValueError: the recording cannot be used, or is too long.
        """
        bank = WholeBank(self._predictor.input.sample_rate)
        has_sound = False

        def look(window: Window) -> None:
            nonlocal has_sound
            clip = window.clips[0]
            has_sound = has_sound or clip.waveform is not None
            if bank.wants(window.start_seconds, clip):
                bank.add(window.start_seconds, clip, self._predictor.filter_bank(clip))

        prediction = self._predictor.predict(
            path,
            config=self._config,
            each_modality=True,
            progress=progress_to(report, self._most_seconds),
            on_window=look,
        )
        return {
            "kind": "emotion",
            "task": prediction.labels.task,
            "labels": list(prediction.labels.names),
            "seconds": prediction.seconds,
            "width": prediction.width,
            "height": prediction.height,
            "has_sound": has_sound,
            "notes": [*self._predictor.notes, *prediction.notes],
            "tracks": [_track(track, prediction) for track in prediction.tracks],
            "filter_bank": bank.picture(),
            "timings": dict(prediction.stage_seconds),
        }

    def close(self) -> None:
        """End the decoding process."""
        self._predictor.close()


def progress_to(report: Report, most_seconds: float) -> Any:
    """What tells a report how far the decoding is, and refuses recordings that are too long."""

    def tell(progress: Progress) -> None:
        # While a sound file is measured nobody knows its length: the share done is then 0.
        known = math.isfinite(progress.total)
        require_length(progress.total if known else progress.done, most_seconds)
        report(
            STAGES.get(progress.stage, progress.stage), progress.done / max(progress.total, 1e-6)
        )

    return tell


def require_length(seconds: float, most_seconds: float) -> None:
    """Raises: ValueError: a recording of so many seconds is too long."""
    if seconds > most_seconds:
        raise ValueError(
            f"the recording is {seconds:.0f} s long (this page takes up to {most_seconds:g} s; "
            "`hicmae predict` takes any length)"
        )


def relative_boxes(
    boxes: np.ndarray, angles: np.ndarray | None, *, width: int, height: int
) -> list[tuple[float, ...]]:
    """Boxes (T, 4) x0, y0, x1, y1 in pixels, and angles (T,) in radians, as the page has them.

    Returns: centre x, centre y, width, height as shares of the picture, and degrees clockwise.
    """
    x0, y0, x1, y1 = boxes.astype(np.float64).T
    turned = np.zeros(len(boxes)) if angles is None else np.degrees(angles)
    columns = (
        (x0 + x1) / 2 / width,
        (y0 + y1) / 2 / height,
        (x1 - x0) / width,
        (y1 - y0) / height,
        turned,
    )
    return [tuple(round(float(v), 4) for v in row) for row in zip(*columns, strict=True)]


def thinned(num_boxes: int, rate: float) -> tuple[slice, float]:
    """Every how manieth box the page is sent, and how many a second these are."""
    step = max(1, round(rate / _BOX_RATE))
    return slice(0, num_boxes, step), rate / step


def _track(track: Track, prediction: Prediction) -> dict[str, Any]:
    values = {name: track.by_modality.get(kind) for name, kind in _KINDS.items()}
    # A recording with one modality: what the network went by is all there is.
    alone = {"video": "video", "audio": "audio"}.get(prediction.modality)
    values["both"] = track.values
    if alone is not None:
        values[alone] = track.values
    boxes, rate = _boxes(track.boxes, prediction)
    return {
        "name": track.name,
        "is_face": bool(len(track.boxes)),
        "start": track.start_seconds,
        "end": track.end_seconds,
        "coverage": track.coverage,
        "box_rate": rate,
        "boxes": boxes,
        "thumbnail": _middle(track.thumbnails),
        "summary": {name: _numbers(v.mean(axis=0)) for name, v in values.items() if v is not None},
        "windows": [
            {"start": float(start), "end": float(end)}
            | {name: _numbers(v[number]) for name, v in values.items() if v is not None}
            for number, (start, end) in enumerate(track.spans)
        ],
    }


def _boxes(table: pandas.DataFrame, prediction: Prediction) -> tuple[list[Any], float]:
    """The boxes of a track, and how many a second there are."""
    if len(table) < 2 or not prediction.width:
        rate = 1.0
        kept = slice(0, len(table))
    else:
        seconds = table["seconds"].to_numpy()
        rate = (len(seconds) - 1) / float(seconds[-1] - seconds[0])
        kept, rate = thinned(len(table), rate)
    if not len(table) or not prediction.width:
        return [], rate
    some = table.iloc[kept]
    boxes = some[["x0", "y0", "x1", "y1"]].to_numpy()
    angles = some["angle"].to_numpy(dtype=float)
    size = {"width": prediction.width, "height": prediction.height}
    return relative_boxes(boxes, np.nan_to_num(angles), **size), rate


def _middle(thumbnails: tuple[tuple[float, bytes], ...]) -> str:
    return jpeg_url(thumbnails[len(thumbnails) // 2][1]) if thumbnails else ""


def _numbers(values: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in values]
