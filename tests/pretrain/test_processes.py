"""Pretraining as the processes that users start: the command line, Ctrl-C, two ranks."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hicmae.checkpoint import load_checkpoint
from hicmae.config import save_yaml
from hicmae.settings import ModelConfig
from tests.support.pretrain_shards import moving_shards

pytestmark = pytest.mark.slow


@pytest.fixture
def command(tmp_path: Path, tiny_model_config: ModelConfig) -> list[str]:
    """``hicmae pretrain`` on 16 clips with a network of nothing."""
    shards = moving_shards(tmp_path / "shards", 16)
    save_yaml(tmp_path / "tiny.yaml", tiny_model_config)
    words = [sys.executable, "-m", "hicmae", "pretrain", "--data.shards", str(shards)]
    words += ["--model", str(tmp_path / "tiny.yaml"), "--data.batch_size", "4"]
    words += ["--optimizer.warmup_steps", "2", "--wandb.mode", "disabled"]
    return [*words, "--log.log_every", "2", "--hardware.accelerator", "cpu"]


@pytest.fixture
def environment(repository: Path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def endless(
    command: list[str], environment: dict[str, str], tmp_path: Path
) -> Iterator[subprocess.Popen[str]]:
    """A run with readers of its own, in a process group as a terminal makes one."""
    words = [*command, "--out", str(tmp_path / "run"), "--steps", "1000000", "--data.workers", "2"]
    process = subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_run_saves_it(
    number: signal.Signals, endless: subprocess.Popen[str], tmp_path: Path
) -> None:
    metrics = tmp_path / "run" / "metrics.csv"
    for _ in range(1200):
        if metrics.exists() or endless.poll() is not None:
            break
        time.sleep(0.1)
    os.killpg(endless.pid, number)
    output, _ = endless.communicate(timeout=120)
    assert endless.returncode == 128 + number, output
    assert f"stopped by {number.name} after step" in output.splitlines()[-1]
    step = load_checkpoint(tmp_path / "run").config["step"]
    assert (tmp_path / "run" / "checkpoints" / f"step-{step:06d}.ckpt").is_file()
    assert rows_of(tmp_path / "run")[-1]["step"] == str(step)


def test_two_processes_train_one_network_on_their_own_clips(
    command: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    """With negatives of both processes, and pictures, whose forward pass gathers them too."""
    words = [*command, "--out", str(tmp_path / "run"), "--steps", "4", "--data.workers", "0"]
    words += ["--hardware.devices", "2", "--hardware.strategy", "ddp"]
    words += ["--objective.negatives", "global", "--log.pictures_every", "4"]
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pretrained 4 steps") == 1, "only the first process speaks"
    rows = rows_of(tmp_path / "run")
    assert [row["clips"] for row in rows] == ["16", "32"]
    assert [row["epoch"] for row in rows] == ["1", "2"]
    # The logarithm of 8 candidates, twice (layers): untrained features cannot do much better.
    assert float(rows[0]["contrast"]) > 2 * 1.9
    assert load_checkpoint(tmp_path / "run").config["step"] == 4
    assert (tmp_path / "run" / "figures" / "reconstruction-000004.png").is_file()


def test_bad_input_is_one_line_and_exit_status_2(
    command: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    for extra, words in (
        (["--data.shards", str(tmp_path / "nowhere")], "nowhere"),
        (["--optimizer.lerning_rate", "1"], "did you mean '--optimizer.learning_rate'"),
        (["--steps", "few"], "steps"),
    ):
        done = subprocess.run(
            [*command, "--out", str(tmp_path / "run"), *extra],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
