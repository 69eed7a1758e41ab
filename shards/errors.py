"""What is wrong with shards, as errors of one line; those of samples can be counted by cause."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


class ShardError(ValueError):
    """A shard, its index or one of its samples is not what the schema says; one line."""


class ClipError(ShardError):
    """A sample, or a whole shard, that cannot be read; one line, and a cause to count it by.

    A DataLoader re-raises the error of a worker process with that process's traceback as the
    message; the one line is taken out of it again.

    Args:
        message: What, where, found, allowed, remedy.
        cause: A slug: ``no-sound``, ``no-picture``, ``bad-digest``, ``bad-image``, ``bad-sound``,
            ``bad-json``, ``missing-member``, ``missing-shard``, ``truncated``, ``unreadable``,
            ``wrong-rate``.
    """

    def __init__(self, message: str, cause: str = "unreadable") -> None:
        if message.startswith(f"Caught {type(self).__name__} in DataLoader worker"):
            line = re.compile(rf"^[\w.]*{type(self).__name__}: (.*)$", re.MULTILINE)
            message = line.findall(message)[-1]
        super().__init__(" ".join(message.split()))
        self.cause = cause


@dataclass(frozen=True)
class Skipped:
    """Stands for a sample that was left out; ``collate`` counts it."""

    cause: str


# What a sample may lack: a member, and the setting that allows it.
LACKED = {"mjpg": "picture", "wav": "sound"}


def needed_members(modalities: str, *, picture: bool, sound: bool) -> tuple[str, ...]:
    """The members without which a sample is bad.

    Args:
        modalities: ``audio-video``, ``video`` or ``audio``: one that is read alone is needed.
        picture: Whether the picture is needed where both are read.
        sound: Whether the sound is.
    """
    alone = {"video": ("mjpg",), "audio": ("wav",)}
    return alone.get(modalities, ("mjpg",) * picture + ("wav",) * sound)


def lacks(member: str, where: str, found: str, declared: bool) -> ClipError:
    """The error of a sample without a member of ``LACKED``.

    Args:
        member: Which.
        where: Shard and key.
        found: The members there are.
        declared: Whether its json says that it is there.
    """
    what = LACKED[member]
    remedy = "rebuild it" if declared else f"rebuild it or pass {what}: optional"
    return ClipError(
        f"{where} has no {member} member (found {found}); {remedy}",
        "missing-member" if declared else f"no-{what}",
    )


def named_counts(counts: Mapping[str, int]) -> str:
    """Counts by cause, for a message: ``bad-image: 2, no-sound: 1``."""
    return ", ".join(f"{cause}: {count}" for cause, count in sorted(counts.items()))
