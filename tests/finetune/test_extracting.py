"""Features in files are those of the network, with what they are of: samples, or recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import torch

from finetune.commands import embed
from finetune.testing import extracting
from hicmae.checkpoints.checkpoint import load_checkpoint
from hicmae.checkpoints.networks import build_network
from hicmae.encoder import AudioVisualEncoder
from hicmae.files import file_sha256
from hicmae.settings import ModelConfig
from hicmae.transforms import ClipTransform
from shards.index import read_index
from shards.reading.random_access import ShardDataset
from shards.sample import collate
from tests.support.finetune_fixtures import labels_of, write_labelled_shards
from tests.support.shard_fixtures import wav_bytes
from tests.support.testing_fixtures import CPU

MACHINE = CPU | {"batch_size": 5}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled_shards(
        tmp_path_factory.mktemp("embed") / "shards",
        changes={3: {"labels": {"note": "odd"}}},  # a column with gaps
    )


def features(source: Path, shards: Path, out: Path, **options: Any) -> pd.DataFrame:
    embed(source=source, inputs=[shards], out=out, **MACHINE, **options)
    return pyarrow.parquet.read_table(out).to_pandas()


def clips(shards: Path, config: ModelConfig, numbers: list[int], views: int = 1) -> Any:
    """The network's input, read here."""
    dataset = ShardDataset(read_index(shards), input=config.input, views=views)
    with torch.no_grad():
        return ClipTransform(config.input).eval()(collate([dataset[n] for n in numbers]))


def test_layers_of_a_pretrained_network_are_its_mean_tokens(
    pretrained: Path, shards: Path, tiny_model_config: ModelConfig, tmp_path: Path
) -> None:
    table = features(pretrained, shards, tmp_path / "a.parquet", what="layers", layers="2,1")
    assert len(table) == 24
    encoder = build_network(load_checkpoint(pretrained)).encoder
    whole = AudioVisualEncoder(tiny_model_config, layers=[1, 2]).eval()
    whole.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        encoded = whole(*clips(shards, tiny_model_config, [0, 7, 23]))
    assert encoded.video is not None
    assert encoded.audio is not None
    for name, tokens in (("video", encoded.video), ("audio", encoded.audio)):
        for layer in (1, 2):
            found = np.stack(table[f"{name}_layer_{layer}"].iloc[[0, 7, 23]].to_list())
            assert found == pytest.approx(tokens.layers[layer - 1].mean(1).numpy(), abs=1e-5)


def test_rows_say_of_what_they_are_and_the_file_where_from(
    pretrained: Path, shards: Path, tmp_path: Path
) -> None:
    table = features(pretrained, shards, tmp_path / "a.parquet", what="fused")
    for number, row in table.iterrows():
        assert isinstance(number, int)
        labels = labels_of(int(row["key"].split("/")[1]))
        assert (row["emotion"], row["fold"]) == (labels["emotion"], labels["fold"])
        assert row["speaker"] == row["key"].split("/")[0]
    assert table["note"].isna().sum() == 23
    about = json.loads(pyarrow.parquet.read_schema(tmp_path / "a.parquet").metadata[b"hicmae"])
    assert about["weights_sha256"] == file_sha256(pretrained / "checkpoints/last/model.safetensors")
    assert about["config"]["model"]["encoder_dim"] == 32
    assert about["settings"] == {
        "what": "fused",
        "modalities": "audio-video",
        "per": "sample",
        "segments": 1,
        "precision": "32-true",
    }


def test_pooled_features_give_the_predictions_of_a_fine_tuned_network(
    trained: Path, tmp_path: Path
) -> None:
    run, shards = trained / "run", trained / "shards"
    table = features(run / "fold-1", shards, tmp_path / "a.parquet", segments=2, per="view")
    assert table["view"].tolist() == [0, 1] * 24
    assert table["start_seconds"].iloc[:2].tolist() == [0.0, 9 / 25]
    weights = load_checkpoint(run / "fold-1").tensors
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    rows = table.groupby("key")["pooled"].apply(lambda views: np.stack(views.to_list()))
    for line in (line for line in lines if line["fold"] == "1"):
        logits = rows[line["key"]] @ weights["head.weight"].numpy().T + weights["head.bias"].numpy()
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        assert shares == pytest.approx(np.array(line["views"]), abs=1e-5)
    with pytest.raises(
        ValueError, match=r"network for each fold; name one of them \(fold-1, fold-2\)"
    ):
        features(run, shards, tmp_path / "b.parquet")


@pytest.mark.slow
@pytest.mark.parametrize("segments", [1, 3, 7, 20])
def test_a_sample_is_the_mean_of_its_views_wherever_batches_end(
    segments: int, pretrained: Path, shards: Path, tmp_path: Path
) -> None:
    one = features(pretrained, shards, tmp_path / "one.parquet", segments=segments)
    each = features(pretrained, shards, tmp_path / "each.parquet", segments=segments, per="view")
    clips = min(segments, 10)  # so many different ones hold 25 frames
    assert len(each) == 24 * clips
    assert each["key"].iloc[::clips].tolist() == one["key"].tolist()
    views = np.stack(each["pooled"].to_list()).reshape(24, clips, -1)
    assert np.stack(one["pooled"].to_list()) == pytest.approx(views.mean(1), abs=1e-5)


def test_one_modality_is_encoded_without_the_other(
    pretrained: Path, shards: Path, tiny_model_config: ModelConfig, tmp_path: Path
) -> None:
    table = features(pretrained, shards, tmp_path / "a.parquet", what="fused", modalities="video")
    assert "audio_fused" not in table
    encoder = build_network(load_checkpoint(pretrained)).encoder
    video, _ = clips(shards, tiny_model_config, [4])
    with torch.no_grad():
        encoded = encoder(video, None)
    assert encoded.video is not None
    assert table["video_fused"].iloc[4] == pytest.approx(
        encoded.video.fused.mean(1)[0].numpy(), abs=1e-5
    )
    mute = write_labelled_shards(tmp_path / "mute", mute=3)
    with pytest.raises(ValueError, match="'s1/003' has no sound"):
        features(pretrained, mute, tmp_path / "b.parquet", modalities="audio")
    assert len(features(pretrained, mute, tmp_path / "c.parquet", modalities="video")) == 24


def test_npz_holds_the_same_as_parquet(
    pretrained: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extracting, "ROW_GROUP", 7)
    table = features(
        pretrained, shards, tmp_path / "a.parquet", what="layers", per="view", segments=2
    )
    assert pyarrow.parquet.ParquetFile(tmp_path / "a.parquet").num_row_groups > 3
    out = tmp_path / "a.npz"
    embed(
        source=pretrained,
        inputs=[shards],
        out=out,
        what="layers",
        per="view",
        segments=2,
        **MACHINE,
    )
    with np.load(out, allow_pickle=False) as found:
        assert set(found.files) == {*table.columns, "hicmae"}
        assert np.array_equal(found["video_layer_1"], np.stack(table["video_layer_1"].to_list()))
        assert found["key"].tolist() == table["key"].tolist()
        assert found["fold"].dtype == np.int64
        assert found["valence"] == pytest.approx(table["valence"].to_numpy())
        assert sorted(set(found["note"].tolist())) == ["", "odd"]
        assert json.loads(str(found["hicmae"]))["settings"]["layers"] == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "a.parquet"]


def test_what_cannot_be_embedded_is_refused_in_one_line_and_leaves_nothing(
    pretrained: Path, shards: Path, tmp_path: Path
) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"out": tmp_path / "a.csv"}, "must end in .parquet or .npz"),
        ({"what": "layers", "layers": "1,3"}, "numbers from 1 to 2"),
        ({"layers": "1"}, "is for --what layers"),
        ({"segments": 0}, "segments = 0"),
        ({"hop": 1.0}, "hop is for recordings"),
        ({"inputs": [shards, shards]}, "give one folder of shards or recordings"),
        ({"inputs": [tmp_path], "segments": 2}, "segments is for shards"),
        ({"source": shards}, "give a run folder or a checkpoint folder"),
    ]
    for options, said in cases:
        given: dict[str, Any] = {
            "source": pretrained,
            "inputs": [shards],
            "out": tmp_path / "a.parquet",
        } | options
        with pytest.raises(ValueError, match=said) as caught:
            embed(**MACHINE, **given)
        assert "\n" not in str(caught.value)
    for name in ("a.parquet", "a.npz"):
        damaged = write_labelled_shards(tmp_path / f"damaged-{name}")
        (damaged / sorted(damaged.glob("*.tar"))[-1].name).write_bytes(b"")
        with pytest.raises(ValueError, match="tar"):
            embed(source=pretrained, inputs=[damaged], out=tmp_path / name, **MACHINE)
    assert not [path for path in tmp_path.iterdir() if not path.is_dir()]
    features(pretrained, shards, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"exists; pass --overwrite"):
        features(pretrained, shards, tmp_path / "a.parquet")
    features(pretrained, shards, tmp_path / "a.parquet", overwrite=True)


def write_sound(path: Path, seconds: float) -> np.ndarray:
    """A tone that rises. Returns: its samples, int16."""
    time = np.arange(round(16000 * seconds)) / 16000
    sound = (8000 * np.sin(2 * np.pi * (200 + 150 * time) * time)).astype(np.int16)
    path.write_bytes(wav_bytes(sound))
    return sound


@pytest.mark.slow
def test_a_sound_file_gives_the_features_of_its_windows(
    pretrained: Path,
    tiny_model_config: ModelConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, broken = tmp_path / "media" / "tone.wav", tmp_path / "media" / "broken.wav"
    path.parent.mkdir()
    sound = write_sound(path, 2.0)
    broken.write_bytes(b"not a sound")
    rows = {}
    for per, inputs in (("view", [path, broken]), ("sample", [path.parent])):
        embed(
            source=pretrained,
            inputs=inputs,
            out=tmp_path / f"{per}.parquet",
            what="fused",
            modalities="audio",
            per=per,  # type: ignore[arg-type]
            **CPU | {"batch_size": 2},
        )
        rows[per] = pyarrow.parquet.read_table(tmp_path / f"{per}.parquet").to_pandas()
    views = rows["view"]
    assert views["start_seconds"].tolist() == pytest.approx([0, 0.64, 1.28, 1.36])
    assert set(views["key"]) == {str(path)}
    length = tiny_model_config.input.clip_samples
    encoder = build_network(load_checkpoint(pretrained)).encoder
    for start, features in zip(views["start_seconds"], views["audio_fused"], strict=True):
        first = round(start * 16000)
        waveform = torch.from_numpy(sound[first : first + length])[None]
        batch = {"waveform": waveform, "num_samples": torch.tensor([length])}
        _, fbank = ClipTransform(tiny_model_config.input).eval()(batch)
        with torch.no_grad():
            encoded = encoder(None, fbank)
        assert encoded.audio is not None
        assert features == pytest.approx(encoded.audio.fused.mean(1)[0].numpy(), abs=1e-5)
    mean = np.stack(views["audio_fused"].to_list()).mean(0)
    assert rows["sample"]["audio_fused"].iloc[0] == pytest.approx(mean, abs=1e-6)
    assert len(rows["sample"]) == 1
    assert "images" not in capsys.readouterr().out, "nothing is cut out for sound alone"


@pytest.mark.slow
def test_recordings_that_lack_what_is_asked_for_are_named_and_leave_no_file(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tone.wav"
    write_sound(path, 1.0)
    with pytest.raises(ValueError, match="none of 1 recordings can be embedded") as caught:
        embed(source=pretrained, inputs=[path], out=tmp_path / "a.npz", **CPU | {"batch_size": 2})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.npz*"))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4: no such file"):
        embed(
            source=pretrained,
            inputs=[tmp_path / "nowhere.mp4"],
            out=tmp_path / "a.npz",
            **CPU | {"batch_size": 2},
        )
