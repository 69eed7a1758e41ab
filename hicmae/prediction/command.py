"""The verb ``hicmae predict``: recordings in, a folder of results for each."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from hicmae.config import to_dict, with_options_of
from hicmae.files import check_replaceable, whole_file
from hicmae.prediction.messages import StageProgress, WindowConfig
from hicmae.terminal import EVERYWHERE, plain_console, printable, user_message

if TYPE_CHECKING:
    from hicmae.prediction.results import Prediction, TrackSummary
    from hicmae.prediction.timelines import Owned

OUTCOMES = "outcomes.csv"
_MOST_TRACKS = 6
_STAGES = {
    "faces": "finding faces",
    "sound": "measuring",
    "windows": "predicting",
    "annotate": "drawing",
}


@with_options_of(WindowConfig)
def predict(
    *,
    recordings: tuple[Path, ...],
    checkpoint: str,
    out: Path = Path("predictions"),
    rate: float | None = None,
    smoothing: float | None = None,
    each_modality: bool = False,
    picture: bool = False,
    annotate: bool = False,
    spans: Path | None = None,
    span_tiers: str | None = None,
    tiers: str | None = None,
    min_confidence: float | None = None,
    overwrite: bool = False,
    device: str = "auto",
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto",
    batch_size: int = 8,
    config: WindowConfig,
) -> int:
    """Predict emotion over the time of recordings, for every face in them.

    Each recording gets a folder of its own below ``out``, named like the file: timeline.csv and
    timeline.jsonl (one row a face and window), boxes.csv (where the faces are), summary.json.
    Windows are as long as the network's clip unless said otherwise; where picture or sound is
    missing the network goes by the other, if it can, and says so. Recordings that cannot be
    predicted are named with the cause and the others go on; all of this is in outcomes.csv too.
    The exit status is 0 if every recording was predicted, else 2.

    Args:
        recordings: Videos, sound files, folders (searched to any depth), folders of images. A sound
            file in a folder, beside a video of its name that is predicted by its sound, is left
            out.
        checkpoint: A fine-tuned checkpoint folder; a run of hicmae finetune (the predictions of all
            its folds are averaged; RUN/fold-1 is one of them); owner/name on the Hugging Face Hub;
            or https://…/folder.
        out: Folder of the results.
        rate: Values a second, in place of hop; each face's are then written as a trace too
            (trace-face0.csv: time, and a column for each output, empty while a face is not seen).
        smoothing: Seconds that each value of a trace is a mean over; null: what fine-tuning over
            time has chosen, if it has; 0: none.
        each_modality: Also predict from picture and sound alone (in timeline.jsonl).
        picture: Also draw the timelines, with faces (timeline.png).
        annotate: Also write the video with boxes, labels, bars and its sound (annotated.mp4).
        spans: One answer for each span of this file, in spans.csv, instead of one a window, and
            one for each speaker it names, in summary.json: .csv (columns start, end in seconds or
            h:mm:ss.s; speaker, text, path, face are optional), .srt, .vtt, .rttm, .TextGrid, .eaf;
            or a folder with a file for each recording. A span is of the face that is seen for most
            of it (with face_choice speaking: that speaks in it), else of the sound. Times count
            from the recording's beginning.
        span_tiers: Tiers of the .TextGrid or .eaf to read, separated by commas; null: all.
        tiers: Also write the answers for annotation tools: eaf (ELAN), textgrid (Praat), vtt
            (subtitles), or several separated by commas.
        min_confidence: Where no class is as probable (0 to 1), the prediction is "not sure"; the
            probabilities are written all the same. null: the threshold that fine-tuning has
            fitted, if it has (hicmae finetune, recipe.calibrate); 0: always the best class.
        overwrite: Replace results that are there; without it, those made of the same recording,
            checkpoint and options are kept, so that the same command goes on where it was broken
            off, and nothing is begun if there are any others. Results of recordings that now fail
            stay, and are named.
        device: auto, cpu, cuda, ….
        precision: auto (bf16 where the machine computes in it), 32-true or bf16-mixed.
        batch_size: Clips that the network is shown at once.
        config: Where the windows are, and whose; one option for each of its fields.

    Raises: ValueError: results that are there, a checkpoint that predicts nothing, wrong settings.
    """
    # Not above: `--help` needs no PyTorch.
    from hicmae.prediction.model import load
    from hicmae.prediction.process import PredictionError
    from hicmae.prediction.results import SUMMARY, WRITTEN
    from hicmae.prediction.timelines import parse_formats, spans_of
    from hicmae.prediction.traces import TraceForm, hop_of

    if rate is not None and spans is not None:
        raise ValueError("rate: with --spans each span has one value; leave one of them out")
    if smoothing is not None and (rate is None or not 0 <= smoothing < float("inf")):
        raise ValueError(
            f"smoothing = {smoothing:g} (must be seconds from 0, of the traces of --rate)"
        )
    config = replace(config, hop=hop_of(rate, config.hop))
    formats = parse_formats(tiers)
    found = gather(recordings, out)
    sounds = {} if spans is not None else _sounds_again(found, recordings)
    found.sort(key=lambda each: each.path in sounds)  # after their videos
    wanted = [name.strip() for name in (span_tiers or "").split(",") if name.strip()]
    if spans is None and wanted:
        raise ValueError("span_tiers says which tiers of --spans are read; give that too")
    if spans is not None and config.window is not None:
        raise ValueError("window: with --spans each span is one window; leave one of them out")
    asked = spans_of(spans, [each.path for each in found], wanted) if spans is not None else {}
    if config.boxes is not None and len(found) > 1:
        raise ValueError(f"boxes = {config.boxes} is of one recording, and there are {len(found)}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file; give a folder as --out")
    model = load(checkpoint, device=device, precision=precision, batch_size=batch_size)
    config.layout(model.input)
    model.confidence(min_confidence)
    config.prepared(model.preparation)
    smoothed = model.network.smoothing_seconds if smoothing is None else smoothing
    trace = None if rate is None else TraceForm(rate, smoothed, model.network.shift_seconds)
    settings = {
        "checkpoint": model.network.digest,
        "precision": model.network.precision,
        "trace": None if trace is None else [rate, smoothed],
        "each_modality": each_modality,
        "picture": picture,
        "annotate": annotate,
        "tiers": sorted(formats),
        "min_confidence": model.confidence(min_confidence),
        **{k: v for k, v in to_dict(config).items() if k not in ("offline", "deadline_seconds")},
    }
    asked_of, kept = dict[Path, dict[str, Any]](), dict[Path, dict[str, Any]]()
    for recording in found:
        with suppress(OSError):  # a name that cannot be there is said when its turn comes
            folder = out / recording.name
            asked_of[recording.path] = _asked(recording.path, asked, config) | settings
            summary, others = _made(folder / SUMMARY, asked_of[recording.path])
            if summary and not others and not overwrite:
                kept[recording.path] = summary
                continue
            try:
                check_replaceable(
                    folder, "prediction", SUMMARY, others=WRITTEN, overwrite=overwrite
                )
            except ValueError as error:
                differs = f" (it is of another {', '.join(others)})" if others else ""
                raise ValueError(f"{error}{differs}") from None
    console, errors = plain_console(file=sys.stdout), plain_console(file=sys.stderr)
    for note in model.notes:
        console.print(f"note: {note}", markup=False)
    if kept:
        console.print(
            f"{len(kept)} of {len(found)} recordings were predicted like this before: their"
            " results are kept (--overwrite makes them anew)",
            markup=False,
        )
    middle = model.preparation.faces == "none" and config.faces == "profile"
    if middle and model.modalities != "audio":
        console.print(
            "note: the network was trained on face crops, so the middle of every picture is taken; "
            "for other recordings pass --faces yunet",
            markup=False,
        )
    outcomes: list[dict[str, str]] = []
    heard: set[Path] = set()
    again: list[Source] = []
    try:
        with model, _Bar(errors, len(found) - len(kept)) as bar:
            for recording in found:
                if recording.path in kept:
                    summary = kept[recording.path]
                    if model.modalities == "video" or "audio" in summary["modality"]:
                        heard.add(recording.path)
                    outcomes.append(_outcome(recording, "", "; ".join(summary["notes"])))
                    continue
                if sounds.get(recording.path) in heard:
                    again.append(recording)
                    continue
                bar.begin(recording)
                older = _written(out / recording.name)
                try:
                    prediction = model.predict(
                        recording.path,
                        config=config,
                        each_modality=each_modality,
                        progress=bar.show,
                        spans=asked.get(recording.path),
                        min_confidence=min_confidence,
                    )
                    prediction.save(
                        out / recording.name,
                        picture=picture,
                        annotate=annotate,
                        overwrite=overwrite,
                        tiers=formats,
                        trace=trace,
                        process=model.decoding,
                        progress=bar.show,
                        asked=asked_of.get(recording.path),
                    )
                except (PredictionError, OSError) as error:
                    if getattr(error, "errno", None) in EVERYWHERE:
                        raise
                    missing = isinstance(error, FileNotFoundError)
                    cause = getattr(error, "cause", "missing-file" if missing else "not-written")
                    message = user_message(error) or str(error)
                    if older and _written(out / recording.name) == older:
                        message += f"; {out / recording.name} still holds what was there before"
                    outcomes.append(_outcome(recording, cause, message))
                    errors.print(f"failed: {printable(message)}", markup=False, style="red")
                else:
                    if model.modalities == "video" or "audio" in prediction.modality:
                        heard.add(recording.path)
                    outcomes.append(_outcome(recording, "", "; ".join(prediction.notes)))
                    _say(console, recording, prediction, annotate)
    finally:  # of a run that is interrupted too
        _write_outcomes(out / OUTCOMES, outcomes)
    if again:
        names = ", ".join(each.name for each in again[:3]) + (", …" if len(again) > 3 else "")
        console.print(
            f"note: left out, as the sound of a video of its name beside it: {printable(names)}"
            f" ({len(again)} in all); name one to have it predicted by itself",
            markup=False,
        )
    failed = sum(bool(outcome["cause"]) for outcome in outcomes)
    console.print(
        f"{len(outcomes) - failed} of {len(outcomes)} recordings predicted,"
        f" in {printable(str(out))}" + (f"; {failed} failed, see {OUTCOMES}" if failed else ""),
        markup=False,
    )
    return 2 if failed else 0


def _asked(path: Path, spans: Owned, config: WindowConfig) -> dict[str, Any]:
    """What of a recording decides its results: its files as they are, and its spans."""
    from hicmae.media.images import sound_beside

    files = [path, config.boxes or (path.with_suffix(".csv") if config.faces == "boxes" else None)]
    files += [sound_beside(path)] if path.is_dir() or path.suffix == ".npy" else []
    states = [file.stat() for file in files if file is not None and file.exists()]
    return {
        "recording": [[str(path.resolve())], *([s.st_size, s.st_mtime_ns] for s in states)],
        "spans": to_dict([to_dict(span) for span in spans.get(path, ())]),
    }


def _made(file: Path, asked: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The summary of a prediction that is there, and in what it was made otherwise."""
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
        before = dict(summary["asked"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}, []
    now = json.loads(json.dumps(asked))
    return summary, [name for name in now if name not in before or now[name] != before[name]]


class Source(NamedTuple):
    """A recording that is to be predicted."""

    path: Path  # the file, or a folder of images
    name: str  # of its folder of results, relative to that of all


def gather(sources: Sequence[Path], out: Path) -> list[Source]:
    """List what is named, and below folders every video, sound file and folder of images.

    Results are called as the file is within the folder that was named; where two would be called
    the same, the folders above them are told too.

    Args:
        sources: Files and folders. A file that is not there is listed, and fails when it is opened.
        out: Folder of the results; what lies in it is no source.

    Raises: ValueError: a folder in which there is nothing.
    """
    found: dict[Path, int] = {}  # path -> how many of its last parts are its name
    for source in sources:
        if not source.is_dir():
            found.setdefault(source, 1)
            continue
        inside = dict(_below(source, out))
        if not inside:
            raise ValueError(
                f"{source}: holds no recording (looked for {', '.join(sorted(_suffixes())[:4])}, "
                "…, below it, and for folders of images)"
            )
        for path, depth in inside.items():
            found.setdefault(path, depth)
    distinct: dict[Path, tuple[Path, int]] = {}
    for path, depth in found.items():
        distinct.setdefault(path.resolve(), (path, depth))
    depths = {whole: depth for whole, (_, depth) in distinct.items()}
    longer = list(distinct)
    while longer:
        names = {whole: _name(whole.parts[1:], depth) for whole, depth in depths.items()}
        counts = Counter(names.values())
        longer = [
            whole
            for whole, name in names.items()
            if counts[name] > 1 and depths[whole] < len(whole.parts) - 1
        ]
        for whole in longer:
            depths[whole] += 1
    return [Source(path, names[whole]) for whole, (path, _) in distinct.items()]


def _sounds_again(found: Sequence[Source], named: Sequence[Path]) -> dict[Path, Path]:
    """Sound files beside a video of their name, with that video; none that was named itself."""
    from hicmae.media.images import SOUND_SUFFIXES, VIDEO_SUFFIXES

    paths, asked = [each.path for each in found], {path.resolve() for path in named}
    videos = {path.with_suffix(""): path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES}
    return {
        path: videos[path.with_suffix("")]
        for path in paths
        if path.suffix.lower() in SOUND_SUFFIXES and path.resolve() not in asked
        if path.with_suffix("") in videos
    }


class _Bar:
    """How far a run is, on a terminal; nothing elsewhere."""

    def __init__(self, console: Console, count: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._count, self._number, self._name, self._stage = count, 0, "", ""
        self._task: TaskID | None = None

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, recording: Source) -> None:
        """Go on to a recording."""
        self._number += 1
        self._name, self._stage = printable(recording.name), ""

    def show(self, progress: StageProgress) -> None:
        """Show how far it is; a new stage begins a new bar."""
        if progress.stage != self._stage:
            self._stage = progress.stage
            if self._task is not None:
                self._progress.remove_task(self._task)
            what = _STAGES.get(progress.stage, progress.stage)
            title = f"{self._number}/{self._count} {self._name[-40:]}: {what}"
            known = progress.total if math.isfinite(progress.total) else None
            self._task = self._progress.add_task(title, total=known)
        assert self._task is not None
        self._progress.update(self._task, completed=progress.done)


def _say(console: Console, recording: Source, prediction: Prediction, annotate: bool) -> None:
    import numpy as np

    from hicmae.heads import said

    summary = prediction.summary
    name = printable(recording.name)
    for track in summary.tracks[:_MOST_TRACKS]:
        console.print(f"{name}: {_line(track)}", markup=False)
    if len(summary.tracks) > _MOST_TRACKS:
        more = len(summary.tracks) - _MOST_TRACKS
        console.print(f"{name}: and {more} more tracks, see its summary.json", markup=False)
    labels = prediction.labels
    for speaker, mean in summary.speakers.items():
        told = _means(mean, is_class=labels.task == "classification")
        if labels.heads:
            told = printable(said(labels.heads, np.array(list(mean.values()))))
        console.print(f"{name}: {printable(speaker)}: {told} (mean of the spans)", markup=False)
    notes = list(prediction.notes)
    if annotate and not prediction.is_video:
        notes.append("no video to draw into: no annotated.mp4")
    for note in notes:
        console.print(f"{name}: note: {printable(note)}", markup=False)


def _line(track: TrackSummary) -> str:
    span = f"{track.track} {track.start_seconds:.1f}-{track.end_seconds:.1f} s"
    values = _means(track.mean, is_class=track.prediction is not None)
    if track.heads:
        values = "; ".join(f"{name}: {printable(said)}" for name, said in track.heads.items())
    unsure = f", not sure in {track.not_sure:.0%} of them" if track.not_sure else ""
    windows = "one window" if track.num_windows == 1 else f"mean of {track.num_windows} windows"
    return f"{span}: {values} ({windows}{unsure})"


def _means(values: Mapping[str, float], *, is_class: bool) -> str:
    """Outputs by name; of classes the first three."""
    from hicmae.heads import real_text

    if not is_class:
        return ", ".join(f"{name} {real_text(value)}" for name, value in values.items())
    most = sorted(values.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name} {value:.2f}" for name, value in most)


def _outcome(recording: Source, cause: str, message: str) -> dict[str, str]:
    return {
        "recording": printable(str(recording.path)),
        "folder": "" if cause else printable(recording.name),
        "cause": cause,
        "message": printable(message),
    }


def _write_outcomes(file: Path, outcomes: Sequence[dict[str, str]]) -> None:
    """Write what became of the recordings; of earlier runs, what they say of others stays."""
    if not outcomes:
        return
    rows: dict[str, dict[str, str]] = {}
    if file.is_file():
        with file.open(encoding="utf-8", newline="") as opened:
            rows = {row["recording"]: row for row in csv.DictReader(opened) if "recording" in row}
    rows |= {outcome["recording"]: outcome for outcome in outcomes}
    columns = ["recording", "folder", "cause", "message"]
    with whole_file(file) as beside, beside.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, fieldnames=columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows.values())


def _written(results: Path) -> int | None:
    """What tells the results of one run from those of another; None: there are none."""
    with suppress(OSError):
        return results.stat().st_ino if any(results.iterdir()) else None
    return None


def _suffixes() -> frozenset[str]:
    from hicmae.media.images import SOUND_SUFFIXES, VIDEO_SUFFIXES

    return VIDEO_SUFFIXES | frozenset(SOUND_SUFFIXES)


def _below(folder: Path, out: Path) -> list[tuple[Path, int]]:
    """Recordings below a folder, each with the number of parts of its path within it.

    The sound of a folder or stack of images belongs to it, and is none of its own.
    """
    from hicmae.media.images import is_sequence, is_stack, sound_beside, walk

    if is_sequence(folder):
        return [(folder, 1)]
    results, suffixes, found = out.resolve(), _suffixes(), []
    there = [
        (path, is_images or is_stack(path))
        for path, is_images in walk(folder)
        if results not in path.resolve().parents
    ]
    heard = {sound_beside(path) for path, has_pictures in there if has_pictures}
    for path, has_pictures in there:
        if has_pictures or (path.suffix.lower() in suffixes and path not in heard):
            found.append((path, max(1, len(path.relative_to(folder).parts))))
    return found


def _name(parts: Sequence[str], depth: int) -> str:
    return PurePath(*parts[-depth:]).as_posix() if parts else "recording"
