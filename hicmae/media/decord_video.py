"""Frames through decord: fast forward and random access to what it understands.

Files in which decord gives other frames than the container shows are left to the next decoder. All
of this was seen: after a jump into an open group of pictures, or into an intra refresh, it gives
frames of another moment with the right stamps; in MPEG program streams its first jump lands a group
of pictures late, so that picture and sound part by half a second; it counts frames
that an edit list hides among its timestamps, though not among its frames; it repeats neighbours
for frames it cannot decode; it gives rows of padding for tiny pictures.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator

import cv2
import decord
import numpy as np

from hicmae.media.container import VideoStream, ffmpeg_name
from hicmae.media.errors import MediaError

# decord keeps times in 32 bits and some containers round to milliseconds.
_TOLERANCE_SECONDS = 2e-3
# Containers in which decord's frames were seen to be the right ones, also after jumps.
_CONTAINERS = {"mov", "mp4", "matroska", "webm", "flv", "avi", "ogg"}
# Mean difference of tiny first frames, grey levels: other colour conversions stay far below it.
_SAME_PICTURE = 12.0

_FAULTS = 2  # Frames it may replace by neighbours before it has to say so; fewer cannot be asked.
# A reader keeps what it decodes ahead of a slow user, up to the whole file (548 MB were seen after
# 160 s of 224 pixels): after so many bytes, and at least so many frames, it is opened anew.
_HELD_BYTES, _HELD_FRAMES = 64 * 2**20, 250
_DECORD_ERRORS = (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, IndexError)

_OPEN: weakref.WeakSet[decord.VideoReader] = weakref.WeakSet()

decord.logging.set_level(decord.logging.QUIET)


class DecordDecoder:
    """Decodes with one thread.

    Args:
        stream: What the file holds.

    Raises:
        MediaError: ``unreadable``: decord cannot open the file, or sees another stream in it.
    """

    name = "decord"

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        if not _CONTAINERS & set(stream.container.split(",")):
            raise MediaError(
                "unreadable", stream.path, f"decord loses its way in {stream.container}"
            )
        if not stream.jumps_hold:
            raise MediaError("unreadable", stream.path, "decord gives other frames after a jump")
        picture = stream.picture
        if stream.hides_frames_inside or not picture.orientation.is_rotation:
            raise MediaError("unreadable", stream.path, "decord ignores its edit list or mirroring")
        if picture.changes:
            names = ", ".join(picture.changes)
            raise MediaError("unreadable", stream.path, f"decord leaves it as stored ({names})")
        try:
            self._reader = self._opened()
            count = len(self._reader)
            times = self._reader.get_frame_timestamp(range(count))[:, 0].astype(np.float64)
        except _DECORD_ERRORS as error:
            raise MediaError("unreadable", stream.path, f"decord: {_last_line(error)}") from None
        expected = stream.timestamps - stream.timestamps[0]
        times = times[: len(expected)]
        if len(times) < len(expected) or np.any(np.abs(times - expected) > _TOLERANCE_SECONDS):
            raise MediaError("unreadable", stream.path, "decord sees other frames in it")
        first = next(self.frames(np.zeros(1, dtype=np.int64)))
        tiny = cv2.resize(first, stream.first_look.shape[:2], interpolation=cv2.INTER_AREA)
        if np.abs(tiny.astype(np.float32) - stream.first_look).mean() > _SAME_PICTURE:
            raise MediaError("unreadable", stream.path, "decord begins with another frame")

    def frames(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Give the frames of strictly ascending indices, (H, W, 3) uint8 RGB upright.

        Raises:
            MediaError: ``damaged``.
        """
        shape = (*self._stream.picture.size, 3)
        held = int(shape[0] * shape[1] * 1.5)  # bytes of a frame as it is decoded
        most = max(_HELD_BYTES // max(held, 1), _HELD_FRAMES)
        since = int(indices[0]) if len(indices) else 0
        for index in indices.tolist():
            try:
                if index - since >= most:
                    self._reader, since = self._opened(), index
                frame = self._reader[index].asnumpy()
            except _DECORD_ERRORS as error:
                raise MediaError(
                    "damaged", self._stream.path, f"decord at frame {index}: {_last_line(error)}"
                ) from None
            if frame.shape != shape:
                raise MediaError(
                    "damaged",
                    self._stream.path,
                    f"decord gives frame {index} as {frame.shape}, not {shape}",
                )
            yield frame

    def _opened(self) -> decord.VideoReader:
        """The file, opened anew."""
        with ffmpeg_name(self._stream.path) as name:
            reader = decord.VideoReader(name, ctx=decord.cpu(0), num_threads=1, fault_tol=_FAULTS)
        _OPEN.add(reader)
        return reader

    def close(self) -> None:
        """Let go of the file and of the decoding thread."""
        self._reader = None


def _forget_inherited() -> None:
    """Keep a forked process from freeing readers of its parent.

    Freeing one waits for its decoding thread, which a fork does not copy: it would wait for ever,
    whenever the garbage collector happens to come by.
    """
    for reader in list(_OPEN):
        reader._handle = None


os.register_at_fork(after_in_child=_forget_inherited)


def _last_line(error: Exception) -> str:
    """decord's messages end in a stack trace of C++."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
