#!/usr/bin/env bash
# How much of a picture's left side is hidden depends on the processor.
#
# One would guess: an H.264 picture of 320 pixels that says "hide 80 on the left and 80 on the right"
# is 160 wide, as its stream's own width says.
# What happens: unless the decoder's flag `unaligned` is set, FFmpeg hides on the left only what keeps
# rows aligned to the processor's vectors. With AVX-512 the frames are 176 wide, sixteen columns of
# them were to be hidden, everything else is moved by as much, and the stream still says 160. With
# the flag both agree. On the right nothing of the kind happens.
# Versions: PyAV 18.1.0 with the FFmpeg 8 of its wheel. Python 3.11, Linux, x86-64.
# Why it matters here: boxes of faces, and clips cut out beside each other, are in pixels of the
# picture that a player shows. hicmae/media/container.py sets the flag
# (tests/hicmae/test_media_picture.py).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check 'av==18.1.0' 'numpy==2.3.4'

cat > show.py <<'PY'
import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.codec.context import Flags

print(f"PyAV {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}")

# From left to right a ramp: a column's grey tells which one it was.
ramp = np.linspace(20, 230, 320).astype(np.uint8)[None, :, None].repeat(96, axis=0).repeat(3, axis=2)
with av.open("whole.ts", "w") as out:
    stream = out.add_stream("libx264", rate=25, options={"qp": "1"})
    stream.width, stream.height, stream.pix_fmt = 320, 96, "yuv420p"
    for _ in range(3):
        out.mux(stream.encode(av.VideoFrame.from_ndarray(ramp, format="rgb24")))
    out.mux(stream.encode(None))


def cut(left, right, name):
    with av.open("whole.ts") as source, av.open(name, "w") as out:
        stream = source.streams.video[0]
        say = BitStreamFilterContext(f"h264_metadata=crop_left={left}:crop_right={right}", stream)
        copy = out.add_stream_from_template(stream)
        for packet in source.demux(stream):
            for changed in say.filter(packet if packet.size else None):
                changed.stream = copy
                out.mux(changed)


def first(name, flags=0):
    """The width that the stream says, that of its first frame, and the grey of its first column."""
    with av.open(name) as file:
        stream = file.streams.video[0]
        stream.codec_context.flags |= flags
        picture = next(file.decode(stream)).to_ndarray(format="rgb24")
        return stream.width, picture.shape[1], int(picture[:, 0].mean())


cut(80, 80, "both.ts")
cut(0, 160, "right.ts")
greys = [int(ramp[0, column, 0]) for column in (0, 64, 80)]
print("grey of columns 0, 64 and 80:", greys)
found = {
    "80 on either side": first("both.ts"),
    "the same, unaligned": first("both.ts", Flags.unaligned),
    "160 on the right": first("right.ts"),
}
for name, (said, wide, grey) in found.items():
    print(f"{name}: says {said}, frames are {wide} wide and begin with grey {grey}")
assert found["80 on either side"][:2] == (160, 176)
assert found["the same, unaligned"][:2] == (160, 160)
assert found["160 on the right"][:2] == (160, 160)
assert abs(found["80 on either side"][2] - greys[1]) <= 3
assert abs(found["the same, unaligned"][2] - greys[2]) <= 3
print("as described")
PY
venv/bin/python show.py
