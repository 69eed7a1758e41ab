"""What a run will be, settled before its first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hicmae.config import to_dict
from hicmae.settings import ModelConfig, ObjectiveConfig
from hicmae.transforms import AugmentConfig
from pretrain.preparation import Prepared, Request, prepare
from pretrain.probe_settings import ProbeConfig
from pretrain.settings import (
    DataConfig,
    HardwareConfig,
    LogConfig,
    OptimizerConfig,
    WandbConfig,
)
from tests.support.pretrain_shards import moving_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moving_shards(tmp_path_factory.mktemp("shards") / "moving")


def prepared(shards: Path, sizes: ModelConfig, **changes: Any) -> Prepared:
    asked: dict[str, Any] = {
        "data": DataConfig(shards=shards, batch_size=4),
        "out": shards / "run",
        "model": to_dict(sizes),
        "objective": ObjectiveConfig(),
        "augment": AugmentConfig.pretraining(),
        "optimizer": OptimizerConfig(warmup_steps=1),
        "steps": 7,
        "epochs": 100.0,
        "accumulate": 2,
        "precision": "32-true",
        "max_skipped_steps": 3,
        "hardware": HardwareConfig(accelerator="cpu", devices=2),
        "log": LogConfig(),
        "probe": ProbeConfig(),
        "wandb": WandbConfig(),
        "seed": 5,
        "resume": False,
        "overwrite": False,
    }
    return prepare(Request(**(asked | changes)))


def test_what_is_settled_goes_together(shards: Path, tiny_model_config: ModelConfig) -> None:
    found = prepared(shards, tiny_model_config)
    assert found.plan.global_batch == 16
    assert found.engine.stage == 1, "several processes: ZeRO 1"
    assert found.is_first
    assert found.config["seed"] == 5
    assert found.config["accumulate"] == 2
    assert found.config["model"] == to_dict(tiny_model_config)
    assert found.sections["pretraining"] == found.config
    assert list(found.notes()) == []
    assert not (shards / "run").exists(), "nothing is written"
