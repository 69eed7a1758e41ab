"""Spans in, tiers and traces out: files of annotation tools, one answer a span, sound outside."""

from __future__ import annotations

import codecs
import itertools
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from matplotlib.figure import Figure
from pympi import Eaf, TextGrid
from webvtt import WebVTT

import hicmae
from hicmae.__main__ import main
from hicmae.checkpoints.checkpoint import Labels
from hicmae.heads import HeadLabels, output_names
from hicmae.media.faces import FaceConfig
from hicmae.prediction import timelines
from hicmae.prediction.messages import WindowConfig
from hicmae.prediction.process import PredictionError, read_windows
from hicmae.prediction.results import Prediction, Track, _curves
from hicmae.prediction.span_texts import spelled
from hicmae.prediction.timelines import (
    FORMATS,
    Mark,
    Owner,
    Span,
    own_spans,
    parse_formats,
    read_spans,
    spans_of,
)
from hicmae.prediction.traces import TraceForm, gaps_between, hop_of, time_text, write_trace
from hicmae.settings import ModelConfig
from shards.building.build import build_shards
from shards.settings import BuildConfig
from shards.traces import read_notes
from tests.hicmae.test_prediction_parity import shard_clips
from tests.support.media_files import write_recording, write_sound
from tests.support.prediction_fixtures import (
    CLASSES,
    moving_frames,
    real_values,
    talk,
    write_boxes,
    write_checkpoint,
    write_talking,
)

pytestmark = pytest.mark.usefixtures("one_decoding_process")
BUILD = BuildConfig(faces="boxes", face_size=32)
SAID = [(0.5, 1.25, "anna", "yes, well"), (61.0, 62.5, "ben", "no & never")]
TEXTS = {
    "a.csv": "speaker;start;end;text\nanna;0,5;1,25;yes, well\nben;1:01;0:01:02,5;no & never\n",
    "b.csv": "start,duration,speaker,text\n0.5,.75,anna,'yes, well'\n61,1.5,ben,no & never\n",
    "c.srt": "1\n00:00:00,500 --> 00:00:01,250\n[anna]: yes,\nwell\n\n"
    "2\n00:01:01,000 --> 00:01:02,500\n[ben]: no & never\n",
    "d.vtt": "WEBVTT\n\n00:00.500 --> 00:01.250 align:left\n<v anna><i>yes, well</i>\n\nNOTE x\n\n"
    "01:01.000 --> 01:02.500\n<v ben>no & never\n",
    "e.rttm": ";; x\nSPKR-INFO talk 1 <NA> <NA> <NA> unknown anna <NA>\n"
    "SPEAKER talk 1 0.50 0.75 <NA> <NA> anna <NA> <NA>\n"
    "SPEAKER talk 1 61.00 1.50 <NA> <NA> ben <NA> <NA>\n",
}


CUES = "WEBVTT\n\n00:00:01.000 --> 00:00:02.000\n5 -> 6: a\n\n{}\nb\n\n"


def told(path: Path, *tiers: str) -> list[tuple[float, float, str, str]]:
    return [(s.start, s.end, s.speaker, s.text) for s in read_spans(path, tiers)]


@pytest.mark.parametrize("name", TEXTS)
def test_spans_are_read_from_each_kind_of_text(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text(TEXTS[name].replace("'", '"'), encoding="utf-8-sig")
    expected = [(*each[:3], "" if name == "e.rttm" else each[3]) for each in SAID]
    assert told(file) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.rttm", "SPEAKER talk 1 3661.5 1.0 <NA> <NA> <NA> <NA> <NA>\n"),  # nobody is named
        ("a.csv", "start,end\n1:01:01.5,1:01:02.5\n"),
        ("a.csv", "start,end,speaker,text\n1:01:01.5,1:01:02.5\n"),
    ],
)
def test_a_span_after_an_hour_is_of_nobody_where_nobody_is_named(
    tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    assert told(tmp_path / name) == [(3661.5, 3662.5, "", "")]


def test_a_cue_of_an_srt_without_a_number_is_a_span_too(tmp_path: Path) -> None:
    file = tmp_path / "a.srt"
    times = "00:00:0{},000 --> 00:00:0{},500\n"
    file.write_text(
        times.format(1, 1) + "a\n\n" + times.format(2, 2) + "b\n\n3\n" + times.format(3, 3) + "c"
    )
    assert told(file) == [(1.0, 1.5, "", "a"), (2.0, 2.5, "", "b"), (3.0, 3.5, "", "c")]


@pytest.mark.parametrize("after", ["\n\n", "\n  \n", "\n"])
def test_a_cue_without_text_is_a_span_too(tmp_path: Path, after: str) -> None:
    """Of an SRT as of a WebVTT: what is marked is asked about, whatever stands there."""
    cues = [f"{n}\n00:00:0{n},000 --> 00:00:0{n},500" for n in range(1, 5)]
    cues[1] += "\n<v anna>yes"
    (tmp_path / "a.srt").write_text("\n" + after.join(cues))
    (tmp_path / "a.vtt").write_text("WEBVTT\n\n" + "\n\n".join(cues).replace(",", "."))
    expected = [(n, n + 0.5, *(("anna", "yes") if n == 2 else ("", ""))) for n in range(1, 5)]
    assert told(tmp_path / "a.srt") == told(tmp_path / "a.vtt") == expected


@pytest.mark.parametrize("codec", ["utf-8", "utf-16", "binary"])
def test_spans_are_read_from_tiers(tmp_path: Path, codec: str) -> None:
    grid = TextGrid(xmax=70.0)
    for _, _, speaker, _ in SAID:
        grid.add_tier(speaker)
    grid.add_tier("clicks", "TextTier").add_point(3.0, "click")
    for start, end, speaker, text in SAID:
        grid.get_tier(speaker).add_interval(start, end, text)
    file = tmp_path / "a.TextGrid"
    grid.to_file(file, codec="utf-8", mode="b" if codec == "binary" else "n")
    if codec == "utf-16":  # as Praat writes what is not Latin
        file.write_bytes(codecs.BOM_UTF16_BE + file.read_text().encode("utf-16-be"))
    assert told(file) == SAID
    assert told(file, "ben") == SAID[1:]


def test_times_with_exponents_in_a_textgrid_are_the_seconds_they_say(tmp_path: Path) -> None:
    """The library took the digits behind the e for the time; Praat writes such near 0."""
    file = tmp_path / "a.TextGrid"
    head = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0 \nxmax = 70 \n'
    tier = "tiers? <exists> \nsize = 1 \nitem []: \n    item [1]:\n"
    tier += '        class = "IntervalTier" \n        name = "anna" \n        xmin = 0 \n'
    tier += "        xmax = 70 \n        intervals: size = 2 \n        intervals [1]:\n"
    span = '            xmin = {} \n            xmax = {} \n            text = "{}" \n'
    second = "        intervals [2]:\n" + span.format("6.2e+1", 70, "no")
    file.write_text(head + tier + span.format("5.551115123125783e-17", 20.5, "yes") + second)
    assert told(file) == [(0.0, 20.5, "anna", "yes"), (62.0, 70.0, "anna", "no")]
    file.write_text(head + tier + span.format("-0.5", 20.5, "yes") + second)
    with pytest.raises(ValueError, match=r"line 16: -0\.5 s is before the beginning; shift"):
        read_spans(file)


def test_spans_are_read_from_elan_by_participant_and_without_dependent_tiers(
    tmp_path: Path,
) -> None:
    eaf = Eaf()
    eaf.remove_tier("default")
    eaf.add_linguistic_type("words", "Time_Subdivision")
    for tier, speaker in (("utterances", "anna"), ("ben", None)):
        eaf.add_tier(tier, part=speaker)
    eaf.add_tier("w", "words", parent="utterances")
    for start, end, speaker, text in SAID:
        tier = "utterances" if speaker == "anna" else speaker
        eaf.add_annotation(tier, round(start * 1000) - 250, round(end * 1000) - 250, text)
    eaf.add_annotation("ben", 62500, 63000, "")  # marked, and not written down yet
    eaf.add_annotation("w", 250, 500, "yes")
    eaf.add_linked_file("file:///talk.mp4", mimetype="video/mp4", time_origin=250)
    eaf.to_file(tmp_path / "a.eaf")
    assert told(tmp_path / "a.eaf") == [*SAID, (62.75, 63.25, "ben", "")]
    assert told(tmp_path / "a.eaf", "utterances") == SAID[:1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", r"a.txt: no kind of spans \(known: .csv, .tsv, .srt"),
        ("a.csv", "from,to\n1,2\n", "needs columns start, and end or duration.*found: from, to"),
        ("a.csv", "beginning,end\n1,2\n", "needs columns start, and end .*found: beginning, end"),
        ("a.csv", "Start,end,start\n1,2,3\n", "column 'start' is there twice; delete or rename"),
        ("a.csv", "start,end\n1,2\n1,x\n", r"a.csv line 3: end = 'x' \(seconds, or h:mm:ss.s\)"),
        ("a.csv", "start,end,text\n3,2,hm\n", r"ends at 2 s and begins at 3 s \('hm'\); mend"),
        ("a.csv", "start,end\n", "holds no span"),
        ("a.csv", "start,end\n1,inf\n", "a span ends at inf s and begins at 1 s; mend"),
        ("a.csv", "start,end,text,speaker\n1,2,well, no,ann\n", "line 2: 5 cells under 4 columns"),
        ("a.csv", 'start,end,text\n1,2,"well\n3,4,no\n', "a.csv: a quotation mark is never closed"),
        ("a.vtt", "1\n00:00.500 --> 00:01.250\nx\n", "a.vtt: cannot be read as .vtt"),
        (
            "a.vtt",
            CUES.format("00:00:03,5 --> 00:00:04,0"),
            "line 6: '00:00:03,5 --> .* no time of",
        ),
        ("a.srt", CUES.replace("WEBVTT\n", "1").format("00:03,5 --> 00:04,0"), "line 5: '00:03,5 "),
        ("a.srt", CUES.replace("WEBVTT\n", "1").format("0:0:3,5 -> 0:0:4"), "line 5: '0:0:3,5 -> "),
        ("a.eaf", "<a>", r"a.eaf: cannot be read as .eaf \(Unable to parse eaf"),
        ("a.TextGrid", "File type = \n", "a.TextGrid: cannot be read as .textgrid"),
        ("a.rttm", "SPEAKER my talk 1 0.5 2 <NA> <NA> b <NA> <NA>\n", "11 fields .*no blank"),
        ("a.rttm", "SPEAKER a 1 x 2 <NA> <NA> b\n", "line 1: field 4 = 'x'"),
    ],
)
def test_what_is_no_file_of_spans_is_one_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_spans(tmp_path / name)
    assert "\n" not in str(error.value)


def test_spans_go_to_the_recording_they_name(tmp_path: Path) -> None:
    both = [tmp_path / "one.mp4", tmp_path / "two.wav"]
    file = tmp_path / "spans.csv"
    file.write_text("path,start,end\none.mp4,0,1\nx/two.wav,2,3\n")
    assert [s.start for each in both for s in spans_of(file, both)[each]] == [0, 2]
    file.write_text("start,end\n0,1\n")
    assert spans_of(file, both[:1])[both[0]] == (Span(start=0, end=1),)
    file.write_text("\n;\nstart;end\n\n0;1\n")  # lines without content are none
    assert hicmae.read_spans(str(file)) == (Span(start=0, end=1),)  # a name, as all others take
    with pytest.raises(ValueError, match="its spans are of one recording, and there are 2"):
        spans_of(file, both)
    folder = tmp_path / "folder"
    folder.mkdir()
    file.rename(folder / "one.csv")
    assert spans_of(folder, both[:1])[both[0]][0].end == 1
    with pytest.raises(ValueError, match=r"holds no spans of two.wav"):
        spans_of(folder, both)


def test_an_rttm_called_like_a_recording_is_of_it_whatever_it_says(tmp_path: Path) -> None:
    """Programs that find speakers call a recording they are handed as sound ``waveform``."""
    both = [tmp_path / "one.mp4", tmp_path / "two.wav"]
    (tmp_path / "spans").mkdir()
    for number, each in enumerate(both):
        line = f"SPEAKER waveform 1 {number}.5 1.0 <NA> <NA> anna <NA> <NA>\n"
        (tmp_path / "spans" / f"{each.stem}.rttm").write_text(line)
    found = spans_of(tmp_path / "spans", both)
    assert [[span.start for span in found[each]] for each in both] == [[0.5], [1.5]]


@pytest.mark.parametrize("name", ["a\u00f1o/caf\u00e9.mp4", "a\u00f1o\\caf\u00e9", "caf\u00e9.mp4"])
def test_names_with_accents_and_of_windows_are_those_of_their_recordings(
    tmp_path: Path, name: str
) -> None:
    both = [tmp_path / "an\u0303o" / "cafe\u0301.mp4", tmp_path / "b.mp4"]  # as a Mac has them
    file = tmp_path / "spans.csv"
    file.write_text(f"path,start,end\n{name},0,1\nb.mp4,2,3\n")
    assert [[s.start for s in spans_of(file, both)[each]] for each in both] == [[0], [2]]
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "caf\u00e9.csv").write_text("start,end\n4,5\n")
    assert [s.start for s in spans_of(folder, both[:1])[both[0]]] == [4]


def test_two_files_of_spans_for_one_recording_are_refused(tmp_path: Path) -> None:
    for name in ("a.csv", "a.TSV", "ab.csv", "a.mp4"):
        (tmp_path / name).write_text("start\tend\n4\t5\n")
    with pytest.raises(ValueError, match=r"holds a\.TSV and a\.csv of a\.mp4; leave one file"):
        spans_of(tmp_path, [tmp_path / "a.mp4"])
    (tmp_path / "a.TSV").unlink()
    assert [s.start for s in spans_of(tmp_path, [tmp_path / "a.mp4"])[tmp_path / "a.mp4"]] == [4]


def test_many_recordings_of_one_name_are_told_apart_in_one_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recordings = [Path(f"r{number}/clip.mp4") for number in range(200)]
    spans = [Span(start=0, end=1 + at, recording=str(x)) for at, x in enumerate(recordings)]
    looked = 0

    def counted(name: str) -> str:
        nonlocal looked
        looked += 1
        return spelled(name)

    monkeypatch.setattr(timelines, "spelled", counted)
    found = timelines._own(spans, recordings)
    assert [found[each] for each in recordings] == [(span,) for span in spans]
    assert looked < 200 * 100, "every recording once or twice, and not for every other one"


def test_folders_tell_recordings_of_one_name_apart(tmp_path: Path) -> None:
    both = [tmp_path / "a" / "clip.mp4", tmp_path / "b" / "clip.mp4"]
    file = tmp_path / "spans.csv"
    file.write_text("path,start,end\na/clip.mp4,0,1\nb/clip.mp4,2,3\nb/clip,4,5\nclip,6,7\n")
    for recordings in (both, both[:1], both[1:]):
        found = spans_of(file, recordings)
        starts = {path.parent.name: [span.start for span in found[path]] for path in recordings}
        expected = {"a": [0, 6], "b": [2, 4, 6]}
        assert starts == {path.parent.name: expected[path.parent.name] for path in recordings}


def test_a_recording_without_spans_among_others_is_one_line(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    path = tmp_path / "two.wav"
    path.touch()
    with pytest.raises(PredictionError, match=r"two\.wav: no span is of it; add some") as error:
        read_windows(path, input=tiny_model_config.input, preparation=FaceConfig(), spans=())
    assert error.value.cause == "no-span"


@pytest.mark.slow
def test_each_span_has_one_answer_and_sound_without_a_picture_is_heard(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    frames = moving_frames(75, faces=(50, 140))
    # The camera is on from 2 to 5 s, the second face for the last second.
    video = write_recording(tmp_path / "a.mp4", frames, 2 + np.arange(75) / 25, sound=talk(8.0))
    write_boxes(tmp_path / "a.csv", {"f": (50, 0, 74), "g": (140, 50, 74)})
    model = hicmae.load(
        write_checkpoint(tmp_path / "both", tiny_model_config, build=BUILD), device="cpu"
    )
    whole = model.predict(video)
    assert [(track.name, track.modality) for track in whole.tracks] == [
        ("face0", "audio-video"),
        ("face1", "audio-video"),
        ("sound0", "audio"),
        ("sound1", "audio"),
    ]
    ends = [(track.start_seconds, track.end_seconds) for track in whole.tracks]
    assert np.allclose(ends, [(2, 5), (4, 5), (0, 2), (5, 8)], atol=0.07)
    for track in whole.tracks:
        assert np.allclose(track.spans[[0, -1], [0, 1]], (track.start_seconds, track.end_seconds))
    (note,) = whole.notes
    assert note.endswith("s has no picture: predicted from the sound alone")
    assert whole.seconds == pytest.approx(8, abs=0.07)

    spans = [
        Span(start=4.1, end=4.9, speaker="anna"),  # both faces: they are as large
        Span(start=4.1, end=4.9, speaker="ben", face="face1"),
        Span(start=0.2, end=1.0, speaker="anna"),
        Span(start=1.5, end=3.5, speaker="ben"),  # a face for three quarters of it
        Span(start=2.0, end=8.0, speaker="anna"),  # a face for half of it
        Span(start=9.0, end=9.5),
        Span(start=1.0, end=7.0, face="face7"),
    ]
    prediction = model.predict(video, spans=spans)
    table = prediction.answers
    assert list(table["track"])[1:5] == ["face1", "sound", "face0", "face0"]
    assert np.allclose(table["share"][:5], [1, 1, 1, 0.75, 0.5], atol=0.04)
    assert list(table["modality"])[2:4] == ["audio", "audio-video"]
    assert table["note"][:5].isna().all()
    assert table["note"][5].startswith("it lies outside of what was seen and heard (0.00..")
    assert table["note"][6] == "there is no face7 in it"
    assert prediction.notes[-1].startswith("2 of the spans have no answer, as the 6.: it lies")
    assert table[[*CLASSES, "prediction"]].notna().all(axis=1).tolist() == [True] * 5 + [False] * 2
    own = table.iloc[[1, 3]]
    mean = np.average(
        own[list(CLASSES)], axis=0, weights=(own["end"] - own["start"]) * own["share"]
    )
    assert list(prediction.speakers["ben"].values()) == pytest.approx(mean, abs=0.005)
    with pytest.raises(PredictionError, match="none of 1 spans has an answer: it lies outside"):
        model.predict(video, spans=[Span(start=9, end=10)])

    blind = write_checkpoint(tmp_path / "h", tiny_model_config, build=BUILD, modalities="audio")
    (heard,) = hicmae.load(blind, device="cpu").predict(video).tracks
    assert (heard.start_seconds, heard.end_seconds) == pytest.approx((0, 8), abs=0.07)
    deaf = write_checkpoint(tmp_path / "s", tiny_model_config, build=BUILD, modalities="video")
    seen = hicmae.load(deaf, device="cpu").predict(video)
    assert [track.name for track in seen.tracks] == ["face0", "face1"]
    assert seen.notes[-1].endswith("is left out (the network reads pictures alone)")
    assert "5.0" in seen.notes[-1]


@pytest.mark.slow
@pytest.mark.parametrize(("start", "end", "views"), [(0.8, 1.2, 1), (0.4, 2.0, 3)])
def test_a_span_is_predicted_as_the_sample_that_a_build_makes_of_it(
    tmp_path: Path, tiny_model_config: ModelConfig, start: float, end: float, views: int
) -> None:
    video = write_talking(tmp_path / "a.mp4", 3.0)
    build = BuildConfig(faces="none", face_size=32, min_seconds=0.1, workers=1)
    (tmp_path / "list.csv").write_text(f"path,start,end\na.mp4,{start},{end}\n")
    build_shards([tmp_path / "list.csv"], tmp_path / "shards", build)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_model_config, build=build)
    model = hicmae.load(checkpoint, device="cpu", precision="32-true")
    found = model.predict(
        video, config=WindowConfig(), spans=[Span(start=start, end=end)], on_window=None
    )
    length = round((end - start) * 25)
    last = max(0, length - 16)
    starts = [number * last // max(views - 1, 1) for number in range(views)]
    batch = shard_clips(tmp_path / "shards", tiny_model_config, "a", starts)
    transformed = model.network.transform(batch)
    logits = model.network.members[0](*transformed).detach().numpy()
    (track,) = found.tracks
    assert np.abs(track.logits[0] - logits.mean(axis=0)).max() < 1e-3
    assert track.spans.tolist() == [pytest.approx([start, end])]


@pytest.mark.slow
def test_praat_elan_and_players_read_the_tiers(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    parselmouth = pytest.importorskip("parselmouth")
    video = write_talking(tmp_path / "a b.mp4", 2.0)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", tiny_model_config, build=BUILD)
    (tmp_path / "spans.csv").write_text(
        "start,end,speaker\n0.1,0.9,anna\n0.5,1.5,anna\n1.5,2.0,anna\n0.2,1.9,ben\n1.5,1.9,ben\n"
    )
    words = ["predict", str(video), "--checkpoint", str(checkpoint), "--device", "cpu"]
    words += ["--tiers", "eaf,textgrid,vtt", "--out"]
    assert main([*words, str(tmp_path / "windows")]) == 0
    of_spans = ["--spans", str(tmp_path / "spans.csv")]
    assert main([*words, str(tmp_path / "spans"), *of_spans]) == 0

    folder = tmp_path / "spans" / "a b.mp4"
    answers = pandas.read_csv(folder / "spans.csv")
    expected = [
        ("anna", *answers.loc[[0, 2], ["start", "end", "prediction"]].to_numpy().tolist()),
        ("anna 2", *answers.loc[[1], ["start", "end", "prediction"]].to_numpy().tolist()),
        ("ben", *answers.loc[[3], ["start", "end", "prediction"]].to_numpy().tolist()),
        ("ben 2", *answers.loc[[4], ["start", "end", "prediction"]].to_numpy().tolist()),
    ]
    lines = [json.loads(line) for line in (folder / "timeline.jsonl").read_text().splitlines()]
    told = {line["span"]: line["prediction"] for line in lines}
    assert [told[number] for number in range(5)] == answers["prediction"].tolist()
    eaf = Eaf(folder / "timeline.eaf")
    grid = parselmouth.read(str(folder / "timeline.TextGrid"))
    names = [
        parselmouth.praat.call(grid, "Get tier name", number + 1)
        for number in range(parselmouth.praat.call(grid, "Get number of tiers"))
    ]
    assert set(names) == set(eaf.get_tier_names())
    assert parselmouth.praat.call(grid, "Get end time") == pytest.approx(2.0, abs=0.05)
    for tier, *marks in expected:
        assert eaf.get_parameters_for_tier(tier)["PARTICIPANT"] == tier.split()[0]
        found = [
            [a / 1000, b / 1000, text] for a, b, text in eaf.get_annotation_data_for_tier(tier)
        ]
        assert found == marks
        number, call = names.index(tier) + 1, parselmouth.praat.call
        intervals = [
            [
                call(grid, f"Get {edge} of interval", number, place)
                for edge in ("start time", "end time")
            ]
            + [call(grid, "Get label of interval", number, place)]
            for place in range(1, call(grid, "Get number of intervals", number) + 1)
        ]
        assert [each for each in intervals if each[2]] == marks
    (media,) = eaf.get_linked_files()
    assert (folder / media["RELATIVE_MEDIA_URL"]).resolve() == video.resolve()
    assert media["MEDIA_URL"].endswith("/a%20b.mp4")
    cues = WebVTT.read(str(folder / "timeline.vtt"), strict=True)
    assert [cue.voice for cue in cues] == ["anna", "ben", "anna", "ben", "anna"]

    table = pandas.read_csv(tmp_path / "windows" / "a b.mp4" / "timeline.csv")
    marks = Eaf(tmp_path / "windows" / "a b.mp4" / "timeline.eaf").get_annotation_data_for_tier(
        "face0 probability"
    )
    edges = [0.0, *((table["start"] + table["end"]) / 2).rolling(2).mean().dropna(), 2.0]
    assert [(a / 1000, b / 1000) for a, b, _ in marks] == [
        pytest.approx(pair, abs=2e-3) for pair in itertools.pairwise(edges)
    ]
    best = table[list(CLASSES)].max(axis=1)
    assert [text for _, _, text in marks] == [f"{value:.2f}" for value in best]


def test_neighbours_are_joined_and_hostile_names_are_kept(tmp_path: Path) -> None:
    marks = [
        Mark(0.0, 1.0, 'a "b" <i>&', {"probability": 0.5}),
        Mark(1.0, 2.0, 'a "b" <i>&', {"probability": 0.7}),
        Mark(2.0, 2.0001, "--> x\ny", {"probability": 1.0}),
        Mark(2.5, 3.0, "--> x\ny", {"probability": 1.0}),  # no neighbour, and after the end
    ]
    owners = [
        Owner('f"0', marks, joined=True),
        Owner("v", [Mark(0, 1, "", {"x": 0.25, "y": 1e-4})], False),
    ]
    owners.append(Owner("anna", [Mark(0, 1, "joy", {}), Mark(1, 2, "joy", {})], joined=False))
    for write in FORMATS.values():
        write(owners, tmp_path, tmp_path / "clip.unheard-of", 2.0)
    mended = "--> x\N{REPLACEMENT CHARACTER}y"
    expected = [(0, 2000, 'a "b" <i>&'), (2000, 2001, mended), (2500, 3000, mended)]
    eaf = Eaf(tmp_path / "timeline.eaf")
    assert eaf.get_annotation_data_for_tier('f"0') == expected
    assert eaf.get_annotation_data_for_tier("v x") == [(0, 1000, "+0.250")]
    assert eaf.get_annotation_data_for_tier("v y") == [(0, 1000, "+0.0001")]
    assert len(eaf.get_annotation_data_for_tier("anna")) == 2, "spans stay what they are"
    grid = TextGrid(tmp_path / "timeline.TextGrid")
    assert [name for _, name in grid.get_tier_name_num()][:2] == ['f"0', 'f"0 probability']
    assert grid.xmax == 3
    found = [(round(a * 1000), round(b * 1000), text) for a, b, text in grid.tiers[0].intervals]
    assert [each for each in found if each[2]] == expected
    cues = WebVTT.read(str(tmp_path / "timeline.vtt"), strict=True)
    ends = [*[(0, 1)] * 3, *[(1, 2)] * 2, (2, 2.001), (2.5, 3)]
    assert [(float(cue.start[6:]), float(cue.end[6:])) for cue in cues] == ends
    shown = ["<v anna>joy", '<v f"0>a "b" &lt;i&gt;&amp; 0.50', "<v v>x +0.25, y +0.0001"]
    assert [cue.raw_text for cue in cues[:3]] == shown
    assert parse_formats("eaf, vtt") == ("eaf", "vtt")
    with pytest.raises(ValueError, match=r"no format 'srt' \(known: eaf, textgrid, vtt\)"):
        parse_formats("eaf,srt")


@pytest.mark.slow
def test_real_values_are_a_tier_each(tmp_path: Path, tiny_model_config: ModelConfig) -> None:
    names = ("valence", "arousal")
    labels = real_values(*names)
    checkpoint = write_checkpoint(
        tmp_path / "c", tiny_model_config, build=BUILD, names=names, labels=labels
    )
    prediction = hicmae.load(checkpoint, device="cpu").predict(
        write_talking(tmp_path / "a.mp4", 1.0)
    )
    prediction.save(tmp_path / "out", tiers=("eaf",))
    tiers = Eaf(tmp_path / "out" / "timeline.eaf").get_tier_names()
    assert list(tiers) == ["face0 valence", "face0 arousal"]


@pytest.mark.parametrize("rate", [5.0, 4.0, 0.5])
def test_a_trace_has_equal_steps_and_the_values_of_its_windows(tmp_path: Path, rate: float) -> None:
    middles = np.array([0.7, 0.9, 1.1, 1.6, 3.3, 4.8, 6.3])
    spans = np.stack([middles - 0.8, middles + 0.8], axis=1)
    file = tmp_path / "trace-face0.csv"
    write_trace(
        file, spans, np.stack([2 * middles, -middles], 1), ("valence", "time"), TraceForm(rate)
    )
    noted = read_notes(file)
    times = noted["valence"]["mean"].start
    assert np.allclose(np.diff(times), 1 / rate)
    assert 0.7 <= times[0] < 0.7 + 1 / rate
    assert 6.3 - 1 / rate < times[-1] <= 6.3 + 1e-6
    assert noted["valence"]["mean"].value == pytest.approx(2 * times, rel=1e-5)
    assert noted["time_"]["mean"].value == pytest.approx(-times, rel=1e-5)


def test_nothing_is_said_of_a_face_between_windows_that_are_missing(tmp_path: Path) -> None:
    """As of somebody who leaves and comes back, or of whom another one speaks for a while."""
    spans = np.array([[0.0, 2.0], [1.0, 3.0], [10.0, 12.0]])
    write_trace(tmp_path / "a.csv", spans, np.array([[0.1], [0.2], [0.3]]), ("v",), TraceForm(1.0))
    found = pandas.read_csv(tmp_path / "a.csv")
    assert found["time"].to_list() == list(range(1, 12))
    assert found["v"].dropna().to_dict() == {0: 0.1, 1: 0.2, 10: 0.3}
    track = Track(
        name="face0",
        labels=Labels(task="classification", names=("joy", "awe")),
        start_seconds=0.0,
        end_seconds=12.0,
        spans=spans,
        values=np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]),
        logits=np.zeros((3, 2)),
    )
    prediction = Prediction(
        path=Path("a.mp4"),
        seconds=12.0,
        width=0,
        height=0,
        fps=25.0,
        labels=track.labels,
        modality="video",
        tracks=(track,),
    )
    prediction.save(tmp_path / "out", tiers=("eaf",))
    marks = Eaf(tmp_path / "out" / "timeline.eaf").get_annotation_data_for_tier("face0")
    assert sorted(mark[:3] for mark in marks) == [(0, 3000, "joy"), (10000, 12000, "awe")]
    unsure = replace(track, min_confidence=0.75)
    assert unsure.predictions == ["joy", "joy", "not sure"]
    assert (track.summary.prediction, unsure.summary.prediction) == ("joy", "not sure")
    assert (track.summary.not_sure, unsure.summary.not_sure) == (0, pytest.approx(1 / 3))
    told = {"joy": 2 / 3, "awe": 1 / 3}
    assert (track.summary.share, track.summary.mean) == (pytest.approx(told),) * 2
    deviation = statistics.pstdev([0.9, 0.8, 0.3])
    assert track.summary.std == pytest.approx(dict.fromkeys(told, deviation))


def test_a_trace_holds_its_ends_though_their_times_are_rounded(tmp_path: Path) -> None:
    middles = np.array([0.07, 4.35])  # a hundred times as much is above 7 and below 435
    spans = np.stack([middles - 5, middles + 5], axis=1)
    write_trace(tmp_path / "a.csv", spans, middles[:, None], ("v",), TraceForm(100.0))
    times = pandas.read_csv(tmp_path / "a.csv")["time"].to_list()
    assert (times[0], times[-1], len(times)) == (0.07, 4.35, 429)


@pytest.mark.parametrize(
    ("start", "hop", "missing"), [(3.0, 1.0, []), (3.1, 1.0, [1]), (5.9, 4.0, []), (6.1, 4.0, [1])]
)
def test_windows_are_missing_where_half_a_window_or_hop_more_than_one_lies_between(
    start: float, hop: float, missing: list[int]
) -> None:
    spans = np.array([[0.0, 2.0], [start, start + 2.0]])
    assert gaps_between(spans, hop).tolist() == missing
    longest = np.array([[0.0, 4.0], [2.0, 6.0], [7.0, 7.5]])  # of windows that differ
    assert gaps_between(longest, 1.0).tolist() == []


@pytest.mark.parametrize("shift", [0.5, -0.5, 2.0, -1.0])
def test_a_trace_stands_where_labels_were_in_training(tmp_path: Path, shift: float) -> None:
    """At the end of what is shown, or at its beginning, and nowhere beyond the recording."""
    middles = np.arange(0.5, 5.5, 0.5)
    spans = np.stack([middles - 0.5, middles + 0.5], axis=1)
    file = tmp_path / "trace.csv"
    write_trace(file, spans, middles[:, None], ("a",), TraceForm(2.0, shift_seconds=shift))
    found = pandas.read_csv(file)
    expected = [time for time in middles + shift if 0 <= time <= 5.5]
    assert found["time"].to_list() == expected
    assert found["a"].to_numpy() == pytest.approx(found["time"] - shift)


def test_a_smoothed_trace_is_the_mean_around_each_window(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    middles = np.concatenate([np.arange(1, 4, 0.25), np.arange(7, 9, 0.25)])  # absent between
    spans = np.stack([middles - 0.3, middles + 0.3], axis=1)
    values = draws.normal(size=(len(middles), 2))
    order = draws.permutation(len(middles))
    file = tmp_path / "trace.csv"
    write_trace(file, spans[order], values[order], ("a", "b"), TraceForm(4.0, 1.0))
    found = pandas.read_csv(file).set_index("time")
    for place, middle in enumerate(middles):
        near = np.abs(middles - middle) <= 0.5 + 1e-9
        assert 3 <= near.sum() <= 5
        assert found.loc[middle].to_numpy() == pytest.approx(values[near].mean(axis=0), abs=1e-5)
        assert found.loc[middle, "a"] != pytest.approx(values[place, 0], abs=1e-5)


def test_times_of_long_recordings_keep_their_milliseconds_in_every_table(tmp_path: Path) -> None:
    """Six digits were tens of milliseconds after three hours, and frames stood at one time."""
    spans = 12345.678 + np.array([[0.0, 1.0], [0.04, 1.04]])
    values = np.array([[0.1234567], [0.5]])
    seconds = 12345.0 + np.arange(50) / 25
    track = Track(
        name="face0",
        labels=Labels(task="regression", names=("valence",), mean=(0.0,), std=(1.0,)),
        start_seconds=12345.0,
        end_seconds=12347.0,
        spans=spans,
        values=values,
        logits=values,
        boxes=pandas.DataFrame({"seconds": seconds, "x0": 1.5}),
        span_numbers=(0, 1),
    )
    prediction = Prediction(
        path=tmp_path / "a.mp4",
        seconds=12347.0,
        width=8,
        height=8,
        fps=25.0,
        labels=track.labels,
        modality="video",
        tracks=(track,),
        spans=tuple(Span(start=start, end=end) for start, end in spans.tolist()),
    )
    renamed = replace(track, labels=replace(track.labels, names=("start",))).timeline
    assert renamed[["start", "start_"]].to_numpy() == pytest.approx(
        np.stack([spans[:, 0], values[:, 0]], axis=1)
    )
    prediction.save(tmp_path / "out", trace=TraceForm(25.0))
    for name, column, expected in (
        ("timeline", "start", spans[:, 0]),
        ("spans", "end", spans[:, 1]),
        ("boxes", "seconds", seconds),
    ):
        found = pandas.read_csv(tmp_path / f"out/{name}.csv")
        assert found[column].to_numpy() == pytest.approx(expected, rel=0, abs=0.0006)
    assert (time_text(999.12345), time_text(1234.5678)) == ("999.123", "1234.568")
    noted = read_notes(tmp_path / "out/trace-face0.csv")["valence"]["mean"]
    assert noted.start.tolist() == [12346.2]
    assert pandas.read_csv(tmp_path / "out/timeline.csv")["valence"].tolist() == [0.123457, 0.5]


def test_a_rate_takes_the_place_of_the_hop() -> None:
    assert hop_of(None, 1.5) == 1.5
    assert hop_of(4.0, 1.5) == 0.25
    assert hop_of(1000.0, 1.5) == 0.001
    for wrong in (0.0, -1.0, 1001.0, float("inf")):
        with pytest.raises(ValueError, match="rate = "):
            hop_of(wrong, 1.0)


def test_of_spans_of_several_recordings_a_program_is_answered_those_of_its_own(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    spans = [
        Span(start=0.0, end=0.5, recording="other.wav"),
        Span(start=0.5, end=1.0, recording="a.wav", text="mine"),
        Span(start=1.0, end=1.5, text="anybody's"),
    ]
    assert own_spans(spans, tmp_path / "a.wav") == tuple(spans[1:])
    assert own_spans(spans[1:], tmp_path / "b.wav") == tuple(spans[1:])  # one name may be any
    sound = write_sound(tmp_path / "a.wav", talk(2.0, 16000), 16000)
    folder = write_checkpoint(tmp_path / "h", tiny_model_config, build=BUILD, modalities="audio")
    with hicmae.load(folder, device="cpu", precision="32-true") as model:
        prediction = model.predict(sound, spans=spans)
        answers = prediction.answers
        assert prediction.speakers == {}, "nobody is named"
        assert answers["start"].tolist() == [0.5, 1.0]
        assert answers["prediction"].notna().all()
        for start, end in ((2.0, 1.0), (1.0, 1.0), (0.0, float("inf")), (float("nan"), 1.0)):
            with pytest.raises(ValueError, match=r"spans: a span ends at .* mend or delete it"):
                model.predict(sound, spans=[Span(start=start, end=end)])


def test_several_heads_are_told_by_their_answers_and_drawn_by_their_scales(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = [
        HeadLabels(name="emotion", kind="classification", names=("joy", "fear")),
        HeadLabels(name="values", kind="regression", names=("valence", "arousal", "pulse")),
        HeadLabels(name="shares", kind="distribution", names=("calm", "tense")),
    ]
    labels = Labels(
        task="joint",
        names=output_names(heads),
        mean=(0, 0, 0.1, 0.4, 74.0, 0, 0),
        std=(1, 1, 0.6, 0.4, 12.0, 1, 1),
        heads=tuple(heads),
    )
    assert labels.scales == ((2, 3), (4,))
    assert labels.short_names[:3] == ("joy", "fear", "valence")
    values = np.array([[0.6, 0.4, 0.5, -0.2, 70.0, 0.25, 0.75]] * 2)
    spans = np.array([[0.0, 1.0], [1.0, 2.0]])
    track = Track(
        name="sound",
        labels=labels,
        start_seconds=0.0,
        end_seconds=2.0,
        spans=spans,
        values=values,
        logits=values,
    )
    prediction = Prediction(
        path=tmp_path / "a.wav",
        seconds=2.0,
        width=0,
        height=0,
        fps=1.0,
        labels=labels,
        modality="audio",
        tracks=(track,),
    )
    drawn: list[Any] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    prediction.save(tmp_path / "out", tiers=("eaf", "vtt"), picture=True)
    eaf = Eaf(tmp_path / "out" / "timeline.eaf")
    tiers = {name: eaf.get_annotation_data_for_tier(name) for name in eaf.get_tier_names()}
    assert tiers["sound emotion"] == [(0, 2000, "joy")]
    assert [text for _, _, text in tiers["sound values.pulse"]] == ["+70.000"] * 2
    assert [text for _, _, text in tiers["sound shares.calm"]] == ["0.250"] * 2
    assert not any("emotion." in name for name in tiers)
    cue = WebVTT.read(str(tmp_path / "out" / "timeline.vtt"))[0].text
    assert cue.startswith("emotion: joy, values.valence +0.50, values.arousal -0.20, ")
    curves = [axis for axis in drawn[0].axes if axis.lines]
    panels = [[text.get_text() for text in axis.get_legend().get_texts()] for axis in curves]
    assert panels == [[labels.names[n] for n in each] for each in ((0, 1, 5, 6), (2, 3), (4,))]
    assert [axis.get_ylabel() for axis in curves] == ["probability", "value", "value"]


def test_curves_of_many_outputs_are_told_apart() -> None:
    labels = Labels(task="classification", names=tuple(map(str, range(45))))
    track = Track(
        name="face0",
        labels=labels,
        start_seconds=0.0,
        end_seconds=1.0,
        spans=np.array([[0.0, 1.0]]),
        values=(values := np.full((1, 45), 1 / 45)),
        logits=values,
    )
    axis = Figure().subplots()
    _curves(axis, track, range(45))
    assert len({(line.get_color(), line.get_linestyle()) for line in axis.lines}) == 45
