"""Traces: what is read, how recordings are cut into parts, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas
import pytest
from scipy.integrate import trapezoid

from finetune.benchmark import load_benchmark
from finetune.instants import OverTime, instant_index
from hicmae.__main__ import main
from shards.building.prepare import make_samples
from shards.datasets import DATASETS
from shards.index import Index
from shards.manifest import read_manifest
from shards.reading.random_access import FIRST, WINDOW
from shards.synthesis.corpus import ANNOTATORS, synthesize
from shards.synthesis.settings import CorpusConfig
from shards.traces import (
    Noted,
    Notes,
    TraceConfig,
    check_times,
    joined,
    parse_trace,
    parts_of,
    read_notes,
)
from tests.support.build_fixtures import config
from tests.support.media_files import counting_frames, write_recording


def written(folder: Path, text: str, name: str = "trace.csv") -> Path:
    """A file of a trace."""
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def line(seconds: float, *, step: float = 0.1) -> Notes:
    """One annotator who notes twice the time."""
    times = np.arange(0, seconds + 1e-9, step)
    return {"valence": {"anna": Noted(start=times, end=times, value=2 * times)}}


def test_annotators_stand_in_columns_in_a_column_or_in_files(tmp_path: Path) -> None:
    columns = read_notes(written(tmp_path, "time,valence.anna,valence.ben\n0,0,1\n1,1,\n2,2,3\n"))
    assert columns["valence"]["ben"].start.tolist() == [0, 2]
    long = read_notes(
        written(
            tmp_path, "time,annotator,valence\n0,anna,0\n0,ben,1\n1,anna,1\n2,anna,2\n2,ben,3\n"
        )
    )
    alone = written(tmp_path, "time;valence\n0;1\n2;3\n", "ben.csv")
    files = joined(
        [
            read_notes(written(tmp_path, "time,valence\n0,0\n1,1\n2,2\n"), annotator="anna"),
            read_notes(alone, annotator="ben"),
        ],
        "a.mp4",
    )
    for found in (long, files):
        for who in ("anna", "ben"):
            assert found["valence"][who].value.tolist() == columns["valence"][who].value.tolist()
            assert found["valence"][who].start.tolist() == columns["valence"][who].start.tolist()


def test_windows_hold_their_value_and_instants_are_interpolated(tmp_path: Path) -> None:
    config = TraceConfig()
    windows = read_notes(written(tmp_path, "start,end,valence\n0,0.2,1\n0.2,0.4,3\n"))
    noted = windows["valence"]["mean"]
    assert noted.at(np.array([0.0, 0.1, 0.19, 0.2, 0.39]), config).tolist() == [1, 1, 1, 3, 3]
    instants = read_notes(written(tmp_path, "time,valence\n0,0\n1,1\n5,1\n"))["valence"]["mean"]
    found = instants.at(np.array([0.25, 1.0, 3.0, 5.0, 6.0]), config)
    # Nothing is known in a gap, and beyond the end.
    assert found[[0, 1, 3]].tolist() == [0.25, 1.0, 1.0]
    assert np.isnan(found[[2, 4]]).all()


def test_a_window_around_an_instant_gives_the_mean() -> None:
    noted = line(4.0)["valence"]["anna"]
    config = TraceConfig(window_seconds=1.0)
    assert noted.at(np.array([1.0, 2.0]), config) == pytest.approx([2.0, 4.0])
    times = np.arange(0, 4.01, 0.1)
    squares = Noted(start=times, end=times, value=times**2)
    # The mean of t² from 0.5 to 1.5 is 13/12.
    assert squares.at(np.array([1.0]), config)[0] == pytest.approx(13 / 12, abs=0.002)


@pytest.mark.parametrize(("step", "window"), [(1.0, 1.0), (1.0, 2.0), (0.25, 0.5), (0.1, 1.0)])
def test_the_mean_over_a_window_is_the_integral_of_the_line(step: float, window: float) -> None:
    times = np.arange(0, 30.01, step)
    noted = Noted(start=times, end=times, value=np.random.default_rng(0).normal(size=len(times)))
    instants = np.arange(0, 29, 0.2)
    found = noted.at(instants, TraceConfig(window_seconds=window))
    for instant, mean in zip(instants, found, strict=True):
        begin, end = max(0.0, instant - window / 2), instant + window / 2
        corners = [begin, *times[(times > begin) & (times < end)], end]
        integral = trapezoid(np.interp(corners, times, noted.value), corners)
        assert mean == pytest.approx(integral / (end - begin), abs=0.05)


def test_parts_label_each_instant_once_and_store_little_twice() -> None:
    config = TraceConfig(hop_seconds=0.2, part_seconds=5.0, context_seconds=2.0, max_lag_seconds=1)
    parts = parts_of(line(61.0), "r", 61.0, config)
    own = [trace.since + trace.hop * k for _, _, trace in parts for k in range(trace.num_own)]
    assert own == pytest.approx(np.arange(0, 61, 0.2).tolist())
    stored = sum(end - begin for begin, end, _ in parts)
    assert stored <= 61.0 + 2.0 * len(parts)
    text = sum(len(trace.text()) for _, _, trace in parts)
    double = parts_of(line(122.0), "r", 122.0, config)
    assert sum(len(trace.text()) for _, _, trace in double) < 2.2 * text
    for begin, end, trace in parts[1:-1]:
        assert begin + trace.at == pytest.approx(trace.since)
        assert trace.at == pytest.approx(1.0)
        assert end == pytest.approx(trace.since + trace.hop * (trace.num_own - 1) + 1.0)


@pytest.mark.parametrize("lag", [0.0, 0.2, 0.53, 1.0])
def test_a_lag_reads_later_values_beyond_the_end_of_a_part(lag: float) -> None:
    config = TraceConfig(hop_seconds=0.2, part_seconds=5.0, max_lag_seconds=1.0)
    _, _, trace = parts_of(line(20.0), "r", 20.0, config)[1]
    read = parse_trace(trace.text(), "sample 'r/001'")
    times = read.since + read.hop * np.arange(read.num_own)
    assert read.late("valence", "anna", lag) == pytest.approx(2 * (times + lag), abs=1e-5)
    assert np.isnan(read.late("valence", "nobody", lag)).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time,valence\n1,0\n0.5,1\n", "line 3: time 0.5 s does not come after 1 s"),
        ("time,valence\n1,0\n1,1\n", "line 3: time 1 s does not come after 1 s"),
        ("seconds,valence\n1,0\n", "no column time, or start and end"),
        ("start,valence\n1,0\n", "no column time, or start and end"),
        ("time\n1\n", "no column of values"),
        ("time,valence\n1,high\n", "line 2: valence is 'high'"),
        ("time,valence\n1,0\n2,n/a\n", "line 3: valence is 'n/a' .must be a number, or empty"),
        ("time,valence\n1,0\n,1\n", "line 3: no time"),
        ("time,valence\n1,\n", "holds no value"),
        ("start,end,valence\n0,1,0\n0.5,2,1\n", "line 3: window 0.5 to 2 s"),
        ("", "no column time"),
    ],
)
def test_a_file_that_cannot_be_understood_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=said) as refused:
        read_notes(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_numbers_are_read_in_any_spelling_and_gaps_are_left_out(tmp_path: Path) -> None:
    """One `+0.5` made a column text, and its first line was said to be no number."""
    noted = read_notes(written(tmp_path, "time,valence\n00.5,+0.25\n1.0,NaN\n2.0,-0.5\n"))
    assert noted["valence"]["mean"].start.tolist() == [0.5, 2]
    assert noted["valence"]["mean"].value.tolist() == [0.25, -0.5]


def test_a_label_lies_where_the_picture_of_its_time_is(tmp_path: Path) -> None:
    """Labels of a camera that is switched on later stood so much too late in its sample."""
    begin, sound = 1.6, np.zeros(round(4.8 * 48000))
    frames, times = counting_frames(80), begin + np.arange(80) / 25
    write_recording(tmp_path / "late.mp4", frames, times, sound=sound)
    rows = "".join(f"{time:.1f},{time:.1f}\n" for time in np.arange(0, 4.9, 0.1))
    written(tmp_path, f"time,valence\n{rows}")
    written(tmp_path, "path,trace\nlate.mp4,trace.csv\n", "recordings.csv")
    out = tmp_path / "list.jsonl"
    assert main(["shards", "manifest", "traces", str(tmp_path), "--out", str(out)]) == 0
    (made,) = make_samples(read_manifest(out)[0], config(), tmp_path / "s").samples
    row = {"key": made.info.key, "fps": 25.0, "num_frames": made.info.num_frames}
    table = pandas.DataFrame([row | made.info.labels])
    index = Index(table=table, info={}, folder=tmp_path)
    found = instant_index(index, ["valence"], OverTime(), 0.16).table
    names, firsts, windows, values = (found[x] for x in ("key", FIRST, WINDOW, "valence"))
    seconds = np.array([float(name.split("@")[1]) for name in names])
    assert seconds[0] == pytest.approx(begin)
    assert values.to_numpy() == pytest.approx(seconds)
    inner = (seconds > begin + 0.1) & (seconds < 4.7)
    shown = begin + (firsts + windows / 2).to_numpy() / 25
    assert shown[inner] == pytest.approx(seconds[inner], abs=0.03)


def test_traces_that_leave_the_recording_or_overlap_nowhere_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.mp4: valence of 'anna' is noted from 0 to 30 s"):
        check_times(line(30.0), 12.0, "a.mp4")
    check_times(line(12.3), 12.0, "a.mp4")
    late = np.array([40.0, 41.0])
    other: Notes = {"valence": {"ben": Noted(start=late, end=late, value=late)}}
    with pytest.raises(ValueError, match=r"'anna' .until 30 s. and 'ben' .from 40 s. overlap"):
        joined([line(30.0), other], "a.mp4")
    with pytest.raises(ValueError, match="'anna' has noted valence in two files"):
        joined([line(30.0), line(20.0)], "a.mp4")
    with pytest.raises(ValueError, match="sample 'a': holds no trace"):
        parse_trace("0.5", "sample 'a'")
    with pytest.raises(ValueError, match=r"hop_seconds = 0 .*; place = 2"):
        TraceConfig(hop_seconds=0, place=2.0)


@pytest.mark.slow
def test_the_synthetic_corpus_becomes_a_manifest_with_lags_as_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = CorpusConfig(
        speakers=1,
        takes=1,
        folds=1,
        min_seconds=3.0,
        max_seconds=3.2,
        frame_size=32,
        workers=0,
        over_time=True,
    )
    root = tmp_path / "corpus"
    synthesize(config, root)
    out = tmp_path / "list.jsonl"
    words = ["shards", "manifest", "traces", str(root), "--out", str(out)]
    assert main([*words, "--trace.part_seconds", "2", "--trace.max_lag_seconds", "1.5"]) == 0
    rows = read_manifest(out)
    assert len(rows) == 2 * 6
    trace = parse_trace(rows[0].labels["trace"], rows[0].key)
    assert trace.annotators == list(ANNOTATORS)
    anna, ben = ANNOTATORS["anna"], ANNOTATORS["ben"]
    first = trace.late("valence", "anna", anna.lag_seconds)
    second = trace.late("valence", "ben", ben.lag_seconds)
    known = np.isfinite(first) & np.isfinite(second)
    assert known.sum() >= 5
    assert second[known] == pytest.approx(ben.scale * first[known] + ben.offset, abs=0.02)
    assert np.ptp(first[known]) > 0.02
    bad = root / "annotations" / f"{Path(rows[0].name).stem}.csv"
    bad.write_text("time,valence\n0,0\n900,1\n", encoding="utf-8")
    assert main(words) == 2
    said = capsys.readouterr().err.strip()
    assert "is noted from 0 to 900 s" in said
    assert len(said.splitlines()) == 1
    assert math.isfinite(rows[0].end or 0)


def test_columns_of_traces_are_those_of_the_table_and_not_of_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row without a trace ended the list; a mean became one annotator more."""
    for name in "ab":
        write_recording(tmp_path / f"{name}.mp4", counting_frames(25), np.arange(25) / 25)
    (tmp_path / "t.csv").write_text("time,valence\n0,0.1\n0.8,0.2\n")
    out, table = tmp_path / "list.jsonl", tmp_path / "recordings.csv"
    words = ["shards", "manifest", "traces", str(tmp_path), "--out", str(out)]
    table.write_text("path,trace.anna,trace.ben\na.mp4,t.csv,\nb.mp4,,\n")
    assert main(words) == 0
    assert {row.name for row in read_manifest(out)} == {"a.mp4"}
    assert "left out, no trace: 1 (b.mp4)" in capsys.readouterr().out
    table.write_text("path,trace,trace.ben\na.mp4,t.csv,\nb.mp4,t.csv,t.csv\n")
    assert main(words) == 2
    assert "recordings.csv: columns trace and trace.NAME; keep one" in capsys.readouterr().err
    table.write_text("path,tarce\na.mp4,t.csv\n")
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "no file in a column trace or trace.NAME (found path, tarce); did you mean" in said


def test_a_damaged_recording_with_a_trace_is_named_and_the_others_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "short"):
        write_recording(tmp_path / f"{name}.mp4", counting_frames(25), np.arange(25) / 25)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "bad.mp4").write_bytes(bytes(600))
    (tmp_path / "t.csv").write_text("time,valence\n0,0.1\n0.8,0.2\n")
    (tmp_path / "s.csv").write_text("time,valence\n0.25,0.1\n0.3,0.2\n")
    rows = [f"{name}.mp4,t.csv\n" for name in ("bad", "a", "empty")] + ["short.mp4,s.csv\n"]
    (tmp_path / "recordings.csv").write_text("".join(["path,trace\n", *rows]))
    (tmp_path / "Train_Set").mkdir()
    for name in ("a", "bad"):
        (tmp_path / f"Train_Set/{name}.txt").write_text("valence,arousal\n" + "0.5,0\n" * 25)
    out = tmp_path / "list.jsonl"
    for dataset, missing in (("traces", ["bad.mp4", "empty.mp4"]), ("aff-wild2", ["bad.mp4"])):
        assert main(["shards", "manifest", dataset, str(tmp_path), "--out", str(out)]) == 0
        assert {row.name for row in read_manifest(out)} == {"a.mp4"}
        said = (tmp_path / "list.jsonl.missing.txt").read_text().splitlines()
        assert sorted(line.split("\t")[1] for line in said) == missing
    said = capsys.readouterr().out
    assert "missing, the file has no bytes: 1 (empty.mp4)" in said
    assert "left out, no value at a step of 0.2 s: 1 (short.mp4)" in said


def test_aff_wild2_is_read_by_the_names_of_its_first_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heads = {"a": "Arousal, Valence\r", "b": "val,aro", "c": "0.5,0.25", "d": "Neutral,Anger"}
    (tmp_path / "Train_Set").mkdir()
    for name, head in heads.items():
        write_recording(tmp_path / f"{name}.mp4", counting_frames(25), np.arange(25) / 25)
        (tmp_path / f"Train_Set/{name}.txt").write_text(f"{head}\n" + "0.5,0.25\n" * 25)
    out = tmp_path / "list.jsonl"
    assert main(["shards", "manifest", "aff-wild2", str(tmp_path), "--out", str(out)]) == 0
    trace = parse_trace(read_manifest(out)[0].labels["trace"], "a")
    for name, value in (("valence", 0.25), ("arousal", 0.5)):
        assert np.nanmean(trace.late(name, "mean", 0.0)) == pytest.approx(value)
    told = "left out, first line is not valence,arousal: 2 (Train_Set/b.txt, Train_Set/c.txt)"
    assert told in capsys.readouterr().out


def test_aff_wild2_is_listed_as_documented(tmp_path: Path) -> None:
    frames, times = counting_frames(50), np.arange(50) / 25
    for name in ("12-24-1920x1080", "video3"):
        write_recording(tmp_path / f"{name}.mp4", frames, times)
    values = [f"{0.01 * number:.2f},-0.5" for number in range(50)]
    values[10:20] = ["-5,-5"] * 10
    for side, name in (("Train_Set", "12-24-1920x1080"), ("Validation_Set", "video3_left")):
        (tmp_path / "VA" / side).mkdir(parents=True)
        text = "\n".join(["valence,arousal", *values])
        (tmp_path / "VA" / side / f"{name}.txt").write_text(text + "\n\n")
    out = tmp_path / "list.jsonl"
    words = ["shards", "manifest", "aff-wild2", str(tmp_path), "--out", str(out)]
    assert main([*words, "--trace.hop_seconds", "0.04", "--trace.max_gap_seconds", "0.2"]) == 0
    first, second = read_manifest(out)
    assert (first.labels["set"], second.labels["set"]) == ("train", "validation")
    assert (first.region, second.region) == (None, (0.0, 0.0, 0.5, 1.0))
    assert second.speaker == "video3"
    trace = parse_trace(first.labels["trace"], first.key)
    noted = trace.late("valence", "mean", 0.0)
    at = trace.since + trace.hop * np.arange(trace.num_own)
    known = np.isfinite(noted)
    # Frame n is on from n / 25 s on, its value in the middle of that.
    assert noted[known] == pytest.approx(0.01 * (at[known] * 25 - 0.5), abs=1e-4)
    assert not known[(at > 10.5 / 25) & (at < 19.5 / 25)].any()
    benchmark = load_benchmark("aff_wild2")
    assert {*benchmark.targets, benchmark.folds.column} <= {*trace.values, *first.labels}
    assert benchmark.dataset in DATASETS
    (tmp_path / "VA" / "Train_Set" / "12-24-1920x1080.txt").write_text("valence,arousal\n0\n")
    assert main(words) == 2
