"""Recordings in no shards: their features are those of their windows, and refusals are named."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch

from finetune.commands import embed
from hicmae.checkpoints.checkpoint import save_checkpoint
from hicmae.pretraining import HiCMAE
from hicmae.settings import ModelConfig, ObjectiveConfig
from hicmae.transforms import ClipTransform
from tests.support.testing_fixtures import CPU

MACHINE = CPU | {"batch_size": 2}


@pytest.fixture
def model(tiny_model_config: ModelConfig) -> HiCMAE:
    torch.manual_seed(7)
    return HiCMAE(tiny_model_config, ObjectiveConfig()).eval()


@pytest.fixture
def checkpoint(model: HiCMAE, tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, model, kind="pretraining", config={"model": model.config})
    return folder


def write_sound(path: Path, seconds: float) -> np.ndarray:
    """A tone that rises. Returns: its samples, int16."""
    time = np.arange(round(16000 * seconds)) / 16000
    sound = (8000 * np.sin(2 * np.pi * (200 + 150 * time) * time)).astype(np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(sound.tobytes())
    return sound


@pytest.mark.slow
def test_a_sound_file_gives_the_features_of_its_windows(
    model: HiCMAE, checkpoint: Path, tmp_path: Path
) -> None:
    path, broken = tmp_path / "tone.wav", tmp_path / "broken.wav"
    sound = write_sound(path, 2.0)
    broken.write_bytes(b"not a sound")
    rows = {}
    for per in ("view", "sample"):
        embed(
            source=checkpoint,
            inputs=[path, broken],
            out=tmp_path / f"{per}.parquet",
            what="fused",
            modalities="audio",
            per=per,  # type: ignore[arg-type]
            **MACHINE,
        )
        rows[per] = pyarrow.parquet.read_table(tmp_path / f"{per}.parquet").to_pandas()
    views = rows["view"]
    assert views["start_seconds"].tolist() == pytest.approx([0, 0.64, 1.28, 1.36])
    assert set(views["key"]) == {str(path)}
    length = model.config.input.clip_samples
    for start, features in zip(views["start_seconds"], views["audio_fused"], strict=True):
        first = round(start * 16000)
        waveform = torch.from_numpy(sound[first : first + length])[None]
        batch = {"waveform": waveform, "num_samples": torch.tensor([length])}
        _, fbank = ClipTransform(model.config.input).eval()(batch)
        with torch.no_grad():
            encoded = model.encoder(None, fbank)
        assert encoded.audio is not None
        assert features == pytest.approx(encoded.audio.fused.mean(1)[0].numpy(), abs=1e-5)
    mean = np.stack(views["audio_fused"].to_list()).mean(0)
    assert rows["sample"]["audio_fused"].iloc[0] == pytest.approx(mean, abs=1e-6)
    assert len(rows["sample"]) == 1


@pytest.mark.slow
def test_recordings_that_lack_what_is_asked_for_are_named_and_leave_no_file(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tone.wav"
    write_sound(path, 1.0)
    with pytest.raises(ValueError, match="none of 1 recordings can be embedded") as caught:
        embed(source=checkpoint, inputs=[path], out=tmp_path / "a.npz", **MACHINE)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.npz*"))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4: no such file"):
        embed(
            source=checkpoint,
            inputs=[tmp_path / "nowhere.mp4"],
            out=tmp_path / "a.npz",
            **MACHINE,
        )
