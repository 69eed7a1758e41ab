"""Runs that are killed: what they lose (nothing but time), and what the others do."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from hicmae.checkpoint import load_checkpoint
from hicmae.config import save_yaml
from hicmae.settings import ModelConfig
from tests.support.pretrain_shards import moving_shards

pytestmark = pytest.mark.slow

STEPS = 30
# Of a lost process; the other one's start, on a machine with much to do, must fit too.
TIMEOUT_SECONDS = 60
NAMES = ("loss", "gradient_norm", "learning_rate", "clips", "epoch")


class Runs:
    """Starts runs of one recipe as users do, each in a process group of its own."""

    def __init__(self, folder: Path, words: list[str], environment: dict[str, str]) -> None:
        self.folder = folder
        self.words = words
        self.environment = environment
        self.started: list[subprocess.Popen[str]] = []

    def start(self, name: str, *more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*self.words, "--out", str(self.folder / name), *more],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def finish(self, name: str, *more: str) -> str:
        process = self.start(name, *more)
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        return output

    def rows(self, name: str) -> list[dict[str, str]]:
        with (self.folder / name / "metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, repository: Path, tiny_model_config: ModelConfig
) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("killed")
    shards = moving_shards(folder / "shards", 12)
    save_yaml(folder / "tiny.yaml", tiny_model_config)
    words = [sys.executable, "-m", "hicmae", "pretrain", "--data.shards", str(shards)]
    words += ["--model", str(folder / "tiny.yaml"), "--data.batch_size", "4"]
    words += ["--data.shuffle_buffer", "8", "--steps", str(STEPS), "--precision", "32-true"]
    words += ["--optimizer.warmup_steps", "2", "--optimizer.learning_rate", "0.1"]
    words += ["--log.log_every", "1", "--log.checkpoint_every", "5", "--log.pictures_every", "0"]
    words += ["--wandb.mode", "disabled", "--hardware.accelerator", "cpu"]
    found = Runs(
        folder, words, {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
    )
    yield found
    for process in found.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not what():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("more", "every"),
    [(("--data.workers", "0"), 1), (("--data.workers", "2", "--accumulate", "2"), 2)],
)
def test_a_run_killed_twice_ends_as_if_it_had_not_been(
    more: tuple[str, ...], every: int, runs: Runs
) -> None:
    """Once between checkpoints, inside a pass over the data, and once while one is written."""
    whole, killed = f"whole-{len(more)}", f"killed-{len(more)}"
    more = (*more, "--log.log_every", str(every))  # 2: checkpoints fall into the middle of a row
    runs.finish(whole, *more)
    out = runs.folder / killed

    def rows_at_least(count: int) -> bool:
        path = out / "metrics.csv"
        return path.exists() and path.read_text().count("\n") > count

    process = runs.start(killed, *more, "--resume")
    wait_for(lambda: rows_at_least(8 // every), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (out / "checkpoints" / "step-000005.ckpt").is_file()

    process = runs.start(killed, *more, "--resume")
    written = out / "checkpoints" / ".step-000015.part"
    wait_for(written.is_dir, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    said = runs.finish(killed, *more, "--resume")
    assert "from step 1" in said
    rows = runs.rows(killed)
    assert [row["step"] for row in rows] == [str(step) for step in range(every, STEPS + 1, every)]
    for one, other in zip(runs.rows(whole), rows, strict=True):
        assert {name: one[name] for name in NAMES} == {name: other[name] for name in NAMES}
    expected = load_checkpoint(runs.folder / whole).tensors
    for name, tensor in load_checkpoint(out).tensors.items():
        assert torch.equal(tensor, expected[name]), name
    assert not list((out / "checkpoints").glob(".*")), "nothing half-written is left"


@pytest.mark.parametrize(
    ("engine", "number"),
    [
        ("ddp", signal.SIGKILL),
        ("zero1", signal.SIGKILL),
        ("zero1", signal.SIGSTOP),  # a minute of waiting; gloo is the same under ddp
    ],
)
def test_when_a_process_dies_or_hangs_the_other_says_so_and_ends_in_time(
    engine: str, number: signal.Signals, runs: Runs
) -> None:
    """A stopped process keeps its connections open: only the timeout tells."""
    name = f"lost-{engine}-{number.name}"
    process = runs.start(
        name,
        *("--steps", "100000", "--data.workers", "0", "--hardware.devices", "2"),
        *("--hardware.strategy", engine, "--hardware.timeout_seconds", str(TIMEOUT_SECONDS)),
    )
    wait_for((runs.folder / name / "metrics.csv").exists, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = [
        int(child)
        for child in children
        if b"LOCAL_RANK=1" in Path(f"/proc/{child}/environ").read_bytes()
    ]
    assert len(ranks) == 1
    os.kill(ranks[0], number)
    try:
        process.wait(timeout=3 * TIMEOUT_SECONDS)
    finally:
        # The stopped one holds the pipes; nothing else will end it.
        with contextlib.suppress(ProcessLookupError):
            os.kill(ranks[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    told = [line for line in errors.splitlines() if line.startswith("hicmae pretrain: error")]
    assert len(told) == 1, errors
    assert "process 0 of 2 has lost another one" in told[0]
    assert "Traceback" not in errors
