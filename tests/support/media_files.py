"""Small recordings written by the tests of ``hicmae/media``: every property of them is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import av
import numpy as np

from hicmae.media.crops import crop_face, crop_reduction
from hicmae.media.decoders import DECODERS
from hicmae.media.faces import FaceConfig
from hicmae.media.recording import Recording
from hicmae.media.tracking import FaceTrack
from hicmae.media.video import FrameReader, VideoReader, open_video

# Codecs that go into each container, picture and sound.
CODECS = {
    ".mp4": ("libx264", "aac"),
    ".mov": ("libx264", "aac"),
    ".mkv": ("libx264", "aac"),
    ".webm": ("libvpx", "libopus"),
    ".avi": ("mpeg4", "pcm_s16le"),
    ".flv": ("flv", "libmp3lame"),
    ".mpg": ("mpeg1video", "mp2"),
    ".ogv": ("libvpx", "libopus"),
    ".3gp": ("libx264", "aac"),
}
_BT709 = (1, 1, 1, 1)  # see ``write_planes``
_PIXELS = {"ffv1": "bgr0", "libx264rgb": "rgb24"}


def write_recording(
    path: Path,
    frames: np.ndarray,
    times: Sequence[float] | np.ndarray,
    *,
    sound: np.ndarray | None = None,
    sound_rate: int = 48000,
    sound_start: float = 0.0,
    rotation: int | None = None,
    mirror: bool = False,
    codec: str | None = None,
    keyframe_every: int = 12,
    b_frames: int = 0,
    options: dict[str, str] | None = None,
    last_seconds: float | None = None,
) -> Path:
    """Write frames (T, H, W, 3) uint8 shown at ``times`` seconds, and sound (n,) in -1..1.

    The last frame lasts ``last_seconds``; None: as long as the encoder says.
    """
    picture_codec, sound_codec = CODECS.get(path.suffix, CODECS[".mkv"])
    picture_codec = codec or picture_codec
    of_fixed_rate = {"mpeg4", "mpeg1video", "mpeg2video"}
    base = Fraction(1, 25 if picture_codec in of_fixed_rate else 1000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(picture_codec, rate=25, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = _PIXELS.get(picture_codec, "yuv420p")
        stream.codec_context.time_base = base
        stream.codec_context.gop_size = keyframe_every
        stream.codec_context.max_b_frames = b_frames
        stream.bit_rate = 2_000_000
        if rotation is not None:
            stream.set_display_rotation(rotation, hflip=mirror)
        packets = []
        voice = None
        if sound is not None:
            voice = container.add_stream(sound_codec, rate=sound_rate, layout="mono")
        container.start_encoding()
        for pixels, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = round(time / base), base
            packets += stream.encode(frame)
        packets += stream.encode(None)
        if last_seconds is not None:
            packets[-1].duration = round(last_seconds / packets[-1].time_base)
        if voice is not None and sound is not None:
            packets += _encoded_sound(voice, sound, sound_rate, sound_start)
        packets.sort(key=lambda packet: packet.dts * packet.time_base)
        for packet in packets:
            container.mux(packet)
    return path


def write_planes(
    path: Path,
    pictures: Sequence[Sequence[np.ndarray]],
    pixels: str,
    codec: str,
    *,
    aspect: Fraction | None = None,
    fields: str = "prog",
    colours: tuple[int, ...] = _BT709,
    rotation: int | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Write pictures at 25 a second that are given as planes of one format of pixels.

    ``aspect`` is of the pixels, ``fields`` their order (``tff``, ``bff``; ``prog``: none),
    ``colours`` the codes of ISO/IEC 23091-2: primaries, transfer, matrix; then 1 of limited range,
    2 of full.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        height, width = pictures[0][0].shape
        stream.height, stream.width, stream.pix_fmt = height, width, pixels
        stream.bit_rate, context = 4_000_000, stream.codec_context
        context.color_primaries, context.color_trc = colours[:2]
        context.colorspace, context.color_range = colours[2:]
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if rotation is not None:
            stream.set_display_rotation(rotation)
        graph = av.filter.Graph()
        source = graph.add_buffer(
            width=width, height=height, format=pixels, time_base=Fraction(1, 25)
        )
        graph.link_nodes(source, graph.add("setfield", mode=fields), graph.add("buffersink"))
        graph.configure()
        for number, planes in enumerate(pictures):
            frame = av.VideoFrame(width, height, pixels)
            for plane, values in zip(frame.planes, planes, strict=True):
                row = np.zeros((plane.height, plane.line_size // values.itemsize), values.dtype)
                row[:, : plane.width] = values
                plane.update(row.tobytes())
            frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range = colours
            frame.pts, frame.time_base = number, Fraction(1, 25)
            graph.push(frame)
            marked: Any = graph.pull()
            marked.pts, marked.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(marked))
        container.mux(stream.encode(None))
    return path


def write_sound(path: Path, sound: np.ndarray, rate: int) -> Path:
    """Write sound (n,) or (n, channels) in -1..1 as a 16-bit WAV."""
    samples = np.atleast_2d((sound * 32767).astype(np.int16).T).T
    layout = {1: "mono", 2: "stereo"}[samples.shape[1]]
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return path


def counting_frames(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Frames (count, height, width, 3) whose brightness says which one it is."""
    levels = np.linspace(30, 225, count).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def opened(path: Path, *decoders: str) -> VideoReader:
    """A recording that these decoders alone are tried on, in this order."""
    with mock.patch("hicmae.media.video.DECODERS", {name: DECODERS[name] for name in decoders}):
        return open_video(path)


def frames_of(reader: FrameReader, indices: Iterable[int]) -> np.ndarray:
    """Frames at once: (n, H, W, 3) uint8 RGB, upright."""
    return np.stack([*reader.frames(indices)])


def numbers_of(frames: np.ndarray, count: int) -> np.ndarray:
    """Read the numbers back from decoded counting frames."""
    levels = np.linspace(30, 225, count)
    means = np.asarray(frames, dtype=np.float64).mean(axis=(1, 2, 3))
    return np.abs(means[:, None] - levels[None]).argmin(axis=1)


def flash_and_beep(
    seconds: float, flash_at: float, *, fps: float = 25, rate: int = 48000
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Black frames turning white and silence turning into a tone, at the same moment.

    Returns: frames, their times, sound.
    """
    times = np.arange(round(seconds * fps)) / fps
    frames = np.zeros((len(times), 48, 64, 3), dtype=np.uint8)
    frames[times >= flash_at - 1e-9] = 255
    clock = np.arange(round(seconds * rate)) / rate
    tone = 0.5 * np.sin(2 * np.pi * 1000 * clock) * (clock >= flash_at)
    return frames, times, tone


def onset(samples: np.ndarray, rate: int) -> float:
    """Seconds until int16 samples (n,) become loud."""
    return float(np.argmax(np.abs(samples.astype(np.int32)) > 4000)) / rate


def _encoded_sound(
    stream: av.audio.stream.AudioStream, sound: np.ndarray, rate: int, start: float
) -> list[av.packet.Packet]:
    packets = []
    step = stream.codec_context.frame_size or 1024
    values = sound.astype(np.float32)
    for begin in range(0, len(values), step):
        part = values[None, begin : begin + step]
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = round(start * rate) + begin
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def cut_faces(
    reader: Any,
    indices: Sequence[int] | np.ndarray,
    finder: Any,
    config: FaceConfig,
    size: int,
    region: tuple[float, float, float, float] | None = None,
) -> list[tuple[FaceTrack, Iterator[np.ndarray]]]:
    """Each face that is followed in frames (T,) of a recording, and its images of one size."""
    config = dataclasses.replace(config, face_size=size)
    recording = Recording(reader.path, reader, config, fps=25.0)
    recording.indices = np.asarray(indices, dtype=np.int64)
    tracks = recording.follow(finder, region=region)
    return [(track, recording.crops(track)) for track in tracks]


def cut_square(frame: np.ndarray, box: Sequence[float], size: int, angle: float = 0.0) -> Any:
    """One square of a frame, (size, size, 3) uint8."""
    boxes = np.array([box], dtype=np.float64)
    return crop_face(frame, boxes[0], angle, size, crop_reduction(boxes, size))
