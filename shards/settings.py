"""The settings of a build, written into every index; its parts, and the names of its files."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, TypeVar

from hicmae.media.faces import FaceConfig
from hicmae.settings import outside, raise_all

Item = TypeVar("Item")

REFUSED_NAME = "refused.jsonl"

# What builds did before a setting was there: left out of the index, as it was then.
_BEFORE = {
    "picture": "optional",
    "sync": False,
    "identity": "none",
    "stack_colours": None,
    "detector": {},
}
# Settings that change how a build runs and not what it writes.
_RUN_ONLY = ("offline", "workers", "worker_gib", "deadline_seconds", "max_refused")

_BUDGET = re.compile(r"(?P<percent>(?:\d{1,2}(?:\.\d+)?|100))%|(?P<count>\d+)")


@dataclass(frozen=True, kw_only=True)
class BuildConfig(FaceConfig):
    """How recordings become samples. ``hicmae shards build`` has one option for each field, those
    of ``FaceConfig`` included.

    Args:
        picture: ``optional`` makes samples of sound alone from sound files and from recordings
            without a picture, ``required`` refuses these, ``none`` takes the sound alone of every
            recording.
        sound: ``required`` refuses recordings without sound, ``optional`` keeps them.
        min_seconds: Shorter recordings are refused.
        max_seconds: Longer ones are cut into equal segments of at most this; none: never.
        samples_per_shard: A shard is closed when it has so many.
        offline: Never fetch the detector's file; nor is it where HICMAE_OFFLINE is set.
        workers: Processes; none: one a core.
        worker_gib: Memory of a process for its data, GiB; a recording that needs more is refused.
            None: no limit.
        deadline_seconds: A recording whose reading shows no sign of life for so long is refused and
            its worker replaced.
        max_refused: End the build with an error when more recordings than this give no sample: a
            number, or a share such as ``5%``; none: never. What was built is kept, and a higher
            limit goes on with it.
    """

    picture: Literal["optional", "required", "none"] = "optional"
    sound: Literal["optional", "required"] = "optional"
    min_seconds: float = 0.5
    max_seconds: float | None = None
    samples_per_shard: int = 256
    offline: bool = False
    workers: int | None = None
    worker_gib: float | None = None
    deadline_seconds: float = 300.0
    max_refused: int | str | None = None

    def __post_init__(self) -> None:
        names = "min_seconds samples_per_shard deadline_seconds"
        problems = self.problems() + outside(self, {"positive": names})
        if self.max_seconds is not None and self.max_seconds < 2 * self.min_seconds:
            problems.append(
                f"max_seconds = {self.max_seconds} (must be twice min_seconds = {self.min_seconds} "
                "or more)"
            )
        problems += outside(self, {"1 or more": "workers", "positive": "worker_gib"})
        if self.max_refused is not None and not _BUDGET.fullmatch(str(self.max_refused)):
            problems.append(
                f"max_refused = {self.max_refused!r} (must be a number of recordings, or a share "
                "such as 5%)"
            )
        raise_all("shards build", problems)

    def most_refused(self, num_recordings: int) -> int:
        """How many of so many recordings may be refused."""
        budget = _BUDGET.fullmatch(str(self.max_refused))
        if budget is None:
            return num_recordings
        if budget["percent"] is not None:
            return int(num_recordings * Fraction(budget["percent"]) / 100)
        return int(budget["count"])

    def recorded(self) -> dict[str, Any]:
        """What the index keeps: everything that has an influence on the samples."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
            if name not in _RUN_ONLY and _BEFORE.get(name, ...) != value
        }


def in_full(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded settings with those that ``BuildConfig.recorded`` leaves out, to compare by name."""
    return {**_BEFORE, **recorded}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the parts into which the list of recordings is cut; the parts follow one another.

    Args:
        number: Which, from 1.
        of: How many there are.

    Raises: ValueError: There is no such part.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(
                f"part = {self.number}/{self.of} (the parts of {self.of} are 1/{self.of} to "
                f"{self.of}/{self.of})"
            )

    def cut(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items of this part; sizes differ by one at most."""
        begin, end = (len(items) * place // self.of for place in (self.number - 1, self.number))
        return items[begin:end]

    def __str__(self) -> str:
        """As it is typed."""
        return f"{self.number}/{self.of}"


def parse_part(text: str) -> Part:
    """Read ``2/8``.

    Raises: ValueError: It is something else.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if not match:
        raise ValueError(f"part = {text!r} (must be NUMBER/HOW_MANY from 1, such as 2/8)")
    return Part(number=int(match[1]), of=int(match[2]))
