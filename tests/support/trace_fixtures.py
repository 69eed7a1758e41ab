"""Small shards of recordings whose brightness rises and falls, with annotators who follow it.

Anna is late and notes what is shown; Ben is later, and notes it on another scale.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from finetune.benchmark import Benchmark
from finetune.instants import OverTime
from shards.schema import Label
from shards.traces import Noted, Notes, TraceConfig, parts_of
from tests.support.shard_fixtures import describe, jpeg, write_shards

FPS = 25
ANNA, BEN = 0.48, 1.24
CONFIG = TraceConfig(part_seconds=8.0, context_seconds=0.4, hop_seconds=0.2, max_lag_seconds=2.0)


def brightness(number: int, times: np.ndarray) -> np.ndarray:
    """How bright a recording is at some times, -1..1: slow waves of its own."""
    draws = np.random.default_rng(number)
    waves = [
        np.sin(2 * np.pi * (rate * times + phase))
        for rate, phase in zip(draws.uniform(0.1, 0.5, 3), draws.uniform(0, 1, 3), strict=True)
    ]
    return np.tanh(1.2 * np.sum(waves, axis=0) / 2)


def noted(number: int, seconds: float, *, lag: float, scale: float, offset: float) -> Noted:
    """What somebody notes of it, ten times a second."""
    times = np.arange(lag, seconds, 0.1)
    return Noted(start=times, end=times, value=scale * brightness(number, times - lag) + offset)


def write_trace_shards(folder: Path) -> Path:
    """Shards of recordings of as many speakers in two folds, in parts, with both traces."""
    samples, seconds = [], 12.0
    for number in range(8):
        notes: Notes = {
            "valence": {
                "anna": noted(number, seconds, lag=ANNA, scale=1.0, offset=0.0),
                "ben": noted(number, seconds, lag=BEN, scale=0.25, offset=0.6),
            }
        }
        for part, (begin, end, trace) in enumerate(parts_of(notes, f"r{number}", seconds, CONFIG)):
            times = np.arange(round(begin * FPS), round(end * FPS)) / FPS
            jpegs = [jpeg((int(130 + 100 * value),) * 3) for value in brightness(number, times)]
            labels: dict[str, Label] = {
                "recording": trace.recording,
                "trace": trace.text(),
                "fold": 1 + number % 2,
            }
            samples.append(describe(f"r{number}/{part:03d}", jpegs, None, labels=labels))
    return write_shards(folder, samples, samples_per_shard=8)


def over_time_benchmark(**settings: object) -> Benchmark:
    """Valence over time."""
    return Benchmark(
        name="over_time",
        task="regression",
        targets=("valence",),
        metrics=("ccc", "pcc"),
        over_time=OverTime(**{"max_lag_seconds": 2.0, **settings}),  # type: ignore[arg-type]
    )
