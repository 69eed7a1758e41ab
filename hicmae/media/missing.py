"""Whether all of a recording is there, by what its header announces; not for reading it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av

from hicmae.media.container import RIFF_BYTES, beginning_of, open_container
from hicmae.media.errors import MediaError

# Headers are rounded, and the last frame or block of sound may last shorter than they say.
_LEAST_SECONDS = 0.5
_LOOK_BACK_SECONDS = 1.0  # from the end, for the last frame of a recording that is whole
_BY_STREAM, _BY_CONTAINER = {"mov"}, {"matroska", "flv", "flac"}
_FIRST_BOXES = {b"ftyp", b"wide", b"moov"}
_RIFF = {b"RIFF", b"RIFX"}
_UNKNOWN_BYTES = {0, 0xFFFFFFFF}  # of a RIFF that was written to a pipe, or is longer than 4 GiB
# Of a WAV that SoX, arecord and others write to a pipe, 2 GiB more or less than a header's chunks.
_PIPED_BYTES = range(2**31 - 4096, 2**31 + 4096)
_MORE_BYTES = 65536  # and a hundredth: what taggers put behind a recording


def cut_off(path: Path) -> str:
    """What is missing of a recording, for people; "" where nothing is, or its header says nothing.

    It may have been cut off in a copy, or never have been ended; what is there decodes without a
    complaint, so that a third of a recording looks like a short one. A WAV whose header was not
    brought up to date says less than there is. Headers of mp4, mov, Matroska, WebM, FLV and FLAC
    tell the length in time, of WAV and AVI in bytes. Other containers say nothing (MPEG streams,
    Ogg), or FFmpeg guesses (mp3).

    Args: path: A file; of anything else nothing is said.
    """
    try:
        return (_by_bytes(path) or _by_time(path)) if path.is_file() else ""
    except MediaError:  # it cannot be opened: mp4 and mov need their index, which is mostly last
        return _by_boxes(path)
    except OSError:  # said where it is opened to be read
        return ""


def problem_of(error: MediaError) -> str:
    """What is wrong with a recording, and what it lacks, if that is why."""
    lacks = cut_off(Path(error.path))
    return f"{error.problem}; {lacks}" if lacks else error.problem


def _by_bytes(path: Path) -> str:
    """Of a RIFF: its length is in its first bytes, and FFmpeg takes what is there for it."""
    with path.open("rb") as file:
        head = file.read(12)
    said = int.from_bytes(head[4:8], "big" if head[:4] == b"RIFX" else "little")
    there = path.stat().st_size - 8
    if head[:4] not in _RIFF or said in _UNKNOWN_BYTES:
        return ""
    if head[8:] == b"WAVE":
        if said in _PIPED_BYTES:
            return ""
        more = there - said
        if _MORE_BYTES + there // 100 < more and more % RIFF_BYTES > 1:
            remedy = "ffmpeg -ignore_length 1 -i FILE OUT.wav reads the rest"
            what = f"its header announces {said / there:.1%} of the bytes that are there"
            return f"{what}, and no more is read ({remedy})"
    # A chunk of odd length is filled up by a byte, which some writers leave out.
    if said <= there + 1:
        return ""
    return f"it is cut off: {there / said:.0%} of the bytes that its header announces are there"


def _by_boxes(path: Path) -> str:
    """Of mp4 and mov: boxes, each with its length in front. Source: ISO/IEC 14496-12, 4.2."""
    place, names, size = 0, list[bytes](), path.stat().st_size
    with path.open("rb") as file:
        while place < size:
            file.seek(place)
            head = file.read(16)
            length, name = int.from_bytes(head[:4], "big"), head[4:8]
            if length == 1:
                length = int.from_bytes(head[8:], "big")
            if not names and name not in _FIRST_BOXES:
                return ""
            names.append(name)
            if length < 8:  # to the end of the file, or nonsense
                break
            place += length
    if place > size:
        there = f"{1 - (place - size) / length:.0%} of the bytes"
        return f"it is cut off: {there} that its box {name.decode('latin1')} announces are there"
    if names and b"moov" not in names:
        return "it is cut off: its index (moov) is missing, as where a recording was never ended"
    return ""


def _by_time(path: Path) -> str:
    with open_container(path) as container:
        names = set(container.format.name.split(","))
        streams = [*container.streams.video, *container.streams.audio]
        places = [stream.index for stream in streams]
        begin = beginning_of(container)
        said = None
        if names & _BY_STREAM:
            ends = [
                float(((stream.start_time or 0) + stream.duration) * stream.time_base)
                for stream in streams
                if stream.duration and stream.time_base
            ]
            said = max(ends, default=None)
        elif names & _BY_CONTAINER and len(streams) == len(container.streams):  # no subtitles
            said = (container.duration or 0) / av.time_base
            # Matroska counts from 0, as FFmpeg writes it: segments of a recording keep its clock.
            if said and not ("matroska" in names and said > begin):
                said += begin
        if not said:
            return _by_boxes(path) if names & _BY_STREAM and not streams else ""
        late = max(begin, said - _LOOK_BACK_SECONDS)
        least = said - max(_LEAST_SECONDS, 0.01 * (said - begin))
        try:
            container.seek(int(late * av.time_base))
            if any(end >= least for end in _ends(container, streams)):
                return ""
        except av.FFmpegError:  # no jump to there: it is walked through
            pass
    last = begin
    for place in places:  # one by one: a stream whose index is broken ends the others
        with open_container(path) as container:
            last = max(last, max(_ends(container, container.streams[place]), default=last))
        if last >= least:
            return ""
    there, said = max(last - begin, 0.0), said - begin
    return f"it is cut off: {there:.2f} of the {said:.2f} s that its header announces are there"


def _ends(container: av.container.InputContainer, streams: Any) -> Iterator[float]:
    """Where each packet ends, seconds on the container's clock, until the file breaks off."""
    try:
        for packet in container.demux(streams):
            whole = packet.size and packet.pts is not None and not packet.is_corrupt
            if whole and packet.time_base is not None:
                yield float((packet.pts + (packet.duration or 0)) * packet.time_base)
    except av.FFmpegError:
        return
