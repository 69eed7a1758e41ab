"""What a file's picture stream holds, found by walking its packets once, without decoding them.

For: true presentation times, what the container hides (edit lists), orientation, and the refusal
of files that are no recording. It is the reference against which every decoder's own idea of the
stream is checked. Not for: pixels (``video.py``) or sound (``sound.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from hicmae.media.container import decoded_frames, open_container, packets_of
from hicmae.media.errors import MediaError


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """How stored pixels become upright ones: first transposed, then mirrored.

    Source: the display matrix of ISO/IEC 14496-12 (``tkhd``), as FFmpeg hands it on.
    """

    transpose: bool = False
    flip_columns: bool = False
    flip_rows: bool = False

    @property
    def is_rotation(self) -> bool:
        """Whether it is a plain rotation: one that mirrors needs a decoder that knows mirrors."""
        return self.transpose == (self.flip_columns != self.flip_rows)

    def apply(self, frame: np.ndarray) -> np.ndarray:
        """Turn one frame (H, W, C) upright; contiguous."""
        if self.transpose:
            frame = frame.transpose(1, 0, 2)
        if self.flip_columns:
            frame = frame[:, ::-1]
        if self.flip_rows:
            frame = frame[::-1]
        return np.ascontiguousarray(frame)


@dataclass(frozen=True, kw_only=True)
class VideoStream:
    """The picture stream of a file.

    Args:
        path: The file, absolute.
        index: Number of the stream in the container.
        pts: (N,) presentation stamps of the frames shown, in units of ``time_base``, ascending.
        time_base: Seconds of one unit.
        duration_seconds: From the first frame's start to the last one's end.
        keyframes: (N,) bool, where decoding can start.
        counted: Whether stamps are unreliable, so that frames are told apart by counting.
        num_packets: Packets with content, those included that are not shown.
        hides_frames_inside: Whether packets are hidden before or between frames that are shown.
        height: Of the upright picture, pixels.
        width: Of the upright picture, pixels.
        orientation: From stored to upright pixels.
        container: FFmpeg's name of the container.
        codec: Name of the decoder.
        first_look: (8, 8, 3) uint8, the first frame upright and tiny: a check on other decoders.
    """

    path: Path
    index: int
    pts: np.ndarray
    time_base: float
    duration_seconds: float
    keyframes: np.ndarray
    counted: bool
    num_packets: int
    hides_frames_inside: bool
    height: int
    width: int
    orientation: Orientation
    container: str
    codec: str
    first_look: np.ndarray

    @property
    def timestamps(self) -> np.ndarray:
        """(N,) float64, seconds on the clock of the container, which the sound shares."""
        return self.pts * self.time_base


def probe_video(path: str | Path) -> VideoStream:
    """Look at a file's best picture stream.

    Raises:
        FileNotFoundError: There is no such file.
        MediaError: ``empty-file``, ``lfs-pointer``, ``unreadable``, ``no-video``, or ``damaged``
            when not even one frame can be decoded.
    """
    with open_container(path) as container:
        stream = _picture_stream(container, path)
        packets = [
            (packet.pts, packet.is_discard, packet.is_keyframe, packet.duration)
            for packet in packets_of(container, stream)
            if not packet.is_corrupt
        ]
        if not packets:
            raise MediaError("no-video", path, "its picture stream holds no frames")
        codec, format_name = stream.codec_context.name, container.format.name
        # AVI has no presentation times; what FFmpeg makes up for them is out of order at times.
        counted = "avi" in format_name.split(",")
        time_base = float(stream.time_base or 1 / 1000)
        rate = float(stream.guessed_rate or stream.average_rate or 25)
        index = stream.index
    height, width, orientation, first_look = _first_frame(path, index)
    if any(pts is None for pts, *_ in packets):
        pts, time_base = _count_frames(path, index, rate)
        keyframes = np.arange(len(pts)) == 0
        hidden_inside, counted, num_packets = False, True, len(packets)
    else:
        stamps = np.array([pts for pts, *_ in packets], dtype=np.int64)
        keys = np.array([key for _, _, key, _ in packets])
        shown = ~np.array([discard for _, discard, _, _ in packets])
        if keys.any():
            # Frames before the first one that can be decoded alone never come out.
            shown &= stamps >= stamps[keys][0]
        if not shown.any():
            raise MediaError("no-video", path, "the container hides every frame of its picture")
        order = np.argsort(stamps, kind="stable")
        stamps, keys, shown = stamps[order], keys[order], shown[order]
        pts, keyframes = stamps[shown], keys[shown]
        hidden_inside = not shown[: np.flatnonzero(shown)[-1] + 1].all()
        num_packets = len(packets)
    last = float(np.median(np.diff(pts))) * time_base if len(pts) > 1 else 1 / rate
    return VideoStream(
        path=Path(path).absolute(),
        index=index,
        pts=pts,
        time_base=time_base,
        duration_seconds=float(pts[-1] - pts[0]) * time_base + last,
        keyframes=keyframes,
        counted=counted,
        num_packets=num_packets,
        hides_frames_inside=hidden_inside,
        height=height,
        width=width,
        orientation=orientation,
        container=format_name,
        codec=codec,
        first_look=first_look,
    )


def _picture_stream(
    container: av.container.InputContainer, path: str | Path
) -> av.video.stream.VideoStream:
    """Choose the best moving picture, as FFmpeg ranks them; a cover image is none."""
    stream = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        found = ", ".join(sorted({stream.type for stream in container.streams})) or "no streams"
        raise MediaError("no-video", path, f"no picture stream (found {found})")
    if stream.codec_context is None:
        raise MediaError("unreadable", path, "its picture is of a kind no decoder here knows")
    stream.codec_context.thread_count = 1
    return stream


def _first_frame(path: str | Path, index: int) -> tuple[int, int, Orientation, np.ndarray]:
    """Decode until one frame comes, for its upright size, its display matrix and its looks."""
    errors: list[str] = []
    with open_container(path) as container:
        stream = container.streams[index]
        stream.codec_context.thread_count = 1
        frame = next(decoded_frames(container, stream, errors), None)
        if frame is None:
            reason = errors[0] if errors else "the decoder stays silent"
            raise MediaError("damaged", path, f"not one frame can be decoded ({reason})")
        orientation = _orientation(frame)
        size = frame.height, frame.width
        # Shrunk here: FFmpeg's own scaler halves the colours' resolution once more on the way.
        tiny = cv2.resize(frame.to_ndarray(format="rgb24"), (8, 8), interpolation=cv2.INTER_AREA)
    height, width = size[::-1] if orientation.transpose else size
    return height, width, orientation, orientation.apply(tiny)


def _orientation(frame: av.video.frame.VideoFrame) -> Orientation:
    """Read the display matrix of a frame; one that is missing or skewed changes nothing."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return Orientation()
    right_x, right_y, _, down_x, down_y = np.frombuffer(bytes(data), dtype=np.int32)[:5].tolist()
    if abs(right_y) + abs(down_x) > abs(right_x) + abs(down_y):
        return Orientation(transpose=True, flip_columns=down_x < 0, flip_rows=right_y < 0)
    return Orientation(flip_columns=right_x < 0, flip_rows=down_y < 0)


def _count_frames(path: str | Path, index: int, rate: float) -> tuple[np.ndarray, float]:
    """Stamp the frames of a stream that carries no times by its frame rate (N,)."""
    with open_container(path) as container:
        stream = container.streams[index]
        stream.codec_context.thread_count = 1
        count = sum(1 for _ in decoded_frames(container, stream, []))
    if not count:
        raise MediaError("damaged", path, "not one frame can be decoded")
    return np.arange(count, dtype=np.int64), 1 / rate
