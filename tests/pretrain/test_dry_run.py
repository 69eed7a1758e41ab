"""The plan that --dry_run prints: its numbers, its checks, and that nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hicmae.settings import ModelConfig
from pretrain.settings import HardwareConfig, LogConfig
from tests.support.pretrain_shards import moving_shards, run_pretraining


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moving_shards(tmp_path_factory.mktemp("shards") / "moving")


def test_the_plan_has_counts_tokens_memory_operations_and_hours(
    shards: Path,
    tmp_path: Path,
    tiny_model_config: ModelConfig,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    out = tmp_path / "runs" / "run"
    status = run_pretraining(
        shards,
        out,
        tiny_model_config,
        steps=3600,
        hardware=HardwareConfig(accelerator="cpu", devices=2, strategy="zero2"),
        dry_run=True,
        clips_per_second=4.0,
    )
    assert status == 0
    said = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [], "nothing is written"
    assert "8 clips a step (4 x 1 accumulated x 2 processes), 1 steps an epoch" in said
    assert "steps: 3600 (3600.0 epochs, 28800 clips), warm-up 2" in said
    # 4 cells, 3 of them hidden, in 8 rows; 8 patches, 6 of them hidden.
    assert "video 32, of which 8 are seen; audio 8, of which 2 are seen" in said
    assert "time: 1.0 h at 4 clips a second" in said
    assert "zero2 (chosen)" in said
    assert "zero3_offload" in said
    assert "single" not in said
    assert "checked: 2 shards" in said


def test_without_a_speed_it_says_how_to_get_one(
    shards: Path,
    tmp_path: Path,
    tiny_model_config: ModelConfig,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_pretraining(shards, tmp_path / "run", tiny_model_config, dry_run=True)
    assert "hicmae bench step" in capsys.readouterr().out


def test_every_path_that_will_not_do_is_named_at_once(
    shards: Path, tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    damaged = tmp_path / "shards"
    shutil.copytree(shards, damaged)
    (damaged / "train-000000.tar").unlink()
    with (damaged / "train-000001.tar").open("ab") as file:
        file.write(b"more")
    out = tmp_path / "run"
    out.mkdir()
    (out / "metrics.csv").touch()
    with pytest.raises(ValueError, match="dry run: ") as caught:
        run_pretraining(damaged, out, tiny_model_config, dry_run=True)
    said = str(caught.value)
    assert "\n" not in said
    assert "train-000000.tar: no such shard" in said
    assert "train-000001.tar: has" in said
    assert "holds a run already (metrics.csv)" in said
    assert (out / "metrics.csv").read_text() == ""


def test_too_many_checkpoints_for_the_disk_are_refused(
    shards: Path, tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    log = LogConfig(keep=10_000_000, pictures_every=0, progress=False)
    with pytest.raises(ValueError, match=r"free, checkpoints take up to .* GiB; keep fewer"):
        run_pretraining(shards, tmp_path / "run", tiny_model_config, log=log, dry_run=True)
