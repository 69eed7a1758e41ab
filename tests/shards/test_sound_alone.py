"""Samples of sound alone, from the sound file to every verb that reads shards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from hicmae.files import file_sha256
from shards.building.build import build_shards
from shards.check import check_shards
from shards.index import read_index, write_index
from shards.reading.random_access import ShardDataset
from shards.reading.settings import DataConfig
from shards.reading.streaming import ClipStream
from shards.receipts.facts import sample_infos
from shards.sample import collate
from shards.schema import ClipError, parse_sample_json, sample_json
from shards.settings import BuildConfig
from tests.support.media_files import counting_frames, write_recording, write_sound
from tests.support.shard_fixtures import INPUT, make_sample, sound_values, write_shards

TONE = 0.3 * np.sin(2 * np.pi * 300 * np.arange(16000 * 2) / 16000)


def mixture(folder: Path) -> Path:
    """A video with sound, one without, a sound file, and what is the sound of the first again."""
    folder.mkdir()
    times = np.arange(50) / 25
    write_recording(folder / "both.mp4", counting_frames(50), times, sound=TONE, sound_rate=16000)
    write_recording(folder / "picture.mp4", counting_frames(50), times)
    write_sound(folder / "sound.flac", TONE[:20000], 16000)
    write_sound(folder / "both.wav", TONE, 16000)
    return folder


def test_a_folder_of_all_three_kinds_is_built_checked_described_and_compared(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    mixture(tmp_path / "in")
    built = command("shards", "build", tmp_path / "in", "--out", tmp_path / "a", "--faces", "none")
    assert built.status == 0, built.err
    assert "3 samples" in built.out
    assert "1 of sound alone" in built.out
    assert "video's sound beside it (1)" in built.out
    index = read_index(tmp_path / "a")
    infos = {info.key: info for _, info in sample_infos(index)}
    assert {key: info.members for key, info in infos.items()} == {
        "both": ("mjpg", "wav", "json"),
        "picture": ("mjpg", "json"),
        "sound": ("wav", "json"),
    }
    sound = infos["sound"]
    # 1.25 s are 31.25 frames: whole ones are kept, as where windows are predicted.
    assert (sound.num_frames, sound.num_samples, sound.padded_samples) == (31, 31 * 640, 0)
    assert sound.source.sha256 == file_sha256(tmp_path / "in/sound.flac")
    assert sample_json(parse_sample_json(sample_json(sound), "again")) == sample_json(sound)
    assert check_shards(tmp_path / "a") == []
    assert "1 samples without a picture" in command("shards", "info", tmp_path / "a").out
    receipt = json.loads((tmp_path / "a/receipt.json").read_text())
    assert receipt["counts"]["num_frames"] == 100
    assert receipt["counts"]["num_sound_alone"] == 1
    assert receipt["distributions"]["face_coverage"]["num"] == 2
    compared = command("shards", "compare", tmp_path / "a", tmp_path / "a", "--signals", 3)
    assert "verdict: identical bytes" in compared.out, compared.err


@pytest.mark.parametrize(
    ("picture", "keys", "causes"),
    [
        ("none", {"both", "cut-000", "cut-001"}, {"no-sound"}),
        ("required", {"both"}, {"no-video"}),
    ],
)
def test_the_picture_can_be_left_out_or_demanded(
    picture: Any, keys: set[str], causes: set[str], tmp_path: Path
) -> None:
    mixture(tmp_path / "in")
    write_sound(tmp_path / "long.wav", TONE, 16000)
    (tmp_path / "m.csv").write_text(
        "path,key,start,end\nin/both.mp4,both,0.5,1.5\n"
        + ("in/picture.mp4,still,,\n" if picture == "none" else "")
        + "long.wav,cut,,\n"
    )
    config = BuildConfig(picture=picture, faces="none", max_seconds=1.2, workers=1)
    result = build_shards([tmp_path / "m.csv"], tmp_path / "out", config)
    index = read_index(tmp_path / "out")
    assert set(index.table["key"]) == keys
    assert {item.cause for item in result.refusals} == causes
    assert index.info["config"]["picture"] == picture
    assert (index.table["mjpg_length"] == 0).all() == (picture == "none")
    (span,) = (info for _, info in sample_infos(index) if info.key == "both")
    assert (span.start_seconds, span.seconds) == (pytest.approx(0.5, abs=0.03), 1.0)


def test_both_readers_take_a_mixture_and_say_what_each_clip_has(tmp_path: Path) -> None:
    samples = [
        make_sample(0, picture=False),
        make_sample(1, sound=False),
        make_sample(2),
        make_sample(3, picture=False),
    ]
    folder = write_shards(tmp_path / "s", samples)
    optional = DataConfig(
        shards=str(folder), batch_size=4, shuffle_shards=0, picture="optional", sound="optional"
    )
    stream = ClipStream(INPUT, optional, seed=0)
    assert stream.is_mixed
    batch = next(iter(stream))
    assert batch["seen"].tolist() == [False, True, True, False]
    assert batch["heard"].tolist() == [True, False, True, True]
    assert batch["frames"].shape[1:] == (4, 32, 32, 3)
    assert batch["frames"][0].max() == 0
    assert batch["waveform"][1].abs().max() == 0
    index = read_index(folder)
    dataset = ShardDataset(index, input=INPUT, views=1, require_picture=False, require_sound=False)
    for _ in range(2):  # checked whole at first, in parts afterwards
        items = collate([dataset[number] for number in range(4)])
        assert items["seen"].tolist() == batch["seen"].tolist()
        assert items["heard"].tolist() == batch["heard"].tolist()
        assert np.isin(items["waveform"][3].numpy(), sound_values(3, 16000)).all()
    assert "frames" not in collate([dataset[0], dataset[3]])
    # One modality alone: the other is neither decoded nor asked for.
    alone = DataConfig(
        shards=str(folder), batch_size=3, shuffle_shards=0, modalities="audio", on_bad="skip"
    )
    heard = ClipStream(INPUT, alone, seed=0)
    assert not heard.is_mixed
    found = next(iter(heard))
    assert set(found) == {"waveform", "num_samples", "keys", "skipped", "batch", "epoch"}
    assert found["keys"] == [samples[n][0].key for n in (0, 2, 3)]
    assert found["skipped"] == {"no-sound": 1}


def test_a_clip_without_a_picture_is_refused_where_one_is_needed(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "s", [make_sample(0, picture=False), make_sample(1)])
    config = DataConfig(shards=str(folder), batch_size=1)
    with pytest.raises(
        ClipError, match=r"'id00/00000' has no mjpg member .found wav, json.*optional"
    ):
        ClipStream(INPUT, config, seed=0)
    dataset = ShardDataset(read_index(folder), input=INPUT, views=1)
    with pytest.raises(ClipError, match="no mjpg member") as caught:
        dataset[0]
    assert caught.value.cause == "no-picture"


@pytest.mark.parametrize("on_bad", ["skip", "raise"])
def test_where_pictures_are_read_alone_no_setting_is_named_that_lets_in_none(
    tmp_path: Path, on_bad: Literal["skip", "raise"]
) -> None:
    folder = write_shards(tmp_path / "s", [make_sample(0, picture=False)])
    config = DataConfig(shards=str(folder), batch_size=1, modalities="video", on_bad=on_bad)
    remedy = {"raise": "rebuild it or pass on_bad: skip$", "skip": "has picture .1 were.*; give sh"}
    with pytest.raises(ClipError, match=remedy[on_bad]) as caught:
        ClipStream(INPUT, config, seed=0)
    assert "optional" not in str(caught.value)
    assert caught.value.cause == "no-picture"


def test_a_picture_of_another_size_than_the_networks_may_come_after_sound_alone(
    tmp_path: Path,
) -> None:
    samples = [make_sample(0, picture=False), make_sample(1, side=48)]
    folder = write_shards(tmp_path / "s", samples)
    config = DataConfig(shards=str(folder), batch_size=2, shuffle_shards=0, picture="optional")
    stream = ClipStream(INPUT, config, seed=0)
    loader = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=1)
    batch = next(iter(loader))
    assert batch["frames"].shape == (2, 4, 48, 48, 3)
    assert batch["frames"][0].max() == 0
    assert batch["waveform"][0].abs().max() > 0


def test_what_a_sample_says_and_what_it_holds_must_agree(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "s", [make_sample(0), make_sample(1, picture=False)])
    index = read_index(folder)
    rows = index.table.to_dict("records")
    rows[0] |= {"mjpg_offset": -1, "mjpg_length": 0}
    write_index(folder, rows, index.info)
    found = "\n".join(map(str, check_shards(folder)))
    assert "its json tells of a mjpg, the index of none" in found
    raw = json.loads(sample_json(make_sample(1, picture=False)[0]))
    for change in ({"face_size": 32}, {"images": "present"}, {"frame_offsets": [0, 5]}):
        with pytest.raises(ValueError, match=r"images are|frame_offsets"):
            parse_sample_json(json.dumps(raw | change).encode(), "x")
