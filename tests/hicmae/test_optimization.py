"""The warm-up cosine schedule, and the groups of parameters."""

import math

import pytest
import torch
from torch import nn

from hicmae.emotion import EmotionConfig, EmotionModel
from hicmae.optimization import parameter_groups, trainer_precision, warmup_cosine
from hicmae.settings import ModelConfig


def test_warm_up_is_a_line_whose_last_step_is_at_the_base_value() -> None:
    values = [warmup_cosine(step, final=0.0, num_steps=20, warmup_steps=5) for step in range(6)]
    assert values == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0, 1.0])


def test_cosine_falls_from_one_through_the_middle_to_final() -> None:
    def at(step: int) -> float:
        return warmup_cosine(step, final=0.2, num_steps=12, warmup_steps=2)

    assert at(2) == 1.0
    assert at(7) == pytest.approx(0.6)
    assert at(11) == pytest.approx(0.6 + 0.4 * math.cos(0.9 * math.pi))
    assert at(12) == at(1000) == 0.2
    falling = [at(step) for step in range(2, 13)]
    assert falling == sorted(falling, reverse=True)


def test_a_run_may_have_no_warm_up_or_nothing_else() -> None:
    assert warmup_cosine(0, final=0.0, num_steps=4, warmup_steps=0) == 1.0
    assert warmup_cosine(3, final=0.0, num_steps=4, warmup_steps=4) == 1.0
    assert warmup_cosine(0, final=0.0, num_steps=4, warmup_steps=1) == 0.0


@pytest.mark.parametrize(
    ("step", "num_steps", "warmup_steps"), [(-1, 10, 2), (0, 0, 0), (0, 4, 5), (0, 4, -1)]
)
def test_impossible_numbers_of_steps_are_refused(
    step: int, num_steps: int, warmup_steps: int
) -> None:
    with pytest.raises(ValueError, match=f"num_steps = {num_steps}"):
        warmup_cosine(step, final=0.0, num_steps=num_steps, warmup_steps=warmup_steps)


def test_parameter_groups_leave_out_what_is_frozen(tiny_model_config: ModelConfig) -> None:
    network = EmotionModel(tiny_model_config, EmotionConfig(num_outputs=3, modalities="audio"))
    groups = parameter_groups(network, learning_rate=1.0, weight_decay=0.1, layer_decay=0.5)
    names = {name for group in groups for name in group["names"]}
    assert names == {name for name, p in network.named_parameters() if p.requires_grad}
    assert not any(name.startswith("encoder.video.") for name in names)
    scale = {name: group["lr_scale"] for group in groups for name in group["names"]}
    # layers: projections 0, encoder 1 and 2, fusion 3, everything else 4
    assert scale["encoder.audio.project.weight"] == 0.5**4
    assert scale["encoder.audio.blocks.1.norm1.weight"] == 0.5**2
    assert scale["encoder.fusion.audio.0.mlp.fc1.weight"] == 0.5
    assert scale["head.weight"] == scale["encoder.audio.norm.weight"] == 1
    decay = {name: group["weight_decay"] for group in groups for name in group["names"]}
    dimensions = {name: parameter.ndim for name, parameter in network.named_parameters()}
    assert decay == {name: 0.1 * (dimensions[name] > 1) for name in names}
    own = dict(network.named_parameters())
    assert all(a is own[n] for g in groups for a, n in zip(g["params"], g["names"], strict=True))
    both = EmotionModel(tiny_model_config, EmotionConfig(num_outputs=3))
    groups = parameter_groups(both, learning_rate=0.3, weight_decay=0.1, layer_decay=0.5)
    scale = {name: group["lr_scale"] for group in groups for name in group["names"]}
    assert all(scale[name] == scale[name.replace("video", "audio")] for name in scale)
    assert all(group["lr"] == 0.3 * group["lr_scale"] for group in groups)
    even = parameter_groups(network, learning_rate=0.3, weight_decay=0.1)
    assert {(group["lr"], group["lr_scale"]) for group in even} == {(0.3, 1.0)}


def test_number_formats_are_what_their_names_say() -> None:
    """Of Lightning, fp16 on a CPU is bf16 without scaling, and bf16 casts all that is beside."""
    cpu = torch.device("cpu")
    assert trainer_precision("32-true", cpu) == ("32-true", [])
    assert trainer_precision("16-mixed", torch.device("cuda")) == ("16-mixed", [])
    _, (mixed,) = trainer_precision("16-mixed", cpu)
    assert mixed.scaler.is_enabled()
    _, (whole,) = trainer_precision("bf16-true", cpu)
    module = nn.ModuleDict({"model": nn.Linear(2, 2), "beside": nn.Linear(2, 2)})
    whole.convert_module(module)
    assert module["model"].weight.dtype == torch.bfloat16
    assert module["beside"].weight.dtype == torch.float32
    batch = {"waveform": torch.zeros(2)}
    assert whole.convert_input(batch) is batch
    with whole.forward_context():
        assert torch.zeros(2).dtype == torch.float32
