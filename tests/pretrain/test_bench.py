"""The bench of a step: what it counts, and what it writes."""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hicmae.bench import MatrixPeak, step_flops
from hicmae.config import load_model_config, to_dict
from hicmae.settings import ModelConfig, ObjectiveConfig
from pretrain.bench import _straight_line, bench_step

QUICK: dict[str, Any] = {
    "batch_size": 2, "steps": 2, "warmup": 1, "precision": "32-true", "device": "cpu"
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("size", "published"), [("tiny", 3.1), ("small", 6.1), ("base", 15.1)])
def test_forward_operations_are_the_published_ones_less_the_hidden_projections(
    size: str, published: float
) -> None:
    """The reference projects all patches; here hidden ones are dropped before."""
    model = load_model_config(size)
    ours = step_flops(model, ObjectiveConfig(), backward=False) / 2e9
    hidden = 720 * model.tubelet_values + 102 * model.patch_values
    assert ours + hidden * model.encoder_dim / 1e9 == pytest.approx(published, abs=0.1)


@pytest.mark.slow
def test_backward_costs_about_twice_as_much_as_forward(tiny_model_config: ModelConfig) -> None:
    forward = step_flops(tiny_model_config, ObjectiveConfig(), backward=False)
    both = step_flops(tiny_model_config, ObjectiveConfig())
    assert 2.8 < both / forward < 3.1
    less = step_flops(tiny_model_config, ObjectiveConfig(skip_connections=False), backward=False)
    assert less < forward


@pytest.mark.slow
def test_the_figures_agree_with_one_another_and_are_written(
    tiny_model_config: ModelConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "step.json"
    threads = torch.get_num_threads()
    model = to_dict(replace(tiny_model_config, mlp_ratio=2.0))
    found = bench_step(model=model, json=file, **QUICK)
    assert torch.get_num_threads() == threads
    assert json.loads(file.read_text()) == found
    assert [path.name for path in file.parent.iterdir()] == ["step.json"]
    assert found["clips_per_second"] == pytest.approx(2 / found["step_seconds"])
    speed = found["flops_per_clip"] * found["clips_per_second"]
    assert found["fraction_of_peak"] == pytest.approx(speed / found["matmul_peak_flops"])
    assert found["peak_memory_bytes"] > 2**20
    parts = found["seconds"]
    assert set(parts) == {
        "transforms", "forward", "backward", "optimizer", "step", "of forward: targets"
    }  # fmt: skip
    assert all(seconds > 0 for seconds in parts.values())
    said = capsys.readouterr().out
    assert "clips/s" in said
    assert "backward" in said


@pytest.mark.slow
def test_the_line_through_the_times_is_the_one_they_lie_on(
    shallow_model_config: ModelConfig,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also of a network that is compiled, here without PyTorch's compiler of C++."""
    found = _straight_line({4: 0.9, 1: 0.3, 2: 0.5})
    assert found["seconds_per_clip"] == pytest.approx(0.2)
    assert found["fixed_seconds"] == pytest.approx(0.1)
    assert found["r_squared"] == pytest.approx(1)
    assert list(found["step_seconds"]) == ["1", "2", "4"]
    assert _straight_line({1: 1, 2: 4, 3: 9, 4: 16})["r_squared"] < 0.98
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    model = to_dict(shallow_model_config)
    figures = bench_step(model=model, batch_sizes=(2, 4), compile=True, **QUICK)
    assert set(figures["scaling"]["step_seconds"]) == {"2", "4"}
    assert "time over clips: 2 clips" in capsys.readouterr().out


CHECKOUT = """
import torch
from timm.models.layers import trunc_normal_
from timm.models.registry import register_model

class Network(torch.nn.Module):
    def __init__(self, decoder_depth):
        super().__init__()
        self.row = torch.nn.Parameter(trunc_normal_(torch.empty(1536)))
        assert decoder_depth == {depth}

    def forward(self, video, hidden, fbank, hidden_audio):
        clips, layers = len(video), 2
        logits = [self.row[:clips].outer(self.row[-clips:])] * layers
        seen = self.row.expand(clips, int(hidden.sum()) // clips, -1)
        heard = self.row[:256].expand(clips, int(hidden_audio.sum()) // clips, -1)
        assert fbank.ndim == 4
        return seen, heard, logits, logits

@register_model
def pretrain_hicmae_dim{width}_patch16_{side}_a256(pretrained=False, decoder_depth=0, **rest):
    return Network(decoder_depth)
"""


@pytest.mark.slow
def test_the_step_of_a_checkout_is_timed_turn_about_with_ours(
    tiny_model_config: ModelConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = tiny_model_config
    text = CHECKOUT.replace("{depth}", str(size.decoder_depth))
    text = text.replace("{width}", str(size.encoder_dim))
    (tmp_path / "modeling_pretrain_av.py").write_text(
        text.replace("{side}", str(size.input.image_size))
    )
    found = bench_step(model=to_dict(size), against=tmp_path, **QUICK)["against"]
    assert len(found["seconds"]["theirs"]) == len(found["seconds"]["ours"]) == 2
    turns = zip(found["seconds"]["theirs"], found["seconds"]["ours"], strict=True)
    assert found["ratio"] == pytest.approx(sum(theirs / ours for theirs, ours in turns) / 2)
    assert "the authors' network turn about with ours" in capsys.readouterr().out
    assert "modeling_pretrain_av" not in sys.modules
    (tmp_path / "modeling_pretrain_av.py").write_text("")
    with pytest.raises(ValueError, match="has no pretrain_hicmae_dim"):
        bench_step(model=to_dict(size), against=tmp_path, **QUICK)


def test_the_peak_is_the_median_of_what_was_measured() -> None:
    peak = MatrixPeak("32-true", torch.device("cpu"))
    for _ in range(3):
        peak.measure()
    assert 0 < peak.flops <= peak.best_flops
    peak._seconds = [1.0, 2.0, 4.0]
    assert peak.flops == 2048**3
    assert peak.best_flops == 2 * 2048**3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0"),
        ({"batch_sizes": (4, 0)}, r"batch_sizes = \[4, 0\]"),
        ({"device": "tpu"}, "device = tpu"),
        ({"precision": "16-mixed"}, r"precision = 16-mixed \(bench step knows"),
        ({"model": "huge"}, "no such size"),
        ({"processes": 1}, "processes = 1"),
        ({"engines": "single,zero4"}, "no such engine"),
        ({"against": Path("nowhere")}, "no modeling_pretrain_av.py there"),
    ],
)
def test_a_bench_that_cannot_run_says_why(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bench_step(**changes)


@pytest.mark.slow
def test_engines_are_measured_in_processes_of_their_own(
    tiny_model_config: ModelConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    found = bench_step(model=to_dict(tiny_model_config), engines="zero1", **QUICK)["engines"]
    assert found["zero1"].keys() == {"processes", "step_seconds", "peak_memory_bytes"}
    assert found["zero1"]["processes"] == 2
    assert min(found["zero1"].values()) > 0
    assert "│ zero1" in capsys.readouterr().out
