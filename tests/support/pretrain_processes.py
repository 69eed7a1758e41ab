"""Pretraining runs in processes of their own, for tests of two processes and of killed ones.

A program started anew costs seven seconds of processor time in imports. What does not test how one
starts is forked from a process that has them (``hicmae.processes``), and two processes that train
together are both forked: these tests are their launcher. What needs no process of its own is run
``here``.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name

import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from torch import Tensor

from hicmae.__main__ import main
from hicmae.checkpoints.checkpoint import load_checkpoint
from hicmae.config import save_yaml
from hicmae.processes import VerbProcess
from hicmae.settings import ModelConfig
from tests.support.pretrain_shards import rows_of


class Process:
    """A run that has started, forked or anew; what it says goes into files."""

    def __init__(self, begun: VerbProcess | subprocess.Popen[bytes], log: Path) -> None:
        self.begun = begun
        self._log = log

    def status(self, seconds: float = 0) -> int | None:
        """Its exit status; None: it has not ended, though so long was waited for."""
        with suppress(subprocess.TimeoutExpired):
            return self.begun.wait(seconds)
        return None

    def end(self, status: int = 0, seconds: float = 300) -> tuple[str, str]:
        """Wait for its end, which must be this one; what it said, and its errors."""
        found = self.status(seconds)
        output, errors = (file.read_text(encoding="utf-8") for file in _files(self._log))
        assert found == status, f"status {found}\n{output}{errors}"
        return output, errors

    def signal(self, number: signal.Signals) -> None:
        """To all of its process group."""
        if isinstance(self.begun, VerbProcess):
            self.begun.signal(number)
        else:
            os.killpg(self.begun.pid, number)

    def kill(self) -> None:
        """End it and all that it has started."""
        if self.status() is None:
            self.signal(signal.SIGKILL)
            self.begun.wait()


class Runs:
    """Runs of one small recipe in one folder, each in a process group of its own."""

    def __init__(self, folder: Path, repository: Path, sizes: ModelConfig, shards: Path) -> None:
        self.folder = folder
        self.repository = repository
        self.started: list[Process] = []
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

    def start(self, name: str, *more: str, script: str = "", **environment: str) -> Process:
        """Start a run in a forked process; a module of this folder may change what it does."""
        words = self.words(name, *more)
        return self._fork(name, "hicmae.__main__:main", words, environment, script)

    def start_two(
        self, name: str, *more: str, script: str = "", **environment: str
    ) -> list[Process]:
        """Start both processes of a run, forked."""
        more = ("--hardware.devices", "2", *more)
        return [
            self.start(name, *more, script=script, **place, **environment) for place in places(2)
        ]

    def start_program(self, name: str, *words: str) -> Process:
        """Start ``python WORDS`` anew, as users do; the name is of the run or of what it does."""
        log = self.folder / f"{len(self.started)}-{name}"
        out, err = _files(log)
        with out.open("wb") as output, err.open("wb") as errors:
            begun = subprocess.Popen(
                [sys.executable, *words],
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.repository)},
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        self.started.append(Process(begun, log))
        return self.started[-1]

    def finish_two(self, name: str, *more: str, **how: str) -> tuple[str, str]:
        """Run in two forked processes to the end; what both said, and their errors."""
        first, second = [process.end() for process in self.start_two(name, *more, **how)]
        return first[0] + second[0], first[1] + second[1]

    def in_turn(self, commands: list[list[str]], *, processes: int = 2, script: str = "") -> str:
        """Make many runs, each in the same forked processes; their group serves all of them.

        A module of this folder may change what they do. Returns: what all of them said.
        """
        file = self.folder / "commands.json"
        file.write_text(json.dumps(commands), encoding="utf-8")
        target = f"{__name__}:make_in_turn"
        started = [
            self._fork("in-turn", target, [str(file)], place, script) for place in places(processes)
        ]
        return "".join(process.end()[0] for process in started)

    def wait_for(self, what: Callable[[], bool], process: Process) -> None:
        """Wait for a moment of a run that goes on."""
        deadline = time.monotonic() + 240
        while not what():
            assert process.status() is None, process.end()
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
            process.kill()

    def _fork(
        self, name: str, target: str, words: list[str], environment: Mapping[str, str], script: str
    ) -> Process:
        """Call ``module:function`` in a forked process that has imported the script."""
        log = self.folder / f"{len(self.started)}-{name}"
        shared = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.repository)}
        begun = VerbProcess(
            [str(log), target, script, *words],
            {**os.environ, **shared, **environment},
            f"{__name__}:run_forked",
        )
        self.started.append(Process(begun, log))
        return self.started[-1]


def run_forked(words: list[str]) -> int:
    """In a forked process: be ``python -m`` of the module whose function is called, or a script."""
    log, target, script, *words = words
    for stream, path in enumerate(_files(Path(log)), 1):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream)
    function = resolve_name(target)
    module = f"{__package__}.{script}" if script else target.partition(":")[0]
    sys.argv = [str(import_module(module).__file__), *words]
    status: int = function(words)
    return status


def make_in_turn(words: list[str]) -> int:
    """In a forked process: every run of the file, up to one that fails.

    What is compiled is traced and computed by PyTorch's plain operations: its compiler of C++ takes
    half a minute a network, and is not ours. Backward passes are traced too where DeepSpeed has
    hooks in them, which takes seconds, and would more if what is computed twice were chosen too.
    """
    compiler = torch.compile
    for run in json.loads(Path(words[0]).read_text(encoding="utf-8")):
        shared = any(word.startswith("zero") for word in run)
        backend = "aot_eager_default_partitioner" if shared else "eager"
        torch.compile = functools.partial(compiler, backend=backend)
        if status := main(run):
            return status
    return 0


def places(processes: int) -> list[dict[str, str]]:
    """What each of the processes of a run finds in its environment where others start them."""
    port = str(find_free_network_port())
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
    return [shared | {"LOCAL_RANK": str(rank)} for rank in range(processes)]


def _files(log: Path) -> tuple[Path, Path]:
    return log.with_name(f"{log.name}.out"), log.with_name(f"{log.name}.err")
