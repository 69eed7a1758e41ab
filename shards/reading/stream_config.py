"""Settings of the stream, checked when they are made.

For: ``StreamConfig``. Not for: reading (``streaming.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from shards.reading.cache_config import CacheConfig


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How shards are streamed.

    Args:
        batch_size: Clips of a batch, per rank. The order of batches depends on this times the
            number of ranks.
        shuffle_buffer: Places by which a sample may move within an epoch, after its shards were
            shuffled; it costs no memory. 0 and 1 leave samples in the order of their shard.
        split: Split to read, or ``all``.
        sound: ``required``: a sample without sound is bad; ``optional``: its waveform is zeros
            and its ``num_samples`` 0.
        on_bad: What a bad sample or shard does: ``skip`` leaves it out and counts it by cause (its
            batch is then smaller), ``raise`` stops.
        clips_per_sample: Clips to cut out of each sample, at positions of their own, one after
            another in a batch; must divide ``batch_size``.
        weights: One number for each folder: their samples then alternate in this proportion, each
            folder with epochs of its own. null: the folders are one collection.
        cache: Where shards that are not on this machine are kept.
    """

    batch_size: int = 8
    shuffle_buffer: int = 1000
    split: str = "train"
    sound: Literal["required", "optional"] = "required"
    on_bad: Literal["skip", "raise"] = "skip"
    clips_per_sample: int = 1
    weights: tuple[float, ...] | None = None
    cache: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        problems = []
        for name in ("batch_size", "clips_per_sample"):
            if getattr(self, name) < 1:
                problems.append(f"{name} = {getattr(self, name)} (must be 1 or more)")
        if self.clips_per_sample > 1 and self.batch_size % self.clips_per_sample:
            problems.append(
                f"clips_per_sample = {self.clips_per_sample} (must divide batch_size = "
                f"{self.batch_size})"
            )
        if self.shuffle_buffer < 0:
            problems.append(f"shuffle_buffer = {self.shuffle_buffer} (must be 0 or more)")
        for name, allowed in (("sound", ("required", "optional")), ("on_bad", ("skip", "raise"))):
            if getattr(self, name) not in allowed:
                problems.append(f"{name} = {getattr(self, name)} (allowed: {', '.join(allowed)})")
        weights = (1.0,) if self.weights is None else self.weights
        if not weights or not all(weight > 0 and math.isfinite(weight) for weight in weights):
            problems.append(f"weights = {self.weights} (each must be positive)")
        if problems:
            raise ValueError(f"stream: {'; '.join(problems)}")
