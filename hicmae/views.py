"""Which frames of a sample make a clip, and which sound belongs to them.

The same for every reader, training and test. Frame i of a sample is at time i / fps and sound
sample j at j / sample_rate, so picture and sound are matched by time alone.

Shape letters: T frames of a clip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hicmae.config import did_you_mean
from hicmae.settings import InputConfig

# Side of the crops that are smaller than the frame, as a share of its side: the second of the
# scales that pretraining crops with.
_TIGHT = 0.875
_ROOM = 1 - _TIGHT


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A part of the square picture that the network sees at test time, as shares of its side."""

    left: float = 0.0
    top: float = 0.0
    side: float = 1.0
    mirrored: bool = False  # whether left and right change places


# Every one is another picture, whatever the frame shows (unless it is symmetric or of one colour).
CROPS = {
    "whole": Crop(),
    "mirrored": Crop(mirrored=True),
    "centre": Crop(left=_ROOM / 2, top=_ROOM / 2, side=_TIGHT),
    "centre-mirrored": Crop(left=_ROOM / 2, top=_ROOM / 2, side=_TIGHT, mirrored=True),
    "top-left": Crop(side=_TIGHT),
    "top-right": Crop(left=_ROOM, side=_TIGHT),
    "bottom-left": Crop(top=_ROOM, side=_TIGHT),
    "bottom-right": Crop(left=_ROOM, top=_ROOM, side=_TIGHT),
}


@dataclass(frozen=True, kw_only=True)
class ViewGrid:
    """The test-time views of a sample: every segment in every crop.

    View v is segment v // crops in crop v % crops. A sample hardly longer than a clip has fewer
    different clips than segments: each of them counts once (``differing``).

    Args:
        segments: Clips along time.
        crops: Names out of ``CROPS``.

    Raises: ValueError: fewer than one segment; a crop that is unknown or stands twice.
    """

    segments: int = 2
    crops: tuple[str, ...] = ("whole",)

    def __post_init__(self) -> None:
        if self.segments < 1:
            raise ValueError(f"segments = {self.segments} (must be 1 or more)")
        if not self.crops:
            raise ValueError(f"crops is empty (allowed: {', '.join(CROPS)})")
        for name in self.crops:
            if name in ("left", "right", "top", "bottom", "three", "three-crops"):
                raise ValueError(
                    f"crops: '{name}' of a square face is the whole picture, so its views would be"
                    f" equal (crops that differ: {', '.join(CROPS)})"
                )
            if name not in CROPS:
                raise ValueError(
                    f"crops: no crop '{name}'{did_you_mean(name, CROPS)}"
                    f" (allowed: {', '.join(CROPS)})"
                )
            if self.crops.count(name) > 1:
                raise ValueError(
                    f"crops: '{name}' stands twice, which would be the same view twice"
                )

    @property
    def num_views(self) -> int:
        """Views of a sample."""
        return self.segments * len(self.crops)

    def differing(self, first_equal: list[int]) -> list[int]:
        """The views of a sample that no earlier one equals, by ``first_equal_segments``."""
        crops = len(self.crops)
        return [v for s in sorted(set(first_equal)) for v in range(s * crops, (s + 1) * crops)]

    @property
    def names(self) -> tuple[str, ...]:
        """Segment, counted from 1, and crop of each view: ``2:mirrored``."""
        return tuple(f"{s}:{crop}" for s in range(1, self.segments + 1) for crop in self.crops)


def train_indices(num_frames_available: int, clip: InputConfig, draw: float) -> np.ndarray:
    """Frames of one training clip: a random start, then exactly every ``frame_stride``-th.

    Every start at which the whole clip fits is equally likely, so each end of a sample is reached.
    A sample shorter than the clip starts at its first frame, and its last frame is held.

    Deviation: the reference spreads the 16 frames over 64 by ``linspace`` (a stride of 4.27) and
    never draws the last frame of a long sample.

    Args:
        num_frames_available: Frames of the sample.
        clip: Number of frames and their stride.
        draw: Uniform in [0, 1); which start is taken.

    Returns: (T,) int64 indices, ascending.
    Raises: ValueError: the sample has no frames.
    """
    _require_frames(num_frames_available)
    offsets = np.arange(clip.num_frames, dtype=np.int64) * clip.frame_stride
    num_starts = max(1, num_frames_available - int(offsets[-1]))
    start = int(draw * num_starts)
    return np.minimum(start + offsets, num_frames_available - 1)


def test_views(
    num_frames_available: int, num_frames: int, stride: int, num_segments: int
) -> list[np.ndarray]:
    """Clips of a sample at test time, spread evenly from its first to its last possible start.

    The sample is read at every ``stride``-th frame from frame 0 on; the last one read is repeated
    until there are ``num_frames``. Segment k of n starts at position floor(k·last / (n - 1)) of
    that list, in exact integer arithmetic. A single segment is the middle one.

    Deviation: the reference tests two spatial crops a segment, which are identical for square
    frames; here there is one.

    Args:
        num_frames_available: Frames of the sample.
        num_frames: Frames of a clip (T).
        stride: Distance of neighbouring frames of a clip, in frames of the sample.
        num_segments: Clips wanted; those of a short sample coincide.

    Returns: ``num_segments`` arrays (T,), int64 indices, ascending.
    Raises: ValueError: the sample has no frames, or a number that has to be positive is not.
    """
    _require_frames(num_frames_available)
    if min(num_frames, stride, num_segments) < 1:
        raise ValueError(
            f"test views: num_frames = {num_frames}, stride = {stride}, "
            f"num_segments = {num_segments} (each must be 1 or more)"
        )
    positions = np.arange(0, num_frames_available, stride, dtype=np.int64)
    if len(positions) < num_frames:
        positions = np.pad(positions, (0, num_frames - len(positions)), mode="edge")
    last_start = len(positions) - num_frames
    if num_segments == 1:
        starts = [last_start // 2]
    else:
        starts = [k * last_start // (num_segments - 1) for k in range(num_segments)]
    return [positions[start : start + num_frames] for start in starts]


def first_equal_segments(num_frames_available: int, clip: InputConfig, segments: int) -> list[int]:
    """For each test-time segment, the first one that is the same clip.

    Segments of a sample that is no longer than a clip coincide, and so do some of one that is a
    little longer; who computes them needs each only once, and a mean of them is of each once.
    (Of two segments, as published, that is the mean of both.)

    Returns: one number a segment, counted from 0; its own where no earlier one is equal.
    Raises: ValueError: as ``test_views``.
    """
    views = test_views(num_frames_available, clip.num_frames, clip.frame_stride, segments)
    first: dict[int, int] = {}
    return [first.setdefault(int(view[0]), segment) for segment, view in enumerate(views)]


# pytest collects functions by this prefix wherever a test module imports them.
test_views.__test__ = False  # type: ignore[attr-defined]


def sound_span(first_index: int, input: InputConfig) -> tuple[int, int]:
    """The sound of the view that starts at frame ``first_index``.

    Deviation: the reference places the sound by the share of frame images before it, which drifts
    with dropped frames and other frame rates; here it is by time.

    Args:
        first_index: First frame of the view, in frames of the sample.
        input: Frame rate, sample rate and span of a clip.

    Returns: Start and stop, sound samples counted from the sample's beginning; stop - start is
        ``input.clip_samples`` and may lie beyond the end of the sound, where readers pad.
    """
    start = round(first_index / input.fps * input.sample_rate)
    return start, start + input.clip_samples


def _require_frames(num_frames_available: int) -> None:
    if num_frames_available < 1:
        raise ValueError(
            f"views: the sample has {num_frames_available} frames (must be 1 or more); "
            "check its shard with `hicmae shards check`"
        )
