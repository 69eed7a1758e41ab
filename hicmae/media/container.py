"""Recordings opened with PyAV, and their packets and frames past what is broken in them.

For: everything of this package that reads through PyAV, pictures and sound. Not for: what the
streams mean (``probe.py``, ``sound.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av

from hicmae.media.errors import MediaError

LFS_POINTER = b"version https://git-lfs"
# Formats of FFmpeg that are no recordings: still images, text, and lists that name other files or
# addresses (a recording that makes the decoder open something else is never wanted).
_NO_RECORDINGS = {"image2", "tty", "hls", "dash", "concat", "sdp", "rtsp", "lavfi", "applehttp"}
# A recording never opens anything but itself.
_OPEN_OPTIONS = {"protocol_whitelist": "file"}


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
    """
    try:
        for packet in container.demux(stream):
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
