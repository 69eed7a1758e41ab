"""Spans of recordings as people mark them: CSV, SRT, WebVTT, RTTM, Praat's TextGrid and ELAN's eaf.

Times are seconds after the recording's beginning, as players and annotation tools count.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Names of CSV columns; of several words for one thing the first that is there counts.
_COLUMNS = {
    "start": ("start", "begin", "onset", "start_seconds"),
    "end": ("end", "stop", "offset", "end_seconds"),
    "duration": ("duration", "dur"),
    "speaker": ("speaker", "speaker_id"),
    "text": ("text", "label", "transcript"),
    "recording": ("path", "recording", "file", "filename"),
    "face": ("face", "track"),
}
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)")
_TAGS = re.compile(r"<[^<>]*>")
_SAID_BY = re.compile(r"\[([^\]\n]{1,60})\]:\s*")  # as WhisperX writes speakers into subtitles


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of a recording that one answer is wanted about.

    Args:
        start: Seconds after the recording's beginning.
        end: Likewise.
        speaker: Who speaks in it; empty if nobody says.
        text: What stands there: a transcript, a label.
        recording: The recording it is of, by its path, its name or its name without the ending;
            empty: of any.
        face: The face it is about (``face0``, …); empty: the one that is seen for most of it, or
            that speaks in it.
    """

    start: float
    end: float
    speaker: str = ""
    text: str = ""
    recording: str = ""
    face: str = ""


def read_spans(path: Path, tiers: Sequence[str] = ()) -> tuple[Span, ...]:
    """Read a file of spans, of the kind that its ending says.

    Tiers name the speakers of a TextGrid and of an eaf (there the participant, if one is named);
    spans without text and points are no spans there, nor are tiers that refer to another one.

    Args:
        path: The file.
        tiers: Read these alone; none: all.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Another ending; it cannot be read, or holds no span; no such tier.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: no kind of spans (known: {', '.join(_READERS)})")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of spans")
    if tiers and reader not in (_textgrid, _eaf):
        raise ValueError(f"{path}: has no tiers; span_tiers is for .TextGrid and .eaf")
    try:
        spans = list(reader(path))
    except (FileNotFoundError, _SpanError):
        raise
    # Of the libraries for annotations, of XML and of encodings: there is no end to them.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path}: cannot be read as {path.suffix.lower()} ({reason[:200]}); save it again "
            "as UTF-8 where it was made"
        ) from error
    if tiers:
        known = sorted({tier for tier, _ in spans})
        if missing := [name for name in tiers if name not in known]:
            found = ", ".join(known) or "none with text"
            raise ValueError(f"{path}: no tier {', '.join(missing)} (found: {found})")
    kept = tuple(span for tier, span in spans if not tiers or tier in tiers)
    if not kept:
        raise ValueError(f"{path}: holds no span")
    if bad := [span for span in kept if not (math.isfinite(span.start) and span.end > span.start)]:
        raise ValueError(
            f"{path}: a span ends at {bad[0].end:g} s and begins at {bad[0].start:g} s"
            f"{f' ({bad[0].text[:40]!r})' if bad[0].text else ''}"
            f"{f'; and {len(bad) - 1} more like it' if len(bad) > 1 else ''}; mend or delete it"
        )
    return kept


def spans_of(
    source: Path, recordings: Sequence[Path], tiers: Sequence[str] = ()
) -> dict[Path, tuple[Span, ...]]:
    """The spans of each recording: of the one, by the file's own names, or of a file for each.

    Args:
        source: A file, or a folder of files called like the recordings.
        recordings: Which are to be predicted.
        tiers: As of ``read_spans``.

    Raises: as ``read_spans``; ValueError: several recordings and a file that names none, or none
        of them; nothing called like a recording.
    """
    if source.is_dir():
        files = {each: _beside(source, each) for each in recordings}
        return {each: _own(read_spans(file, tiers), each) for each, file in files.items()}
    spans = read_spans(source, tiers)
    named = {span.recording for span in spans} - {""}
    if not named and len(recordings) > 1:
        raise ValueError(
            f"{source}: its spans are of one recording, and there are {len(recordings)}; name "
            "theirs in a column 'path', or give a folder with a file for each"
        )
    # RTTM names every recording, also the only one, as its maker liked.
    whole = len(recordings) == 1 and len(named) <= 1 and source.suffix.lower() == ".rttm"
    found = {each: spans if whole else _own(spans, each) for each in recordings}
    if not any(found.values()):
        raise ValueError(
            f"{source}: no span is of {recordings[0].name}"
            f"{f' or {len(recordings) - 1} more' if len(recordings) > 1 else ''} "
            f"(they are of {', '.join(sorted(named)[:4])})"
        )
    return found


class _SpanError(ValueError):
    """A line that says what is wrong with its place."""


def _own(spans: Sequence[Span], recording: Path) -> tuple[Span, ...]:
    names = {"", str(recording), recording.as_posix(), recording.name, recording.stem}
    return tuple(s for s in spans if s.recording in names or Path(s.recording).name in names)


def _beside(folder: Path, recording: Path) -> Path:
    stem = recording.name if recording.is_dir() else recording.stem
    for path in sorted(folder.iterdir()):
        if path.stem == stem and path.suffix.lower() in _READERS:
            return path
    raise ValueError(f"{folder}: holds no spans of {recording.name} ({stem}.csv, {stem}.eaf, …)")


def _text_of(path: Path) -> str:
    """Text as UTF-8, or as UTF-16 where its first bytes say so (Praat, Excel)."""
    data = path.read_bytes()
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


def _table(path: Path) -> Iterator[tuple[str, Span]]:
    text = _text_of(path)
    head = text.split("\n", 1)[0]
    separator = max(",;\t", key=head.count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    names = {str(name).strip().lower(): name for name in rows.fieldnames or ()}
    found = {
        what: names[word]
        for what, words in _COLUMNS.items()
        if (word := next((word for word in words if word in names), None)) is not None
    }
    if "start" not in found or not ("end" in found or "duration" in found):
        raise _SpanError(
            f"{path}: needs columns start, and end or duration, in seconds or h:mm:ss.s "
            f"(found: {', '.join(list(names)[:8]) or 'nothing'})"
        )
    for row in rows:
        if not any(map(str.strip, filter(None, (row[name] for name in names.values())))):
            continue
        where = f"{path} line {rows.line_num}"
        cells = {what: str(row[name] or "").strip() for what, name in found.items()}
        start = _seconds(cells.pop("start"), f"{where}: start")
        length, end = cells.pop("duration", ""), cells.pop("end", "")
        end_seconds = (
            _seconds(end, f"{where}: end")
            if end or not length
            else start + _seconds(length, f"{where}: duration")
        )
        yield "", Span(start=start, end=end_seconds, **cells)


def _seconds(text: str, where: str) -> float:
    """Seconds, or a clock's hours, minutes and seconds."""
    if clock := _CLOCK.fullmatch(text):
        hours, minutes, seconds = clock.groups()
        return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))
    try:
        return float(text.replace(",", "."))
    except ValueError:
        raise _SpanError(f"{where} = {text!r} (seconds, or h:mm:ss.s)") from None


def _subtitles(path: Path) -> Iterator[tuple[str, Span]]:
    import webvtt

    kind = path.suffix.lower().removeprefix(".")
    for cue in webvtt.WebVTT.from_buffer(io.StringIO(_text_of(path)), format=kind).captions:
        text = " ".join(_TAGS.sub("", cue.raw_text).split())
        said = _SAID_BY.match(text)
        yield (
            "",
            Span(
                start=_stamp(cue.start_time.to_tuple()),
                end=_stamp(cue.end_time.to_tuple()),
                speaker=cue.voice or (said.group(1) if said else ""),
                text=text[said.end() :] if said else text,
            ),
        )


def _stamp(parts: tuple[int, int, int, int]) -> float:
    hours, minutes, seconds, milliseconds = parts
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _rttm(path: Path) -> Iterator[tuple[str, Span]]:
    """Source: NIST, Rich Transcription evaluation plan RT-09, appendix A (fields of a line)."""
    for number, line in enumerate(_text_of(path).splitlines(), start=1):
        cells = line.split()
        if not cells or cells[0].startswith(";") or cells[0] != "SPEAKER":
            continue
        if len(cells) < 8:
            raise _SpanError(f"{path} line {number}: {len(cells)} fields (a SPEAKER line has 8 up)")
        start, length = (_seconds(cells[n], f"{path} line {number}: field {n + 1}") for n in (3, 4))
        speaker = cells[7] if cells[7] != "<NA>" else ""
        yield "", Span(start=start, end=start + length, speaker=speaker, recording=cells[1])


def _textgrid(path: Path) -> Iterator[tuple[str, Span]]:
    from pympi import TextGrid

    with path.open("rb") as file:
        codec = "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    for tier in TextGrid(str(path), codec=codec).get_tiers():
        if tier.tier_type != "IntervalTier":
            continue
        for start, end, text in tier.get_intervals(sort=True):
            if words := " ".join(text.split()):
                yield tier.name, Span(start=start, end=end, speaker=tier.name, text=words)


def _eaf(path: Path) -> Iterator[tuple[str, Span]]:
    from pympi import Eaf

    eaf = Eaf(str(path), suppress_version_warning=True)
    # Where the first medium has begun when the annotations' clock does, as ELAN's player counts.
    origin = int((eaf.media_descriptors or [{}])[0].get("TIME_ORIGIN") or 0)
    for name in eaf.get_tier_names():
        about = eaf.get_parameters_for_tier(name)
        aligned = eaf.tiers[name][0].values()
        if about.get("PARENT_REF"):
            continue
        times = [(eaf.timeslots[a], eaf.timeslots[b], text) for a, b, text, _ in aligned]
        for start, end, text in sorted(each for each in times if None not in each[:2]):
            yield (
                name,
                Span(
                    start=(start + origin) / 1000,
                    end=(end + origin) / 1000,
                    speaker=about.get("PARTICIPANT") or name,
                    text=" ".join(text.split()),
                ),
            )


_READERS: dict[str, Callable[[Path], Iterator[tuple[str, Span]]]] = {
    ".csv": _table,
    ".tsv": _table,
    ".srt": _subtitles,
    ".vtt": _subtitles,
    ".rttm": _rttm,
    ".textgrid": _textgrid,
    ".eaf": _eaf,
}
