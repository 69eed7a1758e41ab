"""The moving average of the weights: where it lives, and how many calls an update takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from finetune.fold import MovingAverage
from finetune.record import read_run
from tests.support.finetune_fixtures import VALUES, Train


class Calls(TorchDispatchMode):
    """Names of the operations, each of which is a launch or more on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


class Network(pl.LightningModule):
    """Many small weights and a buffer."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(3, 3) for _ in range(layers)))
        self.register_buffer("mean", torch.zeros(2))


def averaging(network: Network, device: str, decay: float = 0.9) -> Any:
    return begun(network, device, decay)._average_model


def begun(network: Network, device: str = "cpu", decay: float = 0.9) -> Any:
    callback = MovingAverage(decay)
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))
    callback.setup(trainer, network, "fit")
    return callback


def test_the_average_lives_where_the_network_will_be() -> None:
    """When callbacks are set up, the network is still on the CPU; its count stays there."""
    average = averaging(Network(2), "meta")
    assert {weight.device.type for weight in average.module.parameters()} == {"meta"}
    assert average.n_averaged.device.type == "cpu", "to ask it is not to wait for the device"


@pytest.mark.parametrize(
    ("decay", "dtype"), [(0.9, torch.float32), (0.2, torch.float32), (0.9, torch.bfloat16)]
)
def test_an_update_is_the_growing_average_of_all_weights_at_once(
    decay: float, dtype: torch.dtype
) -> None:
    """In float32 also of weights in bf16, whose eight bits a small change would not reach."""
    calls = []
    for layers in (2, 9):
        network = Network(layers)
        average = averaging(network, "cpu", decay)
        network.layers.to(dtype)  # as bf16-true does when callbacks are set up
        expected = None
        for number in range(12):
            with torch.no_grad():
                for weight in network.parameters():
                    weight.uniform_(-1, 1)
                network.mean.fill_(number)
            now = [weight.detach().float().clone() for weight in network.parameters()]
            share = min(decay, (1 + number) / (10 + number))
            expected = (
                [torch.lerp(new, old, share) for new, old in zip(now, expected, strict=True)]
                if expected
                else now
            )
            with Calls() as seen:
                average.update_parameters(network)
            for weight, value in zip(average.module.parameters(), expected, strict=True):
                assert torch.equal(weight, value)
            assert torch.equal(average.module.mean, network.mean)
        calls.append(seen.names)
    if dtype == torch.float32:
        assert calls[0] == calls[1], "however many weights there are"
        assert len(calls[0]) < 8


def test_validation_sees_the_average_and_changes_neither() -> None:
    network = Network(2)
    callback = begun(network)
    network.layers.to(torch.bfloat16)
    with torch.no_grad():
        network.layers[0].weight.fill_(0.75)
    average = [weight.detach().clone() for weight in callback._average_model.parameters()]
    own = [weight.detach().clone() for weight in network.parameters()]
    callback.on_validation_epoch_start(None, network)
    for weight, value in zip(network.parameters(), average, strict=True):
        assert torch.equal(weight, value.bfloat16())
    callback.on_validation_epoch_end(None, network)
    for now, then in ((network, own), (callback._average_model, average)):
        assert all(torch.equal(a, b) for a, b in zip(now.parameters(), then, strict=True))


@pytest.mark.slow
def test_the_chosen_epoch_has_the_weights_of_the_average_that_was_scored(train: Train) -> None:
    """Not the network's own, which it has back by then."""
    recipe = {"ema_decay": 0.9}
    out = train(VALUES, folds="1", epochs=3, selection="best-on-test", recipe=recipe)
    scored = pd.read_csv(out / "fold-1" / "metrics.csv")["test_ccc"].max()
    assert read_run(out).scores.pooled["ccc"] == pytest.approx(scored, abs=1e-5)
