"""Instants of samples as rows of an index: what a benchmark over time is made of.

A sample with a trace (``shards/traces.py``) becomes a row for each labelled instant, with the
frames that may be shown for it; its key is ``RECORDING@SECONDS``. Nothing is read of the shards
but their index. Which value an instant has is decided fold by fold in ``finetune/over_time.py``;
here it gets the nearest one, so that folds can be made and checked.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from hicmae.config import did_you_mean
from hicmae.settings import outside, raise_all
from shards.index import Index, read_index
from shards.reading.random_access import FIRST, SAMPLE, WINDOW
from shards.traces import Trace, parse_trace

NUMBER = "instant_number"
COLUMNS = (SAMPLE, FIRST, WINDOW, NUMBER)

Combination = Literal["mean", "evaluator-weighted"]


@dataclass(frozen=True, kw_only=True)
class OverTime:
    """How real values over time are learned and scored; all times in seconds.

    Args:
        trace: Column of the index that holds the trace; its values have the names of targets.
        context_seconds: What is shown for a label; training draws a clip out of it, tests average
            ``recipe.num_segments`` of them. null: as long as a clip.
        place: Where in its context the label lies: 0 at the beginning, 1 at the end. A context
            that would leave its sample is moved into it.
        train_every: Every so manieth instant is trained on; all are tested.
        lag_seconds: How long after an instant annotators note it. null: the lag of each is chosen
            on the training side, from 0 to ``max_lag_seconds``.
        max_lag_seconds: The longest that is tried.
        lag_step_seconds: From one lag to the next.
        combine: How several annotators become one label: their mean, or the evaluator-weighted
            estimator, whose weights are of the training side.
        smoothing_seconds: Windows of a moving average over the predictions of a recording; 0:
            none. Of several the best on speakers kept out of training is taken.
    """

    trace: str = "trace"
    context_seconds: float | None = None
    place: float = 0.5
    train_every: int = 1
    lag_seconds: float | None = 0.0
    max_lag_seconds: float = 4.0
    lag_step_seconds: float = 0.04
    combine: Combination = "mean"
    smoothing_seconds: tuple[float, ...] = field(default=(0.0,))

    def __post_init__(self) -> None:
        bounds = {"in 0..1": "place", "1 or more": "train_every"}
        bounds |= {"positive and finite": "context_seconds"}
        problems = outside(self, bounds | {"0 or more, and finite": "max_lag_seconds"})
        if not 0 <= (self.lag_seconds or 0) <= self.max_lag_seconds:
            problems.append(
                f"lag_seconds = {self.lag_seconds} (must be in 0..max_lag_seconds ="
                f" {self.max_lag_seconds:g})"
            )
        if not self.lag_step_seconds >= 0.01:
            problems.append(f"lag_step_seconds = {self.lag_step_seconds:g} (must be 0.01 or more)")
        windows = self.smoothing_seconds
        if not windows or not all(0 <= window < math.inf for window in windows):
            problems.append("smoothing_seconds (must be some windows, 0 or more, and finite)")
        raise_all("over_time", problems)

    @property
    def lags(self) -> np.ndarray:
        """Lags to be tried, seconds (L,)."""
        if self.lag_seconds is not None:
            return np.array([self.lag_seconds])
        return np.arange(0, self.max_lag_seconds + 1e-9, self.lag_step_seconds)

    def span_seconds(self, clip_seconds: float) -> float:
        """Length of a context, which is a clip of the network at least."""
        return max(self.context_seconds or 0.0, clip_seconds)

    def shift_seconds(self, clip_seconds: float) -> float:
        """How long after the middle of its context a label lies; before it: negative."""
        return round((self.place - 0.5) * self.span_seconds(clip_seconds), 6)


def instant_index(
    index: Index,
    targets: Sequence[str],
    settings: OverTime,
    clip_seconds: float,
    *,
    annotator: str | None = None,
) -> Index:
    """The index with a row for each instant that may have a label.

    Args:
        targets: Values of the traces.
        clip_seconds: Of the network's clips; the least context.
        annotator: Whose labels are wanted; none: anybody's.

    Raises: ValueError: no trace, no such value or annotator, samples that were cut out of the
        parts of the manifest.
    """
    table = index.table.reset_index(drop=True)
    traces = traces_of(index, settings)
    known = list(dict.fromkeys(name for trace in traces.values() for name in trace.values))
    for target in targets:
        if target not in known:
            raise ValueError(
                f"{index.folder}: no trace has a value '{target}'{did_you_mean(target, known)}"
                f" (values: {', '.join(known)})"
            )
    people = list(dict.fromkeys(who for trace in traces.values() for who in trace.annotators))
    if annotator is not None and annotator not in people:
        raise ValueError(
            f"recipe.annotator = {annotator}: nobody of that name has noted anything"
            f"{did_you_mean(annotator, people)} (annotators: {', '.join(people)})"
        )
    places, keys, numbers, spans, values = [], [], [], [], []
    for place, (key, fps, num_frames) in enumerate(
        zip(table["key"], table["fps"], table["num_frames"], strict=True)
    ):
        trace = traces.get(str(key))
        if trace is None:
            continue
        found = np.stack([_nearest(trace, target, annotator, settings) for target in targets], 1)
        times = trace.at + trace.hop * np.arange(trace.num_own)
        seen = (times > -1e-6) & (times < num_frames / fps)
        own = np.flatnonzero(np.isfinite(found).all(axis=1) & seen)
        span = settings.span_seconds(clip_seconds)
        length = min(round(span * fps), int(num_frames))
        begin = np.round((times[own] - settings.place * span) * fps)
        places += [place] * len(own)
        keys += [f"{trace.recording}@{trace.since + trace.hop * k:.3f}" for k in own.tolist()]
        numbers.append(own)
        spans.append(np.clip(begin, 0, num_frames - length).astype(np.int64))
        spans.append(np.full(len(own), length))
        values.append(found[own])
    if not keys:
        raise ValueError(f"{index.folder}: no instant has a value of {', '.join(targets)}")
    instants = table.drop(columns=settings.trace).iloc[places].reset_index(drop=True)
    instants[SAMPLE] = instants["key"]
    instants["key"] = keys
    instants[FIRST] = np.concatenate(spans[::2])
    instants[WINDOW] = np.concatenate(spans[1::2])
    instants[NUMBER] = np.concatenate(numbers)
    instants[list(targets)] = np.concatenate(values)
    return dataclasses.replace(index, table=instants)


def traces_of(index: Index, settings: OverTime) -> dict[str, Trace]:
    """The traces of an index by the names of samples, as its file has them.

    Raises: ValueError: it has none, or samples that share one.
    """
    table = index.table
    if SAMPLE in table.columns:  # of instants, without their traces
        table = read_index(index.folder).table
    if settings.trace not in table.columns:
        raise ValueError(
            f"{index.folder}: the index has no column '{settings.trace}'; build the shards of a"
            " manifest with traces (`hicmae shards manifest traces`)"
        )
    found: dict[str, Trace] = {}
    whose: dict[tuple[str, float], str] = {}
    for key, text in zip(table["key"], table[settings.trace], strict=True):
        if not isinstance(text, str) or not text:
            continue
        trace = found[str(key)] = parse_trace(text, f"sample '{key}': {settings.trace}")
        other = whose.setdefault((trace.recording, trace.since), str(key))
        if other != str(key):
            raise ValueError(
                f"samples '{other}' and '{key}' have the same trace; build with one face a"
                " recording and without segments (the manifest has cut it already)"
            )
    return found


def check_reach(folder: Path, traces: Mapping[str, Trace], lag_seconds: float) -> None:
    """Refuse traces whose parts end before annotators who are so late have noted their instants.

    Raises: ValueError: one does, although its recording has later parts.
    """
    ends = {key: _time_of(trace, len(_any_values(trace)) - 1) for key, trace in traces.items()}
    last: dict[str, float] = {}
    for key, trace in traces.items():
        last[trace.recording] = max(ends[key], last.get(trace.recording, 0.0))
    for key, trace in traces.items():
        own = _time_of(trace, trace.num_own - 1)
        if ends[key] < min(last[trace.recording], own + lag_seconds) - 1e-4:
            raise ValueError(
                f"{folder}: sample '{key}' has its trace for {ends[key] - own:.3g} s beyond its"
                f" part, and lags up to {lag_seconds:g} s are asked for (over_time.lag_seconds,"
                " max_lag_seconds); ask for less, or build shards of a manifest made with"
                f" --trace.max_lag_seconds {lag_seconds:g}"
            )


def recording_of(key: str) -> tuple[str, float]:
    """Recording and time, seconds, of the key of an instant."""
    recording, _, seconds = key.rpartition("@")
    return recording, float(seconds)


def _time_of(trace: Trace, number: int) -> float:
    """Seconds in the recording of a value of the trace, counted from 0."""
    return trace.since + trace.hop * number


def _any_values(trace: Trace) -> np.ndarray:
    """Values of one annotator; those of all are of the same instants."""
    return next((x for each in trace.values.values() for x in each.values()), np.zeros(0))


def _nearest(trace: Trace, target: str, annotator: str | None, settings: OverTime) -> np.ndarray:
    """The first value that anybody notes from each instant on, (num_own,)."""
    noted = trace.values.get(target, {})
    people = noted if annotator is None else [who for who in noted if who == annotator]
    lags = np.arange(0, settings.lags[-1] + trace.hop, trace.hop)
    found = np.full(trace.num_own, np.nan)
    for lag in lags:
        for who in people:
            found = np.where(np.isfinite(found), found, trace.late(target, who, float(lag)))
    return found
