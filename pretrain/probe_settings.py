"""Settings of the probes of a pretraining run.

For: ``probe`` in a recipe. Not for: what the probes do (``pretrain/probes.py``), nor the other
settings of a run (``pretrain/settings.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Probes of the frozen features on held-out clips; a run without ``shards`` has none.

    Args:
        shards: Folders of shards to probe on: one, or a list; null: no probes.
        split: Split of them, or ``all``; it may not be one that is trained on.
        every: Optimizer steps between probes; the last step always has one. 0: none.
        clips: Most clips, spread evenly over the samples with sound; each costs one forward pass
            of the encoder over all its tokens.
        batch_size: Clips that one process encodes at once.
        labels: Columns of the shards to predict; null: all that look like labels.
    """

    shards: Path | tuple[Path, ...] | None = None
    split: str = "all"
    every: int = 1000
    clips: int = 256
    batch_size: int = 8
    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {getattr(self, name)} (must be {least} or more)"
            for name, least in (("every", 0), ("clips", 2), ("batch_size", 1))
            if getattr(self, name) < least
        ]
        if self.shards is not None and not self.folders:
            problems.append("shards is empty (name one folder or more, or leave it out)")
        if problems:
            raise ValueError(f"probe: {'; '.join(problems)}")

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of shards."""
        if self.shards is None:
            return ()
        return (self.shards,) if isinstance(self.shards, Path) else tuple(self.shards)
