"""Recipes turned into counts, sizes by name with changes, and settings that are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hicmae.config import load_model_config, to_dict
from pretrain.plan import make_plan
from pretrain.settings import DataConfig, HardwareConfig, LogConfig, OptimizerConfig
from pretrain.sizes import choose_model


def plan(num_clips: int = 1000, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "batch_size": 8,
        "accumulate": 1,
        "world_size": 1,
        "steps": None,
        "epochs": 10.0,
        "optimizer": OptimizerConfig(),
    }
    return make_plan(num_clips, **(arguments | changes))


def test_the_published_recipe_has_its_published_counts() -> None:
    found = plan(1_091_581, batch_size=40, world_size=4, epochs=100)
    assert found.global_batch == 160
    assert found.steps_per_epoch == 6822
    assert found.num_steps == 682_200
    assert found.warmup_steps == 5 * 6822


def test_epochs_become_steps_of_the_global_batch() -> None:
    found = plan(batch_size=8, accumulate=3, world_size=2)
    assert found.global_batch == 48
    assert found.steps_per_epoch == 20
    assert (found.num_steps, found.warmup_steps) == (200, 100)
    assert plan(epochs=0.5, optimizer=OptimizerConfig(warmup_epochs=0)).num_steps == 62
    assert plan(steps=70, optimizer=OptimizerConfig(warmup_steps=7)).num_steps == 70
    assert (
        plan(num_clips=3, steps=9, optimizer=OptimizerConfig(warmup_steps=0)).steps_per_epoch == 1
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps = 0"),
        ({"accumulate": 0}, "accumulate = 0"),
        ({"epochs": -1.0}, "epochs = -1"),
        ({"epochs": 4.0}, "warmup_epochs: the warm-up takes 625 steps, the run 500"),
        (
            {"steps": 5, "optimizer": OptimizerConfig(warmup_steps=6)},
            "warmup_steps: the warm-up takes 6 steps, the run 5",
        ),
    ],
)
def test_impossible_plans_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        plan(**changes)
    assert "\n" not in str(caught.value)


def test_a_size_is_a_name_a_file_or_changes_to_one(tmp_path: Path) -> None:
    tiny = load_model_config("tiny")
    assert choose_model("tiny") == tiny
    assert choose_model({"size": "tiny"}) == tiny
    assert choose_model({"size": "tiny", "fusion_depth": 1}) == replace(tiny, fusion_depth=1)
    # The command line leaves what is nested deeper as text.
    changed = choose_model({"size": "tiny", "input": {"image_size": "96", "pad": "silence"}})
    expected = replace(tiny.input, image_size=96, pad="silence")
    assert changed == replace(tiny, input=expected)
    # A run's config.yaml gives every size.
    assert choose_model(to_dict(changed)) == changed


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("huge", "no such size"),
        ({"fusion_depth": 1}, "fusion_depth given, but not what to start from"),
        ({"size": "tiny", "fusion_dept": 1}, "did you mean 'fusion_depth'"),
        ({"size": "tiny", "encoder_dim": 255}, "encoder_dim = 255"),
        ({"size": "tiny", "input": {"fps": "fast"}}, "input.fps = 'fast'"),
    ],
)
def test_a_size_that_is_none_is_refused(model: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        choose_model(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: DataConfig(shards=(), batch_size=0), ["shards is empty", "batch_size = 0"]),
        (
            lambda: OptimizerConfig(learning_rate=0.0, betas=(0.9, 1.0), clip_norm=0.0),
            ["learning_rate = 0", "min_learning_rate = 1e-05", "betas", "clip_norm = 0"],
        ),
        (lambda: HardwareConfig(devices=0, num_nodes=0), ["num_nodes = 0", "devices = 0"]),
        (lambda: LogConfig(log_every=0, pictures_every=-1), ["log_every = 0", "pictures_every"]),
    ],
)
def test_settings_say_all_their_problems_at_once(make: Any, parts: list[str]) -> None:
    with pytest.raises(ValueError, match=": ") as caught:
        make()
    for part in parts:
        assert part in str(caught.value)
