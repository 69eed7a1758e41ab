"""Probes of frozen features: their scores, chance levels, and that training stays as it is."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from hicmae.checkpoints.checkpoint import load_checkpoint
from hicmae.settings import ModelConfig
from pretrain.checkpoints import CheckpointFiles
from pretrain.plot import read_curves
from pretrain.probes import Probes, find_labels, linear_probe, probe_data, retrieval
from pretrain.settings import DataConfig, LogConfig, ProbeConfig
from tests.support.pretrain_shards import Train, moving_sample, rows_of
from tests.support.shard_fixtures import write_shards

LOG = LogConfig(log_every=2, health_every=0, pictures_every=0, progress=False)


def labelled_shards(folder: Path, count: int = 20) -> Path:
    """Samples of five speakers with a class, a number, and a fold that is no label."""
    samples = []
    for number in range(count):
        info, mjpg, wav = moving_sample(100 + number)
        labels = {
            "emotion": ("joy", "anger")[number % 2],
            "valence": number / 7,
            "fold": number % 2,
        }
        samples.append((replace(info, labels=labels), mjpg, wav))
    return write_shards(folder, samples)


def test_retrieval_is_perfect_for_partners_and_chance_for_strangers() -> None:
    rng = np.random.default_rng(0)
    video = rng.normal(size=(40, 16))
    found = retrieval(video, 3 * video + 0.01)
    assert found["video_to_audio_recall1"] == found["audio_to_video_recall10"] == 1
    assert found["chance_recall1"] == 1 / 40
    assert found["chance_recall10"] == 10 / 40
    strangers = [retrieval(video, rng.normal(size=(40, 16))) for _ in range(40)]
    for rank in (1, 5, 10):
        mean = np.mean([score[f"video_to_audio_recall{rank}"] for score in strangers])
        assert mean == pytest.approx(rank / 40, abs=0.03)


def test_retrieval_against_a_plain_count() -> None:
    rng = np.random.default_rng(1)
    video = rng.normal(size=(12, 6))
    audio = video + rng.normal(size=(12, 6))
    found = retrieval(video, audio)
    for name, (left, right) in {
        "video_to_audio": (video, audio),
        "audio_to_video": (audio, video),
    }.items():
        hits = 0
        for place, own in enumerate(left):
            cosines = [own @ other / np.linalg.norm(own) / np.linalg.norm(other) for other in right]
            hits += place in np.argsort(cosines)[::-1][:5]
        assert found[f"{name}_recall5"] == pytest.approx(hits / 12)


def test_features_that_are_all_alike_score_chance() -> None:
    found = retrieval(np.ones((20, 4)), np.ones((20, 4)))
    for rank in (1, 5, 10):
        assert found[f"video_to_audio_recall{rank}"] == pytest.approx(rank / 20)


def table(num_clips: int, num_speakers: int) -> pandas.DataFrame:
    rng = np.random.default_rng(0)
    return pandas.DataFrame(
        {
            "speaker": [f"s{number % num_speakers}" for number in range(num_clips)],
            "emotion": rng.choice(["joy", "anger", "fear"], num_clips),
            "valence": rng.normal(size=num_clips),
            "fold": np.arange(num_clips) % 5,
            "title": [f"clip {number}" for number in range(num_clips)],
        }
    )


def test_a_linear_probe_finds_what_is_there_and_nothing_else() -> None:
    rows = table(120, 6)
    emotion, valence = find_labels(rows, ["emotion", "valence"])
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(120, 8))
    known = np.concatenate([noise, np.eye(3)[emotion.values], valence.values[:, None]], axis=1)
    assert linear_probe(known, emotion) == {"uar": 1.0, "chance_uar": pytest.approx(1 / 3)}
    assert linear_probe(known, valence)["ccc"] > 0.99
    assert linear_probe(noise, emotion)["uar"] == pytest.approx(1 / 3, abs=0.12)
    assert abs(linear_probe(noise, valence)["ccc"]) < 0.2
    assert linear_probe(noise, valence)["chance_ccc"] == 0


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_features_that_are_no_numbers_have_no_score(broken: float) -> None:
    features = np.random.default_rng(0).normal(size=(40, 4))
    spoiled = np.where(np.arange(40)[:, None] == 7, broken, features)
    found = retrieval(features, spoiled)
    assert all(np.isnan(found[name]) == ("chance" not in name) for name in found)
    for label in find_labels(table(40, 4), ["emotion", "valence"]):
        score, chance = linear_probe(spoiled, label).values()
        assert np.isnan(score)
        assert chance in (1 / 3, 0)


def test_knowing_the_speaker_does_not_help_a_probe() -> None:
    """Each speaker has one class; who it is says nothing about speakers not met before."""
    rows = pandas.DataFrame({"speaker": np.repeat([f"s{n}" for n in range(12)], 10)})
    rows["emotion"] = np.repeat(np.tile(["joy", "anger"], 6), 10)
    (emotion,) = find_labels(rows, ["emotion"])
    identity = np.eye(12)[np.repeat(np.arange(12), 10)]
    assert linear_probe(identity, emotion)["uar"] < 0.6
    rows["speaker"] = None
    (unknown,) = find_labels(rows, ["emotion"])
    assert unknown.speakers is None
    assert linear_probe(identity, unknown)["uar"] == 1


def test_speakers_themselves_can_be_probed() -> None:
    rows = table(40, 4)
    features = np.eye(4)[np.arange(40) % 4]  # tell who speaks
    (label,) = find_labels(rows, ["speaker"])
    assert linear_probe(features, label) == {"uar": 1.0, "chance_uar": 0.25}


def test_columns_that_are_no_labels_are_left_out_or_refused() -> None:
    rows = table(60, 4)
    labels = find_labels(rows.drop(columns="speaker"), None)
    assert [(label.name, label.kind) for label in labels] == [
        ("emotion", "classes"),
        ("valence", "numbers"),
    ]
    with pytest.raises(ValueError, match=r"probe\.labels: 'title' cannot be probed"):
        find_labels(rows, ["title"])
    with pytest.raises(ValueError, match=r"probe\.labels: no column 'mood' in the shards \(found"):
        find_labels(rows, ["mood"])
    assert not find_labels(rows.head(8), None)
    rows["weight"] = 0.5  # of which no correlation is defined
    assert "weight" not in {label.name for label in find_labels(rows, None)}
    with pytest.raises(ValueError, match=r"'weight' cannot be probed .needed: numbers that dif"):
        find_labels(rows, ["weight"])


def test_a_run_with_probes_takes_the_same_steps_as_one_without(
    train: Train, finished: Path, tmp_path: Path
) -> None:
    held_out = labelled_shards(tmp_path / "held-out")
    probe = ProbeConfig(shards=held_out, every=3, batch_size=3)
    train(tmp_path / "with", log=LOG, probe=probe)
    expected = load_checkpoint(finished).tensors
    for name, tensor in load_checkpoint(tmp_path / "with").tensors.items():
        assert torch.equal(tensor, expected[name]), name
    columns = read_curves(tmp_path / "with" / "metrics.csv")
    assert columns["step"].tolist() == [2, 4]
    # The probe of step 3 was replaced by that of step 4, the last one.
    for name in ("video_to_audio_recall1", "audio_to_video_recall10", "emotion_uar_both"):
        value = columns[f"probe_{name}"]
        assert np.isnan(value[0])
        assert 0 <= value[1] <= 1
    assert columns["probe_chance_recall1"][-1] == 1 / 20
    assert columns["probe_emotion_chance_uar"][-1] == 0.5
    assert -1 <= columns["probe_valence_ccc_video"][-1] <= 1
    assert not any("fold" in name for name in columns)


def test_every_clip_is_probed_once_in_its_place_by_one_process_or_two(
    shards: Path, tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    """Batches of two processes, interleaved as features are, give all clips in order."""
    data = DataConfig(shards=shards)
    config = ProbeConfig(shards=labelled_shards(tmp_path / "held-out", 7), batch_size=2, clips=5)
    found = probe_data(config, data, tiny_model_config.input)
    assert found is not None
    assert found.num_clips == 5
    assert found.labels == ()  # too few clips for a probe
    probes = Probes(found, config, note=lambda values: None)
    frames = torch.stack([torch.as_tensor(found.clips[number]["frames"]) for number in range(5)])
    for world in (1, 2):
        parts = [
            [batch["frames"] for batch in probes._batches(rank, world)] for rank in range(world)
        ]
        assert len({tuple(map(len, part)) for part in parts}) == 1, "equally many, equally long"
        whole = torch.stack([torch.cat(part) for part in parts], dim=1).flatten(0, 1)
        assert torch.equal(whole[:5], frames)


@pytest.mark.slow
def test_the_time_of_probes_and_of_saving_slows_no_clips_down(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that moves while something is probed or saved, and else not to speak of."""
    clock = itertools.count()
    late = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: late[0] + 1e-6 * next(clock))

    def slow(probes: Probes, *_: object) -> dict[str, float]:
        late[0] += 1000
        return {"probe_slow": 1.0}

    def slow_save(*given: Any, **named: Any) -> None:
        late[0] += 100
        save(*given, **named)

    def slow_wait(files: CheckpointFiles) -> Exception | None:
        late[0] += 10
        return finish(files)

    save, finish = CheckpointFiles.save_checkpoint, CheckpointFiles.finish
    monkeypatch.setattr(Probes, "scores", slow)
    monkeypatch.setattr(CheckpointFiles, "save_checkpoint", slow_save)
    monkeypatch.setattr(CheckpointFiles, "finish", slow_wait)
    config = ProbeConfig(shards=labelled_shards(tmp_path / "held-out", 7), every=1, clips=5)
    log = replace(LOG, log_every=2, checkpoint_every=1)
    train(tmp_path / "run", steps=4, probe=config, log=log)
    rows = rows_of(tmp_path / "run")
    assert [float(row["probe_slow"]) for row in rows] == [1, 1]
    assert all(float(row["clips_per_second"]) > 1 for row in rows)
    assert [round(float(row["seconds"])) for row in rows] == [2110, 4330]
    saved = torch.load(tmp_path / "run" / "checkpoints" / "step-000003.ckpt", weights_only=True)
    state = saved["callbacks"]["StepMeter"]
    assert round(state["seconds"]) == 3230
    assert state["window"]["seconds"][1] < 1, "nor after a resume"


def test_clips_that_are_trained_on_are_refused(
    shards: Path, tiny_model_config: ModelConfig
) -> None:
    data, input = DataConfig(shards=shards), tiny_model_config.input
    with pytest.raises(ValueError, match=r"probe\.shards: .* is trained on") as caught:
        probe_data(ProbeConfig(shards=shards), data, input)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"probe\.shards: 0 samples of split 'test'"):
        probe_data(ProbeConfig(shards=shards, split="test"), data, input)
    assert probe_data(ProbeConfig(), data, input) is None
    assert probe_data(ProbeConfig(shards=shards, every=0), data, input) is None
    with pytest.raises(ValueError, match=r"probe: every = -1.*; clips = 1"):
        ProbeConfig(every=-1, clips=1)
