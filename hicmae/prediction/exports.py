"""Timelines for other tools: tiers of ELAN, Praat's TextGrid, WebVTT; and traces.

Times of tiers are seconds after the recording's beginning, in whole milliseconds, as annotation
tools count. Traces are a time and the values, at a rate of one's own: one file a face
(``trace-face0.csv``), as ``hicmae shards manifest traces`` reads them.
"""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas

from hicmae.terminal import printable


class Mark(NamedTuple):
    """What is said of a stretch of time."""

    start: float
    end: float
    label: str  # the class; empty for real values
    values: dict[str, float]  # ``probability`` of the class, or real values by name


class Owner(NamedTuple):
    """Whom marks are about: a face, the sound, a speaker."""

    name: str
    marks: Sequence[Mark]
    joined: bool  # whether neighbours of one class are one annotation


def write_eaf(owners: Sequence[Owner], folder: Path, recording: Path, seconds: float) -> None:
    """Write ``timeline.eaf``, of format 2.8, which every ELAN since 2014 reads; it opens the
    recording too, where that stays in its place.
    """
    from pympi import Eaf

    eaf = Eaf(author="hicmae")
    eaf.remove_tier("default")
    kind = mimetypes.guess_type(recording.name)[0] or "unknown"
    relative = Path(os.path.relpath(recording, folder)).as_posix()
    eaf.add_linked_file(recording.resolve().as_uri(), f"./{relative}", kind)
    for owner, name, marks in _tiers(owners):
        eaf.add_tier(name, part=owner)
        for start, end, text in marks:
            eaf.add_annotation(name, start, end, text)
    eaf.to_file(str(folder / "timeline.eaf"))


def write_textgrid(owners: Sequence[Owner], folder: Path, recording: Path, seconds: float) -> None:
    """Write ``timeline.TextGrid``, as long as the recording."""
    from pympi import TextGrid

    tiers = list(_tiers(owners))
    last = max((end for _, _, marks in tiers for _, end, _ in marks), default=0)
    grid = TextGrid(xmax=max(round(seconds, 3), last / 1000))
    for _, name, marks in tiers:
        tier = grid.add_tier(name.replace('"', '""'))  # which it does for texts alone
        for start, end, text in marks:
            tier.add_interval(start / 1000, end / 1000, text, check=False)
    grid.to_file(str(folder / "timeline.TextGrid"))


def write_vtt(owners: Sequence[Owner], folder: Path, recording: Path, seconds: float) -> None:
    """Write ``timeline.vtt``, subtitles that a player shows: a cue a mark, its voice the owner."""
    from webvtt import Caption, WebVTT
    from webvtt.models import Timestamp

    cues = sorted(
        (*_times(mark), f"<v {_plain(owner.name)}>{_plain(_sentence(mark))}")
        for owner in owners
        for mark in owner.marks
    )
    captions = [
        Caption(str(Timestamp.from_seconds(a / 1000)), str(Timestamp.from_seconds(b / 1000)), text)
        for a, b, text in cues
    ]
    WebVTT(captions=captions).save(str(folder / "timeline.vtt"))


Writer = Callable[[Sequence[Owner], Path, Path, float], None]
# What writes the marks of owners into a folder, given the recording and its length in seconds.
FORMATS: dict[str, Writer] = {"eaf": write_eaf, "textgrid": write_textgrid, "vtt": write_vtt}


def parse_formats(text: str | None) -> tuple[str, ...]:
    """Read names of formats, separated by commas.

    Raises: ValueError: one that there is not.
    """
    names = tuple(dict.fromkeys(name.strip().lower() for name in (text or "").split(",") if name))
    if unknown := [name for name in names if name not in FORMATS]:
        raise ValueError(f"tiers = {text}: no format {unknown[0]!r} (known: {', '.join(FORMATS)})")
    return names


class TraceForm(NamedTuple):
    """``rate``: values a second; ``smoothing_seconds``: what is said is averaged over so much
    before; 0: it stays as it is.
    """

    rate: float
    smoothing_seconds: float = 0.0


def hop_of(rate: float | None, hop: float) -> float:
    """Seconds from one window to the next: ``hop``, or for a trace of so many values a second.

    Raises: ValueError: the rate is not positive.
    """
    if rate is None:
        return hop
    if not 0 < rate < float("inf"):
        raise ValueError(f"rate = {rate} (must be values per second, more than 0)")
    return 1 / rate


def moving_mean(times: np.ndarray, values: np.ndarray, window_seconds: float) -> np.ndarray:
    """Mean of the values at most half a window away from each, (N, D).

    Args:
        times: Seconds (N,), ascending.
        values: (N, D).
        window_seconds: More than 0.
    """
    sums = np.concatenate([np.zeros((1, values.shape[1])), values.cumsum(axis=0)])
    half = window_seconds / 2 + 1e-6
    first = np.searchsorted(times, times - half)
    last = np.searchsorted(times, times + half, side="right")
    return np.asarray((sums[last] - sums[first]) / (last - first)[:, None])


def write_trace(
    file: Path,
    spans: np.ndarray,
    values: np.ndarray,
    names: Sequence[str],
    form: TraceForm,
) -> None:
    """Write what is said of one face or of the sound at equal steps.

    A value stands at the middle of its window; between two it is interpolated. Nothing is said
    before the first middle and after the last.

    Args:
        file: The CSV.
        spans: (N, 2) begin and end of each window, seconds.
        values: (N, D) what is said of it.
        names: D columns.
        form: Of the trace.
    """
    rate, smoothing_seconds = form
    order = np.argsort(spans.mean(axis=1), kind="stable")
    middles, values = spans.mean(axis=1)[order], values[order]
    if smoothing_seconds > 0:
        values = moving_mean(middles, values, smoothing_seconds)
    first, last = np.ceil(middles[0] * rate - 1e-6), np.floor(middles[-1] * rate + 1e-6)
    times = np.arange(int(first), int(last) + 1) / rate if last >= first else middles[:1]
    table = pandas.DataFrame({"time": times})
    for number, name in enumerate(names):
        course = np.interp(times, middles, values[:, number])
        table[f"{name}_" if name == "time" else name] = course
    table.to_csv(file, index=False, float_format="%.6g")


def _tiers(owners: Sequence[Owner]) -> Iterator[tuple[str, str, list[tuple[int, int, str]]]]:
    """Owner, name and annotations, in milliseconds, of each tier; what overlaps stands in
    different ones, since annotations of one tier cannot.
    """
    for owner in owners:
        lanes: list[list[Mark]] = []
        for mark in sorted(owner.marks, key=lambda mark: mark.start):
            free = (lane for lane in lanes if _times(lane[-1])[1] <= _times(mark)[0])
            lane = next(free, None)
            if lane is None:
                lanes.append(lane := [])
            lane.append(mark)
        for number, lane in enumerate(lanes, start=1):
            name = printable(owner.name) + (f" {number}" if number > 1 else "")
            labels: list[tuple[int, int, str]] = []
            for mark in lane if lane[0].label else ():
                start, end = _times(mark)
                text = printable(mark.label)
                if owner.joined and labels and labels[-1][1:] == (start, text):
                    labels[-1] = (labels[-1][0], end, text)
                else:
                    labels.append((start, end, text))
            if labels:
                yield printable(owner.name), name, labels
            for what in lane[0].values:
                form = ".2f" if labels else "+.3f"
                values = [(*_times(mark), f"{mark.values[what]:{form}}") for mark in lane]
                yield printable(owner.name), f"{name} {printable(what)}", values


def _times(mark: Mark) -> tuple[int, int]:
    """Milliseconds, at least one of them."""
    start = max(0, round(mark.start * 1000))
    return start, max(start + 1, round(mark.end * 1000))


def _sentence(mark: Mark) -> str:
    if mark.label:
        return " ".join([mark.label, *(f"{value:.2f}" for value in mark.values.values())])
    return ", ".join(f"{name} {value:+.2f}" for name, value in mark.values.items())


def _plain(text: str) -> str:
    """Without what WebVTT takes for tags or for a new cue."""
    return escape(printable(text), quote=False)
