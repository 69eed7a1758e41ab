#!/usr/bin/env bash
# decord gives pictures whose size changes midway in the first one's size, out of proportion.
#
# One would guess: a frame comes in its own size, or with bars, or as an error, since a phone that is
# turned while it records, or a call whose network gets better, does change the size; a player shows
# such recordings in proportion.
# What happens: each later picture is scaled to the size of the first in both directions, without a
# word. A round face of 240 x 320 after one of 320 x 240 comes out 1.8 times as wide as high; a call that
# began small stays small to its end.
# Versions: decord 0.6.0, av 18.1.0 (writes the recording, VP8 in WebM), numpy 2.4.6.
# Why it matters here: every face behind the turn is squeezed, and a face detector still finds it.
# hicmae/media finds the sizes while it walks the packets, does not use decord for such a recording,
# and fits each picture into the largest size with its own proportions, with a test.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    'decord==0.6.0' 'av==18.1.0' 'numpy==2.4.6'

cat > show.py <<'PY'
from fractions import Fraction

import av
import decord
import numpy as np

print("decord", decord.__version__, "av", av.__version__)


def disc(height, width):
    """A white disc of 0.7 of the shorter side on grey: (H, W, 3)."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.hypot(y - height / 2, x - width / 2) < 0.35 * min(height, width)
    return np.repeat(np.where(inside, 230, 60)[..., None], 3, axis=2).astype(np.uint8)


def encoder(height, width):
    made = av.CodecContext.create("libvpx", "w")
    made.height, made.width, made.pix_fmt = height, width, "yuv420p"
    made.framerate, made.time_base = 25, Fraction(1, 25)
    made.options = {"deadline": "realtime"}
    return made


sizes = [(240, 320), (320, 240)]
with av.open("turned.webm", "w") as out:
    stream = out.add_stream("libvpx", rate=25)
    stream.height, stream.width, stream.pix_fmt = *sizes[0], "yuv420p"
    number = 0
    for height, width in sizes:
        made = encoder(height, width)
        packets = []
        for _ in range(20):
            frame = av.VideoFrame.from_ndarray(disc(height, width), format="rgb24")
            frame.pts, frame.time_base, number = number, Fraction(1, 25), number + 1
            packets += made.encode(frame)
        for packet in [*packets, *made.encode(None)]:
            packet.stream = stream
            out.mux(packet)

with av.open("turned.webm") as given:
    stored = [(frame.height, frame.width) for frame in given.decode(video=0)]
print("stored:", sorted(set(stored)), len(stored), "frames")
shown = {}
for place in (10, 30):
    picture = decord.VideoReader("turned.webm")[place].asnumpy()
    bright = picture[..., 1] > 140
    wide, high = (int(bright.any(axis=axis).sum()) for axis in (0, 1))
    shown[place] = picture.shape[:2], wide / high
    print(f"frame {place}: decord gives {picture.shape[:2]}, the disc is {wide} wide, {high} high")
assert set(stored) == set(sizes) and len(stored) == 40
assert shown[10][0] == shown[30][0] == sizes[0]
assert abs(shown[10][1] - 1) < 0.05 and abs(shown[30][1] - 16 / 9) < 0.1
PY
venv/bin/python show.py
