"""What the tests of pretraining share: small shards, and a finished run on them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hicmae.settings import ModelConfig
from tests.support.pretrain_shards import Train, moving_shards, run_pretraining
from tests.support.shared import made_once, shards_once


@pytest.fixture(scope="session")
def shallow_model_config(tiny_model_config: ModelConfig) -> ModelConfig:
    """The tiny network, as shallow as a skip connection allows: ZeRO 3 takes its time by layer."""
    return replace(tiny_model_config, encoder_depth=1, decoder_depth=2, feature_layers=(1,))


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight samples, four a shard; nobody changes them."""
    return shards_once(tmp_path_factory, "moving-8", moving_shards)


@pytest.fixture(scope="session")
def many_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen samples; nobody changes them."""
    return shards_once(tmp_path_factory, "moving-16", moving_shards, 16)


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, shards: Path, tiny_model_config: ModelConfig
) -> Path:
    """A run of four steps on the eight samples; whoever changes it copies it first."""
    folder = made_once(
        tmp_path_factory,
        "finished-pretraining",
        lambda path: run_pretraining(shards, path / "run", tiny_model_config),
    )
    return folder / "run"


@pytest.fixture
def train(shards: Path, tiny_model_config: ModelConfig) -> Train:
    """``run_pretraining`` into a folder, on the eight samples or on other ``shards``."""

    def run(
        out: Path, *, shards: Path = shards, sizes: ModelConfig = tiny_model_config, **changes: Any
    ) -> int:
        return run_pretraining(shards, out, sizes, **changes)

    return run


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that the test may change."""
    return shutil.copytree(finished, tmp_path / "run")
