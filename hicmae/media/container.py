"""Recordings as FFmpeg sees them, through PyAV: opened with care, read past what is broken in them,
and what their picture stream holds, found by walking its packets once without decoding them.

The stream found here (true presentation times, what an edit list hides, orientation) is the
reference against which every decoder's own idea of it is checked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from hicmae.media.errors import MediaError

LFS_POINTER = b"version https://git-lfs"
# Formats of FFmpeg that are no recordings: still images, text, and lists that name other files or
# addresses (a recording that makes the decoder open something else is never wanted).
_NO_RECORDINGS = {"image2", "tty", "hls", "dash", "concat", "sdp", "rtsp", "lavfi", "applehttp"}
# A recording never opens anything but itself.
_OPEN_OPTIONS = {"protocol_whitelist": "file"}
# Decoding stamps ascend; only those that go back by more than this start again.
_RESTART_SECONDS = 1.0


@contextmanager
def open_container(path: str | Path) -> Iterator[av.container.InputContainer]:
    """Open a recording, having looked at its first bytes.

    Raises:
        FileNotFoundError: There is no such file.
        MediaError: ``empty-file``, ``lfs-pointer`` or ``unreadable``.
    """
    _refuse_by_content(path)
    try:
        # An absolute path: a relative one like "pipe:0" or "-" would mean something to FFmpeg.
        container = av.open(str(Path(path).absolute()), options=_OPEN_OPTIONS)
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError("unreadable", path, f"not a readable recording ({reason})") from None
    with container:
        names = set(container.format.name.split(","))
        if names & _NO_RECORDINGS or any(name.endswith("_pipe") for name in names):
            raise MediaError(
                "unreadable", path, f"found {container.format.name}, which is not a recording"
            )
        yield container


def packets_of(
    container: av.container.InputContainer, stream: av.stream.Stream
) -> Iterator[av.packet.Packet]:
    """Give the packets of a stream that have content, until the end or until the file breaks off.

    Packets without content say "the same picture again" (Theora) or mark the end; handed to a
    decoder they would end it.

    Raises: MediaError: ``stamps-restart``: recordings joined as they are, ``cat a.ts b.ts``, are
        one over the other on one clock.
    """
    stamps: deque[float] = deque(maxlen=4)
    try:
        for packet in container.demux(stream):
            if packet.dts is not None:
                stamps.append(float(packet.dts * packet.time_base))
                before, after = list(stamps)[:2], list(stamps)[2:]
                # Two on either side: a single stamp may be broken.
                if len(after) == 2 and max(after) < min(before) - _RESTART_SECONDS:
                    raise MediaError(
                        "stamps-restart",
                        container.name,
                        f"the time stamps of its {stream.type} go back from {before[1]:.2f} to "
                        f"{after[0]:.2f} s, as where recordings were joined end to end; give the "
                        "parts one by one, or join them with FFmpeg's concat demuxer",
                    )
            if packet.size:
                yield packet
    except av.FFmpegError:
        return  # What comes after is lost; what came before stands.


def decoded_frames(
    container: av.container.InputContainer, stream: av.stream.Stream, errors: list[str]
) -> Iterator[av.frame.Frame]:
    """Decode a stream, going on after packets that cannot be decoded.

    Args:
        container: Positioned where to start.
        stream: Pictures or sound.
        errors: Every packet that failed appends its message here.
    """
    for packet in packets_of(container, stream):
        try:
            yield from packet.decode()
        except av.FFmpegError as error:
            errors.append(error.strerror or str(error))
    try:
        yield from stream.codec_context.decode(None)
    except av.FFmpegError as error:
        errors.append(error.strerror or str(error))


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
        hides_frames_inside: Whether packets are hidden before or between frames that are shown.
        height: Of the upright picture, pixels.
        width: Of the upright picture, pixels.
        orientation: From stored to upright pixels.
        container: FFmpeg's name of the container.
        first_look: (8, 8, 3) uint8, the first frame upright and tiny: a check on other decoders.
    """

    path: Path
    index: int
    pts: np.ndarray
    time_base: float
    duration_seconds: float
    keyframes: np.ndarray
    counted: bool
    hides_frames_inside: bool
    height: int
    width: int
    orientation: Orientation
    container: str
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
        format_name = container.format.name
        # AVI has no presentation times; what FFmpeg makes up for them is out of order at times.
        counted = "avi" in format_name.split(",")
        time_base = float(stream.time_base or 1 / 1000)
        rate = float(stream.guessed_rate or stream.average_rate or 25)
        index = stream.index
    height, width, orientation, first_look = _first_frame(path, index)
    if any(pts is None for pts, *_ in packets):
        pts, time_base = _count_frames(path, index, rate)
        keyframes = np.arange(len(pts)) == 0
        hidden_inside, counted = False, True
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
    last = float(np.median(np.diff(pts))) * time_base if len(pts) > 1 else 1 / rate
    return VideoStream(
        path=Path(path).absolute(),
        index=index,
        pts=pts,
        time_base=time_base,
        duration_seconds=float(pts[-1] - pts[0]) * time_base + last,
        keyframes=keyframes,
        counted=counted,
        hides_frames_inside=hidden_inside,
        height=height,
        width=width,
        orientation=orientation,
        container=format_name,
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


def _refuse_by_content(path: str | Path) -> None:
    """Say plainly what the most frequent non-recordings are."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():
        raise MediaError("unreadable", path, "not a regular file")
    try:
        with path.open("rb") as file:
            head = file.read(len(LFS_POINTER))
    except OSError as error:
        raise MediaError("unreadable", path, f"cannot be read ({error.strerror})") from None
    if not head:
        raise MediaError("empty-file", path, "the file is empty (0 bytes)")
    if head == LFS_POINTER:
        raise MediaError(
            "lfs-pointer", path, "a Git LFS pointer, not the recording; fetch it with git lfs pull"
        )
