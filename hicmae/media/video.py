"""Raw video in: frames by index with their true times, and the frames of a constant rate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hicmae.files import Closing
from hicmae.media.container import VideoStream, probe_video
from hicmae.media.decoders import DECODERS, FrameDecoder
from hicmae.media.errors import MediaError


class FrameReader(Protocol):
    """Frames of one recording by index, upright, with their times: a video or a folder of images.

    Attributes:
        path: The recording.
        timestamps: (N,) float64, seconds of every frame, ascending.
        origin_seconds: Where the recording begins on the same clock, from which times are counted
            that people give and are given, as players do; at or before ``start_seconds``.
        start_seconds: Where the picture begins on the same clock, at or before the first frame.
        frame_clock: (M,) float64, seconds of frame numbers as others count them from 0; more than
            ``timestamps`` where frames are missing.
        duration_seconds: From ``start_seconds`` to the end of the last frame.
        height, width: Pixels.
        changes: What is done with stored pictures, see ``hicmae.media.picture.Picture.changes``.
    """

    path: Path
    timestamps: np.ndarray
    origin_seconds: float
    start_seconds: float
    frame_clock: np.ndarray
    duration_seconds: float
    height: int
    width: int
    changes: dict[str, Any]

    def __len__(self) -> int: ...

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]: ...

    def close(self) -> None: ...


# Cameras and tools that lose frames lose fewer in a row than fill this time.
HELD_SECONDS = 0.7


def open_video(path: str | Path) -> VideoReader:
    """Open the best picture stream of a recording.

    Raises:
        FileNotFoundError: There is no such file.
        MediaError: ``empty-file``, ``lfs-pointer``, ``unreadable``, ``no-video`` or ``damaged``.
    """
    return VideoReader(probe_video(Path(path)))


class VideoReader(Closing):
    """Frames of one recording; moves on to the next of ``DECODERS`` when one fails.

    Args: stream: What the file holds.

    Attributes: as ``FrameReader``. The clock is the container's, which the sound shares; the first
    frame need not be at 0. ``height`` and ``width`` are of the upright picture with square pixels.
    ``decoder`` is what gives the frames at present.
    """

    def __init__(self, stream: VideoStream) -> None:
        self.stream = stream
        self.path = stream.path
        self.timestamps = stream.timestamps
        # Others do not see a frame that is held at a cut.
        self.frame_clock = self.timestamps[1:] if stream.options else self.timestamps
        self.origin_seconds, self.start_seconds = stream.origin_seconds, stream.begin_seconds
        self.height, self.width = stream.picture.size
        self.changes = stream.picture.changes
        self.duration_seconds = stream.end_seconds - stream.begin_seconds
        self._names = list(DECODERS)
        self.decoder = self._next_decoder()

    def __len__(self) -> int:
        return len(self.timestamps)

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Give frames one at a time, so that memory holds one and not all.

        Args: indices: Ascending; an index that repeats gives the very same array again.

        Returns: (H, W, 3) uint8 RGB, upright, one per index; not to be written to.

        Raises:
            MediaError: ``damaged``: no decoder gives a frame that was asked for.
            ValueError: Indices that descend or lie outside the recording.
        """
        unique, repeats = self._checked(indices)
        done = 0
        while True:
            try:
                for frame in self.decoder.frames(unique[done:]):
                    for _ in range(repeats[done]):
                        yield frame
                    done += 1
                return
            except MediaError as error:
                if not self._names:
                    raise
                self.decoder.close()
                try:
                    self.decoder = self._next_decoder()
                except MediaError:
                    raise error from None

    def close(self) -> None:
        """Let go of the file."""
        self.decoder.close()

    def _checked(self, indices: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """Split ascending indices into distinct ones and how often each is asked for."""
        array = np.asarray(list(indices), dtype=np.int64)
        if len(array) and (np.any(np.diff(array) < 0) or array[0] < 0 or array[-1] >= len(self)):
            raise ValueError(
                f"{self.path}: frame indices must ascend within 0..{len(self) - 1}, "
                f"found {array.min()}..{array.max()}"
            )
        return np.unique(array, return_counts=True)

    def _next_decoder(self) -> FrameDecoder:
        """Make the first of the remaining decoders that takes the stream."""
        while True:
            name = self._names.pop(0)
            try:
                return DECODERS[name](self.stream)
            except MediaError:
                if not self._names:
                    raise


def constant_rate_indices(
    timestamps: np.ndarray, fps: float, start: float, end: float, *, last: float
) -> np.ndarray:
    """Choose the nearest frame in time for every frame of a constant rate.

    Frame i of the result stands for the time ``start + i / fps``. A picture that stands for longer
    than 0.7 s is held, as on a screen, until the next one comes: none was lost there.

    Args:
        timestamps: (N,) seconds of every frame, ascending.
        fps: Frames per second wanted.
        start: Seconds, on the clock of the timestamps.
        end: Seconds, where the last frame wanted ends.
        last: Seconds, where the last frame of the recording ends.

    Returns: (T,) int64 indices, ascending, with repeats where frames are missing; T is the span
        times ``fps``, rounded, and at least 1.

    Raises: ValueError: An empty span, or one that does not touch the recording.
    """
    gaps = np.diff(timestamps)
    if not end > start or start >= last or end <= timestamps[0]:
        raise ValueError(
            f"span {start:.3f}..{end:.3f} s lies outside the recording's "
            f"{timestamps[0]:.3f}..{last:.3f} s, or is empty"
        )
    # The small term keeps 2.5 frames that were computed as 2.4999999 from losing one.
    count = max(1, int(np.floor((end - start) * fps + 0.5 + 1e-6)))
    wanted = start + np.arange(count) / fps
    changes = timestamps[1:] - np.where(gaps > HELD_SECONDS, 0, gaps / 2)
    # Stamps rounded to milliseconds make ties out of near ties: those go to the later frame.
    return np.searchsorted(changes, wanted + 1e-9, side="right").astype(np.int64)


def has_own_frame(timestamps: np.ndarray, indices: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Tell which frames of a constant rate are shown by a frame of their time.

    A frame is there for half an interval around its time; the interval is the median one. What
    lies further off was dropped by the camera or by a tool, and the nearest frame stands in.

    Args:
        timestamps: (N,) seconds of every frame, ascending.
        indices: (T,) from ``constant_rate_indices``.
        wanted: (T,) seconds for which they were chosen.

    Returns: (T,) bool.
    """
    if len(timestamps) < 2:
        return np.ones(len(indices), dtype=bool)
    interval = float(np.median(np.diff(timestamps)))
    # A quarter more, since stamps are rounded and rates vary a little.
    return np.abs(timestamps[indices] - wanted) <= 0.75 * interval
