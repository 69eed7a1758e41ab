"""Traces: values over time that one or several people have noted down while they watched.

A file of a trace is a CSV with a column ``time`` (seconds after the recording's beginning), or
``start`` and ``end`` of windows, and a column for each value: ``valence``, or ``valence.anna`` of
one annotator among several; or a column ``annotator`` beside the values. In a shard, a trace is a
label of a part of the recording, as text: values at equal steps of time, annotator by annotator.

Not here: which recordings there are (``shards/datasets/traces.py``), and what a network is trained
to predict of a trace (``finetune/over_time.py``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hicmae.files import with_a_point
from shards.tables import read_cells, read_table

# How an annotator is called whom nobody names, as where a trace is a mean already.
MEAN = "mean"
_TIMES = ("time", "start", "end", "annotator")
_DIGITS = 6
_OPENING = '{"recording":'  # of the text of a trace

# Value to annotator to what was noted.
Notes = dict[str, dict[str, "Noted"]]
# Value to annotator to values at equal steps, not-a-number where there is none.
Values = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class TraceConfig:
    """How recordings with traces become samples; all times in seconds.

    Args:
        hop_seconds: From one labelled instant to the next.
        window_seconds: The label is the mean over a window of this length around its instant; 0:
            the value there, interpolated between two that were noted.
        part_seconds: A recording is stored in equal parts of at most so many labelled seconds,
            because reading a clip takes longer the longer its sample is.
        context_seconds: What a network may be shown for one label; each part has as much more at
            its ends, which is all that is stored twice.
        place: Where in its context the label lies: 0 at the beginning, 1 at the end.
        max_lag_seconds: How late annotators may be: so much of a trace stands beyond its part.
        max_gap_seconds: Between two values that are further apart nothing is known.
    """

    hop_seconds: float = 0.2
    window_seconds: float = 0.0
    part_seconds: float = 30.0
    context_seconds: float = 4.0
    place: float = 0.5
    max_lag_seconds: float = 4.0
    max_gap_seconds: float = 1.0

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {getattr(self, name):g} (must be {what})"
            for name, what, right in (
                ("hop_seconds", "0.02 or more", self.hop_seconds >= 0.02),
                ("window_seconds", "0 or more", self.window_seconds >= 0),
                ("part_seconds", "at least hop_seconds", self.part_seconds >= self.hop_seconds),
                ("context_seconds", "0 or more", self.context_seconds >= 0),
                ("place", "in 0..1", 0 <= self.place <= 1),
                ("max_lag_seconds", "0 or more", self.max_lag_seconds >= 0),
                ("max_gap_seconds", "positive", self.max_gap_seconds > 0),
            )
            if not (right and math.isfinite(getattr(self, name)))
        ]
        if problems:
            raise ValueError(f"trace: {'; '.join(problems)}")


@dataclass(frozen=True, kw_only=True)
class Noted:
    """What one annotator has noted of one value.

    Args:
        start, end: (N,) of each window, seconds; equal at instants.
        value: (N,).
    """

    start: np.ndarray
    end: np.ndarray
    value: np.ndarray

    def at(self, times: np.ndarray, config: TraceConfig) -> np.ndarray:
        """Values at instants (K,) or, of ``window_seconds``, their means around them.

        Returns: float64 (K,), not-a-number where nothing was noted.
        """
        window = config.window_seconds
        if not window:
            return self._values(times, config)
        # The mean of a line over a window, from the middles of steps finer than those of the notes.
        count = 4 * max(1, math.ceil(window / self._step() - 1e-9))
        total, known = np.zeros(len(times)), np.zeros(len(times))
        for step in window * ((np.arange(count) + 0.5) / count - 0.5):
            found = self._values(times + step, config)
            total += np.nan_to_num(found)
            known += np.isfinite(found)
        return np.where(2 * known >= count, total / np.maximum(known, 1), np.nan)

    def _step(self) -> float:
        """The usual distance of two values, seconds."""
        return float(np.median(np.diff(self.start))) if len(self.start) > 1 else 1.0

    def _values(self, times: np.ndarray, config: TraceConfig) -> np.ndarray:
        last = len(self.start) - 1
        before = np.searchsorted(self.start, times + 1e-9, side="right") - 1
        inside = (before >= 0) & (times < self.end[np.clip(before, 0, last)] - 1e-9)
        held = self.value[np.clip(before, 0, last)]
        centres = (self.start + self.end) / 2
        after = np.clip(np.searchsorted(centres, times - 1e-9), 0, last)
        gap = centres[after] - centres[np.clip(after - 1, 0, last)]
        near = np.abs(times - centres[after]) < 1e-6
        covered = (times >= centres[0] - 1e-6) & (times <= centres[-1] + 1e-6)
        known = covered & (near | (gap <= config.max_gap_seconds + 1e-9))
        line = np.where(known, np.interp(times, centres, self.value), np.nan)
        return np.where(inside, held, line)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The trace of one sample, at equal steps.

    Args:
        recording: Which the sample is a part of.
        since: Time of the first instant in the recording, seconds.
        at: Time of the same in the sample; negative where that begins later.
        hop: From one instant to the next.
        num_own: Instants of this part; values beyond are for annotators who are late.
        values: Value to annotator to (num_own + more,).
    """

    recording: str
    since: float
    at: float
    hop: float
    num_own: int
    values: Values

    @property
    def annotators(self) -> list[str]:
        """Everybody who has noted something, in the order of the file."""
        return list(dict.fromkeys(name for each in self.values.values() for name in each))

    def late(self, value: str, annotator: str, lag_seconds: float) -> np.ndarray:
        """What was noted ``lag_seconds`` after each own instant, interpolated.

        Returns: float64 (num_own,), not-a-number where nothing was.
        """
        if annotator not in self.values[value]:
            return np.full(self.num_own, np.nan)
        noted = self.values[value][annotator]
        whole, rest = divmod(lag_seconds / self.hop, 1.0)
        if rest > 1 - 1e-6:
            whole, rest = whole + 1, 0.0
        padded = np.concatenate([noted, np.full(int(whole) + self.num_own + 1, np.nan)])
        first = padded[int(whole) :][: self.num_own]
        if rest < 1e-6:
            return first
        return first * (1 - rest) + padded[int(whole) + 1 :][: self.num_own] * rest

    def text(self) -> str:
        """As a label of a sample holds it."""
        values = {
            value: {who: [_rounded(x) for x in found.tolist()] for who, found in each.items()}
            for value, each in self.values.items()
        }
        told: dict[str, Any] = {"recording": self.recording, "hop": self.hop}
        told["since"] = _rounded(self.since)
        told |= {"at": _rounded(self.at), "num_own": self.num_own, "values": values}
        return json.dumps(told, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def parse_trace(text: Any, where: str) -> Trace:
    """The trace that a label holds.

    Raises: ValueError: it is something else.
    """
    try:
        told = json.loads(text)
        values = {
            str(value): {str(who): np.array(x, dtype=np.float64) for who, x in each.items()}
            for value, each in told.pop("values").items()
        }
        return Trace(values=values, **told)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(
            f"{where}: holds no trace ({str(text)[:40]!r}); make the manifest again with `hicmae"
            " shards manifest traces`"
        ) from error


def moved(labels: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Labels of a sample that begins so much later than its part of the recording was to: its
    picture does, or the face that is looked at is not seen before.
    """
    found = dict(labels)
    for name, text in labels.items():
        if abs(seconds) > 1e-6 and isinstance(text, str) and text.startswith(_OPENING):
            trace = parse_trace(text, name)
            found[name] = replace(trace, at=trace.at - seconds).text()
    return found


def read_notes(path: Path, *, annotator: str = MEAN) -> Notes:
    """Read a file of a trace.

    Args: annotator: Who has noted it, where the file does not say.
    Raises: ValueError: a column that is missing, a cell that is no number, times that do not
        ascend; one line with the place and the remedy.
    """
    columns = next((cells for _, cells in read_cells(path).lines), [])
    begin, end = ("time", "time") if "time" in columns else ("start", "end")
    absent = [name for name in (begin, end) if name not in columns]
    named = [name for name in columns if name and name not in _TIMES]
    if absent or not named:
        lacking = "column time, or start and end" if absent else "column of values, such as valence"
        raise ValueError(f"{path}: no {lacking} (found {', '.join(columns) or 'nothing'})")
    rows = read_table(path, needed=begin, text=("annotator",))
    by: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for number, row in rows:
        by.setdefault(str(row.get("annotator", annotator)), []).append((number, row))
    found: Notes = {}
    for who, own in by.items():
        for name in named:
            value, _, said = name.partition(".")
            if said and len(by) > 1:
                raise ValueError(
                    f"{path}: annotators stand in column annotator and in {name}; keep one of them"
                )
            noted = _noted(path, own, begin, end, name)
            if noted is not None:
                found.setdefault(value, {})[said or who] = noted
    if not found:
        raise ValueError(f"{path}: holds no value; leave the recording out, or name another file")
    return found


def joined(parts: Sequence[Notes], where: str) -> Notes:
    """What several files say of one recording.

    Raises: ValueError: an annotator stands in two; annotators who have no time in common.
    """
    found: Notes = {}
    for part in parts:
        for value, each in part.items():
            twice = sorted(found.setdefault(value, {}).keys() & each.keys())
            if twice:
                raise ValueError(
                    f"{where}: '{twice[0]}' has noted {value} in two files; name the annotators by"
                    " columns trace.NAME of the table, or VALUE.NAME of the file"
                )
            found[value] |= each
    for value, each in found.items():
        since = max(each, key=lambda who: each[who].start[0])
        until = min(each, key=lambda who: each[who].end[-1])
        begin, end = each[since].start[0], each[until].end[-1]
        if begin > end:
            raise ValueError(
                f"{where}: of {value}, annotators '{until}' (until {end:g} s) and '{since}' (from"
                f" {begin:g} s) overlap nowhere, so they cannot be combined or compared; mend their"
                " times, or list them as recordings of their own"
            )
    return found


def check_times(notes: Notes, seconds: float, where: str) -> None:
    """Refuse a trace that leaves its recording.

    Args: seconds: Length of the recording; annotators stop up to half a second after it does.
    Raises: ValueError: it does; one line with both times.
    """
    for value, each in notes.items():
        for who, noted in each.items():
            first, last = float(noted.start[0]), float(noted.end[-1])
            if first < 0 or last > seconds + 0.5:
                raise ValueError(
                    f"{where}: {value} of '{who}' is noted from {first:g} to {last:g} s, and the"
                    f" recording lasts {seconds:.2f} s; times are seconds after its beginning (not"
                    " milliseconds or frames): mend them, or name the right recording"
                )


def parts_of(
    notes: Notes, recording: str, seconds: float, config: TraceConfig
) -> list[tuple[float, float, Trace]]:
    """Cut a recording into parts, each with its piece of the trace.

    Returns: begin and end of the part in the recording with the context of its labels, seconds,
        and its trace; none of parts without any value.
    """
    hop = config.hop_seconds
    first = min(noted.start[0] for each in notes.values() for noted in each.values())
    first = max(0.0, math.ceil((first - config.max_lag_seconds) / hop - 1e-6) * hop)
    count = math.floor((seconds - first) / hop + 1e-6) + 1
    times = first + hop * np.arange(count)
    times = times[times < seconds - 1e-6]
    every: Values = {
        value: {who: noted.at(times, config) for who, noted in each.items()}
        for value, each in notes.items()
    }
    count = math.ceil(len(times) * hop / config.part_seconds - 1e-6)
    more = math.ceil(config.max_lag_seconds / hop) + 1
    before = config.place * config.context_seconds
    after = config.context_seconds - before
    found = []
    for places in np.array_split(np.arange(len(times)), max(1, min(count, len(times)))):
        if not len(places):
            continue
        own = times[places]
        stop = int(places[-1]) + 1 + more
        piece: Values = {
            value: {who: x[int(places[0]) : stop] for who, x in each.items()}
            for value, each in every.items()
        }
        if not any(np.isfinite(x).any() for each in piece.values() for x in each.values()):
            continue
        begin = max(0.0, float(own[0]) - before)
        end = min(seconds, float(own[-1]) + max(after, hop))
        trace = Trace(
            recording=recording,
            since=float(own[0]),
            at=float(own[0]) - begin,
            hop=hop,
            num_own=len(own),
            values=piece,
        )
        found.append((round(begin, _DIGITS), round(end, _DIGITS), trace))
    return found


def _noted(
    path: Path, rows: Sequence[tuple[int, Mapping[str, Any]]], begin: str, end: str, name: str
) -> Noted | None:
    """One column of one annotator; rows without a value are left out."""
    table: list[list[float]] = []
    for number, row in rows:
        cells = [_number(path, number, what, row.get(what)) for what in (begin, end, name)]
        if math.isnan(cells[2]):
            continue
        for what, cell in zip((begin, end), cells, strict=False):
            if math.isnan(cell):
                raise ValueError(f"{path} line {number}: no {what} (must be a number of seconds)")
        first, last, _ = cells
        if table and first <= table[-1][0]:
            raise ValueError(
                f"{path} line {number}: {begin} {first:g} s does not come after {table[-1][0]:g} s"
                f" of the line before ({name}); sort the rows, and keep one of each time"
            )
        if last < first or (begin != end and table and first < table[-1][1] - 1e-6):
            raise ValueError(
                f"{path} line {number}: window {first:g} to {last:g} s ends before it begins, or"
                " begins before the last one ends"
            )
        table.append(cells)
    if not table:
        return None
    start, stop, value = np.array(table, dtype=np.float64).T
    return Noted(start=start, end=stop, value=value)


def _number(path: Path, number: int, what: str, cell: Any) -> float:
    """A cell of a line, of which its column may be text; not-a-number where it is empty."""
    try:
        found = float(math.nan if cell is None else cell)
    except (TypeError, ValueError):
        found = math.inf
    if isinstance(cell, bool) or math.isinf(found):
        raise ValueError(
            f"{path} line {number}: {what} is {cell!r} (must be a number, or empty)"
            f"{with_a_point(cell)}"
        )
    return found


def _rounded(value: float) -> float | None:
    """For JSON, which has no not-a-number."""
    return round(value, _DIGITS) if math.isfinite(value) else None
