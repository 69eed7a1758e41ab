"""Texts of span files as the libraries that read them need them: they leave out, without a word,
cues of subtitles whose times or numbers they do not understand, and take a part of a number of a
TextGrid for the whole.

Not here: reading the spans (``timelines.py``).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

# Lines that stand above a cue's text, as they have to be and as they may be meant.
_CUES = {
    kind: (re.compile(rf"\s*{time}\s*-->\s*{time}(\s|$)"), example)
    for kind, time, example in (
        ("srt", r"\d+:\d{1,2}:\d{1,2}[,.]\d+", "00:00:03,500 --> 00:00:04,000"),
        ("vtt", r"(?:\d+:)?\d{1,2}:\d{1,2}\.\d{1,3}", "00:03.500 --> 00:04.000"),
    )
}
_MEANT_AS_CUE = re.compile(r"\s*\d+:[\d:.,]*\s*-+>\s*\d+:")

# A line of a TextGrid that holds a number with an exponent or a sign.
_WRITTEN_OTHERWISE = re.compile(
    r"^([ \t]*(?:\w+ = )?)(-[\d.]+(?:[eE][-+]?\d+)?|[\d.]+[eE][-+]?\d+)(?=[ \t]*\r?$)", re.MULTILINE
)


class SpanError(ValueError):
    """A line that says what is wrong with its place."""


def cue_lines(path: Path, kind: str, text: str) -> Iterator[str]:
    """The lines of subtitles; a cue of an SRT that has no number gets one, and one that has no text
    a tag, because the library leaves out such ones, as it does any whose times it cannot read.

    Raises: ValueError: times that are not as the format has them.
    """
    form, example = _CUES[kind]
    before, lines = "", text.splitlines()
    for number, line in enumerate(lines, start=1):
        if form.match(line):
            if kind == "srt" and not before.strip().isdigit():
                yield "0"
            after = [*lines[number : number + 2], "", ""]
            bare = not after[0].strip() or (after[0].strip().isdigit() and form.match(after[1]))
            if kind == "srt" and (bare or form.match(after[0])):
                line += "\n<i>"
        elif _MEANT_AS_CUE.match(line):
            raise SpanError(
                f"{path} line {number}: {line.strip()[:60]!r} is no time of a .{kind} cue (must be "
                f"like {example})"
            )
        yield line
        before = line


def plain_numbers(path: Path, text: str) -> str:
    """A TextGrid whose times have no exponent, of which the library would take the digits alone.

    Raises: ValueError: a time before the beginning, whose sign it would drop.
    """

    def plain(match: re.Match[str]) -> str:
        value = float(match[2])
        if value < -0.0005:  # what is less is rounding
            line = text.count("\n", 0, match.start(2)) + 1
            raise SpanError(
                f"{path} line {line}: {match[2]} s is before the beginning; shift the times of the "
                "TextGrid to start from 0"
            )
        return f"{match[1]}{max(value, 0.0):.9f}"

    return _WRITTEN_OTHERWISE.sub(plain, text)


def spelled(name: str) -> str:
    """A name with accents in one character: on a Mac, files have two, and tables mostly one."""
    return unicodedata.normalize("NFC", name)
