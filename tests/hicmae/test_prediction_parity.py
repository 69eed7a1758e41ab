"""A recording predicted raw, and from a shard built by the same profile, are the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hicmae
from hicmae.media.faces import FaceConfig
from hicmae.prediction.messages import Window, WindowConfig
from hicmae.settings import ModelConfig
from hicmae.transforms import ClipTransform
from hicmae.views import test_views
from shards.building.build import build_shards
from shards.index import read_index
from shards.reading.files import Row, ShardFiles
from shards.reading.whole_sample import read_sample
from shards.sample import collate, cut_clip
from shards.settings import BuildConfig
from tests.support.media_files import write_recording
from tests.support.prediction_fixtures import (
    moving_frames,
    talk,
    write_boxes,
    write_checkpoint,
    write_talking,
)

HOP = 0.48
pytestmark = pytest.mark.usefixtures("one_decoding_process")


def shard_clips(folder: Path, sizes: ModelConfig, key: str, starts: list[int]) -> dict[str, Any]:
    """The clips of a sample that begin at these frames, read as evaluation reads them."""
    index = read_index(folder)
    row = next(row for row in Row.rows_of(index.table) if row.key == key)
    sample = read_sample(ShardFiles(folder.resolve()), row, require={"mjpg": "picture: optional"})
    input = sizes.input
    clips = []
    for start in starts:
        left = sample.info.num_frames - start
        (view,) = test_views(
            min(left, input.num_frames * input.frame_stride),
            input.num_frames,
            input.frame_stride,
            1,
        )
        part = cut_clip(sample.info, sample.mjpg, sample.wav, start + view, input)
        clips.append(part.decode(input))
    return collate(clips)


def assert_same(
    recording: Path, build: BuildConfig, sizes: ModelConfig, folder: Path, *, choice: str
) -> dict[str, int]:
    """Predict, build, compare; returns the number of windows by track."""
    build_shards([recording], folder / "shards", build)
    # As fine-tuning writes it: the configuration that the index of the shards holds.
    config = read_index(folder / "shards").info["config"]
    checkpoint = write_checkpoint(folder / "checkpoint", sizes, build=build)
    model = hicmae.load(checkpoint, device="cpu", precision="32-true")
    assert model.preparation == FaceConfig.of_build(config, where="index")
    seen: list[Window] = []
    prediction = model.predict(
        recording,
        config=WindowConfig(hop=HOP, face_choice=choice),  # type: ignore[arg-type]
        on_window=seen.append,
    )
    keys = [str(key) for key in read_index(folder / "shards").table["key"]]
    assert len(keys) == len(prediction.tracks)
    transform = ClipTransform(sizes.input).eval()
    for key, track in zip(keys, prediction.tracks, strict=True):
        windows = [window for window in seen if window.track == track.name]
        starts = [
            round((window.start_seconds - track.start_seconds) * sizes.input.fps)
            for window in windows
        ]
        batch = shard_clips(folder / "shards", sizes, key, starts)
        for number, window in enumerate(windows):
            (clip,) = window.clips
            assert np.array_equal(clip.frames, batch["frames"][number].numpy())
            assert clip.num_samples == int(batch["num_samples"][number])
            assert np.array_equal(clip.waveform, batch["waveform"][number].numpy())
        with torch.no_grad():
            logits = model.network.members[0](*transform(batch)).numpy()
        assert np.abs(track.logits - logits).max() < 1e-3
        assert len(logits) == 1 or np.ptp(logits, axis=0).max() > 0.02, "the windows do differ"
    shorter = prediction.seconds < sizes.input.clip_seconds
    assert any("shorter than the network's clip " in n for n in prediction.notes) == shorter
    return {track.name: len(track.values) for track in prediction.tracks}


@pytest.mark.slow
def test_raw_and_shard_give_the_same_logits(tmp_path: Path, tiny_model_config: ModelConfig) -> None:
    build = BuildConfig(faces="boxes", face_size=40, jpeg_quality=80, workers=1)
    recording = write_talking(tmp_path / "one face.mp4", 3.1)
    windows = assert_same(recording, build, tiny_model_config, tmp_path, choice="profile")
    assert windows == {"face0": 7}


@pytest.mark.slow
def test_so_they_do_for_each_of_several_faces_with_dropped_frames_and_late_sound(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    frames = moving_frames(100, faces=(50, 140))
    kept = np.setdiff1d(np.arange(100), [20, 21, 22, 60])
    recording = write_recording(
        tmp_path / "two.mkv", frames[kept], kept / 25, sound=talk(2.6), sound_start=0.7
    )
    write_boxes(tmp_path / "two.csv", {"a": (50, 0, 90), "b": (140, 30, 95)})
    build = BuildConfig(
        faces="boxes", face_choice="all", face_size=32, face_margin=0.1, chroma="444", workers=1
    )
    windows = assert_same(recording, build, tiny_model_config, tmp_path, choice="all")
    assert set(windows) == {"face0", "face1"}


@pytest.mark.slow
def test_so_they_do_for_a_recording_shorter_than_a_clip(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    longer = replace(tiny_model_config.input, frame_stride=4, fbank_frames=256)
    sizes = replace(tiny_model_config, input=longer)
    build = BuildConfig(faces="none", face_size=32, workers=1)
    recording = write_talking(tmp_path / "short.mp4", 1.5)
    windows = assert_same(recording, build, sizes, tmp_path, choice="profile")
    assert windows == {"face0": 1}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["talking/1001_DFA_SAD_XX.flv", "talking/grid_lbax4n.mpg"])
@pytest.mark.parametrize("align", ["none", "eyes"])
def test_so_they_do_for_real_faces(
    tmp_path: Path,
    tiny_model_config: ModelConfig,
    clips_dir: Path,
    yunet_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    align: str,
) -> None:
    monkeypatch.setenv("HICMAE_YUNET", str(yunet_file))
    build = BuildConfig(face_size=48, align=align, workers=1)  # type: ignore[arg-type]
    windows = assert_same(clips_dir / name, build, tiny_model_config, tmp_path, choice="profile")
    assert windows["face0"] > 2
