"""Audio-visual emotion recognition: HiCMAE's network, objective and everything around them.

Public names are loaded on first use: ``import hicmae`` and ``hicmae --help`` stay quick.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> module that defines it.
_PUBLIC = {
    "AudioVisualEncoder": "hicmae.encoder",
    "EmotionConfig": "hicmae.emotion",
    "EmotionModel": "hicmae.emotion",
    "EmotionPredictor": "hicmae.prediction.model",
    "HiCMAE": "hicmae.pretraining",
    "InputConfig": "hicmae.settings",
    "LiveFrame": "hicmae.prediction.live",
    "LiveSound": "hicmae.prediction.live",
    "ModelConfig": "hicmae.settings",
    "Moment": "hicmae.prediction.live",
    "ObjectiveConfig": "hicmae.settings",
    "Prediction": "hicmae.prediction.results",
    "PredictionError": "hicmae.prediction.process",
    "Span": "hicmae.prediction.timelines",
    "Track": "hicmae.prediction.results",
    "WindowConfig": "hicmae.prediction.messages",
    "load": "hicmae.prediction.model",
    "load_checkpoint": "hicmae.checkpoints.checkpoint",
    "load_model_config": "hicmae.config",
    "read_spans": "hicmae.prediction.timelines",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'hicmae' has no attribute '{name}'")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the lazy names too."""
    return sorted({*globals(), *_PUBLIC})
