"""Low-rank updates: they start at the old network, train alone and leave plain weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hicmae.blocks import set_grad_checkpointing
from hicmae.emotion import EmotionConfig, EmotionModel
from hicmae.lora import PROJECTIONS, add_lora, merge_lora
from hicmae.settings import ModelConfig
from tests.hicmae.test_encoder import clip


def network(sizes: ModelConfig, modalities: str = "audio-video") -> EmotionModel:
    torch.manual_seed(0)
    emotion = EmotionConfig(num_outputs=3, modalities=modalities, drop_path=0.0)  # type: ignore[arg-type]
    return EmotionModel(sizes, emotion).eval()


@pytest.mark.parametrize("projections", [("qkv",), ("out", "mlp"), ("qkv", "out", "mlp")])
def test_updates_start_at_nothing_train_alone_and_merge_into_plain_weights(
    tiny_model_config: ModelConfig, projections: tuple[str, ...]
) -> None:
    model, clips = network(tiny_model_config), clip(tiny_model_config)
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        before = model(*clips)
    add_lora(model.encoder, rank=2, alpha=4.0, dropout=0.0, projections=projections)
    with torch.no_grad():
        assert torch.equal(model(*clips), before)
    trained = [name for name, value in model.encoder.named_parameters() if value.requires_grad]
    assert all(name.endswith((".0.down", ".0.up")) for name in trained)
    layers = {name.split(".parametrizations")[0].rpartition(".")[2] for name in trained}
    assert layers == {name for key in projections for name in PROJECTIONS[key]}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):  # the first step moves `up` alone, which starts at zero
        optimizer.zero_grad()
        model(*clips).square().sum().backward()
        optimizer.step()
    assert all(
        not torch.equal(value, torch.zeros_like(value))
        for name, value in model.encoder.named_parameters()
        if name.endswith(".0.up")
    )
    with torch.no_grad():
        tuned = model(*clips)
        assert not torch.allclose(tuned, before)
        merge_lora(model.encoder)
        assert torch.allclose(model(*clips), tuned, atol=1e-5)
    merged = model.state_dict()
    assert sorted(merged) == sorted(plain)
    fresh = network(tiny_model_config)
    fresh.load_state_dict(merged)  # strictly
    changed = {
        n for n in plain if n.startswith("encoder.") and not torch.equal(plain[n], merged[n])
    }
    assert {name.split(".")[-2] for name in changed} == layers
    for name in changed:
        assert torch.linalg.matrix_rank(merged[name] - plain[name], atol=1e-5) <= 2


def test_dropout_hides_inputs_in_training_alone(tiny_model_config: ModelConfig) -> None:
    model = network(tiny_model_config)
    add_lora(model.encoder, rank=2, alpha=6.0, dropout=0.5, projections=("mlp",))
    layer = model.encoder.video.blocks[0].mlp.fc1
    original = layer.parametrizations.weight.original.detach().clone()
    with torch.no_grad():
        layer.parametrizations.weight[0].up.normal_()
    whole = layer.weight - original
    update = layer.parametrizations.weight[0]
    torch.testing.assert_close(whole, 6 / 2 * update.up @ update.down, rtol=0, atol=1e-5)
    inputs = update.down.shape[1]
    assert 0.8 < float(update.down.abs().max()) * inputs**0.5 <= 1, "drawn as a linear layer"
    model.train()
    part = layer.weight - original
    hidden = (part == 0).all(dim=0)
    assert 0 < hidden.sum() < len(hidden)
    assert torch.allclose(part[:, ~hidden], 2 * whole[:, ~hidden], atol=1e-5)
    with torch.no_grad():
        merge_lora(model.encoder)
    assert torch.allclose(layer.weight - original, whole, atol=1e-6)


def test_an_absent_modality_has_no_updates(tiny_model_config: ModelConfig) -> None:
    model = network(tiny_model_config, "audio")
    add_lora(model.encoder, rank=2, alpha=2.0, dropout=0.0, projections=("qkv",))
    trained = [name for name, value in model.encoder.named_parameters() if value.requires_grad]
    assert trained
    assert not [name for name in trained if name.startswith(("video.", "fusion.video."))]


def test_a_rank_that_a_matrix_does_not_have_is_refused(tiny_model_config: ModelConfig) -> None:
    model = network(tiny_model_config)
    with pytest.raises(ValueError, match=r"lora: rank = 64 exceeds the smaller side of video\.bl"):
        add_lora(model.encoder, rank=64, alpha=1.0, dropout=0.0, projections=("qkv",))
    add_lora(model.encoder, rank=32, alpha=1.0, dropout=0.0, projections=("qkv",))  # its width


def test_a_layer_that_is_computed_again_sees_the_inputs_that_it_saw_before(
    tiny_model_config: ModelConfig,
) -> None:
    model, clips = network(tiny_model_config), clip(tiny_model_config)
    add_lora(model.encoder, rank=2, alpha=4.0, dropout=0.5, projections=("qkv", "mlp"))
    for name, value in model.named_parameters():
        if name.endswith(".up"):
            nn.init.normal_(value)
    trained = [value for value in model.parameters() if value.requires_grad]
    found = []
    for recompute in (False, True):
        set_grad_checkpointing(model, recompute)
        torch.manual_seed(1)
        loss = model.train()(*clips).square().sum()
        found.append((loss, *torch.autograd.grad(loss, trained, allow_unused=True)))
    torch.testing.assert_close(found[1], found[0])
