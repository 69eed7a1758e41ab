"""DeepSpeed's ZeRO between two CPU processes, against one process on the same clips."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from hicmae.checkpoint import load_checkpoint
from hicmae.config import save_yaml
from hicmae.masks import Masks
from hicmae.settings import InputConfig, ModelConfig, ObjectiveConfig
from hicmae.transforms import AugmentConfig
from pretrain.module import PretrainModule, step_seed
from pretrain.settings import OptimizerConfig
from shards.streaming import StreamConfig, clip_stream
from tests.support.pretrain_shards import moving_shards

pytestmark = pytest.mark.slow

OPTIMIZER = OptimizerConfig(learning_rate=0.1, warmup_steps=2, clip_norm=0.5)
STEPS = 4


class Cluster:
    """Two CPU processes, or one, on the same clips."""

    def __init__(self, folder: Path, repository: Path, sizes: ModelConfig) -> None:
        self.folder = folder
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
        self.shards = moving_shards(folder / "shards", 16)
        save_yaml(folder / "tiny.yaml", sizes)
        # All of the tiny network is shared out; by default a device keeps small weights whole.
        (folder / "zero3.yaml").write_text(
            "kind: deepspeed\nstage: 3\npersistent_elements: 0\ngathered_elements: 4000\n"
        )

    def run(self, name: str, engine: str, *more: str) -> str:
        if (self.folder / f"{engine}.yaml").is_file():
            engine = str(self.folder / f"{engine}.yaml")
        devices = "1" if engine == "single" else "2"
        words = [sys.executable, "-m", "hicmae", "pretrain", "--out", str(self.folder / name)]
        words += ["--data.shards", str(self.shards), "--model", str(self.folder / "tiny.yaml")]
        words += ["--data.batch_size", "4", "--data.workers", "0", "--data.shuffle_buffer", "8"]
        words += ["--optimizer.learning_rate", "0.1", "--optimizer.warmup_steps", "2"]
        words += ["--optimizer.clip_norm", "0.5", "--steps", str(STEPS)]
        words += ["--log.log_every", "1", "--log.pictures_every", "0", "--wandb.mode", "disabled"]
        words += ["--hardware.accelerator", "cpu", "--hardware.devices", devices]
        words += ["--hardware.strategy", engine, "--precision", "32-true", *more]
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def losses(self, name: str) -> list[float]:
        with (self.folder / name / "metrics.csv").open(newline="") as file:
            return [float(row["loss"]) for row in csv.DictReader(file)]

    def agree(self, name: str, losses: Sequence[float], weights: dict[str, Any]) -> None:
        assert self.losses(name) == pytest.approx(losses, rel=1e-5)
        found = load_checkpoint(self.folder / name).tensors
        assert found.keys() == weights.keys()
        for key, value in found.items():
            torch.testing.assert_close(value, weights[key], rtol=1e-3, atol=2e-5, msg=key)


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, repository: Path, tiny_model_config: ModelConfig
) -> Cluster:
    """With the run to compare with: one process that averages over the batches of two."""
    found = Cluster(tmp_path_factory.mktemp("zero"), repository, tiny_model_config)
    found.run("one", "single", "--accumulate", "2")
    return found


@pytest.mark.parametrize("engine", ["zero1", "zero2", "zero3"])
def test_two_processes_train_as_one_does_and_their_checkpoint_goes_on_anywhere(
    engine: str, cluster: Cluster
) -> None:
    """Local negatives: the mean over the batches of processes, computed in one."""
    weights = load_checkpoint(cluster.folder / "one").tensors
    losses = cluster.losses("one")
    cluster.run(engine, engine, "--log.checkpoint_every", "2", "--log.keep", "9")
    cluster.agree(engine, losses, weights)

    checkpoints = cluster.folder / engine / "checkpoints"
    for end in ("ckpt", "json"):
        (checkpoints / f"step-{STEPS:06d}.{end}").unlink()
    shards = checkpoints / "step-000002.shards" / "checkpoint"
    assert len(list(shards.glob("zero_pp_rank_*_optim_states.pt"))) == 2
    shutil.copytree(cluster.folder / engine, cluster.folder / f"{engine}-alone")
    said = cluster.run(engine, engine, "--resume")  # from the shards
    assert "from step 2" in said
    cluster.agree(engine, losses, weights)
    said = cluster.run(f"{engine}-alone", "single", "--resume")  # from the whole
    assert "accumulate = 2 instead of 1" in said
    cluster.agree(f"{engine}-alone", losses, weights)


@pytest.mark.parametrize("engine", ["zero2_offload", "zero3_offload"])
def test_offloading_changes_where_things_are_and_not_what_they_are(
    engine: str, cluster: Cluster
) -> None:
    """On CPUs the place is the same memory; the path through DeepSpeed is the other one."""
    cluster.run(engine, engine)
    weights = load_checkpoint(cluster.folder / "one").tensors
    cluster.agree(engine, cluster.losses("one"), weights)


@pytest.mark.parametrize("engine", ["zero1", "zero3"])
def test_a_run_of_one_process_goes_on_in_two(engine: str, cluster: Cluster) -> None:
    name = f"one-then-{engine}"
    cluster.run(
        name, "single", "--accumulate", "2", "--log.checkpoint_every", "2", "--log.keep", "9"
    )
    (cluster.folder / name / "checkpoints" / f"step-{STEPS:06d}.ckpt").unlink()
    said = cluster.run(name, engine, "--resume", "--accumulate", "2")
    assert "accumulate = 1 instead of 2" in said
    one = load_checkpoint(cluster.folder / "one").tensors
    cluster.agree(name, cluster.losses("one"), one)


def test_global_negatives_are_those_of_one_large_batch(
    cluster: Cluster, tiny_model_config: ModelConfig
) -> None:
    losses, weights = train_on_large_batches(cluster.shards, tiny_model_config)
    cluster.run("global", "zero1", "--objective.negatives", "global")
    cluster.agree("global", losses, weights)


def train_on_large_batches(
    shards: Path, sizes: ModelConfig
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """A plain loop in this process over the clips, crops and masks of both processes at once."""
    module = PretrainModule(
        model=sizes,
        objective=ObjectiveConfig(negatives="global"),
        augment=AugmentConfig.pretraining(),
        optimizer=OPTIMIZER,
        num_steps=STEPS,
        warmup_steps=2,
        global_batch=8,
        seed=0,
    )
    parts = [iter(parts_of(shards, sizes.input, rank)) for rank in (0, 1)]
    decayed = [p for p in module.model.parameters() if p.ndim > 1]
    others = [p for p in module.model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, fused=True)
    losses = []
    for step in range(STEPS):
        videos, fbanks, masks = [], [], []
        for rank in (0, 1):
            torch.manual_seed(step_seed(0, 2 * step + rank))
            video, fbank = module.transform(next(parts[rank]))
            masks.append(module.model._masks(video, None, None))
            videos.append(video)
            fbanks.append(fbank)
        output = module.model(
            torch.cat(videos),
            torch.cat(fbanks),
            video_mask=torch.cat([hidden(one) for one, _ in masks]),
            fbank_mask=torch.cat([hidden(two) for _, two in masks]),
        )
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(module.model.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = module.peak_learning_rate * module.rate_factor(step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(output.loss.detach()))
    return losses, dict(module.model.state_dict())


def parts_of(shards: Path, input: InputConfig, rank: int) -> Any:
    """The clips of one of two processes."""
    config = StreamConfig(batch_size=4, shuffle_buffer=8, on_bad="raise")
    return clip_stream(shards, input, config, seed=0, rank=rank, world_size=2)


def hidden(masks: Masks) -> torch.Tensor:
    """A boolean mask (B, N), True = hidden."""
    batch, kept = masks.keep.shape
    mask = torch.zeros(batch, kept + masks.masked.shape[1], dtype=torch.bool)
    return mask.scatter(1, masks.masked, True)
