"""Layers in bfloat16 on a CPU: plain products of attention, backward passes of our own, and packed
layers, which say what they said before.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from hicmae import blocks, fused
from hicmae.blocks import Block, CrossBlock, DropPath
from hicmae.emotion import EmotionConfig, EmotionModel, clip_values
from hicmae.fused import PackedLinear, can_pack, suits
from hicmae.settings import ModelConfig
from tests.hicmae.test_encoder import clip

packs = pytest.mark.skipif(not can_pack(), reason="no bfloat16 of oneDNN on this machine")


def _attended(scores_bytes: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, ...]:
    """Attention of 5 clips to fewer tokens, and the gradients of queries, keys and values."""
    monkeypatch.setattr(blocks, "_SCORES_BYTES", scores_bytes)
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, 2, 12, 8), (5, 2, 7, 8), (5, 2, 7, 8))
    inputs = [
        torch.randn(shape, generator=generator).bfloat16().requires_grad_() for shape in shapes
    ]
    attended = blocks.attend(inputs[0], inputs[1], inputs[2])
    attended.float().square().sum().backward()
    gradients = [tensor.grad for tensor in inputs]
    assert all(gradient is not None for gradient in gradients)
    return (attended.detach(), *(gradient for gradient in gradients if gradient is not None))


@pytest.mark.parametrize("clips", [0, 1, 2])
def test_clips_attend_alike_in_one_piece_and_in_several(
    clips: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip_bytes = 2 * 12 * 7 * 2  # less than one clip's scores is one clip's all the same
    whole = _attended(2**20, monkeypatch)
    for found, expected in zip(_attended(clips * clip_bytes, monkeypatch), whole, strict=True):
        # Where bfloat16 is computed in software, sums may be taken in another order.
        level = 2**-7 * float(expected.abs().max())
        torch.testing.assert_close(found, expected, atol=level, rtol=0)


def test_plain_products_are_the_fused_kernel_to_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    query, key, value = (
        torch.randn(3, 2, 40, 16, generator=generator).bfloat16() for _ in range(3)
    )
    monkeypatch.setattr(blocks, "_SCORES_BYTES", 2 * 40 * 40 * 2)
    exact = F.scaled_dot_product_attention(query.float(), key.float(), value.float())
    # bfloat16 has 8 bits: scores up to 6 or so are rounded to 1/64, and so on.
    torch.testing.assert_close(
        blocks.attend(query, key, value).float(), exact, atol=0.03, rtol=0.03
    )


def _step(layer: nn.Module, inputs: list[Tensor], precision: str) -> Tensor:
    """Output and all gradients of a layer, one after another."""
    layer.zero_grad()
    given = [tensor.clone().requires_grad_() for tensor in inputs]
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        out = layer(*given)
    out.square().mean().backward()
    gradients = [tensor.grad for tensor in (*given, *layer.parameters())]
    return torch.cat([part.flatten() for part in (out.detach(), *gradients) if part is not None])


@pytest.mark.parametrize("many", [pytest.param(0, marks=packs), 10**9], ids=["laid out", "plain"])
@pytest.mark.parametrize(
    ("heads", "recompute", "bf16_residual"),
    [(1, False, False), (2, False, False), (2, True, False), (2, False, True), (2, True, True)],
)
def test_own_backward_passes_are_as_near_to_float32_as_autograd_in_bfloat16(
    heads: int, recompute: bool, bf16_residual: bool, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer = CrossBlock(32, heads, mlp_ratio=4.0, eps=1e-6, drop_path=0.4)
    for weight in layer.parameters():
        nn.init.normal_(weight, std=0.2)
    layer.recompute = recompute
    inputs = [torch.randn(5, 12, 32), torch.randn(5, 7, 32)]
    monkeypatch.setattr(blocks, "_SCORES_BYTES", 2 * 2 * 12 * 12 * 2)  # two clips at a time
    monkeypatch.setattr(fused, "_SCORES_BYTES", 3 * 12 * 12 * 2)  # three heads at a time
    monkeypatch.setattr(fused, "_MANY_ROWS", many)
    monkeypatch.setattr(fused, "_MANY_ROWS_BACK", many)
    calls = []
    add = fused.linear_add
    monkeypatch.setattr(fused, "linear_add", lambda *parts: calls.append(1) or add(*parts))
    found = {}
    for name, own in (("float32", False), ("autograd", False), ("own", True)):
        torch.manual_seed(1)  # of stochastic depth
        layer.bf16_residual = bf16_residual and name != "float32"
        if not own:
            monkeypatch.setattr(fused, "suits", lambda *_: False)
        else:
            monkeypatch.setattr(fused, "suits", suits)
        found[name] = _step(layer, inputs, "32" if name == "float32" else "bf16")
    assert len(calls) == 2 * (1 + recompute)
    off = {name: float((found[name] - found["float32"]).norm()) for name in ("autograd", "own")}
    assert off["own"] < 1.5 * off["autograd"]
    assert off["own"] < 0.02 * float(found["float32"].norm())


def test_attention_a_few_heads_at_a_time_is_that_of_autograd() -> None:
    """At full size, where the scores of a few heads fill what is worked on at a time."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 800, 3 * 6 * 64),), ((2, 50, 6 * 64), (2, 30, 2 * 6 * 64))
    for shape in shapes:
        given = [torch.randn(one, generator=generator).bfloat16() for one in shape]
        asked = torch.randn(*shape[0][:2], 6 * 64, generator=generator).bfloat16()
        own, plain = ([part.clone().requires_grad_() for part in given] for _ in range(2))
        attended = fused.attention(6, *own)
        attended.backward(asked)
        parts = [part for one in plain for part in one.unflatten(2, (-1, 6, 64)).unbind(2)]
        expected = blocks.attend(*(part.transpose(1, 2) for part in parts)).transpose(1, 2)
        expected.flatten(2).backward(asked)
        for found, wanted in zip(
            (attended, *(part.grad for part in own)),
            (expected.flatten(2), *(part.grad for part in plain)),
            strict=True,
        ):
            assert found is not None
            assert wanted is not None
            # Where bfloat16 is computed in software, sums may be taken in another order.
            level = 2**-8 * float(wanted.abs().max())
            torch.testing.assert_close(found, wanted, atol=level, rtol=0)


def test_layers_that_somebody_looks_into_or_changes_compute_as_they_are_written() -> None:
    tokens = torch.randn(1, 3, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert fused.suits(Block(16, 2, mlp_ratio=2, eps=1e-6), tokens)
        hooked = Block(16, 2, mlp_ratio=2, eps=1e-6)
        hooked.mlp.fc1.register_forward_hook(lambda *_: None)
        assert not fused.suits(hooked, tokens)
        changed = Block(16, 2, mlp_ratio=2, eps=1e-6)
        nn.utils.parametrizations.weight_norm(changed.mlp.fc1)
        assert not fused.suits(changed, tokens)
    assert not fused.suits(Block(16, 2, mlp_ratio=2, eps=1e-6), tokens)


@packs
def test_a_block_held_for_prediction_computes_as_it_is_written() -> None:
    block = Block(16, 2, mlp_ratio=2, eps=1e-6).eval()
    tokens = torch.randn(1, 3, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = block(tokens)
        blocks.prepare_for_bf16(block)
        assert not fused.suits(block, tokens)
        torch.testing.assert_close(block(tokens), before, atol=0.02, rtol=0.02)


def test_without_gradients_a_layer_says_what_it_says_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    layer = CrossBlock(32, 2, mlp_ratio=4.0, eps=1e-6, drop_path=0.4).eval()
    inputs = [torch.randn(5, 12, 32), torch.randn(5, 7, 32)]
    with torch.autocast("cpu", torch.bfloat16):
        trained = layer(*inputs)
        with torch.no_grad():
            found = layer(*inputs)
            monkeypatch.setattr(fused, "suits", lambda *_: False)
            plain = layer(*inputs)
    assert not found.requires_grad
    for expected in (trained, plain):
        torch.testing.assert_close(found, expected, atol=0.03, rtol=0.03)


def test_stochastic_depth_leaves_clips_out_one_by_one_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    path, branch = DropPath(0.2), torch.ones(4000, 2, 3)
    kept = path(branch)
    assert kept.flatten(1).unique(dim=0).tolist() == [[0.0] * 6, [1.25] * 6]
    assert kept.mean().item() == pytest.approx(1, abs=0.04)  # five standard deviations
    assert torch.equal(path.eval()(branch), branch)


@pytest.mark.parametrize("bf16", [False, True])
def test_each_branch_of_a_layer_is_left_out_by_a_draw_of_its_own(bf16: bool) -> None:
    torch.manual_seed(0)
    layer = CrossBlock(8, 2, mlp_ratio=2, eps=1e-6, drop_path=0.5)
    for branch, bias in ((layer.cross_attention, 10.0), (layer.attention, 100.0), (layer.mlp, 1.0)):
        for name, weight in branch.named_parameters():
            nn.init.constant_(weight, bias if name in ("out.bias", "fc2.bias") else 0.0)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        said = layer(torch.zeros(200, 3, 8), torch.zeros(200, 2, 8))[:, 0, 0]
    # twice what each adds, where it is not left out
    assert set(said.tolist()) == {a + b + c for a in (0, 20) for b in (0, 200) for c in (0, 2)}


def test_a_bfloat16_stream_is_held_in_it_and_leaves_the_layers_as_float32(
    tiny_model_config: ModelConfig,
) -> None:
    network, batch, held = trained(tiny_model_config), clip(tiny_model_config), []
    for part in network.modules():
        if isinstance(part, Block):
            part.register_forward_hook(lambda *given: held.append(given[-1].dtype))
    found = []
    for enable, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        blocks.set_bf16_residual(network, enable)
        held.clear()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found.append(network.encoder(*batch).video.fused)
        assert set(held) == {dtype}
    assert found[1].dtype == torch.float32
    torch.testing.assert_close(found[1], found[0], atol=0.1, rtol=0)


def test_squared_errors_are_those_of_float32_and_their_gradients_of_bfloat16() -> None:
    prediction = torch.randn(3, 4, 5).bfloat16().requires_grad_()
    target, counts = torch.randn(3, 4, 5), torch.tensor([1.0, 0.0, 0.5])
    errors = fused.squared_errors(prediction, target)
    (errors * counts).sum().backward()
    given = prediction.detach().float().requires_grad_()
    wanted = F.mse_loss(given, target, reduction="none").mean(dim=(1, 2))
    (wanted * counts).sum().backward()
    torch.testing.assert_close(errors, wanted)
    assert prediction.grad is not None
    assert given.grad is not None
    torch.testing.assert_close(prediction.grad.float(), given.grad, atol=1e-6, rtol=2**-7)


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


def test_first_weights_are_one_seeds_own_with_every_pytorch() -> None:
    torch.manual_seed(3)
    drawn = blocks.truncated_normal_(torch.empty(4))
    # of torch 2.11's nn.init.trunc_normal_
    wanted = [-0.05260911583900452, -0.025008806958794594, -0.011311434209346771, -0.0385512337]
    assert drawn.tolist() == pytest.approx(wanted, rel=1e-6)


def test_no_first_weight_lies_far_out() -> None:
    torch.manual_seed(1)
    drawn = blocks.truncated_normal_(torch.empty(8_000_000)).abs()
    farthest = drawn.topk(2).values.tolist()
    assert farthest[0] == pytest.approx(0.12)  # its uniform draw was at the end of its range
    assert farthest[1] == pytest.approx(0.10333, rel=1e-4)
    assert drawn.square().mean().sqrt().item() == pytest.approx(0.02, rel=1e-3)


def test_first_weights_are_drawn_without_looking_at_them() -> None:
    with FakeTensorMode():
        network = nn.Linear(3, 2)
        blocks.truncated_normal_linears(network)
    assert isinstance(network.weight.data, FakeTensor)
