"""What a synthetic corpus contains, and what its clips mean: six classes out of two causes.

A class is an expression, seen only, and a voice, heard only:

| expression | voice ``bright`` | voice ``soft`` |
|---|---|---|
| ``smile`` | joy | contentment |
| ``frown`` | anger | sadness |
| ``surprise`` | excitement | awe |

``bright`` is pressed, rises within each syllable and has vibrato; ``soft`` is breathy and falls.
So the best any classifier can do is 1/2 from the pictures, 1/3 from the sound, 1 from both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from hicmae.settings import outside, raise_all

# Of AAC, in which the clips' sound is kept, as far as speech needs.
_SOUND_RATES = (16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_LEVELS = 255  # of a pixel


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """One corpus: every speaker says something in every class, ``takes`` times.

    Args:
        speakers: People.
        first_speaker: Number of the first of them; another range of numbers is other people.
        takes: Clips of each speaker and class.
        folds: Speaker-disjoint folds, dealt round-robin over the speakers.
        labelled: Whether the manifest says what the clips show. Without labels neither the
            manifest nor a file's name tells, and there is no fold column.
        seed: Same seed, same people and clips, whatever the number of workers.
        min_seconds: Shortest clip.
        max_seconds: Longest clip.
        frame_size: Side of the square picture, pixels (even).
        fps: Frames per second.
        sample_rate: Sound, Hz.
        expression_strength: Range from which a clip's strength of expression is drawn; 0 is a
            neutral face, 1 a full expression.
        voice_strength: Range from which a clip's strength of voice is drawn.
        snr_db: Range from which the distance of voice and background noise is drawn, decibels.
        camera_noise: Largest standard deviation of the camera's noise, levels of 255.
        scene_variety: How much light, wall, camera and resting head differ from clip to clip, 0..1;
            0 is a studio.
        label_noise: Share of the clips whose emotion, valence and arousal are those of other,
            randomly drawn causes. Files' names, expression and voice columns stay true.
        over_time: Whether each clip's strength of expression rises and falls, from 0 to the one
            that is drawn for it; two annotators then note valence and arousal over time, in
            annotations/ and recordings.csv (``shards/synthesis/corpus.py``).
        workers: Processes; 0 works in this one, none given means one a core.
    """

    speakers: int = 12
    first_speaker: int = 0
    takes: int = 2
    folds: int = 4
    labelled: bool = True
    seed: int = 0
    min_seconds: float = 3.0
    max_seconds: float = 5.0
    frame_size: int = 160
    fps: int = 25
    sample_rate: int = 16000
    expression_strength: tuple[float, float] = (0.35, 1.0)
    voice_strength: tuple[float, float] = (0.35, 1.0)
    snr_db: tuple[float, float] = (12.0, 30.0)
    camera_noise: float = 6.0
    scene_variety: float = 1.0
    label_noise: float = 0.0
    over_time: bool = field(default=False, metadata={"omit_default": True})
    workers: int | None = None

    def __post_init__(self) -> None:
        bounds = {
            "1 or more": "speakers takes folds fps",
            "0 or more": "first_speaker seed camera_noise workers",
            "1.0 or more": "min_seconds",
            "32 or more": "frame_size",
            "16000 or more": "sample_rate",
            "a finite number": "min_seconds max_seconds camera_noise",
            "within 0..1": "scene_variety label_noise",
        }
        problems = outside(self, bounds)
        if self.sample_rate >= min(_SOUND_RATES) and self.sample_rate not in _SOUND_RATES:
            problems.append(
                f"sample_rate = {self.sample_rate} (AAC has {', '.join(map(str, _SOUND_RATES))})"
            )
        if self.max_seconds < self.min_seconds:
            problems.append(
                f"max_seconds = {self.max_seconds} (below min_seconds = {self.min_seconds})"
            )
        if self.frame_size % 2:
            problems.append(f"frame_size = {self.frame_size} (must be even for H.264)")
        for name in ("expression_strength", "voice_strength"):
            low, high = getattr(self, name)
            if not 0 <= low <= high <= 1:
                problems.append(f"{name} = {(low, high)} (must ascend within 0..1)")
        low, high = self.snr_db
        if not -math.inf < low <= high < math.inf:
            problems.append(f"snr_db = {self.snr_db} (must ascend, and be finite)")
        if self.camera_noise > _LEVELS:
            problems.append(f"camera_noise = {self.camera_noise} (must be {_LEVELS} or less)")
        if self.labelled and self.folds > self.speakers:
            problems.append(f"folds = {self.folds} (more than the {self.speakers} speakers)")
        if self.over_time and (not self.labelled or self.label_noise):
            problems.append("over_time goes with labelled and without label_noise")
        raise_all("corpus", problems)


Expression = Literal["smile", "frown", "surprise"]
Voice = Literal["bright", "soft"]

EMOTIONS: dict[tuple[Expression, Voice], str] = {
    ("smile", "bright"): "joy",
    ("smile", "soft"): "contentment",
    ("frown", "bright"): "anger",
    ("frown", "soft"): "sadness",
    ("surprise", "bright"): "excitement",
    ("surprise", "soft"): "awe",
}

_PLEASANTNESS: dict[str, float] = {"smile": 1.0, "frown": -1.0, "surprise": 0.2}
_BRIGHTNESS: dict[str, float] = {"bright": 1.0, "soft": -1.0}


@dataclass(frozen=True, kw_only=True)
class Causes:
    """What a clip is made from, and all that its labels depend on; strengths go from 0 to 1."""

    expression: Expression
    voice: Voice
    expression_strength: float
    voice_strength: float

    @property
    def emotion(self) -> str:
        """The class of the table above."""
        return EMOTIONS[self.expression, self.voice]

    @property
    def valence(self) -> float:
        """0.65 · pleasantness · expression strength + 0.35 · brightness · voice strength, -1..1.

        Pleasantness is 1 for a smile, -1 for a frown, 0.2 for surprise; brightness is 1 for a
        bright voice and -1 for a soft one.
        """
        seen = _PLEASANTNESS[self.expression] * self.expression_strength
        heard = _BRIGHTNESS[self.voice] * self.voice_strength
        return 0.65 * seen + 0.35 * heard

    @property
    def arousal(self) -> float:
        """0.5 · brightness · voice strength + 0.5 · (2 · expression strength - 1), -1..1.

        Voices vary it more than strengths of expression do, whichever the expression.
        """
        heard = _BRIGHTNESS[self.voice] * self.voice_strength
        return 0.5 * heard + 0.5 * (2 * self.expression_strength - 1)
