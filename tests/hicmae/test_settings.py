"""Settings refuse what cannot be, all at once."""

from __future__ import annotations

import dataclasses
import math

import pytest

from hicmae.config import from_dict, to_dict
from hicmae.settings import AugmentConfig, InputConfig, ModelConfig, ObjectiveConfig


def test_base_has_the_published_tokens() -> None:
    config = ModelConfig()
    assert config.video_grid == (8, 10, 10)
    assert config.num_video_tokens == 800
    assert config.audio_grid == (16, 8)
    assert config.num_audio_tokens == 128
    assert config.input.clip_seconds == 2.56
    assert config.input.clip_samples == 40960


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(ValueError, match="model: ") as error:
        ModelConfig(encoder_dim=100, encoder_heads=8, feature_layers=(7, 4), decoder_dim=10)
    for name in ("encoder_dim = 100", "feature_layers = (7, 4)", "decoder_dim = 10"):
        assert name in str(error.value)
    with pytest.raises(ValueError, match=r"input: fps = 0 .*sample_rate = -1 \(must be positive"):
        InputConfig(fps=0, sample_rate=-1)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"temperature": math.inf},
        {"video_mask_ratio": 1.0},
        {"contrast_weight": -1},
        {"video_weight": math.inf},
        {"decoder_keep": 0.0},
        {"decoder_keep": 1.1},
        {"losses": {"toy": {"weight": -1}}},
        {"losses": {"toy": {"weight": "much"}}},
    ],
)
def test_an_impossible_objective_is_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        ObjectiveConfig(**settings)


def test_losses_of_others_are_written_only_where_they_are_asked_for() -> None:
    assert "losses" not in to_dict(ObjectiveConfig())
    asked = ObjectiveConfig(losses={"toy": {"weight": 0.5, "power": 2}})
    plain = to_dict(asked)
    assert plain["losses"] == {"toy": {"weight": 0.5, "power": 2}}
    assert from_dict(ObjectiveConfig, plain, where="x") == asked


def test_nothing_is_augmented_unless_asked_for() -> None:
    augment = AugmentConfig()
    assert (augment.crop, augment.flip, augment.erase) == ("none", 0.0, 0.0)
    assert (augment.gain, augment.roll_seconds) == (False, 0.0)
    masks = (augment.time_masks, augment.frequency_masks)
    assert (augment.rand_operations, *masks) == (0, 0, 0)


def test_the_pretraining_recipe_crops_and_gains_without_a_flip_or_a_roll() -> None:
    augment = AugmentConfig.pretraining()
    assert augment.crop == "multi-scale"
    assert augment.crop_scales == (1.0, 0.875, 0.75, 0.66)
    assert augment.gain
    assert augment.gain_concentration == 10
    assert (augment.flip, augment.erase, augment.roll_seconds) == (0.0, 0.0, 0.0)


def test_the_fine_tuning_recipe_is_the_published_one_without_gain() -> None:
    augment = AugmentConfig.finetuning()
    rand = (augment.rand_operations, augment.rand_magnitude, augment.rand_deviation)
    assert rand == (4, 7.0, 0.5)  # rand-m7-n4-mstd0.5-inc1
    assert (augment.time_masks, augment.frequency_masks) == (0, 0)
    assert (augment.crop, augment.flip, augment.erase) == ("random-resized", 0.5, 0.25)
    assert not augment.gain


@pytest.mark.parametrize("name", ["roll_seconds", "time_mask_seconds"])
def test_an_endless_change_of_a_clip_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"augment: {name} = inf .*finite"):
        AugmentConfig(**{name: math.inf})


@pytest.mark.parametrize(
    ("name", "found"),
    [("gain_concentration", 10**20), ("rand_operations", 10**9), ("time_masks", 10**9)],
)
def test_more_draws_a_clip_than_fit_into_memory_are_refused(name: str, found: int) -> None:
    with pytest.raises(ValueError, match=rf"augment: {name} = {found} \(must lie in \d\.\.\d+\)"):
        AugmentConfig(**{name: found})


def test_settings_can_be_neither_changed_nor_given_by_position() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        AugmentConfig().flip = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        AugmentConfig("none")  # type: ignore[call-arg]


def test_every_problem_of_the_augmentation_is_named_at_once() -> None:
    with pytest.raises(ValueError, match="augment: ") as error:
        AugmentConfig(
            crop="centre",  # type: ignore[arg-type]
            crop_scales=(0.5, 1.0),
            crop_area=(0.9, 0.1),
            crop_aspect=(0.0, 1.0),
            flip=1.5,
            erase=-0.1,
            erase_area=(0.0, 0.5),
            erase_aspect=(2.0, 1.0),
            gain_concentration=0,
            roll_seconds=-1.0,
            rand_operations=-1,
            rand_magnitude=11.0,
            rand_deviation=-0.5,
            time_masks=-1,
            time_mask_seconds=0.0,
            frequency_masks=-2,
            frequency_mask_bins=0,
        )
    message = str(error.value)
    assert "\n" not in message
    for field in dataclasses.fields(AugmentConfig):
        assert (field.name == "gain") or f"{field.name} = " in message
