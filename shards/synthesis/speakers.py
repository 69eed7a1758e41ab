"""The people of the corpus: how each looks and sounds, drawn once per speaker, and what they say.

Syllables are what the mouth shows and the voice sounds; a clip's script is drawn without knowing
the expression or the voice. Lengths are in units of half a head: x to the right, y down, the face's
centre at (0, 0), the chin near y = 0.95 and the crown near y = -1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng

Colour = tuple[float, float, float]

# Skin, RGB in [0, 1], from light to dark.
_SKINS = np.array(
    [
        (0.98, 0.84, 0.75),
        (0.95, 0.78, 0.66),
        (0.92, 0.73, 0.58),
        (0.87, 0.66, 0.50),
        (0.78, 0.57, 0.41),
        (0.67, 0.47, 0.33),
        (0.55, 0.37, 0.26),
        (0.43, 0.28, 0.20),
    ]
)
_HAIRS = np.array(
    [
        (0.10, 0.08, 0.08),
        (0.17, 0.11, 0.08),
        (0.30, 0.19, 0.11),
        (0.47, 0.30, 0.16),
        (0.78, 0.60, 0.34),
        (0.62, 0.26, 0.12),
        (0.62, 0.61, 0.60),
    ]
)
_IRISES = np.array(
    [
        (0.27, 0.15, 0.08),
        (0.40, 0.24, 0.10),
        (0.30, 0.38, 0.22),
        (0.26, 0.42, 0.60),
        (0.40, 0.46, 0.50),
    ]
)
_MALE_HAIR = ("bald", "crop", "crop", "parted", "parted", "curly", "long")
_FEMALE_HAIR = ("long", "long", "fringe", "bun", "bun", "curly", "parted")


@dataclass(frozen=True, kw_only=True)
class Looks:
    """A face at rest. Lengths in half heads, colours RGB in [0, 1]."""

    skin: Colour
    hair: Colour
    iris: Colour
    lip: Colour
    shirt: Colour
    hair_style: str
    hair_volume: float
    hairline: float
    beard: str
    glasses: str
    frame: Colour
    face_width: float
    jaw: float
    chin: float
    ear: float
    eye_x: float
    eye_y: float
    eye_width: float
    eye_height: float
    eye_tilt: float
    lashes: float
    brow_height: float
    brow_thickness: float
    brow_arch: float
    brow_tilt: float
    nose_width: float
    nose_length: float
    mouth_y: float
    mouth_width: float
    lip_upper: float
    lip_lower: float
    corner: float
    freckles: float
    texture_seed: int


@dataclass(frozen=True, kw_only=True)
class VoiceBox:
    """A voice at rest."""

    pitch_hz: float  # mean fundamental frequency
    formant_scale: float  # factor on a long vocal tract's formants (short tracts: above 1)
    tilt_db: float  # spectral slope an octave, added to the neutral one
    breath: float  # share of breath noise in the source, 0..1


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """One person; ``number`` and the corpus' seed determine everything else."""

    number: int
    looks: Looks
    voice_box: VoiceBox

    @property
    def name(self) -> str:
        """As written in manifests and file names."""
        return f"s{self.number:04d}"


def draw_speaker(seed: int, number: int) -> Speaker:
    """The person of this number; men, women and young people mixed."""
    rng = default_rng(SeedSequence([seed, number, 1]))
    kind = ("man", "woman", "man", "woman", "young")[int(rng.integers(5))]
    return Speaker(number=number, looks=_looks(rng, kind), voice_box=_voice_box(rng, kind))


def _voice_box(rng: Generator, kind: str) -> VoiceBox:
    low, high, scale = {
        "man": (88.0, 150.0, 1.0),
        "woman": (165.0, 240.0, 1.15),
        "young": (225.0, 290.0, 1.28),
    }[kind]
    return VoiceBox(
        pitch_hz=float(np.exp(rng.uniform(np.log(low), np.log(high)))),
        formant_scale=scale * float(rng.uniform(0.94, 1.06)),
        tilt_db=float(rng.uniform(-1.5, 1.5)),
        breath=float(rng.uniform(0.0, 0.08)),
    )


def _looks(rng: Generator, kind: str) -> Looks:
    man = kind == "man"

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    tone = between(0, len(_SKINS) - 1)
    skin = _at(_SKINS, tone) * rng.uniform(0.96, 1.03, 3)
    # Dark skin comes with dark hair and eyes, as it mostly does.
    num_hairs = 3 if tone > 4 else len(_HAIRS)
    hair = (
        _HAIRS[int(rng.integers(num_hairs))] * rng.uniform(0.85, 1.15) * rng.uniform(0.96, 1.04, 3)
    )
    iris = _IRISES[int(rng.integers(2 if tone > 3.5 else len(_IRISES)))] * rng.uniform(0.9, 1.1)
    redness = np.array([0.62, 0.20, 0.20]) if not man else np.array([0.55, 0.28, 0.25])
    lip = 0.55 * skin + 0.45 * redness * (0.55 + 0.5 * skin.mean())
    return Looks(
        skin=_colour(skin),
        hair=_colour(hair),
        iris=_colour(iris),
        lip=_colour(lip),
        shirt=_colour(rng.uniform(0.1, 0.9, 3)),
        hair_style=str(rng.choice(_MALE_HAIR if man else _FEMALE_HAIR)),
        hair_volume=between(0.04, 0.12),
        hairline=between(-0.72, -0.58),
        beard=str(rng.choice(("none", "none", "stubble", "full", "moustache"))) if man else "none",
        glasses=str(rng.choice(("none", "none", "none", "round", "square"))),
        frame=_colour(rng.uniform(0.05, 0.45) * rng.uniform(0.6, 1.0, 3)),
        face_width=between(0.70, 0.80) if man else between(0.66, 0.76),
        jaw=between(2.4, 3.6) if man else between(2.1, 2.9),
        chin=between(0.92, 1.0) if man else between(0.86, 0.95),
        ear=between(0.8, 1.2),
        eye_x=between(0.265, 0.315),
        eye_y=between(-0.15, -0.09),
        eye_width=between(0.135, 0.165),
        eye_height=between(0.055, 0.075) if man else between(0.065, 0.088),
        eye_tilt=between(-0.015, 0.03),
        lashes=between(0.5, 0.9) if man else between(0.9, 1.6),
        brow_height=between(0.17, 0.215),
        brow_thickness=between(0.026, 0.040) if man else between(0.016, 0.028),
        brow_arch=between(0.015, 0.05),
        brow_tilt=between(-0.015, 0.015),
        nose_width=between(0.85, 1.25),
        nose_length=between(0.22, 0.30),
        mouth_y=between(0.47, 0.53),
        mouth_width=between(0.21, 0.27),
        lip_upper=between(0.028, 0.045) if man else between(0.035, 0.06),
        lip_lower=between(0.04, 0.06) if man else between(0.05, 0.075),
        corner=between(-0.012, 0.012),
        freckles=max(0.0, between(-0.5, 1.0)),
        texture_seed=int(rng.integers(2**31)),
    )


def _at(table: np.ndarray, position: float) -> np.ndarray:
    """A row of a colour table, interpolated."""
    low = min(int(position), len(table) - 2)
    return table[low] + (position - low) * (table[low + 1] - table[low])


def _colour(values: np.ndarray) -> Colour:
    red, green, blue = np.clip(values, 0.0, 1.0).tolist()
    return red, green, blue


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
    """Phrases of 3 to 6 syllables with pauses between, up to 0.1 s before the end."""
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
