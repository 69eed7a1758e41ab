#!/usr/bin/env bash
# A clip that was trimmed without re-encoding has its picture too early, by up to a frame.
#
# One would guess: an edit list that begins 0.25 s into a recording shows picture and sound from that
# moment on, and both lie as they lay to one another before.
# What happens: at 10 frames a second the frame of 0.2 s is on the screen there, for another 50 ms.
# FFmpeg's reader of mp4 and mov drops it, puts the next one, of 0.3 s, at the beginning, and moves
# all that follow by the same 50 ms, while the sound begins at 0.25 s exactly. With few frames a
# second, as screen recordings and variable rates have, that is a lot. The option
# `advanced_editlist=0` leaves the stamps as the file has them: the frame of 0.2 s begins before 0.
# Versions: PyAV 18.1.0 with the FFmpeg 8 of its wheel. Python 3.11, Linux.
# Why it matters here: lips and voice are compared, and cut out of recordings by time.
# hicmae/media/container.py takes stamps by the edit list alone (tests/hicmae/test_media_video.py).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check 'av==18.1.0' 'numpy==2.3.4'

cat > show.py <<'PY'
from fractions import Fraction

import av
import numpy as np

FPS, RATE, CUT = 10, 8000, Fraction(1, 4)
versions = {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
print(f"PyAV {av.__version__}, libavformat {versions['libavformat']}")

# Frame n is of grey 10 + 10 n, sample n of the sound has the value n: each tells when it was.
with av.open("a.mov", "w") as file:
    video = file.add_stream("mpeg4", rate=FPS)
    video.width = video.height = 64
    video.pix_fmt, video.bit_rate, video.codec_context.gop_size = "yuv420p", 2_000_000, 1
    audio = file.add_stream("pcm_s16le", rate=RATE, layout="mono")
    packets = []
    for number in range(20):
        grey = np.full((64, 64, 3), 10 + 10 * number, np.uint8)
        frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, FPS)
        packets += [(video, packet) for packet in video.encode(frame)]
    for begin in range(0, 2 * RATE, 200):
        samples = np.arange(begin, begin + 200, dtype=np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.pts, frame.rate, frame.time_base = begin, RATE, Fraction(1, RATE)
        packets += [(audio, packet) for packet in audio.encode(frame)]
    for stream, packet in sorted(packets, key=lambda each: each[1].pts * each[1].time_base):
        begin = packet.pts * packet.time_base - CUT  # what lies before 0 becomes an edit list
        packet.time_base, packet.stream = Fraction(1, 40_000), stream
        packet.pts = packet.dts = int(begin * 40_000)
        packet.duration = 40_000 // FPS if stream is video else 200 * 40_000 // RATE
        file.mux(packet)


def pictures(**options):
    """When each frame begins, and when it was."""
    with av.open("a.mov", options=options) as file:
        found = [(float(each.time), each.to_ndarray(format="gray")) for each in file.decode(video=0)]
    return [(round(time, 3), round((pixels.mean() - 10) / 10) / FPS) for time, pixels in found]


with av.open("a.mov") as file:
    frame = next(file.decode(audio=0))
    sound = float(frame.time), int(frame.to_ndarray().flat[0]) / RATE
usual, by_list = pictures(), pictures(advanced_editlist="0")
print(f"the sound at {sound[0]} s is that of {sound[1]} s")
print("begin of frames, and what they show:", usual[:3])
print("with advanced_editlist=0:", by_list[:5])
assert sound == (0.0, float(CUT))
assert usual[:3] == [(0.0, 0.3), (0.1, 0.4), (0.2, 0.5)]
assert (-0.05, 0.2) in by_list and (0.05, 0.3) in by_list
print("as described")
PY
venv/bin/python show.py
