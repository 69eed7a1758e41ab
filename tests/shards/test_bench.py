"""Tests of the loader's bench: that it measures what it says, never how fast."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hicmae.settings import InputConfig
from shards.bench import bench_loader, raw_files, write_bench_shards
from shards.reading.random_access import ShardDataset
from tests.support.shard_fixtures import make_sample, write_shards


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
    assert "CPU ms/clip" in capsys.readouterr().out


def test_raw_video_is_measured_in_the_same_run(clips_dir: Path, tmp_path: Path) -> None:
    video = sorted(clips_dir.glob("talking/vox_*.mp4"))[0]
    folder = write_shards(tmp_path, [make_sample(number) for number in range(4)])
    figures = bench_loader(shards=folder, media=video, seconds=0.01, workers=(0,), batch_size=2)
    assert figures["num_raw_files"] == 1
    assert figures["raw_clips_per_second"] > 0
    assert figures["ratio"] == figures["clips_per_second"] / figures["raw_clips_per_second"]


def test_the_synthetic_shards_are_like_real_ones(tmp_path: Path) -> None:
    write_bench_shards(tmp_path / "shards", num_samples=2)
    dataset = ShardDataset(tmp_path / "shards", input=InputConfig(), views=1)
    rows = dataset.rows
    assert list(rows["num_frames"]) == [200, 200]
    # Five VoxCeleb-style clips, cropped to 160 pixels at quality 90: 5.5 to 6.0 kB an image.
    assert 4500 < rows["mjpg_length"][0] / 200 < 7000
    clip = dataset.by_key("bench/00001")
    assert clip["frames"].shape == (16, 160, 160, 3)
    assert clip["num_samples"] == 40960
    assert np.abs(np.diff(clip["frames"].numpy().astype(int), axis=0)).mean() > 1  # it moves


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"seconds = 0, .*workers = \(\)"):
        bench_loader(seconds=0, workers=())
    with pytest.raises(FileNotFoundError, match="no such video"):
        raw_files(tmp_path / "absent.mp4")
    with pytest.raises(ValueError, match="no mp4 file"):
        raw_files(tmp_path)
