#!/usr/bin/env bash
# The best picture and the best sound of a broadcast are of two programmes.
#
# One would guess: of a transport stream with two programmes, `streams.best("video")` and
# `streams.best("audio")` of PyAV (FFmpeg's own choice) belong together, as a player would play them.
# What happens: each is chosen among all programmes. Where one programme has the larger picture and
# the other the sound of more bits a second, the pair is a face with somebody else's voice.
# `best("audio", related=picture)` stays within the picture's programme.
# Versions: PyAV 18.1.0 with the FFmpeg 8 of its wheel, which makes the stream too. Python 3.11, Linux.
# Why it matters here: samples are faces with their voices. hicmae/media/sound_decoding.py asks for
# the related sound (tests/hicmae/test_media_sound.py).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check 'av==18.1.0' 'numpy==2.3.4'

cat > show.py <<'PY'
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

print(f"PyAV {av.__version__}, libavformat {'.'.join(map(str, av.library_versions['libavformat']))}")
PACKET = 188


def programme(number, side, bits):
    """Two seconds of a grey picture and of noise, as packets of one programme alone."""
    path = f"{number}.ts"
    options = {
        "mpegts_service_id": str(number),
        "mpegts_start_pid": str(0x100 * number),
        "mpegts_pmt_start_pid": str(0x1000 + number),
    }
    noise = np.random.default_rng(number).uniform(-0.5, 0.5, (1, 96000)).astype(np.float32)
    with av.open(path, "w", options=options) as out:
        picture = out.add_stream("mpeg2video", rate=25)
        picture.width = picture.height = side
        picture.pix_fmt = "yuv420p"
        sound = out.add_stream("mp2", rate=48000, layout="mono")
        sound.bit_rate = bits
        for n in range(50):
            grey = av.VideoFrame.from_ndarray(np.full((side, side, 3), 90, np.uint8), format="rgb24")
            grey.pts, grey.time_base = n, Fraction(1, 25)
            out.mux(picture.encode(grey))
            samples = (noise[:, n * 1920 : (n + 1) * 1920] * 32767).astype(np.int16)
            heard = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            heard.pts, heard.rate, heard.time_base = n * 1920, 48000, Fraction(1, 48000)
            out.mux(sound.encode(heard))
        out.mux(picture.encode(None))
        out.mux(sound.encode(None))
    data = Path(path).read_bytes()
    return [data[begin : begin + PACKET] for begin in range(0, len(data), PACKET)]


def table(numbers):
    """The packet that names the programmes and where their own tables are (ISO/IEC 13818-1)."""
    section = bytes([0, 0xB0, 5 + 4 * len(numbers) + 4, 0, 1, 0xC1, 0, 0])
    for number in numbers:
        section += bytes([0, number, 0xF0, number])
    crc = 0xFFFFFFFF
    for byte in section:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    return (bytes([0x47, 0x40, 0, 0x10, 0]) + section + crc.to_bytes(4, "big")).ljust(PACKET, b"\xff")


parts = programme(1, 256, 64_000), programme(2, 64, 256_000)
# Without the tables of each programme as the only one, whose packets have numbers below 32.
own = [[p for p in part if (p[1] & 31) << 8 | p[2] > 31] for part in parts]
mixed = [p for pair in zip(*own) for p in pair] + max(own, key=len)[min(map(len, own)) :]
Path("both.ts").write_bytes(table([1, 2]) + b"".join(mixed))

with av.open("both.ts") as file:
    of = {stream.index: stream.id // 0x100 for stream in file.streams}  # by its number of packets
    for stream in file.streams:
        size = f"{stream.width} pixels" if stream.type == "video" else f"{stream.bit_rate} bits/s"
        print(f"programme {of[stream.index]}: {stream.type}, {size}")
    picture, sound = file.streams.best("video"), file.streams.best("audio")
    related = file.streams.best("audio", related=picture)
    chosen = {"picture": picture, "sound": sound, "related sound": related}
    for name, stream in chosen.items():
        print(f"best {name}: of programme {of[stream.index]}")
    assert [of[each.index] for each in chosen.values()] == [1, 2, 1]
print("as described")
PY
venv/bin/python show.py
