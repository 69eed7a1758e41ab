"""Settings of the cache of shards from elsewhere.

For: options of a verb, whose help needs no pandas. Not for: the cache (``cache.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Where shards from elsewhere are kept; local ones are read where they are.

    Args:
        folder: Of the cache, shared by all runs of a machine; null: ``hicmae/shards`` in the
            user's cache folder.
        gigabytes: How much may stay there, 1e9 bytes; a shard in the making comes on top. What
            does not fit is fetched again every epoch.
        retry_seconds: Pause after a failed fetch, doubled after the next; three are tried.
    """

    folder: Path | None = None
    gigabytes: float = 100.0
    retry_seconds: float = 1.0

    def __post_init__(self) -> None:
        problems = []
        if not self.gigabytes > 0:
            problems.append(f"gigabytes = {self.gigabytes} (must be positive)")
        if not self.retry_seconds >= 0:
            problems.append(f"retry_seconds = {self.retry_seconds} (must be 0 or more)")
        if problems:
            raise ValueError(f"cache: {'; '.join(problems)}")
