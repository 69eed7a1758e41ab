"""Synthetic recordings whose expression rises and falls, and two annotators who follow it.

Anna is 0.48 s late and notes what is shown; Ben is 1.2 s late, and notes half of it, and higher.
So a network trained on both is right for neither, and the lag of each can be found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.random import Generator

from shards.synthesis.settings import Causes

STEP_SECONDS = 0.1  # from one note to the next


@dataclass(frozen=True, kw_only=True)
class Annotator:
    """Somebody who notes ``scale`` · truth + ``offset``, ``lag_seconds`` after it is shown."""

    lag_seconds: float
    scale: float
    offset: float


ANNOTATORS = {
    "anna": Annotator(lag_seconds=0.48, scale=1.0, offset=0.0),
    "ben": Annotator(lag_seconds=1.2, scale=0.5, offset=0.3),
}


def strength_course(rng: Generator, most: float) -> Callable[[np.ndarray], np.ndarray]:
    """How strong an expression is over time: three slow waves, from 0 to ``most``.

    Returns: a function of times (T,), seconds, to strengths (T,).
    """
    rates, phases = rng.uniform(0.08, 0.5, 3), rng.uniform(0, 1, 3)

    def course(times: np.ndarray) -> np.ndarray:
        waves = np.sin(2 * np.pi * (np.outer(times, rates) + phases)).sum(axis=1)
        return most * (0.5 + 0.5 * np.tanh(1.2 * waves))

    return course


def noted_by_all(
    causes: Causes, course: Callable[[np.ndarray], np.ndarray], seconds: float
) -> pd.DataFrame:
    """What both note of a recording: time, and valence and arousal of each; none before the lag.

    Args:
        causes: Of the recording; its strength of expression is that of the course.
        course: Times (T,) to strengths (T,).
        seconds: Length of the recording.
    """
    times = np.arange(0, seconds, STEP_SECONDS)
    table = pd.DataFrame({"time": times.round(6)})
    for name, who in ANNOTATORS.items():
        strengths = course(times - who.lag_seconds).tolist()
        felt = [dataclasses.replace(causes, expression_strength=value) for value in strengths]
        for value in ("valence", "arousal"):
            noted = who.scale * np.array([getattr(each, value) for each in felt]) + who.offset
            noted[times < who.lag_seconds] = np.nan
            table[f"{value}.{name}"] = noted.round(6)
    return table
