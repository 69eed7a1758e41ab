#!/usr/bin/env bash
# Of an SRT, webvtt-py leaves out stretches that were marked and not written down.
#
# One would guess: a library that reads subtitles in two formats gives the same cues of the same
# subtitles, or says which it cannot read.
# What happens: a cue of an SRT without text, as whoever marks stretches first and writes later
# leaves it, is not among the captions, nor is one without a number; there is no error. Of the same
# cues in WebVTT both are captions. FFmpeg's reader of SRT, too, leaves out the one without text,
# and has the one without a number.
# Versions: webvtt-py 0.6.0, PyAV 18.1.0 (FFmpeg's reader of SRT). Python 3.11, Linux.
# Why it matters here: emotions are asked about in such stretches, and those that were left out were
# missing in the results without a word. hicmae/prediction/span_texts.py gives such cues a number
# and a tag before webvtt-py reads them.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check 'webvtt-py==0.6.0' 'av==18.1.0'

cat > show.py <<'PY'
import importlib.metadata

import av
import webvtt

for name in ("webvtt-py", "av"):
    print(name, importlib.metadata.version(name))

WHOLE = [("1", "yes"), ("2", "no"), ("3", "well")]
CASES = {
    "whole": WHOLE,
    "the second without text": [WHOLE[0], ("2", ""), WHOLE[2]],
    "the second without a number": [WHOLE[0], ("", "no"), WHOLE[2]],
}


def write(path, cues, point, head):
    with open(path, "w") as file:
        file.write(head)
        for place, (number, text) in enumerate(cues, start=1):
            times = f"00:00:0{place}{point}000 --> 00:00:0{place}{point}500"
            file.write("\n".join([line for line in (number, times, text) if line]) + "\n\n")


found = {}
for name, cues in CASES.items():
    write("a.srt", cues, ",", "")
    write("a.vtt", cues, ".", "WEBVTT\n\n")
    srt = [caption.start_in_seconds for caption in webvtt.from_srt("a.srt").captions]
    vtt = [caption.start_in_seconds for caption in webvtt.read("a.vtt").captions]
    with av.open("a.srt") as file:
        ffmpeg = [float(p.pts * p.time_base) for p in file.demux() if p.pts is not None]
    found[name] = srt, vtt, ffmpeg
    print(f"{name}: begins of cues in the SRT {srt}, in the WebVTT {vtt}, by FFmpeg {ffmpeg}")

every = [1.0, 2.0, 3.0]
assert found["whole"] == (every, every, every)
for name in CASES:
    srt, vtt, ffmpeg = found[name]
    assert vtt == every
    if name != "whole":
        assert srt == [1.0, 3.0]
assert found["the second without text"][2] == [1.0, 3.0]
assert found["the second without a number"][2] == every
print("as described")
PY
venv/bin/python show.py
