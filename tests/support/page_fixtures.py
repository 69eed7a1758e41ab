"""An analyst that waits, for the tests of the page."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from hicmae.page.jobs import Report

CLASSES = ["anger", "joy", "<b>calm</b>"]  # a name that a careless page would take for its own


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
