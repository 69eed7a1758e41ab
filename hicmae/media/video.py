"""Raw video in: frames by index with their true presentation times.

For: any recording FFmpeg can open. A decoder is one file beside this one and one line in
``DECODERS``. Not for: frame rates (``frame_times.py``), sound (``sound.py``) or faces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np

from hicmae.media.decord_video import DecordDecoder
from hicmae.media.errors import MediaError
from hicmae.media.probe import VideoStream, probe_video
from hicmae.media.pyav_video import PyavDecoder


class FrameReader(Protocol):
    """Frames of one recording by index, upright, with their times: a video or a folder of images.

    Attributes:
        path: The recording.
        timestamps: (N,) float64, seconds of every frame, ascending.
        start_seconds: Where the picture begins on the same clock, at or before the first frame.
        frame_clock: (M,) float64, seconds of frame numbers as others count them from 0; more than
            ``timestamps`` where frames are missing.
        duration_seconds: From ``start_seconds`` to the end of the last frame.
        height, width: Pixels.
    """

    @property
    def path(self) -> Path: ...
    @property
    def timestamps(self) -> np.ndarray: ...
    @property
    def start_seconds(self) -> float: ...
    @property
    def frame_clock(self) -> np.ndarray: ...
    @property
    def duration_seconds(self) -> float: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...

    def __len__(self) -> int: ...

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]: ...


class FrameDecoder(Protocol):
    """What a decoder offers: frames of strictly ascending indices, (H, W, 3) uint8 RGB upright.

    It raises MediaError when it is made for a stream it cannot read, and from ``frames`` when a
    frame cannot be given.
    """

    name: str

    def frames(self, indices: np.ndarray) -> Iterator[np.ndarray]: ...

    def close(self) -> None: ...


# Name -> opener, in the order in which they are tried.
DECODERS: dict[str, Callable[[VideoStream], FrameDecoder]] = {
    DecordDecoder.name: DecordDecoder,
    PyavDecoder.name: PyavDecoder,
}


def open_video(path: str | Path, *, decoders: Sequence[str] = tuple(DECODERS)) -> VideoReader:
    """Open the best picture stream of a recording.

    Args:
        path: The file.
        decoders: Names of ``DECODERS``, in the order in which they are tried.

    Raises:
        FileNotFoundError: There is no such file.
        MediaError: ``empty-file``, ``lfs-pointer``, ``unreadable``, ``no-video`` or ``damaged``.
        ValueError: An unknown decoder.
    """
    unknown = [name for name in decoders if name not in DECODERS]
    if unknown or not decoders:
        raise ValueError(
            f"decoders {', '.join(unknown) or '(none)'}: choose among {', '.join(DECODERS)}"
        )
    return VideoReader(probe_video(path), decoders)


class VideoReader:
    """Frames of one recording; moves on to the next decoder when one fails.

    Args:
        stream: What the file holds.
        decoders: Names of ``DECODERS``, in the order in which they are tried.

    Attributes:
        timestamps: (N,) float64, seconds of every frame on the container's clock, ascending. The
            clock is the one of the sound; the first frame need not be at 0.
        frame_clock: The same.
        start_seconds: The first of them.
        height, width: Of the upright picture, pixels.
        duration_seconds: From the first frame's start to the last one's end.
    """

    def __init__(self, stream: VideoStream, decoders: Sequence[str] = tuple(DECODERS)) -> None:
        self.stream = stream
        self.path = stream.path
        self.timestamps = stream.timestamps
        self.frame_clock = self.timestamps
        self.start_seconds = float(self.timestamps[0])
        self.height, self.width = stream.height, stream.width
        self.duration_seconds = stream.duration_seconds
        self._names = list(decoders)
        self._decoder = self._next_decoder()

    def __len__(self) -> int:
        return len(self.timestamps)

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def decoder(self) -> str:
        """Name of the decoder that gives the frames; it changes when one fails midway."""
        return self._decoder.name

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Give frames one at a time, so that memory holds one and not all.

        Args:
            indices: Ascending; an index that repeats gives the very same array again.

        Returns: (H, W, 3) uint8 RGB, upright, one per index; not to be written to.

        Raises:
            MediaError: ``damaged``: no decoder gives a frame that was asked for.
            ValueError: Indices that descend or lie outside the recording.
        """
        unique, repeats = self._checked(indices)
        done = 0
        while True:
            try:
                for frame in self._decoder.frames(unique[done:]):
                    for _ in range(repeats[done]):
                        yield frame
                    done += 1
                return
            except MediaError as error:
                if not self._names:
                    raise
                self._decoder.close()
                try:
                    self._decoder = self._next_decoder()
                except MediaError:
                    raise error from None

    def read(self, indices: Iterable[int]) -> np.ndarray:
        """Read frames at once: (n, H, W, 3) uint8 RGB, upright. Raises as ``frames`` does."""
        indices = list(indices)
        frames = np.empty((len(indices), self.height, self.width, 3), dtype=np.uint8)
        for place, frame in enumerate(self.frames(indices)):
            frames[place] = frame
        return frames

    def close(self) -> None:
        """Let go of the file."""
        self._decoder.close()

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
