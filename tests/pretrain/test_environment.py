"""Variables of launchers in every combination: one run that all agree on, or one line."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import numpy as np
import pytest

from pretrain.cluster import lone_task
from pretrain.processes import check_port, find_processes
from pretrain.settings import HardwareConfig

SRUN = {
    "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_JOB_NUM_NODES": "2", "SLURM_RESTART_COUNT": "0",
}  # fmt: skip
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "x", "RANK": "1", "LOCAL_RANK": "1", "GROUP_RANK": "0",
    "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500", "TORCHELASTIC_MAX_RESTARTS": "0",
}  # fmt: skip
BY_HAND = {"NODE_RANK": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "n1", "MASTER_PORT": "29500"}
ODD = ["", " ", "-1", "1.5", "a", "n1", "4294967294", "99999", "2(x", "(x3)", "1,2", "0"]


def environments() -> Iterator[dict[str, str]]:
    """All subsets of what each launcher sets, then all of it with one or two odd values."""
    for whole in (SRUN, TORCHRUN, BY_HAND):
        for kept in itertools.product((False, True), repeat=len(whole)):
            yield {name: whole[name] for name, keep in zip(whole, kept, strict=True) if keep}
    for whole in (SRUN, TORCHRUN, BY_HAND, SRUN | TORCHRUN):
        for name, value in itertools.product(whole, ODD):
            yield whole | {name: value}
        rng = np.random.default_rng(0)
        for _ in range(300):
            yield whole | {str(name): str(rng.choice(ODD)) for name in rng.choice(list(whole), 2)}


def test_every_environment_is_a_run_or_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {*SRUN, *TORCHRUN, *BY_HAND}
    counts = {"runs": 0, "lines": 0}
    monkeypatch.setattr("socket.create_server", lambda address: open("/dev/null"))  # noqa: PTH123, SIM115
    for environ in environments():
        for name in names:
            monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        try:
            found = find_processes(HardwareConfig(), "cpu")
            check_port(found)
            lone_task(environ, 1)
        except ValueError as error:
            counts["lines"] += 1
            said = str(error)
            assert "\n" not in said, environ
            assert re.match(r"environment: |SLURM step |torchrun: |slurm: ", said), (environ, said)
        else:
            counts["runs"] += 1
            assert 0 <= found.rank < found.world_size, environ
            assert found.world_size == found.devices * found.num_nodes
            # Nobody else's rank is forgotten: N processes are not N runs in one folder.
            if environ.get("RANK", "0") != "0" and "WORLD_SIZE" in environ:
                assert found.world_size > 1, environ
    assert counts["runs"] > 1000
    assert counts["lines"] > 100
