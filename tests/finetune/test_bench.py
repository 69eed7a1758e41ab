"""The benches of fine-tuning and testing: what they count, and what they write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.bench import Setting, bench_evaluate, bench_finetune
from hicmae.bench import emotion_flops
from hicmae.config import load_model_config, save_yaml
from hicmae.emotion import EmotionConfig, EmotionModel
from hicmae.settings import ModelConfig
from tests.support.pretrain_shards import moving_shards


@pytest.fixture
def model(tmp_path: Path, tiny_model_config: ModelConfig) -> str:
    save_yaml(tmp_path / "tiny.yaml", tiny_model_config)
    return str(tmp_path / "tiny.yaml")


@pytest.mark.slow
def test_a_clip_costs_what_linear_maps_and_attention_multiply_by_hand() -> None:
    sizes, emotion = load_model_config("base"), EmotionConfig(num_outputs=6)
    found = emotion_flops(sizes, emotion, backward=False)
    by_hand = 0.0
    for tokens, other, values in (
        (sizes.num_video_tokens, sizes.num_audio_tokens, sizes.tubelet_values),
        (sizes.num_audio_tokens, sizes.num_video_tokens, sizes.patch_values),
    ):
        dim = sizes.encoder_dim
        block = tokens * dim * dim * (4 + 2 * sizes.mlp_ratio) + 2 * tokens * tokens * dim
        cross = 2 * tokens * dim * dim + 2 * other * dim * dim + 2 * tokens * other * dim
        by_hand += tokens * values * dim + sizes.encoder_depth * block
        by_hand += sizes.fusion_depth * (block + cross)
    assert found / 2 == pytest.approx(by_hand, rel=0.001)
    assert 2.8 < emotion_flops(sizes, emotion) / found < 3.1


@pytest.mark.slow
def test_the_figures_of_a_step_agree_and_are_written(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "finetune.json"
    found = bench_finetune(
        model=model,
        num_outputs=3,
        batch_size=3,
        steps=2,
        warmup=0,
        precision="32-true",
        device="cpu",
        json=file,
    )
    assert json.loads(file.read_text()) == found
    assert found["clips_per_second"] == pytest.approx(3 / found["step_seconds"])
    speed = found["flops_per_clip"] * found["clips_per_second"]
    assert found["fraction_of_peak"] == pytest.approx(speed / found["matmul_peak_flops"])
    assert found["peak_memory_bytes"] > 2**20
    assert set(found["seconds"]) == {"transforms", "forward", "backward", "optimizer", "step"}
    said = capsys.readouterr().out
    assert "Fine-tuning step" in said
    assert "clips/s" in said


@pytest.mark.slow
def test_a_test_reads_every_view_and_knows_what_it_waited_for(
    model: str,
    tiny_model_config: ModelConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[tuple[int, bool]] = []
    forward = EmotionModel.forward

    def counted(self: EmotionModel, video: Any, fbank: Any) -> torch.Tensor:
        seen.append((len(video), fbank is not None))
        assert not torch.is_grad_enabled()
        assert not self.training
        return forward(self, video, fbank)

    monkeypatch.setattr(EmotionModel, "forward", counted)

    def flops(*_: Any, seen: bool = True, heard: bool = True, **__: Any) -> float:
        return 1e9 * (seen + heard)

    monkeypatch.setattr("hicmae.bench.emotion_flops", flops)
    found = bench_evaluate(
        model=model,
        shards=moving_shards(tmp_path / "shards", 5, silent=(4,)),
        num_segments=2,
        batch_size=4,
        workers=0,
        precision="32-true",
        device="cpu",
    )
    views = [(4, True), (4, True), (4, True), (2, False)]
    assert seen == views, "one batch of noise, then ten views, as a test shows them"
    assert found["samples"] == 5
    assert 0 < found["data_wait_share"] < 1
    parts = found["seconds"]
    assert set(parts) == {"wait", "transforms", "network"}
    # Six views after the first batch; what is not in a part is next to nothing, but is there.
    assert sum(parts.values()) < 6 / found["clips_per_second"]
    assert found["loader_clips_per_second"] > found["clips_per_second"]
    assert found["flops_per_clip"] == pytest.approx(1e9 * 10 / 6)
    speed = found["flops_per_clip"] * found["clips_per_second"] / found["matmul_peak_flops"]
    assert found["fraction_of_peak"] == pytest.approx(speed)
    assert "bound by" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0"),
        ({"device": "tpu"}, "device = tpu"),
        ({"precision": "16-mixed"}, "precision = 16-mixed"),
        ({"model": "huge"}, "no such size"),
    ],
)
@pytest.mark.parametrize("command", [bench_finetune, bench_evaluate])
def test_a_bench_that_cannot_run_says_why(
    command: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        command(**changes)


def test_too_few_views_for_two_batches_are_refused(model: str, tmp_path: Path) -> None:
    shards = moving_shards(tmp_path / "shards", 2)
    with pytest.raises(ValueError, match="make one batch of 4"):
        bench_evaluate(model=model, shards=shards, batch_size=4, precision="32-true")


def test_the_network_of_a_bench_is_in_the_asked_for_place(model: str) -> None:
    setting = Setting(model, 2, "32-true", "cpu")
    assert setting.device.type == "cpu"
    assert setting.precision == "32-true"
