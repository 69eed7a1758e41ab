"""Timelines of other tools: spans that people mark are read, tiers and traces are written.

Spans come from CSV, SRT, WebVTT, RTTM, Praat's TextGrid and ELAN's eaf; tiers are for ELAN, Praat
and players (WebVTT). Times are seconds after the recording's beginning, as players and annotation
tools count.

Not here: traces (``traces.py``).
"""

from __future__ import annotations

import csv
import io
import math
import mimetypes
import os
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import NamedTuple

from hicmae.files import csv_records
from hicmae.heads import real_text
from hicmae.prediction.span_texts import SpanError, cue_lines, plain_numbers, spelled
from hicmae.terminal import printable

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
        start, end: Seconds after the recording's beginning.
        speaker: Who speaks in it; empty if nobody says.
        text: What stands there: a transcript, a label.
        recording: The recording it is of, by its path, its name or its name without the ending;
            empty: of any. Folders of a path tell apart recordings of one name.
        face: The face it is about (``face0``, …); empty: the one that is seen for most of it, or
            that speaks in it.
    """

    start: float
    end: float
    speaker: str = ""
    text: str = ""
    recording: str = ""
    face: str = ""


Owned = dict[Path, tuple[Span, ...]]


def read_spans(path: str | Path, tiers: Sequence[str] = ()) -> tuple[Span, ...]:
    """Read a file of spans, of the kind that its ending says.

    Tiers name the speakers of a TextGrid and of an eaf (there the participant, if one is named).
    Of a TextGrid, intervals without text and points are no spans; of an eaf, tiers that refer to
    another one hold none, and annotations without text are spans.

    Args: tiers: Read these alone; none: all.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Another ending; it cannot be read, or holds no span; no such tier.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: no kind of spans (known: {', '.join(_READERS)})")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of spans")
    if tiers and reader not in (_textgrid, _eaf):
        raise ValueError(f"{path}: has no tiers; span_tiers is for .TextGrid and .eaf")
    try:
        spans = list(reader(path))
    except (FileNotFoundError, SpanError):
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
    _check_order(kept, str(path))
    return kept


def own_spans(spans: Sequence[Span], recording: Path) -> tuple[Span, ...]:
    """Those of spans that are of a recording: where they name several, all but the others' own.

    Raises: ValueError: one that ends before it begins.
    """
    _check_order(spans, "spans")
    if len({span.recording for span in spans} - {""}) <= 1:  # as its maker liked, see ``spans_of``
        return tuple(spans)
    return _own(spans, [recording])[recording]


def spans_of(source: Path, recordings: Sequence[Path], tiers: Sequence[str] = ()) -> Owned:
    """The spans of each recording: of the one, by the file's own names, or of a file for each.

    Args:
        source: A file, or a folder of files called like the recordings.
        tiers: As of ``read_spans``.

    Raises: as ``read_spans``; ValueError: several recordings and a file that names none, or none
        of them; nothing called like a recording.
    """
    if source.is_dir():
        files: dict[Path, list[Path]] = {}
        for each in recordings:
            files.setdefault(_beside(source, each), []).append(each)
        owned = (_by_name(file, read_spans(file, tiers), about) for file, about in files.items())
        return {each: own for found in owned for each, own in found.items()}
    spans = read_spans(source, tiers)
    named = {span.recording for span in spans} - {""}
    if not named and len(recordings) > 1:
        raise ValueError(
            f"{source}: its spans are of one recording, and there are {len(recordings)}; name "
            "theirs in a column 'path', or give a folder with a file for each"
        )
    found = _by_name(source, spans, recordings)
    if not any(found.values()):
        raise ValueError(
            f"{source}: no span is of {recordings[0].name}"
            f"{f' or {len(recordings) - 1} more' if len(recordings) > 1 else ''} "
            f"(they are of {', '.join(sorted(named)[:4])})"
        )
    return found


class Mark(NamedTuple):
    """What is said of a stretch of time; in tiers it is a whole number of milliseconds long."""

    start: float
    end: float
    label: str  # the class; empty for real values
    # ``probability`` of the class, or real values by name; shares as text, which has no sign
    values: Mapping[str, float | str]
    answers: Mapping[str, str] = {}  # of several heads, by name


class Owner(NamedTuple):
    """Whom marks are about: a face, the sound, a speaker."""

    name: str
    marks: Sequence[Mark]
    joined: bool  # whether neighbours of one class are one annotation


def write_eaf(owners: Sequence[Owner], folder: Path, recording: Path, seconds: float) -> None:
    """Write ``timeline.eaf``, of format 2.8, which every ELAN since 2014 reads; it opens the
    recording too, where that stays in its place.
    """
    from pympi import Eaf

    eaf = Eaf(author="hicmae")
    eaf.remove_tier("default")
    kind = mimetypes.guess_type(recording.name)[0] or "unknown"
    relative = Path(os.path.relpath(recording, folder)).as_posix()
    eaf.add_linked_file(recording.resolve().as_uri(), f"./{relative}", kind)
    for owner, name, marks in _tiers(owners):
        eaf.add_tier(name, part=owner)
        for start, end, text in marks:
            eaf.add_annotation(name, start, end, text)
    eaf.to_file(str(folder / "timeline.eaf"))


def write_textgrid(owners: Sequence[Owner], folder: Path, recording: Path, seconds: float) -> None:
    """Write ``timeline.TextGrid``, as long as the recording."""
    from pympi import TextGrid

    tiers = list(_tiers(owners))
    last = max((end for _, _, marks in tiers for _, end, _ in marks), default=0)
    grid = TextGrid(xmax=max(round(seconds, 3), last / 1000))
    for _, name, marks in tiers:
        tier = grid.add_tier(name.replace('"', '""'))  # which it does for texts alone
        for start, end, text in marks:
            tier.add_interval(start / 1000, end / 1000, text, check=False)
    grid.to_file(str(folder / "timeline.TextGrid"))


def write_vtt(owners: Sequence[Owner], folder: Path, recording: Path, seconds: float) -> None:
    """Write ``timeline.vtt``, subtitles that a player shows: a cue a mark, its voice the owner."""
    from webvtt import Caption, WebVTT
    from webvtt.models import Timestamp

    cues = sorted(
        (*_times(mark), f"<v {_plain(owner.name)}>{_plain(_sentence(mark))}")
        for owner in owners
        for mark in owner.marks
    )
    captions = [
        Caption(str(Timestamp.from_seconds(a / 1000)), str(Timestamp.from_seconds(b / 1000)), text)
        for a, b, text in cues
    ]
    WebVTT(captions=captions).save(str(folder / "timeline.vtt"))


Writer = Callable[[Sequence[Owner], Path, Path, float], None]
# What writes the marks of owners into a folder, given the recording and its length in seconds.
FORMATS: dict[str, Writer] = {"eaf": write_eaf, "textgrid": write_textgrid, "vtt": write_vtt}


def parse_formats(text: str | None) -> tuple[str, ...]:
    """Read names of formats, separated by commas.

    Raises: ValueError: one that there is not.
    """
    names = tuple(dict.fromkeys(name.strip().lower() for name in (text or "").split(",") if name))
    if unknown := [name for name in names if name not in FORMATS]:
        raise ValueError(f"tiers = {text}: no format {unknown[0]!r} (known: {', '.join(FORMATS)})")
    return names


def _check_order(spans: Sequence[Span], where: str) -> None:
    if bad := [span for span in spans if not -math.inf < span.start < span.end < math.inf]:
        raise ValueError(
            f"{where}: a span ends at {bad[0].end:g} s and begins at {bad[0].start:g} s"
            f"{f' ({bad[0].text[:40]!r})' if bad[0].text else ''}"
            f"{f'; and {len(bad) - 1} more like it' if len(bad) > 1 else ''}; mend or delete it"
        )


def _by_name(file: Path, spans: tuple[Span, ...], recordings: Sequence[Path]) -> Owned:
    # RTTM names every recording, also the only one, as its maker liked.
    is_one = len({span.recording for span in spans}) == len(recordings) == 1
    whole = is_one and file.suffix.lower() == ".rttm"
    return dict.fromkeys(recordings, spans) if whole else _own(spans, recordings)


def _own(spans: Sequence[Span], recordings: Sequence[Path]) -> Owned:
    """Each recording's spans, in the order of the file.

    Where ``a/clip.mp4`` and ``b/clip.mp4`` are named, or are there, each is of its own folder; a
    name that has a folder of elsewhere is of the recording called like it.
    """
    index: dict[tuple[str, ...], list[Path]] = {}
    for each in dict.fromkeys(recordings):
        for tail in _tails(each):
            index.setdefault(tail, []).append(each)
    parts = {name: _parts(name, index) for name in {span.recording for span in spans}}
    named = {words[first:] for words in parts.values() for first in range(len(words))}
    nearest = {
        each: max((len(end) for end in _tails(each) if end in named), default=0)
        for each in recordings
    }
    owners: dict[str, list[Path]] = {}
    for name, words in parts.items():
        ends = (words[first:] for first in range(len(words)))
        tail = next((end for end in ends if end in index), ())
        owners[name] = [
            each for each in index.get(tail, ()) if len(tail) in (len(words), nearest[each])
        ]
    own: dict[Path, list[Span]] = {each: [] for each in recordings}
    for span in spans:
        for each in owners[span.recording] if span.recording else recordings:
            own[each].append(span)
    return {each: tuple(found) for each, found in own.items()}


def _tails(recording: Path) -> Iterator[tuple[str, ...]]:
    """The ends of a recording's path, by its name and by that without the ending."""
    above = tuple(map(spelled, recording.absolute().parts[:-1]))
    for last in {recording.name, recording.stem}:
        whole = (*above, spelled(last))
        yield from (whole[first:] for first in range(len(whole)))


def _parts(name: str, known: Container[tuple[str, ...]]) -> tuple[str, ...]:
    """Folders and name of a recording in a file of spans, which may be written as on Windows."""
    parts = Path(name := spelled(name)).parts or ("",)
    return parts if parts[-1:] in known else Path(name.replace("\\", "/")).parts or ("",)


def _beside(folder: Path, recording: Path) -> Path:
    stem = recording.name if recording.is_dir() else recording.stem
    found = [
        path
        for path in sorted(folder.iterdir())
        if spelled(path.stem) == spelled(stem) and path.suffix.lower() in _READERS
    ]
    if len(found) > 1:
        raise ValueError(
            f"{folder}: holds {' and '.join(path.name for path in found)} of {recording.name}; "
            "leave one file for each recording there"
        )
    if not found:
        raise ValueError(
            f"{folder}: holds no spans of {recording.name} ({stem}.csv, {stem}.eaf, …)"
        )
    return found[0]


def _text_of(path: Path) -> str:
    """Text as UTF-8, or as UTF-16 where its first bytes say so (Praat, Excel)."""
    data = path.read_bytes()
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


def _table(path: Path) -> Iterator[tuple[str, Span]]:
    text = _text_of(path)
    head = text.lstrip().split("\n", 1)[0]
    separator = max(",;\t", key=head.count)
    try:
        (_, columns), *rows = csv_records(text, separator) or [(0, [])]
    except csv.Error as error:
        remedy = "quote whole cells, and write a mark inside them twice"
        raise SpanError(f"{path}: {error}; {remedy}") from None
    words = [name.lower() for name in columns]
    names = {name: place for place, name in enumerate(words)}
    found = {
        what: names[word]
        for what, known in _COLUMNS.items()
        if (word := next((word for word in known if word in names), None)) is not None
    }
    if "start" not in found or not ("end" in found or "duration" in found):
        raise SpanError(
            f"{path}: needs columns start, and end or duration, in seconds or h:mm:ss.s "
            f"(found: {', '.join(list(names)[:8]) or 'nothing'})"
        )
    if twice := [words[at] for at in found.values() if words.count(words[at]) > 1]:
        raise SpanError(f"{path}: column {twice[0]!r} is there twice; delete or rename one of them")
    for number, row in rows:
        where = f"{path} line {number}"
        if any(row[len(columns) :]):  # which of them is the speaker's, nobody knows
            raise SpanError(
                f"{where}: {len(row)} cells under {len(columns)} columns; quote cells that hold a "
                "separator"
            )
        cells = {what: row[at] if at < len(row) else "" for what, at in found.items()}
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
        raise SpanError(f"{where} = {text!r} (seconds, or h:mm:ss.s)") from None


def _subtitles(path: Path) -> Iterator[tuple[str, Span]]:
    import webvtt

    kind = path.suffix.lower().removeprefix(".")
    content = "\n".join(cue_lines(path, kind, _text_of(path))).lstrip()
    for cue in webvtt.WebVTT.from_buffer(io.StringIO(content), format=kind).captions:
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
        if cells[:1] != ["SPEAKER"]:
            continue
        if not 8 <= len(cells) <= 10:  # more: a name with a blank in it, which moves the times
            raise SpanError(
                f"{path} line {number}: {len(cells)} fields (a SPEAKER line has 8 to 10, and names "
                "have no blanks)"
            )
        start, length = (_seconds(cells[n], f"{path} line {number}: field {n + 1}") for n in (3, 4))
        speaker = cells[7] if cells[7] != "<NA>" else ""
        yield "", Span(start=start, end=start + length, speaker=speaker, recording=cells[1])


def _textgrid(path: Path) -> Iterator[tuple[str, Span]]:
    from pympi import TextGrid

    data = path.read_bytes()
    if not data.startswith(b"ooBinaryFile"):
        data = plain_numbers(path, _text_of(path)).encode()
    grid = TextGrid(xmax=1.0)  # which what is read replaces
    grid.from_file(io.BytesIO(data), codec="utf-8")
    for tier in grid.get_tiers():
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


def _tiers(owners: Sequence[Owner]) -> Iterator[tuple[str, str, list[tuple[int, int, str]]]]:
    """Owner, name and annotations, in milliseconds, of each tier; what overlaps stands in
    different ones, since annotations of one tier cannot.
    """
    for owner in owners:
        lanes: list[list[Mark]] = []
        for mark in sorted(owner.marks, key=lambda mark: mark.start):
            free = (lane for lane in lanes if _times(lane[-1])[1] <= _times(mark)[0])
            lane = next(free, None)
            if lane is None:
                lanes.append(lane := [])
            lane.append(mark)
        for number, lane in enumerate(lanes, start=1):
            name = printable(owner.name) + (f" {number}" if number > 1 else "")
            for what in ("",) if lane[0].label else lane[0].answers:
                labels: list[tuple[int, int, str]] = []
                for mark in lane:
                    start, end = _times(mark)
                    text = printable(mark.answers[what] if what else mark.label)
                    if owner.joined and labels and labels[-1][1:] == (start, text):
                        labels[-1] = (labels[-1][0], end, text)
                    else:
                        labels.append((start, end, text))
                yield printable(owner.name), f"{name} {printable(what)}".rstrip(), labels
            told = "{:.2f}".format if lane[0].label else partial(real_text, digits=3)
            for what in lane[0].values:
                values = [(*_times(mark), _text(mark.values[what], told)) for mark in lane]
                yield printable(owner.name), f"{name} {printable(what)}", values


def _times(mark: Mark) -> tuple[int, int]:
    """Milliseconds, at least one of them."""
    start = max(0, round(mark.start * 1000))
    return start, max(start + 1, round(mark.end * 1000))


def _sentence(mark: Mark) -> str:
    if mark.label:
        shares = (_text(value, "{:.2f}".format) for value in mark.values.values())
        return " ".join([mark.label, *shares])
    answers = [f"{name}: {answer}" for name, answer in mark.answers.items()]
    values = [f"{name} {_text(value, real_text)}" for name, value in mark.values.items()]
    return ", ".join([*answers, *values])


def _text(value: float | str, told: Callable[[float], str]) -> str:
    return value if isinstance(value, str) else told(value)


def _plain(text: str) -> str:
    """Without what WebVTT takes for tags or for a new cue."""
    return escape(printable(text), quote=False)
