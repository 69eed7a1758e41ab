#!/usr/bin/env bash
# The first picture of an AVI with H.264 is shown 40 ms after its first sound.
#
# One would guess: a picture that was put first into an AVI, beside sound that begins with it, comes
# out at 0 as the sound does; at least where no picture refers to a later one (no B-frames), so that
# pictures are stored in the order in which they are shown.
# What happens: AVI says of a picture its place in the file and nothing else. FFmpeg makes up a time of
# showing from it, one frame after the place for all of H.264, also without B-frames. The sound stays
# at 0. The same pictures as Motion JPEG in AVI, or as H.264 in Matroska, come out at 0.
# Versions: PyAV 18.1.0 with the FFmpeg 8 of its wheel. Python 3.11, Linux.
# Why it matters here: mouth against voice. Pictures of an AVI stand at their places in the file
# (hicmae/media/container.py, tests/hicmae/test_media_video.py).
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


def begins(name, codec, pixels):
    """First times, seconds, of ten pictures and of the sound that begins with them."""
    with av.open(name, "w") as file:
        picture = file.add_stream(codec, rate=25)
        picture.width = picture.height = 64
        picture.pix_fmt, picture.codec_context.max_b_frames = pixels, 0
        sound = file.add_stream("pcm_s16le", rate=16000, layout="mono")
        for number in range(10):
            grey = np.full((64, 64, 3), 20 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            file.mux(picture.encode(frame))
            heard = av.AudioFrame.from_ndarray(np.ones((1, 640), np.int16), format="s16", layout="mono")
            heard.pts, heard.rate, heard.time_base = 640 * number, 16000, Fraction(1, 16000)
            file.mux(sound.encode(heard))
        file.mux(picture.encode(None))
        file.mux(sound.encode(None))
    times = {}
    for kind in ("video", "audio"):
        with av.open(name) as file:
            times[kind] = [float(frame.time) for frame in file.decode(**{kind: 0})]
    with av.open(name) as file:
        places = [packet.dts for packet in file.demux(video=0) if packet.size]
    assert len(times["video"]) == 10 and np.allclose(np.diff(times["video"]), 0.04)
    return times["video"][0], times["audio"][0], places == sorted(places)


found = {}
for name, codec, pixels in (
    ("h264.avi", "libx264", "yuv420p"),
    ("h264.mkv", "libx264", "yuv420p"),
    ("mjpeg.avi", "mjpeg", "yuvj420p"),
):
    picture, sound, in_order = found[name] = begins(name, codec, pixels)
    print(f"{name}: picture from {picture:.3f} s, sound from {sound:.3f} s, in order: {in_order}")
assert [round(picture - sound, 3) for picture, sound, _ in found.values()] == [0.04, 0.0, 0.0]
assert all(in_order for _, _, in_order in found.values())
print("as described")
PY
venv/bin/python show.py 2>log || { cat log; exit 1; }
