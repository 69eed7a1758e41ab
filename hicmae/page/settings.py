"""What the page is told by options.

Nothing else stands here: of the file of an option's class jsonargparse imports what is for types
alone too, and help must be quick.
"""

from __future__ import annotations

from dataclasses import dataclass

from hicmae.settings import outside, raise_all


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much the page takes, and for how long it keeps it.

    Args:
        megabytes: Largest upload, 1e6 bytes.
        seconds: Longest recording; what is longer by less than a second is taken.
        waiting: Uploads that may wait while one is worked on; others are refused until there is
            room.
        keep_minutes: How long a result is kept for its page; the recording itself is deleted as
            soon as it was looked at.
        patience_seconds: A page that has not asked for so long is gone, and its upload is dropped;
            browsers let one that is out of sight ask once a minute.
    """

    megabytes: float = 200.0
    seconds: float = 600.0
    waiting: int = 4
    keep_minutes: float = 10.0
    patience_seconds: float = 150.0

    def __post_init__(self) -> None:
        names = "megabytes seconds keep_minutes patience_seconds"
        raise_all("limits", outside(self, {"positive": names, "0 or more": "waiting"}))

    @property
    def num_bytes(self) -> int:
        """Largest upload, bytes."""
        return round(self.megabytes * 1e6)
