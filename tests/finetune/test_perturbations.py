"""Spoiled clips: what is spoiled, how much, and the same whoever reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.testing.machine import loader_of, make_machine
from finetune.testing.modalities import PerturbedClips
from finetune.testing.perturbations import (
    Condition,
    PerturbationConfig,
    conditions_of,
    held_frames,
    num_missing,
    partners,
    perturb,
)
from hicmae.settings import ModelConfig
from shards.index import read_index
from shards.reading.random_access import ShardDataset


def clip(**changes: Any) -> dict[str, Any]:
    """A clip with sound for half of its span."""
    rng = np.random.default_rng(0)
    waveform = np.zeros(20000, dtype=np.int16)
    waveform[:10000] = 5000 * np.sin(np.arange(10000) / 7)
    return {
        "frames": torch.from_numpy(rng.integers(0, 256, (16, 20, 20, 3), dtype=np.uint8)),
        "waveform": torch.from_numpy(waveform),
        "num_samples": 10000,
        "key": "s1/001",
        "view": 0,
    } | changes


@pytest.mark.parametrize("level", [20.0, 0.0, -10.0])
def test_sound_noise_has_the_power_it_says_and_spares_the_padding(level: float) -> None:
    plain = clip()
    noisy = perturb(plain, Condition(kind="sound-noise", level=level), seed=0)
    clean = plain["waveform"].numpy() / 32768
    noise = noisy["waveform"].numpy() - clean
    assert noisy["waveform"].dtype == torch.float32
    assert not noise[10000:].any()
    ratio = np.mean(clean[:10000] ** 2) / np.mean(noise[:10000] ** 2)
    assert 10 * np.log10(ratio) == pytest.approx(level, abs=0.2)
    assert torch.equal(noisy["frames"], plain["frames"])
    silent = perturb(
        clip(waveform=torch.zeros(20000, dtype=torch.int16)),
        Condition(kind="sound-noise", level=level),
        seed=0,
    )
    assert not silent["waveform"].any()


def test_picture_noise_has_the_deviation_it_says() -> None:
    grey = torch.full((16, 40, 40, 3), 128, dtype=torch.uint8)
    noisy = perturb(clip(frames=grey), Condition(kind="picture-noise", level=25.0), seed=0)
    difference = noisy["frames"].numpy().astype(float) - 128
    assert noisy["frames"].dtype == torch.uint8
    assert difference.std() == pytest.approx(25, rel=0.02)
    assert abs(difference.mean()) < 0.5
    # Every frame and colour has noise of its own.
    flat = difference.reshape(16, -1)
    assert abs(np.corrcoef(flat[0], flat[1])[0, 1]) < 0.1


def test_a_frozen_picture_is_the_middle_frame_throughout() -> None:
    plain = clip()
    frozen = perturb(plain, Condition(kind="video-frozen"), seed=0)
    for frame in frozen["frames"]:
        assert torch.equal(frame, plain["frames"][8])
    assert torch.equal(frozen["waveform"], plain["waveform"])


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 0.99])
def test_missing_frames_are_held_over(share: float) -> None:
    for seed in range(20):
        shown = held_frames(16, share, np.random.default_rng(seed))
        there = set(shown.tolist())
        assert len(there) == 16 - num_missing(16, share) == 16 - min(round(share * 16), 15)
        for place, frame in enumerate(shown):
            if place in there:
                assert frame == place
            else:
                before = [other for other in there if other < place]
                assert frame == (max(before) if before else min(there))


def test_a_share_that_is_no_frame_of_a_clip_is_no_condition() -> None:
    asked = PerturbationConfig(swaps=0)
    for num_frames, levels in ((16, [0.25, 0.5, 0.75]), (4, [0.25, 0.5, 0.75]), (2, [0.5, 0.75])):
        for level in levels:
            shown = held_frames(num_frames, level, np.random.default_rng(0))
            assert len(set(shown.tolist())) < num_frames
        found = conditions_of("video", asked, num_frames=num_frames)
        assert [one.level for one in found if one.kind == "missing-frames"] == levels


def test_draws_depend_on_sample_place_condition_and_seed_alone() -> None:
    noise = Condition(kind="picture-noise", level=25.0)
    first = perturb(clip(), noise, seed=0)["frames"]
    assert torch.equal(first, perturb(clip(sample=7), noise, seed=0)["frames"])
    for other in (
        perturb(clip(key="s1/002"), noise, seed=0),
        perturb(clip(view=1), noise, seed=0),
        perturb(clip(), noise, seed=1),
        perturb(clip(), Condition(kind="picture-noise", level=24.9), seed=0),
    ):
        assert not torch.equal(first, other["frames"])


@pytest.mark.parametrize("count", [2, 3, 50])
def test_everybody_gets_somebody_elses_sound(count: int) -> None:
    keys = [f"k{number:02d}" for number in range(count)]
    found = partners(keys, repeat=0, seed=0)
    assert sorted(found) == list(range(count))
    assert all(place != other for place, other in enumerate(found))
    backwards = partners(keys[::-1], repeat=0, seed=0)
    by_name = {keys[place]: keys[other] for place, other in enumerate(found)}
    assert by_name == {
        keys[::-1][place]: keys[::-1][other] for place, other in enumerate(backwards)
    }
    if count == 50:
        assert found != partners(keys, repeat=1, seed=0)
    with pytest.raises(ValueError, match="'a' is alone on its test side"):
        partners(["a"], repeat=0, seed=0)


def test_a_swapped_clip_has_its_own_picture_and_the_others_sound(
    tiny_model_config: ModelConfig, trained: Path
) -> None:
    shards = trained / "shards"
    clips = ShardDataset(read_index(shards), input=tiny_model_config.input, views=2)
    given = partners([str(key) for key in clips.rows["key"]], repeat=0, seed=0)
    swap = Condition(kind="sound-swapped")
    spoiled = PerturbedClips(clips, range(48), swap, seed=0, partners=given)
    for number in (0, 1, 31):
        sample, view = divmod(number, 2)
        found, own = spoiled[number], clips[number]
        other: Any = clips[2 * given[sample] + view]
        assert torch.equal(found["frames"], own["frames"])  # type: ignore[index]
        assert torch.equal(found["waveform"], other["waveform"])
        assert (found["sample"], found["view"], found["key"]) == (sample, view, own["key"])  # type: ignore[index]


def test_batches_and_workers_change_nothing(tiny_model_config: ModelConfig, trained: Path) -> None:
    shards = trained / "shards"
    clips = ShardDataset(read_index(shards), input=tiny_model_config.input, views=1)
    for condition in (
        Condition(kind="sound-noise", level=0.0),
        Condition(kind="missing-frames", level=0.5),
    ):
        spoiled = PerturbedClips(clips, range(24), condition, seed=3)
        found = []
        for batch_size, workers in ((24, 0), (5, 2)):
            machine = make_machine("cpu", batch_size=batch_size, workers=workers)
            batches = list(loader_of(machine, spoiled))
            found.append([torch.cat([b[name] for b in batches]) for name in ("frames", "waveform")])
        for first, second in zip(*found, strict=True):
            assert torch.equal(first, second)


def test_a_network_of_one_modality_is_only_asked_what_it_can_answer() -> None:
    config = PerturbationConfig(swaps=2, snr_db=(0.0,), picture_sd=(25.0,), missing_shares=(0.5,))
    kinds = {
        name: [condition.kind for condition in conditions_of(name, config, num_frames=16)]
        for name in ("audio-video", "video", "audio")
    }
    assert kinds["audio"] == ["unspoiled", "sound-noise"]
    assert kinds["video"] == ["unspoiled", "video-frozen", "picture-noise", "missing-frames"]
    assert kinds["audio-video"].count("sound-swapped") == 2
    assert {"audio-only", "video-only"} < set(kinds["audio-video"])


def test_levels_that_mean_nothing_are_refused_together() -> None:
    with pytest.raises(ValueError, match=r"picture_sd = 0 .*missing_shares = 1 ") as caught:
        PerturbationConfig(swaps=-1, picture_sd=(0,), missing_shares=(1,))
    assert "swaps = -1" in str(caught.value)
