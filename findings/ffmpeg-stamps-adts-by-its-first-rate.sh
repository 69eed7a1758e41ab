#!/usr/bin/env bash
# Behind a change of its sampling rate, the time stamps of an AAC stream run at the old rate.
#
# One would guess: a frame of 1,024 samples at 32 kHz lasts 32 ms, so the next one's stamp is 32 ms
# later, wherever in the file it stands; each frame of ADTS says its own rate.
# What happens: ADTS has no stamps, FFmpeg counts frames. It gives all of them the length that they
# have at the rate of the first, 21.3 ms at 48 kHz, also where the decoded frames are of 32 kHz. Two
# recordings joined with `cat` (radio cut together) drift by a third of the second one's length.
# Versions: PyAV 18.1.0 with the FFmpeg 8 of its wheel. Python 3.11, Linux.
# Why it matters here: sound is laid at its stamps, so it was laid over itself time and again.
# hicmae/media/sound_decoding.py counts samples from the change on (tests/hicmae/test_media_sound.py).
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


def recording(rate, seconds):
    """The bytes of so much noise as AAC in ADTS."""
    noise = np.random.default_rng(rate).uniform(-0.3, 0.3, (1, rate * seconds)).astype(np.float32)
    name = f"{rate}.aac"
    with av.open(name, "w", format="adts") as file:
        stream = file.add_stream("aac", rate=rate, layout="mono")
        for begin in range(0, noise.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(noise[:, begin : begin + 1024], format="fltp", layout="mono")
            frame.pts, frame.rate, frame.time_base = begin, rate, Fraction(1, rate)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return Path(name).read_bytes()


Path("joined.aac").write_bytes(recording(48000, 3) + recording(32000, 3))
steps = {48000: [], 32000: []}
counted, before, drift = 0.0, None, 0.0
with av.open("joined.aac") as file:
    for frame in file.decode(audio=0):
        if before is not None and before[1] == frame.sample_rate:
            steps[frame.sample_rate].append(frame.time - before[0])
        before, drift = (frame.time, frame.sample_rate), counted - frame.time
        counted += frame.samples / frame.sample_rate
for rate, each in steps.items():
    print(f"frames of {rate} Hz: 1024 samples last {1024 / rate * 1000:.1f} ms,"
          f" stamps are {1000 * np.median(each):.1f} ms apart")
print(f"at the end the stamps are {drift:.2f} s behind the samples")
assert abs(np.median(steps[48000]) - 1024 / 48000) < 1e-4
assert abs(np.median(steps[32000]) - 1024 / 48000) < 1e-4
assert 0.8 < drift < 1.2
print("as described")
PY
venv/bin/python show.py 2>log || { cat log; exit 1; }
