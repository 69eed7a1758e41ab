"""The Lightning module of pretraining: schedule, random draws, accumulated gradients."""

from __future__ import annotations

import itertools
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

import hicmae.pretraining
from hicmae.blocks import Block
from hicmae.masks import Masks
from hicmae.optimization import StepLoader
from hicmae.settings import AugmentConfig, ModelConfig, ObjectiveConfig
from pretrain.data import have_of
from pretrain.guard import FiniteGuard
from pretrain.module import PretrainModule, step_seed
from pretrain.settings import Counts, DataConfig, HardwareConfig, OptimizerConfig, PretrainConfig
from tests.hicmae.test_encoder import clip


def make_module(
    model: ModelConfig,
    *,
    num_steps: int = 100,
    warmup_steps: int = 10,
    global_batch: int = 2,
    **changes: Any,
) -> PretrainModule:
    arguments: dict[str, Any] = {"augment": AugmentConfig()} | changes
    config = PretrainConfig(
        data=DataConfig(shards="nowhere"), out=Path("nowhere"), model=model, **arguments
    )
    counts = Counts(
        num_steps=num_steps,
        warmup_steps=warmup_steps,
        global_batch=global_batch,
        steps_per_epoch=1,
    )
    return PretrainModule(config, counts)


def make_batch(model: ModelConfig, clips: int, seed: int = 0) -> dict[str, Any]:
    size = model.input
    random = torch.Generator().manual_seed(seed)
    shape = (clips, size.num_frames, size.image_size, size.image_size, 3)
    return {
        "frames": torch.randint(0, 256, shape, dtype=torch.uint8, generator=random),
        "waveform": torch.randint(
            -9000, 9000, (clips, size.clip_samples), dtype=torch.int16, generator=random
        ),
        "num_samples": torch.full((clips,), size.clip_samples),
        "keys": [f"clip{number}" for number in range(clips)],
        "skipped": {},
    }


def fit(
    module: PretrainModule, batches: list[dict[str, Any]], clips: int = 0, **settings: Any
) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    loader = StepLoader(batches, batch_size=None)
    if trainer.accumulate_grad_batches > 1:
        loader.count, loader.tell = trainer.accumulate_grad_batches, partial(have_of, size=clips)
    trainer.fit(module, loader)
    return trainer


def test_the_learning_rate_warms_up_and_falls_as_published(
    tiny_model_config: ModelConfig,
) -> None:
    module = make_module(tiny_model_config, global_batch=64)
    assert module.peak_learning_rate == pytest.approx(3e-4 * 64 / 256)
    expected = [step / 9 for step in range(10)]
    floor = 1e-5 / 3e-4
    for step in range(10, 100):
        cosine = 0.5 * (1 + math.cos(math.pi * (step - 10) / 90))
        expected.append(floor + (1 - floor) * cosine)
    assert [module.rate_factor(step) for step in range(100)] == pytest.approx(expected)


def test_draws_depend_on_seed_and_batch_and_on_nothing_else(
    tiny_model_config: ModelConfig,
) -> None:
    seeds = {step_seed(*where) for where in ((0, 0), (1, 0), (0, 1), (1, 1))}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    module = make_module(tiny_model_config, augment=AugmentConfig.pretraining())
    module.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    batch = make_batch(tiny_model_config, 4)

    def draw(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        module.num_batches = number
        ready = module.on_after_batch_transfer(batch, 0)
        with torch.no_grad():
            hidden = module.model(ready["video"], ready["fbank"]).given.video_masks.masked
        return ready["video"], hidden

    first = draw(3)
    torch.rand(100)  # others may draw what they like
    again, other = draw(3), draw(4)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[1], other[1])


def fix_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the same tokens of all clips."""

    def fixed_cells(batch: int, grid: Any, ratio: float, **_: Any) -> Masks:
        return fixed_tokens(batch, math.prod(grid), ratio)

    def fixed_tokens(batch: int, num_tokens: int, ratio: float, **_: Any) -> Masks:
        tokens = torch.arange(num_tokens).expand(batch, -1)
        return Masks(keep=tokens[:, ::4], masked=tokens[:, 1::2])

    monkeypatch.setattr(hicmae.pretraining, "tube_masks", fixed_cells)
    monkeypatch.setattr(hicmae.pretraining, "random_masks", fixed_tokens)


def losses_of(module: PretrainModule, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The terms of a batch, gradients being added up in the module."""
    module.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    module.num_batches = 0
    outputs = module.training_step(module.on_after_batch_transfer(batch, 0), 0)
    outputs["loss"].backward()
    return outputs["terms"]


def test_a_batch_that_is_filled_up_has_the_losses_and_gradients_of_its_clips(
    tiny_model_config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fix_masks(monkeypatch)
    batch = make_batch(tiny_model_config, 3)
    small, filled = (make_module(tiny_model_config, global_batch=count) for count in (3, 8))
    torch.testing.assert_close(losses_of(filled, batch), losses_of(small, batch))
    for (name, found), wanted in zip(filled.named_parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("negatives", ["local", "global"])
def test_a_compiled_step_is_one_graph_without_collectives_whatever_is_missing_of_a_batch(
    negatives: Any, tiny_model_config: ModelConfig
) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    module = make_module(
        tiny_model_config, global_batch=6, objective=ObjectiveConfig(negatives=negatives)
    )
    module.model.compile(backend=keep)
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        for clips in (3, 2, 0):
            losses_of(module, make_batch(tiny_model_config, clips))
    finally:
        dist.destroy_process_group()
    assert len(graphs) == 1
    calls = " ".join(str(node.target) for graph in graphs for node in graph.graph.nodes)
    assert "linear" in calls
    assert "rearrange" in calls, "einops was traced, which takes as long as all else"
    assert "gather" not in calls.replace("torch.gather", "")
    assert "c10d" not in calls


@pytest.mark.slow
def test_compiled_with_cuda_graphs_training_alone_is_recorded_and_terms_outlive_the_next_step(
    tiny_model_config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[str] = []
    before: list[torch.Tensor] = []

    def record(compute: Any, *, mode: str, dynamic: bool) -> Any:
        """What stands in for PyTorch's: a replay overwrites what the one before has given."""

        def replay(*given: Any) -> Any:
            modes.append(mode)
            for value in before:
                value.detach().fill_(math.nan)
            inputs, losses = compute(*given)
            before[:] = [v for loss in losses.values() for v in (loss.loss, *loss.terms.values())]
            return inputs, losses

        return replay

    monkeypatch.setattr(torch, "compile", record)
    recorded = make_module(
        tiny_model_config, hardware=HardwareConfig(compile=True, cuda_graphs=True)
    )
    plain = make_module(tiny_model_config)
    batches = [make_batch(tiny_model_config, 2, seed) for seed in range(2)]
    found, wanted = ([losses_of(one, batch) for batch in batches] for one in (recorded, plain))
    assert modes == ["reduce-overhead"] * 2
    assert "contrast_accuracy_layer1" in found[0]
    torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        recorded.eval().model(*clip(tiny_model_config))
    assert len(modes) == 2


@pytest.mark.parametrize("lacking", [False, True])
def test_accumulated_batches_take_the_step_of_one_large_batch(
    tiny_model_config: ModelConfig, monkeypatch: pytest.MonkeyPatch, lacking: bool
) -> None:
    """Without contrast, whose negatives are those of a batch, and with the same cells hidden."""

    fix_masks(monkeypatch)
    whole = make_batch(tiny_model_config, 8)
    starts = [0, 2, 4, 6, 8]
    if lacking:  # one batch has no sound, one a clip less
        whole["heard"] = torch.tensor([False] * 2 + [True] * 3 + [False] + [True] * 2)
        whole["seen"] = ~torch.roll(whole["heard"], 1) | whole["heard"]
        whole |= {name: value[:7] for name, value in whole.items() if name != "skipped"}
        starts = [0, 2, 4, 5, 7]
    parts = [
        {name: value[start:stop] for name, value in whole.items() if name != "skipped"}
        for start, stop in itertools.pairwise(starts)
    ]
    gradients = []
    for batches, accumulate in (([whole], 1), (parts, 4)):
        module = make_module(
            tiny_model_config,
            objective=ObjectiveConfig(contrast=False),
            warmup_steps=0,
            global_batch=8,
            optimizer=OptimizerConfig(learning_rate=1e-2),
        )
        taken: list[dict[str, torch.Tensor]] = []

        def note(optimizer: Any, module: Any = module, taken: Any = taken) -> None:
            taken.append({n: p.grad.clone() for n, p in module.model.named_parameters()})

        monkeypatch.setattr(module, "on_before_optimizer_step", note)
        trainer = fit(module, batches, 8 // accumulate, accumulate_grad_batches=accumulate)
        assert trainer.global_step == 1
        assert len(taken) == 1
        gradients.append(taken[0])
    assert gradients[0].keys() == gradients[1].keys()
    largest = max(float(value.abs().max()) for value in gradients[0].values())
    assert largest > 0
    for name, value in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][name], value, rtol=1e-4, atol=1e-6 * largest, msg=name
        )


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_to_their_norm_and_the_norm_before_is_kept(
    tiny_model_config: ModelConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: Any,
) -> None:
    module = make_module(tiny_model_config)
    norms = []
    clip = module.configure_gradient_clipping

    def watched(optimizer: Any, *settings: Any, **named: Any) -> None:
        clip(optimizer, *settings, **named)
        gradients = [parameter.grad for parameter in module.model.parameters()]
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm())

    monkeypatch.setattr(module, "configure_gradient_clipping", watched)
    fit(
        module,
        [make_batch(tiny_model_config, 2)],
        callbacks=[FiniteGuard(tmp_path, max_skipped=0, say=print)],
        gradient_clip_val=0.01,
        precision=precision,
        default_root_dir=tmp_path,
    )
    assert float(norms[0]) == pytest.approx(0.01, rel=1e-3)
    assert module.gradient_norm is not None
    assert float(module.gradient_norm) > 0.1


def test_weight_decay_spares_biases_norms_and_mask_tokens(
    tiny_model_config: ModelConfig, tmp_path: Path
) -> None:
    module = make_module(tiny_model_config)
    trainer = fit(module, [make_batch(tiny_model_config, 2)], default_root_dir=tmp_path)
    names = {id(parameter): name for name, parameter in module.model.named_parameters()}
    seen = set()
    for group in trainer.optimizers[0].param_groups:
        assert group["betas"] == (0.9, 0.95)
        for parameter in group["params"]:
            seen.add(names[id(parameter)])
            assert group["weight_decay"] == (0.05 if parameter.ndim > 1 else 0.0)
    assert seen == set(names.values())


def test_recomputing_activations_reaches_the_layers(tiny_model_config: ModelConfig) -> None:
    for recompute in (False, True):
        module = make_module(tiny_model_config, hardware=HardwareConfig(recompute=recompute))
        layers = [layer for layer in module.model.modules() if isinstance(layer, Block)]
        assert layers
        assert all(layer.recompute is recompute for layer in layers)


def test_a_batch_whose_clips_were_all_bad_counts_nothing_and_still_has_a_gradient(
    tiny_model_config: ModelConfig,
) -> None:
    """Another process may wait for the gradient of this one."""
    module = make_module(tiny_model_config)
    before = {name: value.clone() for name, value in module.model.state_dict().items()}
    fit(module, [make_batch(tiny_model_config, clips=0)], max_steps=1)
    assert set(module.last_terms) >= {"loss", "video", "audio", "contrast"}
    assert all(value == 0 for value in module.last_terms.values())
    gradients = [parameter.grad for parameter in module.model.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)
    for name, value in module.model.state_dict().items():
        assert torch.equal(value, before[name]), name  # the first step's rate is 0
