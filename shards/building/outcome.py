"""What becomes of one recording: samples whose members wait in files, and refusals.

For: handing results from worker processes to the build. Not for: making them (``prepare.py``,
``segment.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from shards.schema import SampleInfo


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A recording, or a segment of one, that did not become a sample.

    Args:
        path: The file.
        cause: A word to count it under, such as ``no-face``.
        message: One line that names the file.
    """

    path: str
    cause: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A sample whose members lie in the staging folder."""

    info: SampleInfo
    mjpg: Path
    wav: Path | None

    def remove(self) -> None:
        """Delete the staged files."""
        self.mjpg.unlink()
        if self.wav is not None:
            self.wav.unlink()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one recording."""

    samples: list[Prepared] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
