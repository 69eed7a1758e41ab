"""Pretraining runs as users start them, for tests of runs in several processes and of killed ones.

A process costs seconds of imports: what needs none of its own is run ``here``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from hicmae.__main__ import main
from hicmae.checkpoints.checkpoint import load_checkpoint
from hicmae.config import save_yaml
from hicmae.settings import ModelConfig
from tests.support.pretrain_shards import rows_of


class Runs:
    """Runs of one small recipe in one folder, each in a process group of its own."""

    def __init__(self, folder: Path, repository: Path, sizes: ModelConfig, shards: Path) -> None:
        self.folder = folder
        self.repository = repository
        self.started: list[subprocess.Popen[str]] = []
        save_yaml(folder / "tiny.yaml", sizes)
        self.options = ["--data.shards", str(shards), "--model", str(folder / "tiny.yaml")]
        self.options += ["--data.batch_size", "4", "--data.shuffle_shards", "8", "--workers", "0"]
        self.options += ["--optimizer.warmup_steps", "2", "--optimizer.learning_rate", "0.1"]
        self.options += ["--log.log_every", "1", "--log.pictures_every", "0"]
        self.options += ["--wandb.mode", "disabled", "--device", "cpu", "--precision", "32-true"]

    def words(self, name: str, *more: str) -> list[str]:
        """The command of a run, without the program."""
        return ["pretrain", *self.options, "--out", str(self.folder / name), *more]

    def here(self, name: str, *more: str) -> None:
        """Run in this process, to the end."""
        assert main(self.words(name, *more)) == 0

    def start(
        self, name: str, *more: str, script: Path | None = None, **environment: str
    ) -> subprocess.Popen[str]:
        """Start a process, of ``python -m hicmae`` or of a script in its place."""
        program = ["-m", "hicmae"] if script is None else [str(script)]
        process = subprocess.Popen(
            [sys.executable, *program, *self.words(name, *more)],
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(self.repository),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def finish(
        self,
        name: str,
        *more: str,
        status: int = 0,
        script: Path | None = None,
        **environment: str,
    ) -> tuple[str, str]:
        """Run in a process of its own to the end; what it said, and its errors."""
        process = self.start(name, *more, script=script, **environment)
        output, errors = process.communicate(timeout=300)
        assert process.returncode == status, output + errors
        return output, errors

    def wait_for(self, what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
        """Wait for a moment of a run that goes on."""
        deadline = time.monotonic() + 240
        while not what():
            assert process.poll() is None, "the run ended before it could be stopped"
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def rows(self, name: str) -> list[dict[str, str]]:
        return rows_of(self.folder / name)

    def weights(self, name: str) -> dict[str, Tensor]:
        """The portable checkpoint of a run."""
        return dict(load_checkpoint(self.folder / name).tensors)

    def end(self) -> None:
        """Kill what still runs."""
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
