"""What a clip means: six classes, valence and arousal, all from two causes.

For: the table of classes and the two formulas. Not for: how a cause looks or sounds.

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

from dataclasses import dataclass
from typing import Literal, get_args

Expression = Literal["smile", "frown", "surprise"]
Voice = Literal["bright", "soft"]

EXPRESSIONS: tuple[Expression, ...] = get_args(Expression)
VOICES: tuple[Voice, ...] = get_args(Voice)

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
    """What a clip is made from, and all that its labels depend on.

    Args:
        expression: How the face looks.
        voice: How the voice sounds.
        expression_strength: 0 (neutral) to 1.
        voice_strength: 0 (neutral) to 1.
    """

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
