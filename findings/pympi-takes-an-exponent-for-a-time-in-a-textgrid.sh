#!/usr/bin/env bash
# A word that Praat has at the very beginning begins 17 seconds later where pympi reads it.
#
# One would guess: a library that reads Praat's TextGrids reads every number as Praat writes it.
# What happens: a time that comes out of arithmetic may miss 0 by rounding, and Praat writes such a
# boundary as 5.551115123125783e-17, in its long and in its short text form. pympi-ling looks for
# the last digits of the line, finds those of the exponent, and takes them for 17 seconds. There is
# no error: the interval then ends before it begins, and one that should be first comes last.
# Versions: pympi-ling 1.71, praat-parselmouth 0.4.7 (Praat 6.1.38). Python 3.11, Linux.
# Why it matters here: spans of annotations are cut out of recordings by these times. A word of half
# a second would be looked for 17 s later, or refused. hicmae/prediction/span_texts.py
# writes such numbers plainly before pympi reads them.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    'pympi-ling==1.71' 'praat-parselmouth==0.4.7' 'numpy==2.3.4'

cat > show.py <<'PY'
import importlib.metadata
import re

import parselmouth
import pympi
from parselmouth.praat import call

for name in ("pympi-ling", "praat-parselmouth"):
    print(name, importlib.metadata.version(name))
print("Praat", parselmouth.PRAAT_VERSION)

drawn = call("Create TextGrid", 0.0, 1.0, "words", "")
call(drawn, "Insert boundary", 1, 0.1 + 0.2 - 0.3)
call(drawn, "Insert boundary", 1, 0.5)
call(drawn, "Set interval text", 1, 2, "hello")

for form in ("text", "short text"):
    call(drawn, f"Save as {form} file", "words.TextGrid")
    with open("words.TextGrid") as file:
        written = [float(x) for x in re.findall(r"\d\.\d+e-\d+", file.read())]
    again = parselmouth.read("words.TextGrid")
    praat = call(again, "Get start time of interval", 1, 2)
    (tier,) = pympi.TextGrid("words.TextGrid").get_tiers()
    (found,) = (each for each in tier.get_intervals() if each[2] == "hello")
    print(f"{form}: written {written}, Praat reads {praat:.3g} s, pympi {found[:2]} s")
    assert len(written) == 2 and all(0 < time < 1e-15 for time in written)
    assert praat == written[0]
    assert found == (17.0, 0.5, "hello")
print("as described")
PY
venv/bin/python show.py
