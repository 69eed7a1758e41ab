#!/usr/bin/env bash
# Every picture that PyAV turns into RGB starts a pool of threads of its own, and keeps it.
#
# One would guess: `frame.to_ndarray(format="rgb24")`, the call with which a picture of a video is
# had, converts it in the calling thread; if there are threads, a recording's pictures share them.
# What happens: the scaler belongs to the frame (`frame.reformatter`), is made by the first
# conversion with as many threads as there are processors, and lives as long as the frame does.
# A list of forty decoded frames that were looked at holds forty pools. For small pictures that is
# several times the work of the conversion; `threads=1` gives the same bytes in the calling thread.
# Versions: PyAV 18.1.0 (FFmpeg 8.1.2 in its wheel), Python 3.11, two processors or more.
# Why it matters here: pictures of 224 pixels take 0.5 ms each instead of 0.1. And frames that
# a forked process (a worker of a DataLoader) inherits and frees at some collection of garbage wait
# there for threads that a fork does not copy: such a process hung, and once ended by a signal.
# hicmae/media/picture.py converts with one thread; tests/hicmae/test_media_picture.py counts them.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check 'av==18.1.0' 'numpy==2.3.4'

cat > show.py <<'PY'
import os
import time

import av
import numpy as np

with av.open("a.mp4", "w") as container:
    stream = container.add_stream("mpeg4", rate=25)
    stream.width = stream.height = 224
    stream.codec_context.thread_count = 1
    for number in range(40):
        picture = np.full((224, 224, 3), 6 * number, dtype=np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
    container.mux(stream.encode(None))


def converted(**options):
    """The pictures, their threads beyond those before, and processor time of each, in ms."""
    with av.open("a.mp4") as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = list(container.decode(video=0))
    before, start = len(os.listdir("/proc/self/task")), time.process_time()
    pictures = [frame.to_ndarray(format="rgb24", **options) for frame in frames]
    spent = (time.process_time() - start) / len(frames) * 1e3
    return pictures, len(os.listdir("/proc/self/task")) - before, spent


print(f"PyAV {av.__version__}, {len(os.sched_getaffinity(0))} processors")
plain, many, slow = converted()
single, none, fast = converted(threads=1)
print(f"as it is:  {len(plain)} pictures, {many} threads more, {slow:.2f} ms each")
print(f"threads=1: {len(single)} pictures, {none} threads more, {fast:.2f} ms each")
print("same bytes:", all(map(np.array_equal, plain, single)))
assert many >= 40 and none == 0
assert all(map(np.array_equal, plain, single))
PY
venv/bin/python show.py
