"""The Lightning module of fine-tuning under Lightning's trainer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from finetune.mixing import MixingConfig
from finetune.module import FinetuneModule
from finetune.record import read_run
from finetune.settings import HardwareConfig, OptimizerConfig, RecipeConfig
from hicmae.blocks import Block, DropPath
from tests.support.finetune_fixtures import Train, split_benchmark
from tests.support.rerun import Rerun

ONE_FOLD = split_benchmark(column="fold", test=(2,))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_to_the_norm_asked_for(
    train: Train, monkeypatch: pytest.MonkeyPatch, precision: Any
) -> None:
    norms: dict[float | None, list[float]] = {None: [], 0.01: []}
    clip_norm: float | None = None

    def note(module: FinetuneModule, optimizer: torch.optim.Optimizer) -> None:
        """What the step before was taken with."""
        gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        if gradients:
            norms[clip_norm].append(float(torch.cat(gradients).norm()))

    monkeypatch.setattr(FinetuneModule, "on_before_zero_grad", note)
    for clip_norm in norms:
        train(
            ONE_FOLD,
            name=f"run-{clip_norm}",
            epochs=1,
            optimizer=OptimizerConfig(warmup_epochs=0, clip_norm=clip_norm),
            precision=precision,
        )
    assert min(norms[None]) > 0.02
    assert norms[0.01] == pytest.approx([0.01] * len(norms[None]), rel=1e-3)


@pytest.mark.slow
def test_a_network_in_bf16_is_trained_and_tested_nearly_as_in_fp32(train: Train) -> None:
    half, whole = (
        read_run(train(ONE_FOLD, name=f"run-{precision}", epochs=1, precision=precision)).folds[0]
        for precision in ("bf16-true", "32-true")
    )
    assert half.train_loss == pytest.approx(whole.train_loss, rel=0.03)


@pytest.mark.slow
def test_fp16_trains_in_fp16_on_a_cpu_too(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's own would be bf16; after few steps the weights are near those of fp32."""
    formats: list[tuple[bool, torch.dtype]] = []
    ends: list[torch.Tensor] = []
    original = FinetuneModule.training_step

    def noting(module: FinetuneModule, *args: Any) -> Any:
        formats.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
        return original(module, *args)

    def weights(module: FinetuneModule) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    monkeypatch.setattr(FinetuneModule, "training_step", noting)
    monkeypatch.setattr(
        FinetuneModule, "on_train_start", lambda module: ends.append(weights(module))
    )
    monkeypatch.setattr(FinetuneModule, "on_train_end", lambda module: ends.append(weights(module)))
    for precision in ("16-mixed", "32-true"):
        train(
            ONE_FOLD,
            name=f"run-{precision}",
            epochs=1,
            optimizer=OptimizerConfig(warmup_epochs=0),
            precision=precision,
        )
    half = len(formats) // 2
    assert formats[:half] == [(True, torch.float16)] * half
    assert not any(enabled for enabled, _ in formats[half:])
    begun, fp16, begun_again, fp32 = ends
    assert torch.equal(begun, begun_again)
    assert (fp16 - begun).norm() > 10 * (fp16 - fp32).norm() > 0


@pytest.mark.slow
def test_a_step_that_is_launched_as_a_whole_trains_as_a_plain_one(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Rerun] = []

    def record(*given: Any) -> Rerun:
        made.append(Rerun(*given))
        return made[-1]

    monkeypatch.setattr("hicmae.graphs._can_record", lambda tensor: True)
    monkeypatch.setattr("finetune.module.Recorded", record)
    plain, launched = (
        read_run(train(ONE_FOLD, name=f"run-{on}", hardware=HardwareConfig(cuda_graphs=on)))
        for on in (False, True)
    )
    assert made[0]._recordings
    assert launched.folds[0].train_loss == pytest.approx(plain.folds[0].train_loss, rel=1e-5)
    assert launched.scores.pooled == pytest.approx(plain.scores.pooled)


@pytest.mark.slow
def test_activations_computed_again_give_the_same_training(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drop path draws in every layer, and must draw the same again in the backward pass."""
    gradients: list[dict[str, torch.Tensor]] = []
    calls = {"forward": 0, "backward": 0}
    layer, drop = Block._layer, DropPath.forward
    dropped = 0

    def note(module: FinetuneModule, optimizer: torch.optim.Optimizer) -> None:
        gradients.append(
            {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        )

    def count(block: Block, tokens: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            again = torch._C._current_graph_task_id() != -1  # inside of a backward pass
            calls["backward" if again else "forward"] += 1
        return layer(block, tokens)

    def draw(path: DropPath, tokens: torch.Tensor) -> torch.Tensor:
        nonlocal dropped
        kept = drop(path, tokens)
        if path.training:
            dropped += int((kept.flatten(1) == 0).all(dim=1).sum())
        return kept

    monkeypatch.setattr(FinetuneModule, "on_before_optimizer_step", note)
    monkeypatch.setattr(Block, "_layer", count)
    monkeypatch.setattr(DropPath, "forward", draw)
    runs, found = {}, {}
    for recompute in (False, True):
        runs[recompute] = train(
            ONE_FOLD,
            name=f"run-{recompute}",
            epochs=2,
            recipe=RecipeConfig(batch_size=4, drop_path=0.5, modality_dropout=0.3),
            mixing=MixingConfig(audio=True),
            hardware=HardwareConfig(recompute=recompute),
        )
        found[recompute] = list(gradients), dict(calls), dropped
        gradients.clear()
        calls.update(forward=0, backward=0)
        dropped = 0
    (plain, plain_calls, plain_dropped), (again, again_calls, again_dropped) = found.values()
    assert plain_calls["backward"] == 0
    assert again_calls == dict.fromkeys(("forward", "backward"), plain_calls["forward"])
    # Not twice as many: what is computed again ends where nothing more is wanted.
    assert again_dropped > plain_dropped > 0
    assert len(plain) == len(again) == 6
    for ours, theirs in zip(plain, again, strict=True):
        assert ours.keys() == theirs.keys()
        for name, gradient in ours.items():
            assert torch.equal(theirs[name], gradient), name
    for file in ("predictions.jsonl", "metrics.csv", "checkpoints/last/model.safetensors"):
        ours, theirs = (next(run.glob("fold-*")) / file for run in runs.values())
        assert ours.read_bytes() == theirs.read_bytes(), file
