"""Which analyst a checkpoint gets: by what its network is for.

For: ``hicmae serve``. Not for: looking at recordings (``analysis.py``, ``restoring.py``).
"""

from __future__ import annotations

from pathlib import Path

from hicmae.checkpoint import load_checkpoint
from hicmae.checkpoints.networks import build_network
from hicmae.checkpoints.sources import locate
from hicmae.page.analysis import EmotionAnalyst
from hicmae.page.restoring import ReconstructionAnalyst
from hicmae.page.settings import Limits
from hicmae.prediction.ensemble import preparation_of
from hicmae.prediction.model import load
from hicmae.prediction.network import pick_device
from hicmae.prediction.settings import WindowConfig
from hicmae.pretraining import HiCMAE


def open_analyst(
    source: str, windows: WindowConfig, limits: Limits, *, device: str, precision: str
) -> EmotionAnalyst | ReconstructionAnalyst:
    """Load a checkpoint for the page.

    Args:
        source: As for ``hicmae.load``, or a pretrained one.
        windows: Stretches of time that one prediction is about.
        limits: Of the page.
        device: ``auto``, ``cpu``, ``cuda``, ….
        precision: Of a fine-tuned network; a pretrained one runs in float32.

    Raises: ValueError: nothing there, damaged, or no such device.
    """
    folder = locate(source)
    # A run of several folds is fine-tuned; it has no checkpoint of its own.
    found = None if any(folder.glob("fold-*")) else load_checkpoint(folder)
    if found is None or found.kind == "emotion":
        predictor = load(source, device=device, precision=precision)
        return EmotionAnalyst(predictor, windows, most_seconds=limits.seconds)
    network = build_network(found)
    assert isinstance(network, HiCMAE)
    preparation, note = preparation_of(found)
    return ReconstructionAnalyst(
        network,
        name=Path(source).name or source,
        preparation=preparation,
        config=windows,
        most_seconds=limits.seconds,
        device=pick_device(device),
        notes=(note,) if note else (),
    )
