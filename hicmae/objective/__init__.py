"""The terms of the pretraining objective, a loss a file; ``losses.py`` is their table."""

from hicmae.objective.contrast import contrast
from hicmae.objective.losses import LOSSES, LossInput, LossOutput, choose_losses
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
    "audio_target",
    "choose_losses",
    "contrast",
    "reconstruction",
    "standardise",
    "video_target",
]
