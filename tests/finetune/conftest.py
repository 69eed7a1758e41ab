"""What the tests of fine-tuning share: shards that are only read, made once a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.benchmark import Benchmark
from finetune.settings import RecipeConfig
from hicmae.checkpoints.checkpoint import save_checkpoint
from hicmae.pretraining import HiCMAE
from hicmae.settings import ModelConfig, ObjectiveConfig
from tests.support.finetune_fixtures import (
    BENCHMARK,
    Train,
    run_tiny,
    train_tiny,
    write_labelled_shards,
    wrong_labels,
)
from tests.support.shared import made_once, shards_once
from tests.support.testing_fixtures import blank_figures, drawn_figures, trained_run


@pytest.fixture(scope="module", autouse=True)
def no_figures() -> Iterator[None]:
    """Figures are empty, but for tests that look at some."""
    with blank_figures():
        yield


@pytest.fixture
def drawn() -> Iterator[None]:
    """For the tests that look at figures."""
    with drawn_figures():
        yield


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled shards whose classes are plain to see and hear."""
    return shards_once(tmp_path_factory, "labelled", write_labelled_shards)


@pytest.fixture(scope="session")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with labels that cannot all be learned."""
    how = {"changes": wrong_labels()}
    return shards_once(tmp_path_factory, "labelled-wrongly", write_labelled_shards, **how)


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory, tiny_model_config: ModelConfig) -> Path:
    """A pretraining run's folder."""

    def make(folder: Path) -> None:
        torch.manual_seed(7)
        save_checkpoint(
            folder / "checkpoints" / "last",
            HiCMAE(tiny_model_config, ObjectiveConfig()),
            kind="pretraining",
            config={"model": tiny_model_config},
        )

    return made_once(tmp_path_factory, "pretrained", make)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model_config: ModelConfig) -> Path:
    """A folder with ``shards`` and a ``run`` of them; see ``trained_run``."""
    return trained_run(tmp_path_factory, tiny_model_config)


@pytest.fixture
def train(shards: Path, tiny_model_config: ModelConfig, tmp_path: Path) -> Train:
    """Fine-tunes the tiny network.

    Of a run: its benchmark; ``on`` which shards, or ``changes`` of those that are made for it; its
    ``name``; whether it is ``once``, a fold and an epoch; settings of the recipe by their names;
    whether it gets its ``report``.
    """

    def run(
        benchmark: Benchmark = BENCHMARK,
        /,
        *,
        on: Path = shards,
        changes: dict[int, dict[str, Any]] | None = None,
        name: str = "run",
        once: bool = False,
        report: bool = False,
        recipe: dict[str, Any] | RecipeConfig | None = None,
        **options: Any,
    ) -> Path:
        if changes is not None:
            on = write_labelled_shards(tmp_path / f"shards-of-{name}", changes=changes)
        chosen: dict[str, Any] = {"out": tmp_path / name}
        if once:
            chosen |= {"folds": "1", "epochs": 1}
        if isinstance(recipe, dict):
            recipe = RecipeConfig(**{"batch_size": 4, "drop_path": 0.0} | recipe)
        if recipe is not None:
            chosen["recipe"] = recipe
        start = run_tiny if report else train_tiny
        return start(tmp_path, on, tiny_model_config, benchmark, **chosen | options)

    return run
