"""Networks held in bfloat16 for prediction say what they said before."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from hicmae import blocks
from hicmae.emotion import EmotionConfig, EmotionModel
from hicmae.inference import clip_values
from hicmae.packed import PackedLinear, can_pack
from hicmae.settings import ModelConfig
from tests.hicmae.test_encoder import clip

packs = pytest.mark.skipif(not can_pack(), reason="no bfloat16 of oneDNN on this machine")


def trained(config: ModelConfig) -> EmotionModel:
    """A network all of whose weights and biases matter."""
    torch.manual_seed(0)
    network = EmotionModel(config, EmotionConfig(num_outputs=3)).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return network


def logits(network: nn.Module, batch: tuple[Tensor | None, ...], precision: str) -> Tensor:
    return clip_values(network, *batch, task="classification", precision=precision)[1]


@packs
@pytest.mark.parametrize("shown", ["both", "picture", "sound"])
def test_a_packed_network_is_as_near_to_float32_as_autocast(
    tiny_model_config: ModelConfig, shown: str
) -> None:
    network = trained(tiny_model_config)
    video, fbank = clip(tiny_model_config)
    batch = (video if shown != "sound" else None, fbank if shown != "picture" else None)
    packed = copy.deepcopy(network)
    blocks.prepare_for_bf16(packed)
    with torch.inference_mode():
        exact = network.features(*batch)
        with torch.autocast("cpu", torch.bfloat16):
            errors = [(each.features(*batch) - exact).square().mean() for each in (packed, network)]
    of_packed, of_autocast = (error.sqrt() for error in errors)
    assert 0 < of_packed < 1.2 * of_autocast < 0.05 * exact.square().mean().sqrt()


@packs
def test_every_layer_of_the_blocks_is_packed_and_nothing_else(
    tiny_model_config: ModelConfig,
) -> None:
    network = trained(tiny_model_config)
    before = {name for name, each in network.named_modules() if isinstance(each, nn.Linear)}
    blocks.prepare_for_bf16(network)
    after = dict(network.named_modules())
    plain = {name for name, each in after.items() if isinstance(each, nn.Linear)}
    assert plain == {"encoder.video.project", "encoder.audio.project", "head"}
    assert {
        name for name, each in after.items() if isinstance(each, PackedLinear)
    } == before - plain
    assert not any(isinstance(each, nn.GELU) for each in after.values())
    assert all(after[name].weight.dtype == torch.bfloat16 for name in plain)


def test_without_the_operators_weights_are_cast(
    tiny_model_config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "can_pack", lambda: False)
    network = trained(tiny_model_config)
    batch = clip(tiny_model_config)
    expected = logits(network, batch, "bf16-mixed")
    blocks.prepare_for_bf16(network)
    linears = [each for each in network.modules() if isinstance(each, nn.Linear)]
    assert all(each.weight.dtype == torch.bfloat16 for each in linears)
    assert torch.equal(logits(network, batch, "bf16-mixed"), expected)
