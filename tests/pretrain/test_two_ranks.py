"""Two processes of which one has a bad step: both leave it out, and both stop together."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hicmae.checkpoint import load_checkpoint
from hicmae.config import save_yaml
from hicmae.settings import ModelConfig
from tests.support.pretrain_shards import moving_shards

pytestmark = pytest.mark.slow


class Poisoned:
    """Starts runs of two processes, the second of which has clips that are no numbers."""

    def __init__(self, folder: Path, repository: Path, sizes: ModelConfig) -> None:
        self.folder = folder
        self.script = repository / "tests" / "support" / "pretrain_poisoned.py"
        self.path = repository
        self.shards = moving_shards(folder / "shards", 16)
        save_yaml(folder / "tiny.yaml", sizes)

    def run(self, name: str, engine: str, poison: str, *more: str) -> subprocess.CompletedProcess:
        words = [sys.executable, str(self.script), "pretrain", "--data.shards", str(self.shards)]
        words += ["--out", str(self.folder / name), "--model", str(self.folder / "tiny.yaml")]
        words += ["--data.batch_size", "4", "--data.workers", "0", "--steps", "6"]
        words += ["--optimizer.warmup_steps", "2", "--precision", "32-true"]
        words += ["--log.log_every", "1", "--log.pictures_every", "0", "--wandb.mode", "disabled"]
        words += ["--hardware.accelerator", "cpu", "--hardware.devices", "2"]
        words += ["--hardware.strategy", engine, "--hardware.timeout_seconds", "120", *more]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.path)}
        return subprocess.run(
            words,
            env={**environment, "POISON": poison},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture(scope="module")
def poisoned(
    tmp_path_factory: pytest.TempPathFactory, repository: Path, tiny_model_config: ModelConfig
) -> Poisoned:
    return Poisoned(tmp_path_factory.mktemp("poisoned"), repository, tiny_model_config)


@pytest.mark.parametrize("engine", ["ddp", "zero1"])
def test_a_bad_step_of_one_process_is_left_out_by_both_until_both_stop(
    engine: str, poisoned: Poisoned
) -> None:
    """Steps 2 and 4 are bad on the second process; one is allowed."""
    done = poisoned.run(engine, engine, "1:2,4", "--max_skipped_steps", "1")
    assert done.returncode == 2, done.stderr
    out = poisoned.folder / engine
    # One line on the screen, from the first process, and the samples of both in the run folder.
    told = [line for line in done.stderr.splitlines() if "hicmae pretrain: error" in line]
    assert told
    assert "step 4: " in told[0]
    assert "max_skipped_steps = 1 allows; saved" in told[0]
    reports = {
        (step, process): json.loads(
            (out / f"nonfinite-step-{step:06d}-process-{process}.json").read_text()
        )
        for step in (2, 4)
        for process in (0, 1)
    }
    assert len(list(out.glob("nonfinite-*"))) == 4
    for step in (2, 4):
        good, bad = reports[step, 0], reports[step, 1]
        assert good["keys_of_broken_inputs"] == []
        assert bad["keys_of_broken_inputs"] == [bad["keys"][0]]
        assert len(good["keys"]) == len(bad["keys"]) == 4
        assert not set(good["keys"]) & set(bad["keys"]), "each process had clips of its own"
    with (out / "metrics.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3", "4"]
    saved = load_checkpoint(out)
    assert saved.config["step"] == 4
    assert all(torch.isfinite(tensor).all() for tensor in saved.tensors.values())
    whole = torch.load(out / "checkpoints" / "step-000004.ckpt", weights_only=True)
    steps = {int(state["step"]) for state in whole["optimizer_states"][0]["state"].values()}
    assert steps == {2}, "AdamW has taken two of four steps"


def test_a_run_goes_on_behind_a_bad_step(poisoned: Poisoned) -> None:
    """The one that speaks says where the samples of the one that saw it are named."""
    done = poisoned.run("on", "zero2", "1:2", "--max_skipped_steps", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 2: not finite") == 1
    assert "process-0.json and, of the other processes, beside it" in done.stdout
    saved = load_checkpoint(poisoned.folder / "on")
    assert saved.config["step"] == 6
    assert all(torch.isfinite(tensor).all() for tensor in saved.tensors.values())
