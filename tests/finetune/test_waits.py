"""No step of fine-tuning waits for the device but those that a row is made of."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pandas as pd
import pytest
import torch

from finetune.benchmark import Benchmark
from finetune.fold import MovingAverage, _Average
from finetune.losses import loss_terms
from finetune.module import FinetuneModule
from finetune.settings import MixingConfig, OptimizerConfig, RecipeConfig
from hicmae.emotion import EmotionConfig
from hicmae.settings import AugmentConfig, ModelConfig
from tests.pretrain.test_module import make_batch
from tests.support.finetune_fixtures import BENCHMARK, VALUES, settings
from tests.support.pretended_cuda import CUDA, pretended_cuda

LOG_EVERY = 3


def steps_of(
    sizes: ModelConfig, benchmark: Benchmark, recipe: RecipeConfig, loss: str
) -> list[Counter[str]]:
    """The waits of each of three steps: transforms, mixing, network, loss, AdamW, average."""
    config = settings(
        recipe=recipe,
        augment=AugmentConfig.finetuning(),
        mixing=MixingConfig(regression=True),
        optimizer=OptimizerConfig(warmup_epochs=0),
    )
    plan: Any = SimpleNamespace(
        config=config,
        benchmark=benchmark,
        loss_terms=loss_terms(loss, benchmark.task),
        resolved=SimpleNamespace(learning_rate=1e-3, epochs=1),
        scaled=lambda rate: rate,
        model=sizes,
        emotion=EmotionConfig(num_outputs=benchmark.num_outputs, drop_path=0.1),
        checkpoint=None,
    )
    rows = pd.DataFrame({"emotion": ["low", "high"] * 4, "valence": range(8), "arousal": range(8)})
    clips = 8
    with (
        pretended_cuda() as watch,
        mock.patch.multiple(FinetuneModule, trainer=None, global_step=0, current_epoch=0),
    ):
        with torch.device(CUDA):
            module = FinetuneModule(plan, rows, steps_per_epoch=LOG_EVERY)
        for name, values in list(module.named_buffers(recurse=False)):
            setattr(module, name, values.to(CUDA))
        trainer: Any = SimpleNamespace(
            world_size=1,
            global_step=0,
            log_every_n_steps=LOG_EVERY,
            is_last_batch=False,
            strategy=SimpleNamespace(reduce=lambda values, **_: values, root_device=CUDA),
        )
        FinetuneModule.trainer = trainer
        module.log, module.log_dict = (
            logged,
            lambda row, **how: [logged(*i, **how) for i in row.items()],
        )
        optimizer = module.configure_optimizers()["optimizer"]
        average = MovingAverage(0.99)
        average._average_model = _Average(module, decay=0.99, device=None)
        module.train()
        found = []
        for step in range(LOG_EVERY):
            FinetuneModule.global_step = trainer.global_step = step
            batch = make_batch(sizes, clips) | {"sample": torch.arange(clips)}
            batch |= {
                name: torch.empty(value.shape, dtype=value.dtype, device=CUDA)
                for name, value in batch.items()
                if isinstance(value, torch.Tensor)
            }
            watch.waits.clear()
            ready = module.on_after_batch_transfer(batch, 0)
            with torch.autocast("cuda", torch.bfloat16):
                module.training_step(ready, step)
            for parameter in module.parameters():
                parameter.grad = torch.empty_like(parameter)
            optimizer.step()
            trainer.global_step += 1
            average.on_train_batch_end(trainer, module, None, ready, step)
            found.append(Counter(watch.waits))
        return found


def logged(name: str, value: Any, *, prog_bar: bool = False, **how: Any) -> None:
    """What Lightning's ``log`` asks of the device."""
    if not isinstance(value, torch.Tensor):
        value = torch.tensor(value, device=CUDA)
    if prog_bar:
        value.item()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("benchmark", "recipe", "loss"),
    [
        (BENCHMARK, RecipeConfig(class_weights="balanced", label_smoothing=0.1), "cross-entropy"),
        (BENCHMARK, RecipeConfig(modality_dropout=0.5), "cross-entropy"),
        (VALUES, RecipeConfig(), "mse+0.5*ccc"),
    ],
)
def test_a_step_waits_for_nothing_but_its_row(
    benchmark: Benchmark, recipe: RecipeConfig, loss: str, tiny_model_config: ModelConfig
) -> None:
    *quiet, row = steps_of(tiny_model_config, benchmark, recipe, loss)
    assert quiet == [Counter()] * (LOG_EVERY - 1)
    assert row
    assert all("finetune/module.py" in place for place in row), row
