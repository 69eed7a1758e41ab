"""An analyst that waits, for the tests of the page."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from hicmae.page.jobs import Report
from hicmae.prediction.live import Moment
from hicmae.settings import InputConfig

CLASSES = ["anger", "joy", "<b>calm</b>"]  # a name that a careless page would take for its own


class SlowAnalyst:
    """Looks at a recording until it is told to go on; a text is refused with itself.

    Attributes:
        go: Set when recordings may end.
        seen: Contents of the recordings so far.
        looked: Number and size of the pictures, samples and end of each live window so far.
    """

    input = InputConfig(image_size=32, frame_stride=1, fbank_frames=64, mel_bins=32)

    def __init__(self) -> None:
        self.go = threading.Event()
        self.seen: list[bytes] = []
        self.looked: list[tuple[Any, ...]] = []

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

    def live(self) -> Any:
        """Itself."""
        return self

    def look(self, frames: list[Any], sound: Any, end: float) -> Moment:
        """Note what a live network would be shown."""
        heard = 0 if sound is None else len(sound.samples)
        self.looked.append((len(frames), frames[-1].pixels.shape, heard, end))
        box = np.array([8.0, 4.0, 24.0, 20.0])
        values = np.array([2.5e-7])
        return Moment(
            start_seconds=end - 0.64, end_seconds=end, values=values, modality="video", box=box
        )

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
