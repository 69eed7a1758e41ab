"""What the tests of the page share: checkpoints of the tiny network, and an analyst that waits.

For: the tests of ``hicmae/page``. Not for: media; see ``media_files.py``.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch

from hicmae.emotion import EmotionConfig, EmotionModel
from hicmae.page.jobs import Report
from hicmae.pretraining import HiCMAE
from hicmae.settings import ModelConfig

CLASSES = ["anger", "joy", "<b>calm</b>"]  # a name that a careless page would take for its own


def write_checkpoint(folder: Path, sizes: ModelConfig, *, kind: str = "classes") -> Path:
    """A checkpoint of the tiny network: ``classes``, ``values`` or ``pretrained``."""
    torch.manual_seed(0)
    network: EmotionModel | HiCMAE
    if kind == "pretrained":
        network = HiCMAE(sizes)
    else:
        names = CLASSES if kind == "classes" else ["arousal", "valence"]
        network = EmotionModel(sizes, EmotionConfig(num_outputs=len(names)))
        torch.nn.init.normal_(network.head.weight)
        labels: dict[str, Any] = {"task": "classification", "names": names}
        if kind == "values":
            labels = {"task": "regression", "names": names, "mean": [0.0] * 2, "std": [1.0] * 2}
        network.carried = {"labels": labels}
    network.save_pretrained(folder)
    return folder


class SlowAnalyst:
    """Looks at a recording until it is told to go on; a text is refused with itself.

    Attributes:
        go: Set when recordings may end.
        seen: Contents of the recordings so far.
    """

    def __init__(self) -> None:
        self.go = threading.Event()
        self.seen: list[bytes] = []

    def describe(self) -> dict[str, Any]:
        """As the page wants it."""
        return {
            "name": "slow",
            "kind": "emotion",
            "task": "classification",
            "labels": ["a"],
            "modalities": "audio",
            "num_parameters": 1,
            "window_seconds": 1.0,
            "hop_seconds": 1.0,
        }

    def analyse(self, path: Path, report: Report) -> dict[str, Any]:
        """Wait, and tell how it goes."""
        content = path.read_bytes()
        while not self.go.wait(0.01):
            report("Waiting", 0.5)
        self.seen.append(content)
        if content.startswith(b"bug"):
            raise TypeError("a bug")
        if content.startswith(b"bad"):
            raise ValueError(f"{path}: {content.decode()}")
        return {
            "kind": "emotion",
            "task": "classification",
            "labels": ["a"],
            "seconds": float(len(content)),
            "width": 0,
            "height": 0,
            "has_sound": True,
            "notes": [],
            "tracks": [],
            "filter_bank": None,
            "timings": {},
        }
