"""Decoders of video: decord where it is installed and right, PyAV where it is not.

decord is fast forward and in random access to what it understands. Files in which it gives other
frames than the container shows are left to PyAV. All of this was seen: after a jump into an open
group of pictures, or into an intra refresh, it gives frames of another moment with the right
stamps; in MPEG program streams its first jump lands a group of pictures late, so that picture and
sound part by half a second; it counts frames that an edit list hides among its timestamps, though
not among its frames; it repeats neighbours for frames it cannot decode; it gives rows of padding
for tiny pictures. PyAV takes whatever FFmpeg can decode, packet by packet, goes by presentation
stamps and never guesses.

Another decoder is a class here and one line in ``DECODERS``.
"""

from __future__ import annotations

import importlib.util
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Protocol

import av
import cv2
import numpy as np

from hicmae.media.container import VideoStream, decoded_frames, ffmpeg_name, open_container
from hicmae.media.errors import MediaError
from hicmae.media.picture import deinterlaced
from hicmae.processes import show_life

_HAS_DECORD = importlib.util.find_spec("decord") is not None  # not on ARM, nor on macOS
if _HAS_DECORD:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    _DECORD_ERRORS = (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, IndexError)

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

_OPEN: weakref.WeakSet[decord.VideoReader] = weakref.WeakSet()


class FrameDecoder(Protocol):
    """What a decoder offers: frames of strictly ascending indices, (H, W, 3) uint8 RGB upright.

    It raises MediaError when it is made for a stream it cannot read, and from ``frames`` when a
    frame cannot be given.
    """

    name: str

    def frames(self, indices: np.ndarray) -> Iterator[np.ndarray]: ...

    def close(self) -> None: ...


class DecordDecoder:
    """decord, with one thread.

    Args: stream: What the file holds.

    Raises: MediaError: ``unreadable``: decord cannot open the file, or sees another stream in it.
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

        Raises: MediaError: ``damaged``.
        """
        shape = (*self._stream.picture.size, 3)
        held = int(shape[0] * shape[1] * 1.5)  # bytes of a frame as it is decoded
        most = max(_HELD_BYTES // max(held, 1), _HELD_FRAMES)
        since = int(indices[0]) if len(indices) else 0
        for index in indices.tolist():
            show_life()
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


class PyavDecoder:
    """PyAV, forward from the keyframe before the first frame that is asked for.

    Args: stream: What the file holds.
    """

    name = "pyav"

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream

    def frames(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Give the frames of strictly ascending indices, (H, W, 3) uint8 RGB upright.

        A frame for which the decoder shows nothing without complaint (an invisible one) is what
        stood on the screen: the one before.

        Raises: MediaError: ``damaged``: packets failed and a frame that was asked for is missing.
        """
        if not len(indices):
            return
        errors: list[str] = []
        wanted = indices.tolist()
        place = 0
        shown: av.VideoFrame | None = None
        frames = self._decode(wanted[0], errors)
        if self._stream.picture.interlaced:  # a frame is made of its neighbours too
            frames = deinterlaced(self._decode(max(wanted[0] - 1, 0), errors))
        for index, frame in frames:
            while place < len(wanted) and wanted[place] < index:
                yield self._upright(shown, wanted[place], errors)
                place += 1
            if place < len(wanted) and wanted[place] == index:
                yield self._upright(frame, index, [])
                place += 1
            if place == len(wanted):
                return
            shown = frame
        for index in wanted[place:]:
            yield self._upright(shown, index, errors)

    def close(self) -> None:
        """Nothing stays open between calls."""

    def _decode(self, first: int, errors: list[str]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Give (index, frame) ascending, from a frame at or before ``first``."""
        stream = self._stream
        keyframes = np.flatnonzero(stream.keyframes[: first + 1])
        keyframe = 0 if stream.counted or not len(keyframes) else int(keyframes[-1])
        for start in [keyframe, 0] if keyframe else [0]:
            with ExitStack() as stack:
                container = stack.enter_context(open_container(stream.path, stream.options))
                pictures = container.streams[stream.index]
                if start:
                    container.seek(int(stream.pts[start]), stream=pictures)
                position = -1
                for frame in decoded_frames(container, pictures, errors):
                    index = _index_of(stream, frame.pts, position)
                    if index is None:
                        continue
                    if start and position < 0 and index > first:
                        break  # The container landed too late.
                    position = index
                    yield index, frame
                if position >= 0:
                    return
            errors.clear()  # Nothing usable after a jump: decode from the beginning.

    def _upright(self, frame: av.VideoFrame | None, index: int, errors: list[str]) -> np.ndarray:
        """Convert what stands on the screen at a frame, unless it may be missing by damage."""
        if frame is None or errors:
            raise self._damaged(index, errors)
        return self._stream.picture.rgb(frame)

    def _damaged(self, index: int, errors: list[str]) -> MediaError:
        seconds = self._stream.timestamps[index]
        reason = errors[0] if errors else "the decoder shows nothing"
        return MediaError(
            "damaged",
            self._stream.path,
            f"frame {index} (at {seconds:.3f} s) cannot be decoded: {reason}; "
            f"{len(errors)} broken packets so far",
        )


# Name -> opener, in the order in which they are tried.
DECODERS: dict[str, Callable[[VideoStream], FrameDecoder]] = {PyavDecoder.name: PyavDecoder}
if _HAS_DECORD:
    DECODERS = {DecordDecoder.name: DecordDecoder, **DECODERS}


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


def _index_of(stream: VideoStream, pts: int | None, position: int) -> int | None:
    """Number a decoded frame; None for one that the container does not show."""
    following = position + 1
    if stream.counted or pts is None:
        return following if following < len(stream.pts) else None
    if following < len(stream.pts) and stream.pts[following] == pts:
        return following
    index = int(np.searchsorted(stream.pts, pts))
    found = index < len(stream.pts) and stream.pts[index] == pts
    return index if found and index > position else None
