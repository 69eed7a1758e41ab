"""``hicmae bench predict``: its own video holds a face that is found, and its figures add up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hicmae.config import save_yaml, to_dict
from hicmae.media.faces import open_detector
from hicmae.media.sound import read_sound
from hicmae.media.video import open_video
from hicmae.prediction.bench import bench_predict, write_face_video
from hicmae.settings import ModelConfig


def test_the_drawn_face_is_found_and_heard(tmp_path: Path) -> None:
    write_face_video(tmp_path / "face.mp4", 2.0)
    detector = open_detector("cascade")
    assert detector is not None
    with open_video(tmp_path / "face.mp4") as video:
        assert (video.height, video.width, len(video)) == (224, 224, 50)
        found = [len(detector.detect(frame)) for frame in video.frames(range(0, 50, 10))]
    assert found == [1] * 5
    assert -40 < read_sound(tmp_path / "face.mp4").rms_db < -5


@pytest.mark.slow
def test_the_figures_say_what_part_is_what(
    tmp_path: Path, tiny_model_config: ModelConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = tmp_path / "sizes.yaml"
    save_yaml(sizes, to_dict(tiny_model_config))
    bench_predict(
        model=str(sizes), seconds=2.0, hop=0.5, faces="cascade", json=tmp_path / "figures.json"
    )
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["seconds_of_video"] == pytest.approx(2.0, abs=0.05)
    assert (figures["num_tracks"], figures["num_windows"]) == (1, 4)
    factor = figures["seconds_of_video"] / figures["seconds"]
    assert figures["realtime_factor"] == pytest.approx(factor)
    parts = ("decoding", "faces", "images", "sound", "network", "core", "first_window")
    assert all(figures[f"{part}_seconds"] > 0 for part in parts)
    both = figures["network_memory_bytes"] + figures["decoder_memory_bytes"]
    assert figures["peak_memory_bytes"] == both > 100e6
    said = capsys.readouterr().out
    assert "times real time" in said
    assert "decoding, twice" in said


def test_no_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"seconds = 0.0 \(must be positive\)"):
        bench_predict(seconds=0.0)
