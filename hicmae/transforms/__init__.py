"""Device-side, batched transforms: frames and waveforms in, the network's input out.

For: everything between a reader's batch and the network, the same in training, evaluation and
prediction. Not for: decoding (``hicmae.media``), the choice of frames (``hicmae.views``), mixup.

Names are imported on first use: settings alone need no PyTorch, and a verb's help shows settings.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hicmae.transforms.augment import AugmentConfig
    from hicmae.transforms.clip import ClipTransform
    from hicmae.transforms.fbank import FilterBank
    from hicmae.transforms.video import normalise_video, restore_video

__all__ = ["AugmentConfig", "ClipTransform", "FilterBank", "normalise_video", "restore_video"]

# Public name -> module that defines it.
_HOMES = {
    "AugmentConfig": "hicmae.transforms.augment",
    "ClipTransform": "hicmae.transforms.clip",
    "FilterBank": "hicmae.transforms.fbank",
    "normalise_video": "hicmae.transforms.video",
    "restore_video": "hicmae.transforms.video",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hicmae.transforms' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
