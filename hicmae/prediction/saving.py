"""The files of one prediction, in a folder of its own that is there whole or not at all.

For: ``Prediction.save`` and ``hicmae predict``. Not for: what is in them (``results.py``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hicmae.plain import to_dict
from hicmae.prediction.annotate import AnnotateRequest
from hicmae.prediction.drawing import DrawnTrack
from hicmae.prediction.messages import Progress
from hicmae.prediction.picture import draw_timeline
from hicmae.prediction.process import DecodingProcess, PredictionError
from hicmae.prediction.reading import Tell
from hicmae.prediction.results import Prediction, Track
from hicmae.whole_folder import whole_folder

TIMELINE, LINES, BOXES, SUMMARY = "timeline.csv", "timeline.jsonl", "boxes.csv", "summary.json"
PICTURE, VIDEO = "timeline.png", "annotated.mp4"
_DIGITS = "%.6g"


def save_prediction(
    prediction: Prediction,
    folder: Path,
    *,
    picture: bool = False,
    annotate: bool = False,
    overwrite: bool = False,
    process: DecodingProcess | None = None,
    progress: Tell | None = None,
) -> Path:
    """Write a prediction; see ``Prediction.save``.

    Args:
        prediction: The prediction.
        folder: Where.
        picture: Also draw the timelines.
        annotate: Also write the video with boxes, labels and bars.
        overwrite: Replace a folder that is there.
        process: Where the video is decoded again; none given: a new one.
        progress: Called with how far the video is.

    Raises:
        ValueError: The folder is there already.
        PredictionError: The video cannot be drawn into; all else is written.
    """
    check_free(folder, overwrite=overwrite)
    undrawn: PredictionError | None = None
    with whole_folder(folder) as beside:
        _write_tables(prediction, beside)
        if picture:
            draw_timeline(prediction, beside / PICTURE)
        if annotate and prediction.is_video:
            try:
                _annotate(prediction, beside / VIDEO, process, progress)
            except PredictionError as error:  # frames between the windows may be damaged
                undrawn = error
                (beside / VIDEO).unlink(missing_ok=True)
    if undrawn is not None:
        raise PredictionError(
            undrawn.cause, f"{undrawn} (all but {VIDEO} was written, into {folder})"
        )
    return folder


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Refuse a place that holds something, or something that is no prediction.

    Raises: ValueError: what is there, and what to do.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if not overwrite:
        raise ValueError(f"{folder}: is there already; pass --overwrite to replace it")
    if not (folder / SUMMARY).is_file():
        raise ValueError(
            f"{folder}: holds no prediction, so it is not replaced; name another --out"
        )


def _write_tables(prediction: Prediction, folder: Path) -> None:
    prediction.timeline.to_csv(folder / TIMELINE, index=False, float_format=_DIGITS)
    with (folder / LINES).open("w", encoding="utf-8") as file:
        for line in _lines(prediction):
            file.write(json.dumps(line) + "\n")
    faces = [track for track in prediction.tracks if len(track.boxes)]
    for number, track in enumerate(faces):
        table = track.boxes.assign(track=track.name)
        table = table[["track", *track.boxes.columns]]
        table.to_csv(
            folder / BOXES,
            mode="w" if number == 0 else "a",
            header=number == 0,
            index=False,
            float_format=_DIGITS,
        )
    described = to_dict(prediction.summary) | {
        "checkpoint": prediction.checkpoint,
        "settings": to_dict(prediction.settings),
        "labels": to_dict(prediction.labels),
    }
    (folder / SUMMARY).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def _lines(prediction: Prediction) -> Iterator[dict[str, Any]]:
    """One object a window."""
    names = prediction.labels.names
    for track in prediction.tracks:
        for number, (start, end) in enumerate(track.spans.tolist()):
            line: dict[str, Any] = {"track": track.name, "start": start, "end": end}
            values = track.values[number]
            if prediction.labels.task == "classification":
                line["prediction"] = names[int(values.argmax())]
            line["values"] = _named(names, values)
            if len(track.by_modality) > 1:
                line["by_modality"] = {
                    kind: _named(names, each[number]) for kind, each in track.by_modality.items()
                }
            yield line


def _named(names: tuple[str, ...], values: np.ndarray) -> dict[str, float]:
    return {name: float(_DIGITS % value) for name, value in zip(names, values, strict=True)}


def _annotate(
    prediction: Prediction, file: Path, process: DecodingProcess | None, progress: Tell | None
) -> None:
    request = AnnotateRequest(
        path=prediction.path,
        out=file,
        tracks=tuple(_drawn(prediction, track) for track in prediction.tracks),
    )
    own = DecodingProcess() if process is None else None
    deadline = prediction.settings.deadline_seconds
    try:
        asked = (process or own or DecodingProcess()).ask(
            request, path=prediction.path, deadline_seconds=deadline
        )
        for message in asked:
            if progress is not None and isinstance(message, Progress):
                progress(message)
    finally:
        if own is not None:
            own.close()


def _drawn(prediction: Prediction, track: Track) -> DrawnTrack:
    has_boxes = len(track.boxes) > 0
    times = track.boxes["seconds"].to_numpy() if has_boxes else np.zeros(0)
    return DrawnTrack(
        name=track.name,
        names=track.labels.names,
        is_class=track.labels.task == "classification",
        start_seconds=track.start_seconds,
        end_seconds=track.end_seconds,
        middles=track.spans.mean(axis=1),
        values=track.values,
        boxes=track.boxes[["x0", "y0", "x1", "y1"]].to_numpy() if has_boxes else np.zeros((0, 4)),
        angles=track.boxes["angle"].to_numpy() if has_boxes else np.zeros(0),
        fps=prediction.fps if len(times) else 1.0,
    )
