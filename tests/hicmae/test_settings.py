"""Settings refuse what cannot be, all at once."""

from __future__ import annotations

import pytest

from hicmae.settings import InputConfig, ModelConfig, ObjectiveConfig


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


@pytest.mark.parametrize(
    "settings", [{"temperature": 0}, {"video_mask_ratio": 1.0}, {"contrast_weight": -1}]
)
def test_an_impossible_objective_is_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        ObjectiveConfig(**settings)


def test_an_impossible_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fps = 0.*sample_rate = -1"):
        InputConfig(fps=0, sample_rate=-1)
