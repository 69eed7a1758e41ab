"""Pictures and sound into one mp4 file.

For: encoding (H.264 and AAC through PyAV) so that the bytes depend on the input alone. Not for:
what is encoded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

# Constant quality of H.264 (0 lossless .. 51): faces stay sharp at about 3 KB a frame.
_QUALITY = "20"
_SOUND_BITS_PER_SECOND = 64_000
_SOUND_BLOCK = 1024


def write_clip(
    path: Path, frames: Iterable[np.ndarray], samples: np.ndarray, *, fps: int, sample_rate: int
) -> None:
    """Write one clip, beside ``path`` first.

    Args:
        path: An mp4 file; its folder exists.
        frames: RGB uint8 (S, S, 3), S even.
        samples: int16 (n,), mono.
        fps: Frames per second.
        sample_rate: Samples per second.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # Bit-exact muxing leaves out the date and the library's version.
        options = {"fflags": "+bitexact", "movflags": "+faststart"}
        with av.open(str(part), "w", format="mp4", options=options) as container:
            _encode(container, frames, samples, fps=fps, sample_rate=sample_rate)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _encode(
    container: av.container.OutputContainer,
    frames: Iterable[np.ndarray],
    samples: np.ndarray,
    *,
    fps: int,
    sample_rate: int,
) -> None:
    sound = container.add_stream("aac", rate=sample_rate, layout="mono")
    sound.bit_rate = _SOUND_BITS_PER_SECOND
    sound.codec_context.thread_count = 1
    video = None
    for number, frame in enumerate(frames):
        if video is None:
            # One thread: with several the bytes would depend on their number. No B-frames: every
            # decoder then agrees on when the first frame is shown.
            video = container.add_stream(
                "libx264",
                rate=fps,
                options={"preset": "superfast", "crf": _QUALITY, "bf": "0", "threads": "1"},
            )
            video.height, video.width = frame.shape[:2]
            video.pix_fmt = "yuv420p"
            video.codec_context.thread_count = 1
        planes = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)
        picture = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        picture.pts, picture.time_base = number, Fraction(1, fps)
        container.mux(video.encode(picture))
    assert video is not None, "a clip has at least one frame"
    container.mux(video.encode(None))
    for start in range(0, len(samples), _SOUND_BLOCK):
        block = np.ascontiguousarray(samples[None, start : start + _SOUND_BLOCK])
        packet = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
        packet.sample_rate = sample_rate
        packet.pts, packet.time_base = start, Fraction(1, sample_rate)
        container.mux(sound.encode(packet))
    container.mux(sound.encode(None))
