#!/usr/bin/env bash
# After a jump decord gives frames of another moment, with the time stamps of the right one.
#
# One would guess: `reader[44]` is the frame 44, whatever was read before, as its time stamp says.
# What happens: in a stream whose groups of pictures are open (MPEG-4 part 2 in mp4 and MPEG-2 in
# Matroska, as FFmpeg writes them with B-frames) some frames that are read first are 2 later or 13
# earlier, silently; `get_frame_timestamp` is right. Read from the beginning, all 300 are right, and
# so are those of H.264 with closed groups after any jump.
# Versions: decord 0.6.0, files by PyAV 18.1.0.
# Why it matters here: faces would be paired with the sound of another moment. The packets are looked
# at (hicmae/media/container.py), and such streams are left to PyAV (tested).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    'decord==0.6.0' 'av==18.1.0' 'numpy==2.4.4'

cat > look.py <<'PY'
"""Recordings that carry the number of every frame in nine squares, read back by decord."""

from fractions import Fraction

import av
import decord
import numpy as np

SIDE, COUNT = 42, 300


def picture(number):
    image = np.full((128, 128, 3), 20, np.uint8)
    for bit in range(9):
        row, column = (SIDE * place for place in divmod(bit, 3))
        if number >> bit & 1:
            image[row : row + SIDE, column : column + SIDE] = 230
    return image


def number_in(image):
    middles = ((SIDE * place + SIDE // 2 for place in divmod(bit, 3)) for bit in range(9))
    return sum(int(image[row, column].mean() > 125) << bit for bit, (row, column) in enumerate(middles))


def write(name, codec, keyframes_apart):
    with av.open(name, "w") as out:
        stream = out.add_stream(codec, rate=30)
        stream.width = stream.height = 128
        stream.pix_fmt, stream.bit_rate = "yuv420p", 2_000_000
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = keyframes_apart, 2
        for number in range(COUNT):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


print("decord", decord.__version__, "PyAV", av.__version__, "numpy", np.__version__)
found = {}
for name, codec, apart in (
    ("mpeg4.mp4", "mpeg4", 15),
    ("mpeg2.mkv", "mpeg2video", 15),
    ("h264.mp4", "libx264", 60),
):
    write(name, codec, apart)
    whole = decord.VideoReader(name, num_threads=1)
    assert [number_in(whole[n].asnumpy()) for n in range(COUNT)] == list(range(COUNT)), name
    for asked in (44, 118):
        reader = decord.VideoReader(name, num_threads=1)
        got = number_in(reader[asked].asnumpy())
        stamp = round(float(reader.get_frame_timestamp(asked)[0]) * 30)
        print(f"{name}: asked for {asked}, got {got}, stamped {stamp}")
        assert stamp == asked
        found[name, asked] = got - asked
assert found == {
    ("mpeg4.mp4", 44): 2,
    ("mpeg4.mp4", 118): 2,
    ("mpeg2.mkv", 44): -13,
    ("mpeg2.mkv", 118): -13,
    ("h264.mp4", 44): 0,
    ("h264.mp4", 118): 0,
}, found
print("so it still is")
PY
venv/bin/python look.py
