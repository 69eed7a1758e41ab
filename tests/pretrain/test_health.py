"""Numbers about the network: spread of features, norms by part, and where they end up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hicmae.checkpoints.checkpoint import load_checkpoint
from hicmae.config import load_yaml
from hicmae.pretraining import HiCMAE
from hicmae.run_logging import WandbConfig
from hicmae.settings import ModelConfig
from pretrain.health import feature_numbers, norm_of, parts_of, spread
from pretrain.plot import read_curves
from pretrain.settings import LogConfig
from tests.support.pretrain_shards import Train
from tests.support.wandb_file import history, run_record, wait_for_end

LOG = LogConfig(log_every=1, health_every=2, pictures_every=0, progress=False)


def feature_std(features: torch.Tensor) -> float:
    return float(spread(features[None], torch.ones(len(features), dtype=torch.bool))[0])


def effective_rank(features: torch.Tensor) -> float:
    return float(spread(features[None], torch.ones(len(features), dtype=torch.bool))[1])


def test_the_effective_rank_counts_directions() -> None:
    rng = np.random.default_rng(0)
    for rank in (1, 3):
        features = rng.normal(size=(64, rank)) @ rng.normal(size=(rank, 32))
        assert 0.7 * rank <= effective_rank(torch.from_numpy(features)) <= rank + 1e-6
    # n points that are orthogonal to one another span n - 1 directions about their mean.
    assert effective_rank(torch.eye(8, dtype=torch.float64)) == pytest.approx(7)
    assert effective_rank(torch.ones(8, 4)) == 0
    constant = torch.ones(8, 4) * 1e3 + 1e-5 * torch.randn(8, 4)
    assert effective_rank(constant) == 0, "rounding is no direction"


@pytest.mark.parametrize("shape", [(6, 96), (160, 96)])
def test_the_spectrum_of_the_scatter_is_that_of_the_singular_values(
    shape: tuple[int, int],
) -> None:
    """With clips that are not there, and a mean that is far greater than what differs."""
    features = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    features = features * torch.logspace(0, -5, shape[1]) + 3
    present = torch.arange(shape[0]) % 3 != 1
    spreads, ranks = spread(features, present)
    for level, rows in enumerate(features[:, present].double().numpy()):
        values = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
        values = values[values > np.finfo(np.float32).eps * np.linalg.norm(rows)]
        shares = values / values.sum()
        assert ranks[level] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-9)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        assert spreads[level] == pytest.approx(unit.std(axis=0).mean() * 96**0.5, rel=1e-9)
    for nothing in (spread(features, present & False), spread(features * torch.nan, present)):
        assert all(bool(values.isnan().all()) for values in nothing)


def test_the_spread_of_features_is_one_at_random_and_nothing_where_they_collapse() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(512, 64, generator=generator)
    assert feature_std(features) == pytest.approx(1, abs=0.02)
    assert feature_std(7 * features) == pytest.approx(feature_std(features))
    assert feature_std(features + 100) < 0.02
    assert feature_std(torch.ones(8, 4)) == 0


def test_a_network_that_maps_all_clips_to_one_point_shows(tiny_model_config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = HiCMAE(tiny_model_config)
    size = tiny_model_config.input
    video = torch.randn(6, 3, size.num_frames, size.image_size, size.image_size)
    fbank = torch.randn(6, size.fbank_frames, size.mel_bins)
    before = feature_numbers(model, video, fbank)
    names = [f"{kind}_{level}" for kind in ("video", "audio") for level in ("layer1", "layer2")]
    assert set(before) == {
        f"feature_{what}_{name}"
        for what in ("std", "rank")
        for name in (*names, "video_fused", "audio_fused")
    }
    assert all(1 < value <= 5 + 1e-6 for name, value in before.items() if "rank" in name)
    state = torch.random.get_rng_state()
    assert feature_numbers(model, video, fbank) == before
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.no_grad():
        model.encoder.video.norm.weight.zero_()
        model.encoder.video.norm.bias.fill_(1)
    after = feature_numbers(model, video, fbank)
    assert after["feature_std_video_layer2"] == after["feature_rank_video_layer2"] == 0
    assert after["feature_rank_audio_layer2"] == before["feature_rank_audio_layer2"]


@pytest.mark.slow
def test_norms_by_part_are_those_of_all_parameters_and_of_what_a_step_changed(
    train: Train, tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    """All checkpoints of the run are kept: the fourth step lies between the last two."""
    log = replace(LOG, checkpoint_every=1, keep=9)
    train(tmp_path / "run", log=log)
    columns = read_curves(tmp_path / "run" / "metrics.csv")
    assert np.isnan(columns["update_norm"]).tolist() == [True, False, True, False]
    model = HiCMAE(tiny_model_config)
    model.load_state_dict(load_checkpoint(tmp_path / "run").tensors)
    expected = torch.nn.utils.get_total_norm(list(model.parameters()))
    assert columns["parameter_norm"][-1] == pytest.approx(float(expected), rel=1e-5)
    for name in ("parameter_norm", "update_norm", "gradient_norm"):
        parts = [columns[f"{name}_{part}"][-1] for part in parts_of(model)]
        assert all(value > 0 for value in parts)
        assert np.linalg.norm(parts) == pytest.approx(columns[name][-1], rel=1e-4), name
    before, after = (
        torch.load(tmp_path / "run" / "checkpoints" / f"step-{step:06d}.ckpt", weights_only=True)
        for step in (3, 4)
    )
    changes = [
        after["state_dict"][name] - value
        for name, value in before["state_dict"].items()
        if name.startswith("model.")
    ]
    assert columns["update_norm"][-1] == pytest.approx(float(norm_of(changes)), rel=1e-5)


@pytest.mark.slow
def test_the_offline_wandb_file_has_the_numbers_of_the_csv_and_the_way_back(
    train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It lies in the run folder and is continued when the run is."""
    out = tmp_path / "run"
    settings: dict[str, Any] = {"wandb": WandbConfig(mode="offline", name="named")}
    settings["log"] = replace(LOG, pictures_every=4)
    train(out, **settings)
    train(out, steps=6, resume=True, **settings)
    assert "wandb:" not in "".join(capfd.readouterr())
    assert list(out.glob("wandb/offline-run-*/files/media/images/reconstruction*.png"))
    files = sorted(out.glob("wandb/offline-run-*/run-*.wandb"))
    for file in files:
        wait_for_end(file)
    written = {int(row["step"]): row for file in files for row in history(file) if "loss" in row}
    # W&B's own step is the run's, pictures included, or one part would take the other's place.
    assert [[int(row["_step"]) for row in history(file)] for file in files] == [
        [1, 2, 3, 4],
        [5, 6],
    ]
    columns = read_curves(out / "metrics.csv")
    assert sorted(written) == columns["step"].astype(int).tolist() == [1, 2, 3, 4, 5, 6]
    named = {"loss", "video", "audio", "contrast", "gradient_norm", "learning_rate"}
    named |= {"contrast_accuracy_layer1", "contrast_accuracy_layer2", "clips_per_second"}
    named |= {"data_wait_share", "peak_memory_bytes", "resident_memory_bytes"}
    measured = {"update_norm", "parameter_norm", "feature_std_video_layer1"}
    measured |= {"feature_rank_audio_layer2", "gradient_norm_fusion", "feature_rank_video_fused"}
    for place, step in enumerate(columns["step"].astype(int)):
        wanted = named | (measured if step % 2 == 0 else set())
        assert wanted <= set(written[step]), wanted - set(written[step])
        for name in wanted:
            assert written[step][name] == pytest.approx(columns[name][place], rel=1e-6), name
    for file in files:
        run, config = run_record(file)
        assert run.run_id == (out / "wandb" / "run-id.txt").read_text().strip()
        assert run.display_name == "named"
        assert str(out.resolve()) in run.notes
        assert config["run_folder"].endswith(f":{out.resolve()}")
        assert config["model"] == load_yaml(out / "config.yaml")["model"]
