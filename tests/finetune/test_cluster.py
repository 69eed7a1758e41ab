"""Fine-tuning as one of several tasks of a SLURM job: each is a run of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from hicmae.checkpoints.checkpoint import load_checkpoint
from hicmae.settings import ModelConfig
from tests.support.finetune_fixtures import train_tiny
from tests.support.pretrain_shards import rows_of

# What srun gives to the second of two tasks on one node.
TASK = {
    "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "sweep", "SLURM_JOB_NUM_NODES": "1",
    "SLURM_NNODES": "1", "SLURM_NODELIST": "127.0.0.1", "SLURM_NODEID": "0", "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"SLURM_NTASKS_PER_NODE": "2"}], ids=["-n2", "per node"])
def test_a_task_of_a_sweep_keeps_all_that_a_run_writes(
    more: dict[str, str],
    shards: Path,
    tiny_model_config: ModelConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (TASK | more).items():
        monkeypatch.setenv(name, value)
    # Lightning reads the number of the task when it is imported.
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    run = train_tiny(tmp_path, shards, tiny_model_config, folds="1", epochs=1)
    rows = rows_of(run / "fold-1")
    assert any(row["loss_epoch"] for row in rows), "its curve"
    assert load_checkpoint(run / "fold-1").tensors
