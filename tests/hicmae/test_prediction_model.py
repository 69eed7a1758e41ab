"""``hicmae.load(…).predict(…)``: results, modalities, ensembles, what a checkpoint must say."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest

import hicmae
from hicmae.prediction.messages import Window
from hicmae.pretraining import HiCMAE
from hicmae.settings import ModelConfig
from shards.settings import BuildConfig
from tests.support.media_files import write_sound
from tests.support.prediction_fixtures import (
    CLASSES,
    real_values,
    talk,
    write_checkpoint,
    write_talking,
)

pytestmark = pytest.mark.usefixtures("one_decoding_process")
BUILD = BuildConfig(faces="boxes", face_size=32)


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_model_config: ModelConfig) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", tiny_model_config, build=BUILD)


@pytest.mark.slow
def test_a_video_becomes_a_table(tmp_path: Path, checkpoint: Path) -> None:
    model = hicmae.load(checkpoint, device="cpu")
    prediction = model.predict(write_talking(tmp_path / "a.mp4", 2.0))
    table = prediction.timeline
    assert list(table.columns) == ["track", "start", "end", "prediction", *CLASSES]
    assert list(table["start"]) == [0.0, 1.0, 1.36]
    assert np.allclose(table[list(CLASSES)].sum(axis=1), 1)
    largest = table[list(CLASSES)].idxmax(axis=1)
    assert list(table["prediction"]) == list(largest)
    assert isinstance(prediction, hicmae.Prediction)
    assert isinstance(prediction.tracks[0], hicmae.Track)
    boxes = prediction.tracks[0].boxes
    assert list(boxes.columns) == ["seconds", "x0", "y0", "x1", "y1", "angle", "found_by"]
    assert len(boxes) == 50
    assert prediction.tracks[0].thumbnails[0][1][:2] == b"\xff\xd8"
    summary = prediction.summary
    assert summary.modality == "audio-video"
    assert summary.tracks[0].mean == pytest.approx(table[list(CLASSES)].mean().to_dict(), abs=1e-6)
    assert sum(summary.tracks[0].share.values()) == pytest.approx(1)


@pytest.mark.slow
def test_what_each_modality_says_is_told_where_asked(tmp_path: Path, checkpoint: Path) -> None:
    model = hicmae.load(checkpoint, device="cpu", precision="32-true")
    seen: list[Window] = []
    video = write_talking(tmp_path / "a.mp4", 2.0)
    (track,) = model.predict(video, each_modality=True, on_window=seen.append).tracks
    assert set(track.by_modality) == {"audio-video", "video", "audio"}
    assert np.array_equal(track.by_modality["audio-video"], track.values)
    mute = write_talking(tmp_path / "mute.mp4", 2.0, sound=False)
    (alone,) = model.predict(mute, each_modality=True).tracks
    assert set(alone.by_modality) == {"video"}
    assert np.allclose(alone.values, track.by_modality["video"], atol=1e-5)
    assert not np.allclose(alone.values, track.values, atol=1e-3)
    bank = model.filter_bank(seen[0].clips[0])
    assert bank.shape == (model.input.fbank_frames, model.input.mel_bins)
    assert bank.std() > 0.05


def test_a_sound_file_is_heard_and_a_silent_video_seen(tmp_path: Path, checkpoint: Path) -> None:
    model = hicmae.load(checkpoint, device="cpu")
    heard = model.predict(write_sound(tmp_path / "a.wav", talk(2.0, 16000), 16000))
    assert (heard.modality, heard.tracks[0].name) == ("audio", "sound")
    assert len(heard.tracks[0].boxes) == 0
    assert "sound alone" in heard.notes[0]
    seen = model.predict(write_talking(tmp_path / "mute.mp4", 1.0, sound=False))
    assert seen.modality == "video"


def test_a_network_of_one_modality_reads_it_alone(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    video = write_talking(tmp_path / "a.mp4", 1.5)
    for modalities, track in (("video", "face0"), ("audio", "sound")):
        folder = write_checkpoint(
            tmp_path / modalities, tiny_model_config, build=BUILD, modalities=modalities
        )
        model = hicmae.load(folder, device="cpu")
        prediction = model.predict(video, each_modality=True)
        assert (prediction.modality, prediction.tracks[0].name) == (modalities, track)
        assert set(prediction.tracks[0].by_modality) == {modalities}
        assert prediction.notes == ()


def test_real_values_come_in_their_own_units(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    names = ("valence", "arousal")
    labels = real_values(*names)
    video = write_talking(tmp_path / "a.mp4", 1.0)
    plain, scaled = (
        hicmae.load(
            write_checkpoint(
                tmp_path / name,
                tiny_model_config,
                build=BUILD,
                names=names,
                labels=labels | scale,
            ),
            device="cpu",
            precision="32-true",
        ).predict(video)
        for name, scale in (("a", {}), ("b", {"mean": [3.0, -2.0], "std": [0.5, 2.0]}))
    )
    first, second = plain.tracks[0].values, scaled.tracks[0].values
    assert np.allclose(second, first * [0.5, 2.0] + [3.0, -2.0], atol=1e-5)
    assert "prediction" not in plain.timeline.columns
    assert plain.summary.tracks[0].prediction is None


def test_the_folds_of_a_run_are_averaged(tmp_path: Path, tiny_model_config: ModelConfig) -> None:
    for fold in (1, 2):
        place = tmp_path / "run" / f"fold-{fold}" / "checkpoints" / "last"
        place.parent.mkdir(parents=True)
        about = {"over_time": {"smoothing_seconds": fold}, "traces": {"shift_seconds": -0.1 * fold}}
        write_checkpoint(place, tiny_model_config, build=BUILD, seed=fold, **about)
    video = write_talking(tmp_path / "a.mp4", 1.0)
    values = {}
    for name in ("run", "run/fold-1", "run/fold-2"):
        model = hicmae.load(tmp_path / name, device="cpu", precision="32-true")
        values[name] = model.predict(video).tracks[0].values
        notes = " ".join(model.notes)
        assert ("averaged" in notes) == (name == "run")
        smoothing, shift = {"run": (1.5, 0.15), "run/fold-1": (1, 0.1)}.get(name, (2, 0.2))
        assert f"means over {smoothing} s" in notes
        assert f"stands {shift} s before the middle" in notes
    mean = (values["run/fold-1"] + values["run/fold-2"]) / 2
    assert np.allclose(values["run"], mean, atol=1e-6)
    other = replace(tiny_model_config, input=replace(tiny_model_config.input, pad="silence"))
    write_checkpoint(
        tmp_path / "run" / "fold-2" / "checkpoints" / "last", other, build=BUILD, seed=2
    )
    with pytest.raises(ValueError, match=r"differs from .*fold-1.* cannot be averaged"):
        hicmae.load(tmp_path / "run")


def test_a_checkpoint_that_does_not_say_how_gets_the_default_and_that_is_said(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    model = hicmae.load(write_checkpoint(tmp_path / "c", tiny_model_config))
    assert model.preparation.face_size == 32
    (note,) = model.notes
    assert "does not say how its images were made" in note


def test_a_pretrained_network_is_refused_with_the_remedy(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    HiCMAE(tiny_model_config).save_pretrained(tmp_path / "c")
    with pytest.raises(ValueError, match="is a pretrained network, which predicts no emotion"):
        hicmae.load(tmp_path / "c")


def test_outputs_called_like_columns_stay_apart(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    names = ("start", "prediction", "end")
    folder = write_checkpoint(tmp_path / "c", tiny_model_config, build=BUILD, names=names)
    table = hicmae.load(folder, device="cpu").predict(write_talking(tmp_path / "a.mp4", 1.0))
    assert isinstance(table.timeline, pandas.DataFrame)
    assert list(table.timeline.columns[-3:]) == ["start_", "prediction_", "end_"]


@pytest.mark.slow
def test_a_script_needs_no_main_guard(tmp_path: Path, checkpoint: Path, repository: Path) -> None:
    video = write_talking(tmp_path / "a.mp4", 1.0)
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(repository)!r})\n"
        f"import hicmae\nmodel = hicmae.load({str(checkpoint)!r}, device='cpu')\n"
        f"print(len(model.predict({str(video)!r}).timeline))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stdout.strip()) == (0, "2"), done.stderr
