"""Features of recordings that are in no shards: videos and sound files.

For: ``hicmae embed`` of files, prepared as the checkpoint's training data was. Not for: finding and
cutting out faces (``hicmae/prediction``) or what the features are (``extracting.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from rich.console import Console

from finetune.evaluating.extracting import Extractor
from hicmae.checkpoint import Checkpoint
from hicmae.prediction.ensemble import preparation_of
from hicmae.prediction.messages import Window
from hicmae.prediction.process import DecodingProcess, PredictionError
from hicmae.prediction.reading import WindowStream, read_windows
from hicmae.prediction.settings import WindowConfig

Rows = tuple[dict[str, list[Any]], dict[str, np.ndarray]]
# What a row is of: the file, whose face (or the sound), and when.
SCHEMA = pyarrow.schema(
    [
        ("key", pyarrow.string()),
        ("track", pyarrow.string()),
        ("start_seconds", pyarrow.float64()),
        ("end_seconds", pyarrow.float64()),
    ]
)


def recording_rows(
    extractor: Extractor,
    checkpoint: Checkpoint,
    files: Sequence[Path],
    *,
    per: str,
    hop: float | None,
    batch_size: int,
    console: Console,
    refused: dict[str, str],
) -> Iterator[Rows]:
    """Features of recordings: a row a window, or a row a face.

    Args:
        extractor: Of the features.
        checkpoint: Which says how its images were made.
        files: The recordings.
        per: ``view``: a row a window; ``sample``: the mean over the windows of a face.
        hop: Seconds from one window to the next; none given: one clip, so that none overlap.
        batch_size: Clips handled at once.
        console: Where it is said how images are made, if the checkpoint does not.
        refused: Filled with the recordings that could not be read, and why.
    """
    preparation, note = preparation_of(checkpoint)
    if note:
        console.print(note)
    config = WindowConfig(hop=extractor.input.clip_seconds if hop is None else hop)
    with closing(DecodingProcess()) as process:
        for path in files:
            try:
                with read_windows(
                    path,
                    input=extractor.input,
                    preparation=preparation,
                    config=config,
                    modalities=extractor.modalities,
                    process=process,
                ) as stream:
                    _require(stream, extractor.modalities)
                    rows = list(_windows(extractor, stream, batch_size))
            except (PredictionError, FileNotFoundError) as error:
                refused[str(path)] = str(error)
                continue
            if per == "view":
                yield from (_of_window(path, window, features) for window, features in rows)
            else:
                yield from _of_tracks(path, rows)


def _require(stream: WindowStream, modalities: str) -> None:
    """Refuse a recording that lacks what is asked for: its row would have other features."""
    wanted, found = modalities.split("-"), stream.found
    if "audio" in wanted and not found.has_sound:
        raise PredictionError(
            "no-sound", "has no sound; pass --modalities video for the picture alone"
        )
    if "video" in wanted and not all(track.is_face for track in found.tracks):
        raise PredictionError("no-face", "no face was found; pass --modalities audio for the sound")


def _windows(
    extractor: Extractor, stream: WindowStream, batch_size: int
) -> Iterator[tuple[Window, dict[str, np.ndarray]]]:
    """Windows without their pixels, with features (1, width) by name."""
    waiting: list[Window] = []
    for window in stream:
        waiting.append(window)
        if len(waiting) == batch_size:
            yield from _batch(extractor, waiting)
            waiting = []
    if waiting:
        yield from _batch(extractor, waiting)


def _batch(
    extractor: Extractor, windows: Sequence[Window]
) -> Iterator[tuple[Window, dict[str, np.ndarray]]]:
    """Features of some windows; one clip each, as a window is one clip long."""
    clips = [window.clips[0] for window in windows]
    frames = [clip.frames for clip in clips if clip.frames is not None]
    waveforms = [clip.waveform for clip in clips if clip.waveform is not None]
    batch: dict[str, Any] = {}
    if frames:
        batch["frames"] = torch.from_numpy(np.stack(frames))
    if waveforms:
        batch["waveform"] = torch.from_numpy(np.stack(waveforms))
        batch["num_samples"] = torch.tensor([clip.num_samples for clip in clips])
    found = extractor(*extractor.running.inputs(batch))
    for place, window in enumerate(windows):
        yield window, {name: values[place : place + 1] for name, values in found.items()}


def _of_window(path: Path, window: Window, features: dict[str, np.ndarray]) -> Rows:
    """One row."""
    about: dict[str, list[Any]] = {
        "key": [str(path)],
        "track": [window.track],
        "start_seconds": [window.start_seconds],
        "end_seconds": [window.end_seconds],
    }
    return about, features


def _of_tracks(path: Path, rows: Sequence[tuple[Window, dict[str, np.ndarray]]]) -> Iterator[Rows]:
    """One row a face: the mean over its windows."""
    for track in dict.fromkeys(window.track for window, _ in rows):
        own = [(window, features) for window, features in rows if window.track == track]
        about: dict[str, list[Any]] = {
            "key": [str(path)],
            "track": [track],
            "start_seconds": [min(window.start_seconds for window, _ in own)],
            "end_seconds": [max(window.end_seconds for window, _ in own)],
        }
        mean = {
            name: np.mean([features[name] for _, features in own], axis=0) for name in own[0][1]
        }
        yield about, mean
