"""Tests of the build's bench: that it counts what it says, never how fast."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from hicmae.__main__ import main
from hicmae.bench import Stopwatch
from shards.bench import STAGES, bench_build, measure
from shards.building.build import gather
from tests.support.build_fixtures import config
from tests.support.shard_media import tone, write_video


def test_each_moment_counts_for_the_innermost_stage() -> None:
    now = [0.0]
    watch = Stopwatch(clock=lambda: now[0])

    def spend(seconds: float) -> None:
        now[0] += seconds

    def decoded() -> object:
        for _ in range(3):
            spend(4.0)
            yield None

    spend(100.0)  # before any stage
    with watch.stage("encoding"):
        spend(1.0)
        for _ in watch.iterate("decoding", decoded()):  # type: ignore[arg-type]
            spend(2.0)
        with watch.stage("faces"):
            spend(7.0)
    spend(100.0)
    with watch.stage("faces"):
        spend(1.0)
    assert watch.seconds == {"encoding": 1 + 3 * 2, "decoding": 3 * 4, "faces": 8}


def test_the_bench_does_what_a_build_does(tmp_path: Path) -> None:
    write_video(tmp_path / "in/a.mp4", seconds=0.8, sound=tone(0.8))
    (row,) = gather([tmp_path / "in"])[0]
    figures = measure([row], config(), tmp_path)
    assert figures["video_seconds"] == pytest.approx(0.8)
    assert set(figures["seconds"]) == set(STAGES)
    assert all(figures["seconds"][name] > 0 for name in STAGES)
    assert sum(figures["shares"].values()) == pytest.approx(1)


def test_figures_are_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "in/a.mp4", seconds=0.8, sound=tone(0.8))
    write_video(tmp_path / "in/b.mp4", seconds=0.8)
    (tmp_path / "in/c.mp4").touch()
    file = tmp_path / "new/figures.json"
    threads = cv2.getNumThreads()
    words = ["bench", "build", "--media", str(tmp_path / "in"), "--faces", "none"]
    assert main([*words, "--face_size", "32", "--json", str(file)]) == 0
    assert cv2.getNumThreads() == threads
    figures = json.loads(file.read_text())
    line = figures["lines"][0]
    assert len(figures["lines"]) == 1  # nothing is detected
    assert figures["num_recordings"] == 3
    assert figures["refused"] == 1
    assert line["video_seconds"] == pytest.approx(1.6)
    assert figures["video_seconds_per_core_second"] == pytest.approx(1.6 / line["core_seconds"])
    assert figures["config"]["face_size"] == 32
    assert "Building shards, one core" in capsys.readouterr().out


def test_synthetic_faces_stand_in_and_detection_in_all_frames_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HICMAE_CLIPS_DIR", str(tmp_path / "absent"))
    figures = bench_build(most=1, faces="cascade", face_size=64, detect_every=25)
    some, every = figures["lines"]
    assert some["what"] == "detecting in 1 of 25"
    assert every["seconds"]["faces"] > some["seconds"]["faces"] > 0
    assert figures["times_without_faces"] == some["times_without_faces"]
    ratio = every["times_without_faces"] / some["times_without_faces"]
    assert ratio == pytest.approx(every["core_seconds"] / some["core_seconds"])


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="most = 0"):
        bench_build(most=0)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(ValueError, match=r"nothing to measure: .*empty\.mp4"):
        bench_build(media=tmp_path / "empty.mp4", faces="none")
