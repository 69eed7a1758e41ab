"""The settings of a build, written into every index; its parts, and the names of its files."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, TypeVar

from hicmae.media.faces import FaceConfig

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
    """How recordings become samples. ``hicmae shards build`` has one option for each.

    Args:
        face_size: Side of the square face images, pixels.
        fps: Constant frame rate of the samples, frames per second.
        jpeg_quality: Of the face images, 1..100.
        chroma: Colour resolution of the images: ``420`` half in both directions, ``444`` full.
        faces: Detector: ``yunet``, ``cascade`` (bundled, finds fewer), ``boxes`` (a CSV of each
            recording, OpenFace's too: the manifest's column boxes, or NAME.csv beside it), or
            ``none`` for pictures that are faces already.
        detector: Settings of the detector: of yunet ``min_score`` (0.6) and ``first_side`` (a
            smaller side, 64 to 320 pixels, at which frames are looked at first: faster, for one
            person near the camera), of cascade ``min_neighbours`` (4) and ``smallest_face`` (20
            pixels; larger is faster).
        face_choice: Which of several faces: the ``largest``, the most ``central``, ``all`` (one
            sample for each, as long as it is seen and the scene lasts, named KEY_face0, KEY_face1,
            …), or ``speaking``: the one whose mouth goes with the sound, in each segment of
            max_seconds anew, as long as it is seen.
        identity: With ``all``: ``sface`` joins faces of different scenes that are one person's (one
            key, a segment a scene), by OpenCV's SFace, fetched once (39 MB; HICMAE_SFACE names a
            file). Faces are compared within one recording; nothing of it is stored, nobody named.
        sync: Also measure how well each mouth goes with the sound; the receipt names samples whose
            picture and sound do not belong together or have slipped. ``speaking`` does so anyway.
        face_margin: How much of the face box's side is added around it.
        face_smoothing_seconds: Over what time the box's movements are smoothed (standard
            deviation); 0: not at all.
        face_gap_seconds: How long a moving face may stay unfound and still be the same one.
        align: ``eyes`` turns and scales every image so that the eyes are level and in their
            place; ``none`` keeps pictures upright.
        detect_every: Frames from one detection to the next; the box is interpolated in between.
        image_fps: Frame rate of folders and .npy stacks of images that have no rate of their own
            (the manifest's column fps, OpenFace's CSV), frames per second; none: they are refused.
        stack_colours: Which colour is first in .npy stacks of images (T, H, W, 3) uint8: ``bgr`` as
            OpenCV and MERTools write them, or ``rgb``; none given: stacks are refused.
        min_coverage: Least share of the frames shown to the detector in which it finds the face.
        box: With ``faces: none``: cut x0, y0, x1, y1 out of every frame, pixels; none given: the
            largest square in its middle.
        picture: ``optional`` makes samples of sound alone from sound files and from recordings
            without a picture, ``required`` refuses these, ``none`` takes the sound alone of every
            recording.
        sound: ``required`` refuses recordings without sound, ``optional`` keeps them.
        silence_db: Sound below this level counts as silent, decibels relative to full scale.
        min_seconds: Shorter recordings are refused.
        max_seconds: Longer ones are cut into equal segments of at most this; none: never.
        samples_per_shard: A shard is closed when it has so many.
        offline: Never fetch the detector's file; nor is it where HICMAE_OFFLINE is set.
        workers: Processes; none: one a core.
        worker_gib: Memory of a process for its data, GiB; a recording that needs more is refused.
            None: no limit.
        deadline_seconds: A recording that takes longer is refused and its worker replaced.
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
        problems = self.problems()
        problems += [
            f"{name} = {getattr(self, name)} (must be positive)"
            for name in ("min_seconds", "samples_per_shard", "deadline_seconds")
            if not getattr(self, name) > 0
        ]
        if self.max_seconds is not None and self.max_seconds < 2 * self.min_seconds:
            problems.append(
                f"max_seconds = {self.max_seconds} (must be twice min_seconds = {self.min_seconds} "
                "or more)"
            )
        if self.workers is not None and self.workers < 1:
            problems.append(f"workers = {self.workers} (must be 1 or more)")
        if self.worker_gib is not None and not self.worker_gib > 0:
            problems.append(f"worker_gib = {self.worker_gib} (must be positive)")
        if self.max_refused is not None and not _BUDGET.fullmatch(str(self.max_refused)):
            problems.append(
                f"max_refused = {self.max_refused!r} (must be a number of recordings, or a share "
                "such as 5%)"
            )
        if problems:
            raise ValueError(f"shards build: {'; '.join(problems)}")

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


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the parts into which the list of recordings is cut; the parts follow one another.

    Args:
        number: Which, from 1.
        of: How many there are.

    Raises:
        ValueError: There is no such part.
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

    Raises:
        ValueError: It is something else.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if not match:
        raise ValueError(f"part = {text!r} (must be NUMBER/HOW_MANY from 1, such as 2/8)")
    return Part(number=int(match[1]), of=int(match[2]))
