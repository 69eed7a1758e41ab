"""What a prediction is: timelines, boxes, a summary, and the files and the picture of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pandas

from hicmae.checkpoints.checkpoint import Labels
from hicmae.config import to_dict
from hicmae.figures import plain_words
from hicmae.files import check_replaceable, whole_folder
from hicmae.heads import answers, real_text, rounded, slices
from hicmae.media.crops import decode_jpeg
from hicmae.media.recording import has_no_sound
from hicmae.prediction.annotate import AnnotateRequest, DrawnTrack
from hicmae.prediction.messages import StageProgress, WindowConfig
from hicmae.prediction.process import DecodingProcess, PredictionError, Tell
from hicmae.prediction.timelines import FORMATS, Mark, Owner, Span
from hicmae.prediction.traces import TraceForm, gaps_between, time_text, write_trace
from hicmae.terminal import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SETTINGS = WindowConfig()
NOT_SURE = "not sure"  # the prediction where no class is probable enough
# Columns of a timeline that are no outputs.
_FIXED = ("track", "start", "end", "prediction")
TIMELINE, LINES, BOXES, SUMMARY = "timeline.csv", "timeline.jsonl", "boxes.csv", "summary.json"
SPANS, PICTURE, VIDEO = "spans.csv", "timeline.png", "annotated.mp4"
WRITTEN = ("timeline.*", "trace-*.csv", BOXES, SPANS, VIDEO)  # and the summary
_DIGITS = "%.6g"
_MOST_TRACKS = 8
_INCHES, _DPI = 11.0, 110
_FACE_INCHES = 0.72


@dataclass(frozen=True, kw_only=True)
class TrackSummary:
    """One track in a few numbers.

    Args:
        coverage: Share of the frames looked at in which the face was found; 1 for sound.
        prediction: The class with the largest mean probability, or ``NOT_SURE`` where that is
            less than what is asked for; None for real values.
        not_sure: Share of the windows in which no class is as probable as is asked for.
        share: Of each class, the share of the windows in which it is the most probable.
        mean, std: Of each output over the windows.
        heads: Of several heads, what each says by its means.
    """

    track: str
    start_seconds: float
    end_seconds: float
    num_windows: int
    coverage: float
    modality: str
    prediction: str | None
    not_sure: float
    share: dict[str, float]
    mean: dict[str, float]
    std: dict[str, float]
    heads: dict[str, str] = field(default_factory=dict, metadata={"omit_default": True})


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A recording in a few numbers.

    Args:
        seconds: Its length.
        modality: What the network went by: ``audio-video``, ``video`` or ``audio``.
        tracks: Of each face, or of the sound.
        speakers: Of each speaker whom spans name, the mean of each output over the time of theirs.
    """

    path: str
    seconds: float
    modality: str
    tracks: tuple[TrackSummary, ...]
    notes: tuple[str, ...]
    speakers: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Track:
    """The timeline of one face, or of the sound.

    Shape letters: W windows, C outputs, T frames.

    Args:
        name: ``face0``, ``face1``, … in the order in which they appear; ``sound`` without faces.
        labels: What the outputs stand for.
        start_seconds, end_seconds: After the recording's beginning, as players count.
        spans: (W, 2) start and end of each window, likewise.
        values: (W, C) probabilities or real values: the mean over the clips of a window.
        logits: (W, C) what the network gave, likewise.
        by_modality: The same as ``values`` by what the network went by: ``audio-video``, ``video``,
            ``audio``. The one that counts is always there, the others if they were asked for.
        boxes: One row a frame at the network's rate: seconds, x0, y0, x1, y1 (pixels of the upright
            picture), angle (radians, clockwise), found_by. Empty for sound.
        thumbnails: Some windows: seconds of their middle, and a JPEG of the face.
        coverage: Share of the frames looked at in which the face was found.
        span_numbers: Which span each window is of, where spans were asked for.
        min_confidence: Where no class is as probable, the prediction is ``NOT_SURE``.
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
    span_numbers: tuple[int, ...] = ()
    min_confidence: float = 0.0

    @property
    def modality(self) -> str:
        """What the network went by: ``audio-video``, ``video`` or ``audio``."""
        return next(iter(self.by_modality), "")

    @property
    def predictions(self) -> list[str]:
        """The class of each window, or ``NOT_SURE``; of real values nothing."""
        if self.labels.task != "classification":
            return []
        return [self._class(values) for values in self.values]

    @property
    def answers(self) -> list[dict[str, str]]:
        """Of several heads, what each says of each window; else nothing."""
        heads = self.labels.heads
        return [answers(heads, values) for values in self.values] if heads else []

    def _class(self, values: np.ndarray) -> str:
        best = int(values.argmax())
        return self.labels.names[best] if values[best] >= self.min_confidence else NOT_SURE

    @property
    def timeline(self) -> pandas.DataFrame:
        """One row a window: track, start, end, prediction (of classes), and every output."""
        table = pandas.DataFrame(
            {"track": self.name, "start": self.spans[:, 0], "end": self.spans[:, 1]},
            index=range(len(self.spans)),
        )
        if self.labels.task == "classification":
            table["prediction"] = self.predictions
        said = self.answers
        for head in self.labels.heads:
            if head.answers_names:
                table[f"{head.name}.prediction"] = [each[head.name] for each in said]
        for number, name in enumerate(self.labels.names):
            table[f"{name}_" if name in _FIXED else name] = self.values[:, number]
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
            modality=self.modality,
            prediction=self._class(mean) if is_class else None,
            not_sure=float((self.values.max(axis=1) < self.min_confidence).mean()) * is_class,
            share=_named(names, leads) if is_class else {},
            mean=_named(names, mean),
            std=_named(names, std),
            heads=answers(self.labels.heads, mean),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """What a network says about one recording.

    Args:
        seconds: Length of the recording.
        width, height: Of its upright picture, pixels; 0 without one.
        fps: Frame rate of the tracks' boxes, that of the network's input.
        modality: What the network went by: ``audio-video``, ``video`` or ``audio``.
        tracks: A timeline for each face, or the one of the sound; after faces, sound without a
            picture.
        notes: What the user should know, a line each.
        spans: What one value each was asked for; None: windows were.
        missed: Of spans without a value, by number, why.
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
    spans: tuple[Span, ...] | None = None
    missed: Mapping[int, str] = field(default_factory=dict)
    checkpoint: str = ""
    settings: WindowConfig = _SETTINGS
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    decoder_memory_bytes: int = 0

    @property
    def is_video(self) -> bool:
        """Whether there is a moving picture in one file, to be drawn into."""
        return self.width > 0 and not has_no_sound(self.path)

    @property
    def timeline(self) -> pandas.DataFrame:
        """The timelines of all tracks, one below the other."""
        return pandas.concat([track.timeline for track in self.tracks], ignore_index=True)

    @property
    def answers(self) -> pandas.DataFrame:
        """One row a span, in the order of their file: start, end, speaker, text; which track
        answers, what the network went by, the share of the span that it is about; prediction and
        every output; a note where there is none. Empty without spans.
        """
        rows: list[dict[str, Any]] = [
            {"start": s.start, "end": s.end, "speaker": s.speaker, "text": s.text}
            for s in self.spans or ()
        ]
        for track in self.tracks:
            table = track.timeline.drop(columns="track")
            for number, row in zip(track.span_numbers, table.to_dict("records"), strict=False):
                length = row.pop("end") - row.pop("start")
                share = min(length / (rows[number]["end"] - rows[number]["start"]), 1.0)
                rows[number] |= {"track": track.name, "modality": track.modality, "share": share}
                rows[number] |= {str(name): value for name, value in row.items()}
        for number, why in self.missed.items():
            rows[number]["note"] = why
        table = pandas.DataFrame(rows)
        return table[[name for name in table if name != "note"] + ["note"] * bool(self.missed)]

    @property
    def speakers(self) -> dict[str, dict[str, float]]:
        """Of each speaker whom spans name, the mean of each output, weighted by time."""
        found: dict[str, list[tuple[float, np.ndarray]]] = {}
        for track in self.tracks:
            for place, number in enumerate(track.span_numbers):
                assert self.spans is not None
                weight = float(track.spans[place, 1] - track.spans[place, 0])
                found.setdefault(self.spans[number].speaker, []).append(
                    (weight, track.values[place])
                )
        found.pop("", None)
        return {
            name: _named(self.labels.names, np.average([v for _, v in of], axis=0, weights=w))
            for name, of in sorted(found.items())
            if (w := [weight for weight, _ in of])
        }

    @property
    def summary(self) -> Summary:
        """The recording in a few numbers."""
        return Summary(
            path=str(self.path),
            seconds=self.seconds,
            modality=self.modality,
            tracks=tuple(track.summary for track in self.tracks),
            notes=self.notes,
            speakers=self.speakers,
        )

    def save(
        self,
        folder: str | Path,
        *,
        picture: bool = False,
        annotate: bool = False,
        overwrite: bool = False,
        tiers: Sequence[str] = (),
        trace: TraceForm | None = None,
        process: DecodingProcess | None = None,
        progress: Tell | None = None,
        asked: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the prediction into a folder of its own, whole or not at all.

        Args:
            folder: Where: ``timeline.csv``, ``timeline.jsonl``, ``boxes.csv``, ``summary.json``;
                with spans also ``spans.csv``.
            picture: Also draw ``timeline.png``.
            annotate: Also write ``annotated.mp4``, the video with boxes, labels and bars; not for
                a sound file or a folder of images.
            overwrite: Replace a folder that is there.
            tiers: Also write the timelines for annotation tools: names of ``timelines.FORMATS``.
            trace: Also write a trace of each track, of this form.
            process: Where the video is decoded again; none given: a new one.
            progress: Called with how far the video is.
            asked: What all of this was made of, plain data that the summary of a whole prediction
                keeps, by which a later run knows it.

        Returns: the folder.

        Raises:
            ValueError: The folder is there already, or is none of a prediction.
            PredictionError: The video cannot be drawn into; all else is written.
        """
        folder = Path(folder)
        check_replaceable(folder, "prediction", SUMMARY, others=WRITTEN, overwrite=overwrite)
        undrawn: PredictionError | None = None
        with whole_folder(folder) as beside:
            for track in self.tracks:
                if trace is not None:
                    file = beside / f"trace-{track.name}.csv"
                    write_trace(file, track.spans, track.values, track.labels.names, trace)
            for name in tiers:
                FORMATS[name](_owners(self), beside, self.path, self.seconds)
            if picture:
                _draw_timeline(self, beside / PICTURE)
            if annotate and self.is_video:
                try:
                    _annotate(self, beside / VIDEO, process, progress)
                except PredictionError as error:  # frames between the windows may be damaged
                    undrawn = error
                    (beside / VIDEO).unlink(missing_ok=True)
            _write_tables(self, beside, asked if undrawn is None else None)
        if undrawn is not None:
            raise PredictionError(
                undrawn.cause, f"{undrawn} (all but {VIDEO} was written, into {folder})"
            )
        return folder


def _draw_timeline(prediction: Prediction, file: Path) -> None:
    """Draw the outputs of every track over time as a PNG; of many tracks, the longest."""
    from matplotlib.figure import Figure

    longest = sorted(prediction.tracks, key=lambda track: track.start_seconds - track.end_seconds)
    shown = sorted(longest[:_MOST_TRACKS], key=lambda track: prediction.tracks.index(track))
    panels = _panels(prediction.labels)
    height = 0.9 + (0.7 + 2.2 * len(panels)) * len(shown)
    figure = Figure(figsize=(_INCHES, height), dpi=_DPI, layout="constrained")
    title = printable(prediction.path.name)
    left = len(prediction.tracks) - len(shown)
    figure.suptitle(f"{title}{f' (and {left} shorter tracks)' if left else ''}")
    ratios = [1.0, *[3.0] * len(panels)] * len(shown)
    axes = figure.subplots(len(ratios), 1, height_ratios=ratios, sharex=True, squeeze=False)
    rows = iter(axes[:, 0])
    for track in shown:
        _faces(next(rows), track, prediction.seconds)
        for places in panels:
            curves = next(rows)
            _curves(curves, track, places)
            curves.tick_params(labelbottom=True)
    curves.set_xlim(0, max(prediction.seconds, 1e-3))
    curves.set_xlabel("seconds")
    with plain_words(figure):
        figure.savefig(file, format="png")


def _named(names: tuple[str, ...], values: np.ndarray) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _write_tables(prediction: Prediction, folder: Path, asked: Mapping[str, Any] | None) -> None:
    _write_csv(folder / TIMELINE, prediction.timeline, ("start", "end"))
    with (folder / LINES).open("w", encoding="utf-8") as file:
        for line in _lines(prediction):
            file.write(json.dumps(line) + "\n")
    boxes = {track.name: track.boxes for track in prediction.tracks if len(track.boxes)}
    if boxes:
        table = pandas.concat(boxes, names=["track"]).reset_index("track")
        _write_csv(folder / BOXES, table, ("seconds",))
    if prediction.spans is not None:
        _write_csv(folder / SPANS, prediction.answers, ("start", "end"))
    described = to_dict(prediction.summary) | {
        "checkpoint": prediction.checkpoint,
        "settings": to_dict(prediction.settings),
        "min_confidence": prediction.tracks[0].min_confidence,
        "labels": to_dict(prediction.labels),
    }
    if asked is not None:
        described["asked"] = asked
    (folder / SUMMARY).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def _write_csv(file: Path, table: pandas.DataFrame, times: Sequence[str]) -> None:
    """Write a table; ``times`` are the columns that hold seconds after the beginning."""
    told = table.assign(**{name: table[name].map(time_text) for name in times})
    told.to_csv(file, index=False, float_format=_DIGITS)


def _lines(prediction: Prediction) -> Iterator[dict[str, Any]]:
    names = prediction.labels.names
    for track in prediction.tracks:
        predictions, said = track.predictions, track.answers
        for number, (start, end) in enumerate(track.spans.tolist()):
            line: dict[str, Any] = {"track": track.name, "start": start, "end": end}
            if track.span_numbers:
                line["span"] = track.span_numbers[number]
            values = track.values[number]
            if prediction.labels.task == "classification":
                line["prediction"] = predictions[number]
            if said:
                line["predictions"] = said[number]
            line["values"] = dict(zip(names, rounded(values), strict=True))
            if len(track.by_modality) > 1:
                line["by_modality"] = {
                    kind: dict(zip(names, rounded(each[number]), strict=True))
                    for kind, each in track.by_modality.items()
                }
            yield line


def _owners(prediction: Prediction) -> list[Owner]:
    """What annotation tools are told: of each speaker the spans; or of each track the windows, each
    from the middle to its neighbour before to that to the next, so that none overlap; where others
    are missing between two, no longer than the window.
    """
    names, spans = prediction.labels.names, prediction.spans
    real = {names[place] for places in prediction.labels.scales for place in places}
    naming = [each for each in slices(prediction.labels.heads) if each[0].answers_names]
    marks: dict[str, list[Mark]] = {}
    for track in prediction.tracks:
        middles = track.spans.mean(axis=1)
        edges = [track.start_seconds, *(middles[1:] + middles[:-1]) / 2, track.end_seconds]
        begins, ends = np.array(edges[:-1]), np.array(edges[1:])
        gaps = gaps_between(track.spans, prediction.settings.hop)
        begins[gaps], ends[gaps - 1] = track.spans[gaps, 0], track.spans[gaps - 1, 1]
        labels = track.predictions or [""] * len(middles)
        for number, (label, values) in enumerate(zip(labels, track.values, strict=True)):
            start, end, owner = begins[number], ends[number], track.name
            if spans is not None:
                span = spans[track.span_numbers[number]]
                start, end, owner = span.start, span.end, span.speaker or "spans"
            told: dict[str, float | str] = {"probability": float(values.max())}
            if not label:
                told = {n: v if n in real else f"{v:.3f}" for n, v in _named(names, values).items()}
            said = {head.name: head.answer(values[place]) for head, place in naming}
            for head, _ in naming:  # the answer stands for them
                told = {n: v for n, v in told.items() if not n.startswith(f"{head.name}.")}
            marks.setdefault(owner, []).append(Mark(float(start), float(end), label, told, said))
    return [Owner(name, each, joined=spans is None) for name, each in marks.items()]


def _annotate(
    prediction: Prediction, file: Path, process: DecodingProcess | None, progress: Tell | None
) -> None:
    request = AnnotateRequest(
        path=prediction.path,
        out=file,
        tracks=tuple(_drawn(prediction, track) for track in prediction.tracks),
    )
    deadline = prediction.settings.deadline_seconds
    with contextlib.nullcontext(process) if process else DecodingProcess() as decoding:
        for message in decoding.ask(request, path=prediction.path, deadline_seconds=deadline):
            if progress is not None and isinstance(message, StageProgress):
                progress(message)


def _drawn(prediction: Prediction, track: Track) -> DrawnTrack:
    has_boxes = len(track.boxes) > 0
    if track.labels.heads:
        naming = [head.name for head in track.labels.heads if head.answers_names]
        said = ["; ".join(each[name] for name in naming) for each in track.answers]
    else:
        best = track.values.max(axis=1)
        said = [f"{a} {b:.2f}" for a, b in zip(track.predictions, best, strict=False)]
    return DrawnTrack(
        name=track.name,
        names=track.labels.short_names,
        start_seconds=track.start_seconds,
        end_seconds=track.end_seconds,
        middles=track.spans.mean(axis=1),
        values=track.values,
        boxes=track.boxes[["x0", "y0", "x1", "y1"]].to_numpy() if has_boxes else np.zeros((0, 4)),
        angles=track.boxes["angle"].to_numpy() if has_boxes else np.zeros(0),
        fps=prediction.fps if has_boxes else 1.0,
        said=tuple(said),
        scales=track.labels.scales,
    )


def _panels(labels: Labels) -> list[tuple[int, ...]]:
    """Places of the outputs by the axis that shows them: what lies in 0..1 first."""
    real = {place for places in labels.scales for place in places}
    shares = tuple(place for place in range(len(labels.names)) if place not in real)
    return [places for places in (shares, *labels.scales) if places]


def _curves(axis: Axes, track: Track, places: Sequence[int]) -> None:
    """Outputs over the middle of the windows, held to both ends of what was predicted."""
    from matplotlib import colormaps

    middles = track.spans.mean(axis=1)
    times = np.concatenate([track.spans[:1, 0], middles, track.spans[-1:, 1]])
    values = np.concatenate([track.values[:1], track.values, track.values[-1:]])
    palette = colormaps["tab10" if values.shape[1] <= 10 else "tab20"]
    for number in places:
        axis.plot(
            times,
            values[:, number],
            color=palette(number % palette.N),
            linestyle=("-", "--", ":")[number // palette.N % 3],
            label=printable(track.labels.names[number]),
            marker="o" if len(middles) <= 60 else None,
            markevery=slice(1, -1),
            markersize=3,
        )
    if not any(places[0] in each for each in track.labels.scales):
        axis.set_ylim(-0.02, 1.02)
        axis.set_ylabel("probability")
    else:
        axis.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        axis.set_ylabel("value")
    axis.grid(alpha=0.3)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)


def _faces(axis: Axes, track: Track, seconds: float) -> None:
    """A face every so often, as many as fit side by side, above the time it was seen at."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    axis.set_ylim(0, 1)
    axis.set_axis_off()
    axis.set_title(_heading(track), fontsize=10, loc="left")
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
        mean = max(summary.mean.values())
        return f"{track.name}, {span}: {printable(summary.prediction)} (mean {mean:.2f})"
    if summary.heads:
        return f"{track.name}, {span}: {printable('; '.join(summary.heads.values()))} on average"
    means = ", ".join(
        f"{printable(name)} {real_text(value)}" for name, value in summary.mean.items()
    )
    return f"{track.name}, {span}: {means} on average"
