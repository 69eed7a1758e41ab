"""What is said in a clip: the syllables, which the mouth shows and the voice sounds.

A script is drawn without knowing the expression or the voice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

# Mouth of each vowel: (opening, rounding), both 0..1.
_MOUTHS = {
    "a": (1.0, 0.0),
    "e": (0.65, -0.35),
    "i": (0.38, -0.6),
    "o": (0.7, 0.75),
    "u": (0.4, 1.0),
}
_VOWELS = tuple(_MOUTHS)
_CONSONANTS = ("none", "nasal", "plosive", "fricative")


@dataclass(frozen=True, kw_only=True)
class Syllable:
    """A vowel, its start and length in seconds, and the consonant just before it.

    ``level`` is the loudness, 0..1; ``stress`` is 1 if stressed, else 0.
    """

    start_seconds: float
    seconds: float
    vowel: str
    consonant: str
    level: float
    stress: float


@dataclass(frozen=True, kw_only=True)
class Script:
    """One utterance of ``seconds``; syllables ascend in time and stay inside."""

    seconds: float
    syllables: tuple[Syllable, ...]

    def loudness(self, times: np.ndarray) -> np.ndarray:
        """Envelope (n,) of the voice at times (n,) in seconds, 0..1."""
        return self._course(times, [s.level for s in self.syllables], spread=1.0)

    def opening(self, times: np.ndarray) -> np.ndarray:
        """Opening (n,) of the mouth at times (n,), 0..1: the envelope through the vowels."""
        heights = [s.level * _MOUTHS[s.vowel][0] for s in self.syllables]
        return self._course(times, heights, spread=1.15)

    def rounding(self, times: np.ndarray) -> np.ndarray:
        """Lips (n,) at times (n,): -1 spread, 1 round."""
        return self._course(times, [_MOUTHS[s.vowel][1] for s in self.syllables], spread=1.3)

    def stress(self, times: np.ndarray) -> np.ndarray:
        """Emphasis (n,) at times (n,), 0..1."""
        return self._course(times, [s.stress for s in self.syllables], spread=1.6)

    def _course(self, times: np.ndarray, heights: list[float], spread: float) -> np.ndarray:
        """Sum of one flat-topped bump per syllable, in time with the syllables."""
        centres = np.array([s.start_seconds + s.seconds / 2 for s in self.syllables])
        widths = np.array([s.seconds * spread for s in self.syllables])
        place = np.abs(times[:, None] - centres) / widths  # (n, syllables), 0.5 at the edges
        bumps = np.clip(1.5 - 2 * place, 0.0, 1.0)
        smooth = bumps * bumps * (3 - 2 * bumps)
        if smooth.size == 0:
            return np.zeros(len(times))
        course = smooth @ np.array(heights)
        # Neighbours overlap: what they add up to never exceeds the larger of them.
        return course / np.maximum(smooth.sum(axis=1), 1.0)


def draw_script(rng: Generator, seconds: float) -> Script:
    """Phrases of 3 to 6 syllables with pauses between, from 0.1 s on."""
    syllables: list[Syllable] = []
    rate = rng.uniform(0.85, 1.2)
    now = rng.uniform(0.12, 0.3)
    while True:
        for position in range(int(rng.integers(3, 7))):
            stress = float(rng.random() < 0.35)
            length = rate * rng.uniform(0.11, 0.19) * (1 + 0.35 * stress)
            consonant = str(rng.choice(_CONSONANTS))
            if now + length > seconds - 0.1:
                return Script(seconds=seconds, syllables=tuple(syllables))
            syllables.append(
                Syllable(
                    start_seconds=float(now),
                    seconds=float(length),
                    vowel=str(rng.choice(_VOWELS)),
                    consonant=consonant,
                    level=float(rng.uniform(0.55, 0.8) + 0.2 * stress - 0.02 * position),
                    stress=stress,
                )
            )
            now += length + rate * rng.uniform(0.05, 0.10)
        now += rng.uniform(0.15, 0.4)
