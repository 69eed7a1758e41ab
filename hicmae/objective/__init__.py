"""The terms of the pretraining objective, a loss a file; ``losses.py`` is their table."""

from hicmae.objective.contrast import Contrast, contrast
from hicmae.objective.losses import LOSSES, LossInput, LossOutput, WeightedLoss, choose_losses
from hicmae.objective.reconstruction import (
    Standardised,
    audio_target,
    reconstruction,
    standardise,
    video_target,
)

__all__ = [
    "LOSSES",
    "Contrast",
    "LossInput",
    "LossOutput",
    "Standardised",
    "WeightedLoss",
    "audio_target",
    "choose_losses",
    "contrast",
    "reconstruction",
    "standardise",
    "video_target",
]
