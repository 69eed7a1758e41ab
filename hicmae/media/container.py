"""Recordings as FFmpeg sees them, through PyAV: opened with care, read past what is broken in them;
what their picture stream holds, found by walking its packets once without decoding them.

The stream found here (true presentation times, what an edit list hides, orientation) is the
reference against which every decoder's own idea of it is checked.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import av
import cv2
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.codec.context import Flags

from hicmae.files import kept_while_unchanged
from hicmae.media.errors import MediaError
from hicmae.media.picture import Picture, picture_of
from hicmae.processes import show_life

LFS_POINTER = b"version https://git-lfs"
# Formats of FFmpeg that are no recordings: still images, text, and lists that name other files or
# addresses (a recording that makes the decoder open something else is never wanted).
_NO_RECORDINGS = {"image2", "tty", "hls", "dash", "concat", "sdp", "rtsp", "lavfi", "applehttp"}
# A recording never opens anything but itself.
_OPEN_OPTIONS = {"protocol_whitelist": "file"}
# A RIFF counts its bytes in 32 bits; some recorders write what is left over of a greater number.
RIFF_BYTES = 2**32
# Decoding stamps ascend; only those that go back by more than this start again.
_RESTART_SECONDS = 1.0


@contextmanager
def ffmpeg_name(path: str | Path, mode: str = "rb") -> Iterator[str]:
    """A name under which FFmpeg opens a file: by its number where the file's own is not UTF-8."""
    # An absolute path: a relative one like "pipe:0" or "-" would mean something to FFmpeg.
    path = Path(path).absolute()
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open(mode) as file:
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        yield str(path)


@contextmanager
def open_container(
    path: str | Path, options: Mapping[str, str] = MappingProxyType({})
) -> Iterator[av.container.InputContainer]:
    """Open a recording, having looked at its first bytes.

    Args:
        path: The file.
        options: Of the reader of its container, such as ``VideoStream.options``.

    Raises:
        FileNotFoundError: There is no such file.
        MediaError: ``empty-file``, ``lfs-pointer`` or ``unreadable``.
    """
    _refuse_by_content(path)
    try:
        with ffmpeg_name(path) as name:
            container = av.open(name, options={**_OPEN_OPTIONS, **_of_length(path), **options})
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError("unreadable", path, f"not a readable recording ({reason})") from None
    with container:
        names = set(container.format.name.split(","))
        if names & _NO_RECORDINGS or any(name.endswith("_pipe") for name in names):
            raise MediaError(
                "unreadable", path, f"found {container.format.name}, which is not a recording"
            )
        for stream in container.streams.video:
            if stream.codec_context is not None:
                # Else FFmpeg hides fewer columns on the left than the recording says, a multiple
                # of what the processor likes: 320 less 80 on either side had 176.
                stream.codec_context.flags |= Flags.unaligned
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
            show_life()
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
    """Decode a stream with one thread, going on after packets that cannot be decoded.

    Args:
        container: Positioned where to start.
        stream: Pictures or sound.
        errors: Every packet that failed appends its message here.
    """
    if not stream.codec_context.is_open:
        stream.codec_context.thread_count = 1
    for packet in packets_of(container, stream):
        try:
            yield from packet.decode()
        except av.FFmpegError as error:
            errors.append(error.strerror or str(error))
    try:
        yield from stream.codec_context.decode(None)
    except av.FFmpegError as error:
        errors.append(error.strerror or str(error))


def beginning_of(container: av.container.InputContainer) -> float:
    """Where an open recording begins on its own clock, seconds, not below 0.

    A transport stream may begin at any stamp, and encoders' delays are cut off behind 0.
    """
    return max(container.start_time or 0, 0) / av.time_base


@dataclass(frozen=True, kw_only=True)
class VideoStream:
    """The picture stream of a file.

    Args:
        path: The file, absolute.
        index: Number of the stream in the container.
        pts: (N,) presentation stamps of the frames shown, in units of ``time_base``, ascending.
        time_base: Seconds of one unit.
        origin_seconds: Where players begin to count, on the clock of the container: with the first
            stream that has something to show or to play.
        begin_seconds: Where the first frame begins on the clock of the container; one that is older
            was on the screen at a cut, and is held from there on.
        end_seconds: Where the last frame ends, which may be held.
        options: With which the container has to be opened for these stamps.
        keyframes: (N,) bool, where decoding can start.
        jumps_hold: Whether frames can be counted from any keyframe on (see ``_jumps_hold``).
        counted: Whether stamps are unreliable, so that frames are told apart by counting.
        hides_frames_inside: Whether packets are hidden before or between frames that are shown.
        picture: What makes stored pictures those that are shown.
        container: FFmpeg's name of the container.
        first_look: (8, 8, 3) uint8, the first frame upright and tiny: a check on other decoders.
    """

    path: Path
    index: int
    pts: np.ndarray
    time_base: float
    origin_seconds: float
    begin_seconds: float
    end_seconds: float
    options: dict[str, str]
    keyframes: np.ndarray
    jumps_hold: bool
    counted: bool
    hides_frames_inside: bool
    picture: Picture
    container: str
    first_look: np.ndarray

    @property
    def timestamps(self) -> np.ndarray:
        """(N,) float64, seconds on the clock of the container, which the sound shares."""
        return np.maximum(self.pts * self.time_base, self.begin_seconds)


@kept_while_unchanged  # by the spans of one recording
def probe_video(path: Path) -> VideoStream:
    """Look at a file's best picture stream.

    Raises:
        FileNotFoundError: There is no such file.
        MediaError: ``empty-file``, ``lfs-pointer``, ``unreadable``, ``no-video``, or ``damaged``
            when not even one frame can be decoded.
    """
    with open_container(path) as container:
        stream = _picture_stream(container, path)
        walked = _walk(container, stream)
        if not len(walked.keys):
            raise MediaError("no-video", path, "its picture stream holds no frames")
        format_name = container.format.name
        # AVI has no presentation times; what FFmpeg makes up for them is out of order at times.
        counted = "avi" in format_name.split(",")
        time_base = float(stream.time_base or 1 / 1000)
        rate = float(stream.guessed_rate or stream.average_rate or 25)
        index = stream.index
        ends = (stream.start_time or 0) + stream.duration if stream.duration else None
        # Encoders of sound put some milliseconds before 0, which players do not count.
        origin = beginning_of(container)
        sizes = _sizes(stream, walked.heads)
    picture, first_look = _first_frames(path, index, sizes)
    options: dict[str, str] = {}
    if walked.stamps is None:
        pts = _count_frames(path, index, 1 / (rate * time_base))
        keyframes = np.arange(len(pts)) == 0
        hidden_inside, counted, jumps_hold, begin, held = False, True, len(pts) < 2, pts[0], 0
    else:
        jumps_hold = _jumps_hold(walked)
        stamps, keys, shown = walked.stamps, walked.keys, ~walked.hidden
        if counted:
            stamps = _stamps_by_place(stamps, walked.places)
        if keys.any():
            # Frames before the first one that can be decoded alone never come out.
            shown &= stamps >= stamps[keys][0]
        if not shown.any():
            raise MediaError("no-video", path, "the container hides every frame of its picture")
        begin = stamps[shown].min()
        last = np.flatnonzero(shown)[stamps[shown].argmax()]
        held = walked.durations[last]
        if ends is not None:
            held = min(held, ends - stamps[last])
        if walked.hidden.any() and "mov" in format_name.split(","):
            true_stamps = _stamps_of_media(path, index, stamps)
            older = np.flatnonzero(~shown & (true_stamps < begin))
            # Where nothing is older, the first frame only lacks an edit list that makes up for the
            # decoder's delay; FFmpeg does.
            if (true_stamps[0] - stamps[0]) * time_base > _SHIFT_SECONDS and len(older):
                stamps, options = true_stamps, _MEDIA_STAMPS
                shown[older[stamps[older].argmax()]] = True
        order = np.argsort(stamps, kind="stable")
        stamps, keys, shown = stamps[order], keys[order], shown[order]
        pts, keyframes = stamps[shown], keys[shown]
        hidden_inside = not shown[: np.flatnonzero(shown)[-1] + 1].all()
    usual = float(np.median(np.diff(pts))) * time_base if len(pts) > 1 else 1 / rate
    # What a container says of the last frame is rounded, or made up, unless it is much longer.
    lasts = held * time_base if held * time_base > _HELD_FRAMES * usual else usual
    return VideoStream(
        path=path.absolute(),
        index=index,
        pts=pts,
        time_base=time_base,
        origin_seconds=min(origin, float(begin) * time_base),
        begin_seconds=float(begin) * time_base,
        end_seconds=float(pts[-1]) * time_base + lasts,
        options=options,
        keyframes=keyframes,
        jumps_hold=jumps_hold,
        counted=counted,
        hides_frames_inside=hidden_inside,
        picture=picture,
        container=format_name,
        first_look=first_look,
    )


@dataclass(frozen=True, kw_only=True)
class _Walked:
    """The P packets of a stream in the order of decoding.

    Args:
        stamps: (P,) int64 of presentation; None where one packet or more has none.
        places: (P,) of decoding; None as above.
        durations: (P,) int64 in the same units, 0 where unknown.
        hidden: (P,) bool, by an edit list.
        keys: (P,) bool, what the container marks as keyframes.
        anew: (P,) bool, what the codec does.
        heads: A keyframe of each header but the first one's.
    """

    stamps: np.ndarray | None
    places: np.ndarray | None
    durations: np.ndarray
    hidden: np.ndarray
    keys: np.ndarray
    anew: np.ndarray
    heads: list[bytes]


def _walk(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> _Walked:
    """Go through the packets of a stream without decoding them."""
    starts_anew, header, heads = _starts_anew(stream), _headers(stream), dict[bytes, bytes]()
    rows = []
    for packet in packets_of(container, stream):
        if packet.is_corrupt:
            continue
        if packet.is_keyframe and len(heads) < _MOST_HEADERS:
            heads.setdefault(header(packet), bytes(packet))
        about = packet.pts, packet.dts, packet.duration or 0, packet.is_discard, packet.is_keyframe
        rows.append((*about, starts_anew(packet)))
    stamps, places, *others = zip(*rows, strict=True) if rows else ((),) * 6
    durations, hidden, keys, anew = others
    return _Walked(
        stamps=None if None in stamps else np.array(stamps, dtype=np.int64),
        places=None if None in places else np.array(places, dtype=np.int64),
        durations=np.array(durations, dtype=np.int64),
        hidden=np.array(hidden, dtype=bool),
        keys=np.array(keys, dtype=bool),
        anew=np.array(anew, dtype=bool),
        heads=list(heads.values())[1:],
    )


def _stamps_by_place(stamps: np.ndarray, places: np.ndarray | None) -> np.ndarray:
    """The stamps (P,) of pictures of an AVI, which says of a picture its place in the file alone.

    The first that is shown is shown at the first place, and so on, as mpv does it and writers mean
    it. FFmpeg's ``stamps`` give their order, and are a frame late where it expects another one.
    """
    if places is None:
        return stamps
    found = np.empty_like(stamps)
    found[np.argsort(stamps, kind="stable")] = np.sort(places)
    return found


def _stamps_of_media(path: str | Path, index: int, stamps: np.ndarray) -> np.ndarray:
    """The stamps (P,) of packets by the edit list alone, where that is one shift of all of them.

    FFmpeg drops the frame that is on the screen at a cut and moves the next one, and all after it,
    to the cut; the sound stays. Where several cuts move frames differently its ``stamps`` stand.
    """
    with open_container(path, _MEDIA_STAMPS) as container:
        stream = container.streams[index]
        found = [p.pts for p in packets_of(container, stream) if not p.is_corrupt]
    if len(found) != len(stamps) or None in found:
        return stamps
    true_stamps = np.array(found, dtype=np.int64)
    return true_stamps if len(np.unique(true_stamps - stamps)) == 1 else stamps


# FFmpeg's reader of mp4 and mov then only shifts stamps by the edit list, and hides nothing.
_MEDIA_STAMPS = {"advanced_editlist": "0"}
_SHIFT_SECONDS = 2e-3  # smaller shifts are the rounding of edit lists
_HELD_FRAMES = 3  # a last frame that lasts longer than so many is held
# Codecs that hold fields, and may begin with pictures that have none.
_OF_FIELDS = {"h264", "mpeg2video", "mpeg4", "vc1", "wmv3", "mpeg1video"}
# Kinds of units of which a picture consists that needs none before it: IDR of H.264, and all random
# access points of HEVC. Source: ITU-T H.264 and H.265, tables 7-1.
_ANEW = {"h264": "5", "hevc": "16-21"}
# Where keyframes say the size of pictures: what finds the sequence headers of a codec, or the bytes
# themselves (RFC 6386, section 9.1; VP9 bitstream specification, section 6.2); and how many
# different ones are looked at.
_HEADER_FILTERS = {
    "h264": "filter_units=pass_types=7",
    "hevc": "filter_units=pass_types=33",
    **dict.fromkeys(("av1", "mpeg1video", "mpeg2video", "mpeg4", "vc1"), "extract_extradata"),
}
_SIZE_BYTES = {"vp8": slice(6, 10), "vp9": slice(4, 9)}
_MOST_HEADERS = 64


def _starts_anew(stream: av.video.stream.VideoStream) -> Callable[[av.packet.Packet], bool]:
    """Tell whether a packet that is marked a keyframe is one; it may be used up by that.

    An intra refresh is marked so too, where decoding can begin and nothing is shown for a while.
    """
    kinds = _ANEW.get(stream.codec_context.name)
    if kinds is None:
        return lambda packet: packet.is_keyframe
    units = BitStreamFilterContext(f"filter_units=pass_types={kinds}", stream)

    def tell(packet: av.packet.Packet) -> bool:
        if not packet.is_keyframe:
            return False
        try:
            return any(len(bytes(part)) for part in units.filter(packet))
        except av.FFmpegError:
            return False

    return tell


def _headers(stream: av.video.stream.VideoStream) -> Callable[[av.packet.Packet], bytes]:
    """Give what a keyframe says of its kind; where the size changes, that does too."""
    name = stream.codec_context.codec.canonical_name  # not that of a decoder, such as libdav1d
    place, kind = _SIZE_BYTES.get(name, slice(0)), _HEADER_FILTERS.get(name)
    found = BitStreamFilterContext(kind, stream) if kind else None

    def header(packet: av.packet.Packet) -> bytes:
        data, parts = bytes(packet), [packet]
        if found is not None:
            try:  # with a copy, since a filter uses up what it is given
                parts += found.filter(av.Packet(data))
            except av.FFmpegError:
                return b""
        units = b"".join(map(bytes, parts[1:])) if name in _ANEW else data[place]
        more = [part for part in parts if part.has_sidedata("new_extradata")]
        return units + b"".join(bytes(part.get_sidedata("new_extradata")) for part in more)

    return header


def _sizes(stream: av.video.stream.VideoStream, heads: list[bytes]) -> set[tuple[int, int]]:
    """Heights and widths of pictures of a stream that can be decoded alone."""
    found = set()
    for data in heads:
        decoder = av.CodecContext.create(stream.codec_context.name, "r")
        decoder.extradata, decoder.thread_count = stream.codec_context.extradata, 1
        decoder.flags |= Flags.unaligned
        try:
            for frame in [*decoder.decode(av.Packet(data)), *decoder.decode(None)]:
                found.add((frame.height, frame.width))
        except av.FFmpegError:
            continue
    return found


def _jumps_hold(walked: _Walked) -> bool:
    """Whether a decoder that is started at any keyframe gives it first, and then all that follow.

    Not where groups of pictures are open: there pictures that follow a keyframe in the file are
    shown before it, and need the group before, so that a decoder leaves them out or spoils them.
    """
    stamps, places = walked.stamps, np.flatnonzero(walked.keys)[1:]
    assert stamps is not None
    before = np.maximum.accumulate(stamps)[places - 1]
    after = np.minimum.accumulate(stamps[::-1])[::-1][places]
    return bool(np.all(walked.anew[places] & (before < stamps[places]) & (after == stamps[places])))


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
    return stream


def _first_frames(
    path: str | Path, index: int, sizes: Collection[tuple[int, int]]
) -> tuple[Picture, np.ndarray]:
    """Decode until one frame comes, and one in the middle, for what has to be done with them.

    Returns: that; (8, 8, 3) uint8, the first frame as it is shown and tiny.
    """
    errors: list[str] = []
    with open_container(path) as container:
        stream = container.streams[index]
        frame = next(decoded_frames(container, stream, errors), None)
        if frame is None:
            reason = errors[0] if errors else "the decoder stays silent"
            raise MediaError("damaged", path, f"not one frame can be decoded ({reason})")
        frames = [frame]
        if stream.codec_context.name in _OF_FIELDS and not frame.interlaced_frame:
            frames += _frame_in_the_middle(container, stream)
        picture = picture_of(stream, frames, sizes)
        try:
            pixels = frame.to_ndarray(format="rgb24", threads=1)
        except OSError:
            found = f"FFmpeg converts no colours of matrix {frame.colorspace} (of ISO/IEC 23091-2)"
            remedy = "convert it first, such as with ffmpeg -i FILE -vf zscale=matrix=709 OUT.mkv"
            raise MediaError("unreadable", path, f"{found}; {remedy}") from None
        # Shrunk here: FFmpeg's own scaler halves the colours' resolution once more on the way.
        tiny = cv2.resize(pixels, (8, 8), interpolation=cv2.INTER_AREA)
    return picture, picture.orientation.apply(tiny)


def _frame_in_the_middle(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream
) -> list[av.VideoFrame]:
    """The first frame after a jump to the middle; none where the file allows no jump."""
    if not stream.duration:
        return []
    try:
        container.seek((stream.start_time or 0) + stream.duration // 2, stream=stream)
        return list(itertools.islice(decoded_frames(container, stream, []), 1))
    except av.FFmpegError:
        return []


def _count_frames(path: str | Path, index: int, step: float) -> np.ndarray:
    """Stamps (N,) of the frames of a stream some of which carry none, mostly the first: counted by
    its frame rate, ``step`` units of its time each, from those that do; from 0 where none does.
    """
    with open_container(path) as container:
        frames = decoded_frames(container, container.streams[index], [])
        stamps = [frame.pts for frame in frames]
    if not stamps:
        raise MediaError("damaged", path, "not one frame can be decoded")
    places = np.arange(len(stamps))
    known = np.array([stamp is not None for stamp in stamps])
    found = np.array([stamp for stamp in stamps if stamp is not None], dtype=np.float64)
    if not len(found) or np.any(np.diff(found) <= 0):
        return np.round(places * step).astype(np.int64)
    before = np.minimum(places - places[known][0], 0) * step
    after = np.maximum(places - places[known][-1], 0) * step
    return np.round(np.interp(places, places[known], found) + before + after).astype(np.int64)


def _of_length(path: str | Path) -> dict[str, str]:
    """What makes FFmpeg read all of a WAV of 4 GiB or more, beyond what its header counts."""
    with Path(path).open("rb") as file:
        head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return {}
    more = Path(path).stat().st_size - 8 - int.from_bytes(head[4:8], "little")
    # A chunk of odd length is filled up by a byte, which some writers leave out.
    return {"ignore_length": "1"} if more > 1 and more % RIFF_BYTES <= 1 else {}


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
