"""The terms of the pretraining objective, a loss a file; ``losses.py`` is their table."""

from hicmae.objective import contrast, reconstruction

__all__ = ["contrast", "reconstruction"]
