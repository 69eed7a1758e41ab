#!/usr/bin/env bash
# Four seconds in a Matroska file last 104, if its clock begins at 100.
#
# One would guess: the duration that a container announces is how long it plays, as in mp4 and MPEG-TS,
# whatever its first time stamp is.
# What happens: segments that keep the clock of a long recording (`ffmpeg -f segment`, cameras and
# recorders) begin at their place in it. Written as Matroska or WebM, by FFmpeg too, the duration is
# the last time stamp and not the length: a segment of 4.2 s that begins at 100 s announces 104.2 s.
# Versions: PyAV 18.1.0 with the FFmpeg 8 of its wheel. Python 3.11, Linux.
# Why it matters here: whether a recording lacks its end is told by what its header announces; every
# segment but the first seemed to be cut off. hicmae/media/missing.py counts from the first packet
# where nothing is missing (tests/hicmae/test_media_missing.py).
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

print(f"PyAV {av.__version__}, libavformat {'.'.join(map(str, av.library_versions['libavformat']))}")


def announced(name, codec, begin):
    """Start and duration that a file of 42 frames, 10 a second, announces; and what it holds."""
    with av.open(name, "w") as file:
        stream = file.add_stream(codec, rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        packets = []
        for number in range(42):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            packets += stream.encode(frame)
        for packet in packets + stream.encode():
            packet.pts = packet.dts = int(1000 * (packet.pts * packet.time_base + begin))
            packet.time_base, packet.duration, packet.stream = Fraction(1, 1000), 100, stream
            file.mux(packet)
    with av.open(name) as file:
        times = [float(frame.time) for frame in file.decode(video=0)]
        said = file.start_time / av.time_base, file.duration / av.time_base
    return said, round(times[-1] - times[0] + 0.1, 3)


found = {}
for name, codec in (("a.mp4", "mpeg4"), ("a.ts", "mpeg4"), ("a.mkv", "mpeg4"), ("a.webm", "libvpx")):
    for begin in (0, 100):
        (start, duration), played = found[name, begin] = announced(name, codec, begin)
        print(f"{name} from {begin}: start {start:g} s, duration {duration:g} s, plays {played} s")
for (name, begin), ((_, duration), played) in found.items():
    assert played == 4.2
    late = begin if name in ("a.mkv", "a.webm") else 0
    assert abs(duration - 4.2 - late) < 0.02
print("as described")
PY
venv/bin/python show.py 2>log || { cat log; exit 1; }
