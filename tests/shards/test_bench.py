"""The benches of loader and build: that they measure what they say, never how fast."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from hicmae.__main__ import main
from hicmae.bench import Stopwatch
from hicmae.settings import InputConfig
from shards.bench import bench_loader, raw_files, write_bench_shards
from shards.building.bench import STAGES, bench_build, measure
from shards.building.build import gather
from shards.index import read_index
from shards.reading.random_access import ShardDataset
from tests.support.build_fixtures import config
from tests.support.media_files import write_sound
from tests.support.shard_fixtures import make_sample, write_shards
from tests.support.shard_media import tone, write_video


@pytest.fixture
def no_media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No real clips are compared with."""
    monkeypatch.setenv("HICMAE_CLIPS_DIR", str(tmp_path / "absent"))


@pytest.mark.usefixtures("no_media")
def test_the_bench_measures_given_shards_and_writes_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_shards(tmp_path / "shards", [make_sample(number) for number in range(8)])
    file = tmp_path / "new" / "figures.json"
    threads = torch.get_num_threads()
    figures = bench_loader(shards=folder, seconds=0.01, workers=(0, 1), batch_size=2, json=file)
    assert torch.get_num_threads() == threads
    assert json.loads(file.read_text()) == figures
    assert [(line["what"], line["workers"]) for line in figures["lines"]] == [
        ("stream", 0),
        ("stream", 1),
        ("random access", 0),
    ]
    assert figures["clips_per_second"] == figures["lines"][1]["clips_per_second"] > 0
    assert (
        figures["cpu_milliseconds_per_clip"] == (figures["lines"][1]["cpu_milliseconds_per_clip"])
    )
    assert all(line["cpu_milliseconds_per_clip"] >= 0 for line in figures["lines"])
    assert figures["two_workers_over_one"] is None
    assert figures["random_access_clips_per_second"] > 0
    assert figures["raw_clips_per_second"] is None
    assert figures["ratio"] is None
    shard_bytes = sum(path.stat().st_size for path in folder.glob("*.tar"))
    line = figures["lines"][0]
    assert line["megabytes_per_second"] == pytest.approx(
        line["clips_per_second"] * shard_bytes / 8 / 1e6
    )
    said = capsys.readouterr().out
    assert "CPU ms/clip" in said
    assert "A batch of 8 holds 5.0 speakers, a permutation's 5.0." in said
    cold = bench_loader(shards=folder, seconds=0.01, workers=(0,), batch_size=2, cold=True)
    assert cold["clips_per_second"] > 0


@pytest.mark.usefixtures("no_media")
@pytest.mark.parametrize("num_pictures", [0, 2])
def test_shards_of_sound_alone_and_mixed_ones_are_measured(
    num_pictures: int, tmp_path: Path
) -> None:
    samples = [make_sample(number, picture=number < num_pictures) for number in range(4)]
    folder = write_shards(tmp_path, samples)
    figures = bench_loader(shards=folder, seconds=0.01, workers=(0,), batch_size=2)
    assert figures["clips_per_second"] > 0
    assert figures["random_access_clips_per_second"] > 0
    images = [info.frame_offsets[-1] / info.num_frames for info, *_ in samples[:num_pictures]]
    assert figures["mean_frame_bytes"] == pytest.approx(sum(images) / max(1, num_pictures))


@pytest.mark.usefixtures("no_media")
def test_random_access_too_reads_the_split_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [make_sample(number, split=("train", "val")[number % 2]) for number in range(4)]
    folder, read = write_shards(tmp_path, samples), []

    class Noting(ShardDataset):
        def __getitem__(self, number: int) -> Any:
            read.append(found := super().__getitem__(number))
            return found

    monkeypatch.setattr("shards.reading.random_access.ShardDataset", Noting)
    bench_loader(shards=folder, seconds=0.01, workers=(0,), batch_size=1, split="val")
    assert {item["key"] for item in read} == {info.key for info, *_ in samples[1::2]}


def test_raw_video_is_measured_in_the_same_run(clips_dir: Path, tmp_path: Path) -> None:
    video = sorted(clips_dir.glob("talking/vox_*.mp4"))[0]
    folder = write_shards(tmp_path, [make_sample(number) for number in range(4)])
    figures = bench_loader(shards=folder, media=video, seconds=0.01, workers=(0,), batch_size=2)
    assert figures["num_raw_files"] == 1
    assert figures["raw_clips_per_second"] > 0
    assert figures["ratio"] == figures["clips_per_second"] / figures["raw_clips_per_second"]


@pytest.mark.slow
def test_raw_video_is_measured_beside_shards_of_another_frame_rate(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", seconds=8.0, sound=tone(8.0))  # 25 frames a second
    folder = write_shards(tmp_path / "shards", [make_sample(0, num_frames=10, fps=5.0)])
    figures = bench_loader(shards=folder, media=video, seconds=0.2, workers=(0,), batch_size=1)
    assert figures["raw_clips_per_second"] > 0


def test_the_synthetic_shards_are_like_real_ones(tmp_path: Path) -> None:
    write_bench_shards(tmp_path / "shards", num_samples=2)
    dataset = ShardDataset(read_index(tmp_path / "shards"), input=InputConfig(), views=1)
    rows = dataset.rows
    assert list(rows["num_frames"]) == [200, 200]
    # Five VoxCeleb-style clips, cropped to 160 pixels at quality 90: 5.5 to 6.0 kB an image.
    assert 4500 < rows["mjpg_length"][0] / 200 < 7000
    assert rows["key"][1] == "bench/00001"
    clip = dataset[1]
    assert isinstance(clip, dict)
    assert clip["frames"].shape == (16, 160, 160, 3)
    assert clip["num_samples"] == 40960
    assert np.abs(np.diff(clip["frames"].numpy().astype(int), axis=0)).mean() > 1  # it moves


def test_what_cannot_be_measured_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("shards.bench.write_bench_shards")  # half a minute
    with pytest.raises(ValueError, match=r"seconds = 0, .*workers = \(\)"):
        bench_loader(seconds=0, workers=())
    with pytest.raises(FileNotFoundError, match="no such video"):
        raw_files(tmp_path / "absent.mp4")
    with pytest.raises(ValueError, match="no mp4 file"):
        raw_files(tmp_path)
    sound = write_sound(tmp_path / "sound.wav", tone(1.0), 16000)
    with pytest.raises(ValueError, match=r"sound\.wav: no picture stream"):
        bench_loader(media=sound, seconds=0.01, workers=(0,), batch_size=1)
    with pytest.raises(FileNotFoundError, match="nowhere"):  # before the sound of any video is read
        bench_loader(shards=tmp_path / "nowhere", media=sound, seconds=0.01, workers=(0,))


def test_each_moment_counts_for_the_innermost_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "process_time", lambda: now[0])
    watch = Stopwatch()

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


@pytest.mark.slow
def test_synthetic_faces_stand_in_and_detection_in_all_frames_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HICMAE_CLIPS_DIR", str(tmp_path / "absent"))
    detector = {"smallest_face": 24}
    figures = bench_build(most=1, faces="cascade", detector=detector, face_size=64, detect_every=25)
    some, every = figures["lines"]
    assert some["what"] == "detecting in 1 of 25"
    assert every["seconds"]["faces"] > some["seconds"]["faces"] > 0
    assert figures["times_without_faces"] == some["times_without_faces"]
    ratio = every["times_without_faces"] / some["times_without_faces"]
    assert ratio == pytest.approx(every["core_seconds"] / some["core_seconds"])


def test_what_cannot_be_built_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="most = 0"):
        bench_build(most=0)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(ValueError, match=r"nothing to measure: .*empty\.mp4"):
        bench_build(media=tmp_path / "empty.mp4", faces="none")
