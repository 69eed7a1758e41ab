"""What a prediction is: timelines, boxes, a summary.

For: those who call ``predict``. Not for: files (``saving.py``) or pictures (``picture.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas

from hicmae.checkpoints.labels import Labels
from hicmae.prediction.settings import WindowConfig

_SETTINGS = WindowConfig()
# Columns of a timeline that are no outputs.
_FIXED = ("track", "start", "end", "prediction")


@dataclass(frozen=True, kw_only=True)
class TrackSummary:
    """One track in a few numbers.

    Args:
        track: Its name.
        start_seconds: Where it begins.
        end_seconds: Where it ends.
        num_windows: Windows that were predicted.
        coverage: Share of the frames looked at in which the face was found; 1 for sound.
        prediction: The class with the largest mean probability; None for real values.
        share: Of each class, the share of the windows in which it is the most probable.
        mean: Of each output over the windows.
        std: Its standard deviation over the windows.
    """

    track: str
    start_seconds: float
    end_seconds: float
    num_windows: int
    coverage: float
    prediction: str | None
    share: dict[str, float]
    mean: dict[str, float]
    std: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A recording in a few numbers.

    Args:
        path: The recording.
        seconds: Its length.
        modality: What the network went by: ``audio-video``, ``video`` or ``audio``.
        tracks: Of each face, or of the sound.
        notes: What the user should know.
    """

    path: str
    seconds: float
    modality: str
    tracks: tuple[TrackSummary, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Track:
    """The timeline of one face, or of the sound.

    Shape letters: W windows, C outputs, T frames.

    Args:
        name: ``face0``, ``face1``, … in the order in which they appear; ``sound`` without faces.
        labels: What the outputs stand for.
        start_seconds: Where it begins, seconds after the recording's first frame.
        end_seconds: Where it ends.
        spans: (W, 2) start and end of each window, seconds likewise.
        values: (W, C) probabilities or real values: the mean over the clips of a window.
        logits: (W, C) what the network gave, likewise.
        by_modality: The same as ``values`` by what the network went by: ``audio-video``, ``video``,
            ``audio``. The one that counts is always there, the others if they were asked for.
        boxes: One row a frame at the network's rate: seconds, x0, y0, x1, y1 (pixels of the upright
            picture), angle (radians, clockwise), found_by. Empty for sound.
        thumbnails: Some windows: seconds of their middle, and a JPEG of the face.
        coverage: Share of the frames looked at in which the face was found.
    """

    name: str
    labels: Labels
    start_seconds: float
    end_seconds: float
    spans: np.ndarray
    values: np.ndarray
    logits: np.ndarray
    by_modality: Mapping[str, np.ndarray] = field(default_factory=dict)
    boxes: pandas.DataFrame = field(default_factory=pandas.DataFrame)
    thumbnails: tuple[tuple[float, bytes], ...] = ()
    coverage: float = 1.0

    @property
    def timeline(self) -> pandas.DataFrame:
        """One row a window: track, start, end, prediction (of classes), and every output."""
        return self.timeline_of(self.values)

    def timeline_of(self, values: np.ndarray) -> pandas.DataFrame:
        """The same with other values (W, C), such as those of ``by_modality``."""
        table = pandas.DataFrame(
            {"track": self.name, "start": self.spans[:, 0], "end": self.spans[:, 1]},
            index=range(len(self.spans)),
        )
        if self.labels.task == "classification":
            names = np.array(self.labels.names, dtype=object)
            table["prediction"] = names[values.argmax(axis=1)]
        for number, name in enumerate(self.labels.names):
            table[f"{name}_" if name in _FIXED else name] = values[:, number]
        return table

    @property
    def summary(self) -> TrackSummary:
        """Means over the windows, and which class leads how often."""
        names = self.labels.names
        mean, std = self.values.mean(axis=0), self.values.std(axis=0)
        is_class = self.labels.task == "classification"
        leads = np.bincount(self.values.argmax(axis=1), minlength=len(names)) / len(self.values)
        return TrackSummary(
            track=self.name,
            start_seconds=self.start_seconds,
            end_seconds=self.end_seconds,
            num_windows=len(self.values),
            coverage=self.coverage,
            prediction=names[int(mean.argmax())] if is_class else None,
            share=_named(names, leads) if is_class else {},
            mean=_named(names, mean),
            std=_named(names, std),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """What a network says about one recording.

    Args:
        path: The recording.
        seconds: Its length.
        width: Of its upright picture, pixels; 0 without one.
        height: Likewise.
        fps: Frame rate of the tracks' boxes, that of the network's input.
        labels: What the outputs stand for.
        modality: What the network went by: ``audio-video``, ``video`` or ``audio``.
        tracks: A timeline for each face, or the one of the sound.
        notes: What the user should know, a line each.
        checkpoint: Whose prediction it is.
        settings: Where the windows were, and whose.
        stage_seconds: Time of the stages: processor time of ``decoding``, ``faces``, ``images``
            and ``sound`` in the decoding process, time by the clock of ``network``.
        decoder_memory_bytes: Peak memory of the decoding process, so far.
    """

    path: Path
    seconds: float
    width: int
    height: int
    fps: float
    labels: Labels
    modality: str
    tracks: tuple[Track, ...]
    notes: tuple[str, ...] = ()
    checkpoint: str = ""
    settings: WindowConfig = _SETTINGS
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    decoder_memory_bytes: int = 0

    @property
    def is_video(self) -> bool:
        """Whether there is a moving picture in one file, to be drawn into."""
        return self.width > 0 and not self.path.is_dir()

    @property
    def timeline(self) -> pandas.DataFrame:
        """The timelines of all tracks, one below the other."""
        return pandas.concat([track.timeline for track in self.tracks], ignore_index=True)

    @property
    def summary(self) -> Summary:
        """The recording in a few numbers."""
        return Summary(
            path=str(self.path),
            seconds=self.seconds,
            modality=self.modality,
            tracks=tuple(track.summary for track in self.tracks),
            notes=self.notes,
        )

    def save(
        self,
        folder: str | Path,
        *,
        picture: bool = False,
        annotate: bool = False,
        overwrite: bool = False,
    ) -> Path:
        """Write the prediction into a folder of its own, whole or not at all.

        Args:
            folder: Where: ``timeline.csv``, ``timeline.jsonl``, ``boxes.csv``, ``summary.json``.
            picture: Also draw ``timeline.png``.
            annotate: Also write ``annotated.mp4``, the video with boxes, labels and bars; not for
                a sound file or a folder of images.
            overwrite: Replace a folder that is there.

        Returns: the folder.

        Raises:
            ValueError: The folder is there already.
            PredictionError: The video cannot be drawn into; all else is written.
        """
        from hicmae.prediction.saving import save_prediction

        return save_prediction(
            self, Path(folder), picture=picture, annotate=annotate, overwrite=overwrite
        )


def _named(names: tuple[str, ...], values: np.ndarray) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}
