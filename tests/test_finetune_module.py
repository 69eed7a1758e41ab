"""The Lightning module of fine-tuning under Lightning's trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_fixtures import run_tiny, split_benchmark, write_labelled_shards

from finetune.module import FinetuneModule
from finetune.settings import OptimizerConfig
from hicmae.settings import ModelConfig


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_to_the_norm_asked_for(
    tiny_model_config: ModelConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: Any,
) -> None:
    norms: dict[float | None, list[float]] = {None: [], 0.01: []}
    clip_norm: float | None = None

    def note(module: FinetuneModule, optimizer: torch.optim.Optimizer) -> None:
        """What the step before was taken with."""
        gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        if gradients:
            norms[clip_norm].append(float(torch.cat(gradients).norm()))

    monkeypatch.setattr(FinetuneModule, "on_before_zero_grad", note)
    shards = write_labelled_shards(tmp_path / "shards")
    for clip_norm in norms:
        run_tiny(
            tmp_path,
            shards,
            tiny_model_config,
            split_benchmark(column="fold", test=(2,)),
            out=tmp_path / f"run-{clip_norm}",
            epochs=1,
            optimizer=OptimizerConfig(warmup_epochs=0, clip_norm=clip_norm),
            precision=precision,
        )
    assert min(norms[None]) > 0.02
    assert norms[0.01] == pytest.approx([0.01] * len(norms[None]), rel=1e-3)
