"""The terms of the pretraining objective, a loss a file; ``losses.py`` is their table."""

from hicmae.objective.contrast import contrasts
from hicmae.objective.losses import (
    LOSSES,
    LossInput,
    LossOutput,
    Presence,
    choose_losses,
    find_presence,
    whole,
)
from hicmae.objective.reconstruction import (
    audio_target,
    reconstruction,
    standardise,
    video_target,
)

__all__ = [
    "LOSSES",
    "LossInput",
    "LossOutput",
    "Presence",
    "audio_target",
    "choose_losses",
    "contrasts",
    "find_presence",
    "reconstruction",
    "standardise",
    "video_target",
    "whole",
]
