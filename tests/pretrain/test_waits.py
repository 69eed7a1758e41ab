"""No step of pretraining waits for the device but one a row of numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch.testing._internal.distributed.fake_pg import FakeStore

from hicmae.config import load_model_config
from hicmae.settings import AugmentConfig, ModelConfig, ObjectiveConfig
from pretrain.guard import Agreement, BadSamples, FiniteGuard
from pretrain.health import Health
from pretrain.meter import StepMeter
from pretrain.module import PretrainModule
from tests.pretrain.test_module import make_batch, make_module
from tests.support.pretended_cuda import CUDA, pretended_cuda

LOG_EVERY, HEALTH_EVERY = 2, 4


def test_what_makes_a_host_wait_is_seen_and_what_does_not_is_not() -> None:
    with pretended_cuda() as watch:
        values = torch.ones(3, device=CUDA)
        small = torch.ones(3)
        quiet = [
            lambda: values.sum() * 2,
            lambda: small.pin_memory().to(CUDA, non_blocking=True),
            lambda: torch.full((3,), 2.0, device=CUDA),
            lambda: values[torch.zeros(2, dtype=torch.int64, device=CUDA)],
            lambda: torch.where(values > 0, values, 0.0),
        ]
        for call in quiet:
            call()
        assert not watch.waits
        loud = [
            lambda: float(values[0]),
            lambda: bool(values.isfinite().all()),
            lambda: values.tolist(),
            lambda: values.cpu(),
            lambda: small.to(CUDA),
            lambda: small.to(CUDA, non_blocking=True),  # not pinned: it is staged first
            lambda: torch.tensor([1.0, 2.0], device=CUDA),
            lambda: values[values > 0],
            lambda: torch.linalg.eigvalsh(values[:, None] * values),
        ]
        for call in loud:
            watch.waits.clear()
            with suppress(Exception):  # sizes that only the device knows end here
                call()
            assert watch.waits, loud.index(call)


@pytest.fixture
def two_processes() -> Iterator[None]:
    """A group of two of which this is the first; what the other sends has no content."""
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield
    dist.destroy_process_group()


class Step(NamedTuple):
    """One of four: transforms, network, guard, clipping, AdamW, callbacks; no backward pass."""

    waits: Counter[str]
    launches: int
    in_network: int  # launches of what is compiled and recorded, forward
    on_host: Counter[str]  # of the same, operations that ran on the CPU


def steps_of(
    config: ModelConfig, folder: Path, engine: str, dtype: torch.dtype | None, **changes: Any
) -> list[Step]:
    with pretended_cuda() as watch, mock.patch.object(PretrainModule, "trainer", None):
        with torch.device(CUDA):
            module = make_module(config, augment=AugmentConfig.pretraining(), **changes)
        trainer = pretended_trainer(engine, dtype)
        module._device = CUDA
        PretrainModule.trainer = trainer
        meter = StepMeter(log_every=LOG_EVERY, epoch_clips=8, sinks=[])
        guard = FiniteGuard(folder, max_skipped=0, say=print, look_every=LOG_EVERY, read=meter.read)
        bad = BadSamples(0.5)
        callbacks = [guard, bad, Health(every=HEALTH_EVERY, note=meter.note), meter]
        callbacks.append(Agreement([guard, bad], list))
        optimizer = module.configure_optimizers()["optimizer"]
        for callback in callbacks:
            callback.on_train_start(trainer, module)
        found = []
        compute, inside = module.model._compute, []

        def counted(*given: Any) -> Any:
            before = watch.launches.total(), Counter(watch.on_host)
            out = compute(*given)
            if module.training:
                inside.append((watch.launches.total() - before[0], watch.on_host - before[1]))
            return out

        module.model._compute = counted
        for step in range(HEALTH_EVERY):
            # One clip of two: what was bad is made up for.
            batch = make_batch(config, 1)
            batch |= {
                name: torch.empty(value.shape, dtype=value.dtype, device=CUDA)
                for name, value in batch.items()
                if isinstance(value, torch.Tensor)
            }
            watch.waits.clear()
            watch.launches.clear()
            take_step(module, trainer, callbacks, optimizer, batch, step)
            found.append(Step(Counter(watch.waits), watch.launches.total(), *inside[-1]))
        assert len(meter.last_row) > 30, "health's numbers are among them"
        return found


def take_step(
    module: PretrainModule,
    trainer: Any,
    callbacks: list[Any],
    optimizer: torch.optim.Optimizer,
    batch: dict[str, Any],
    step: int,
) -> None:
    """As Lightning does."""
    ready = module.on_after_batch_transfer(module.on_before_batch_transfer(batch, 0), 0)
    for callback in callbacks:
        callback.on_train_batch_start(trainer, module, ready, step)
    outputs = module.training_step(ready, step)
    for parameter in module.parameters():
        parameter.grad = torch.empty_like(parameter)
    for callback in callbacks:
        callback.on_before_optimizer_step(trainer, module, optimizer)
    module.configure_gradient_clipping(optimizer, 1.0)
    if not module._has_deepspeed():
        optimizer.step()
    trainer.global_step += 1
    for callback in callbacks:
        callback.on_train_batch_end(trainer, module, outputs, ready, step)


def pretended_trainer(engine: str, dtype: torch.dtype | None) -> Any:
    strategy: Any = SimpleNamespace(reduce=lambda values, **_: values)
    if engine == "deepspeed":
        strategy = mock.Mock(spec=DeepSpeedStrategy)
        strategy.reduce = lambda values, **_: values
        strategy.deepspeed_engine.was_step_applied = lambda: True
        strategy.deepspeed_engine.get_global_grad_norm = lambda: torch.empty((), device=CUDA)
    several = dist.is_initialized()
    return SimpleNamespace(
        strategy=strategy,
        precision="bf16-mixed" if dtype else "32-true",
        precision_plugin=SimpleNamespace(
            forward_context=lambda: torch.autocast("cuda", dtype) if dtype else nullcontext()
        ),
        world_size=dist.get_world_size() if several else 1,
        global_rank=0,
        is_global_zero=True,
        accumulate_grad_batches=1,
        global_step=0,
        max_steps=HEALTH_EVERY,
        should_stop=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "dtype"),
    [("single", None), ("single", torch.bfloat16), ("deepspeed", torch.bfloat16)],
)
def test_a_step_waits_for_nothing_but_its_row(
    engine: str, dtype: torch.dtype | None, tiny_model_config: ModelConfig, tmp_path: Path
) -> None:
    assert_no_waits(steps_of(tiny_model_config, tmp_path, engine, dtype))


@pytest.mark.slow
@pytest.mark.usefixtures("two_processes")
@pytest.mark.parametrize("engine", ["ddp", "deepspeed"])
def test_a_step_of_several_processes_with_global_negatives_waits_for_nothing_but_its_row(
    engine: str, tiny_model_config: ModelConfig, tmp_path: Path
) -> None:
    objective = ObjectiveConfig(negatives="global")
    found = steps_of(
        tiny_model_config, tmp_path, engine, torch.bfloat16, objective=objective, global_batch=4
    )
    assert_no_waits(found)


@pytest.mark.slow
def test_with_cuda_graphs_a_step_of_base_launches_few_kernels(tmp_path: Path) -> None:
    """Forward and backward pass of what is recorded are one launch each; the rest is counted.

    The first step, which makes AdamW's state, and that which measures health launch more.
    """
    _, row, step, _ = steps_of(load_model_config("base"), tmp_path, "single", torch.bfloat16)
    for one in (row, step):
        # Frames, sound, and four parts of presence are copied to where the graph reads them.
        launches = one.launches - one.in_network + 2 + 6
        assert 100 < launches < 300
        assert one.in_network > 1000, "without graphs, forward alone"
        assert not one.on_host, "which a graph could not record"


def assert_no_waits(found: list[Step]) -> None:
    one, row, three, measured = (step.waits for step in found)
    assert not one
    assert not three
    assert len(row) == 1, row  # one line, which reads all numbers
    assert all("pretrain/meter.py" in place for place in row)
    # Health, every so many rows, asks once more.
    assert len(measured) == 2, measured
    assert all("meter.py" in place or "eigenvalues" in place for place in measured)
