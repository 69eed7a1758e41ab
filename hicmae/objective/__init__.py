"""The terms of the pretraining objective, a file each: targets, reconstruction, contrast."""

from hicmae.objective.contrast import Contrast, contrast
from hicmae.objective.reconstruction import reconstruction
from hicmae.objective.targets import Standardised, audio_target, standardise, video_target

__all__ = [
    "Contrast",
    "Standardised",
    "audio_target",
    "contrast",
    "reconstruction",
    "standardise",
    "video_target",
]
