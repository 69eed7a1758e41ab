"""Frames through PyAV: whatever FFmpeg can decode, in order, packet by packet.

The decoder of last resort, which goes by presentation stamps and never guesses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import av
import numpy as np

from hicmae.media.container import VideoStream, decoded_frames, open_container
from hicmae.media.errors import MediaError
from hicmae.media.picture import deinterlaced


class PyavDecoder:
    """Decodes forward from the keyframe before the first frame that is asked for.

    Args:
        stream: What the file holds.
    """

    name = "pyav"

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream

    def frames(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Give the frames of strictly ascending indices, (H, W, 3) uint8 RGB upright.

        A frame for which the decoder shows nothing without complaint (an invisible one) is what
        stood on the screen: the one before.

        Raises:
            MediaError: ``damaged``: packets failed and a frame that was asked for is missing.
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
        keyframe = 0 if stream.counted else _keyframe_before(stream, first)
        for start in [keyframe, 0] if keyframe else [0]:
            with ExitStack() as stack:
                container = stack.enter_context(open_container(stream.path, stream.options))
                pictures = container.streams[stream.index]
                pictures.codec_context.thread_count = 1
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


def _keyframe_before(stream: VideoStream, index: int) -> int:
    """Find the last keyframe at or before a frame."""
    keyframes = np.flatnonzero(stream.keyframes[: index + 1])
    return int(keyframes[-1]) if len(keyframes) else 0


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
