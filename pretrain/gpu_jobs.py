"""The processes of ``hicmae bench gpu``: started, limited in time, ended, and what they said.

A part runs in processes of its own, whose crash or standstill must not end the others.
"""

from __future__ import annotations

import itertools
import json as json_format
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hicmae.processes import IMPORTED, forking
from pretrain.gpu_checks import Setup

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess


class NotRunError(Exception):
    """Something that a part needs is not here."""


class FailedError(Exception):
    """A part has crashed, stood still, or given a wrong answer."""


class Asked(NamedTuple):
    engines: tuple[str, ...]
    precisions: tuple[str, ...]
    compiled: tuple[bool, ...]
    against: Path | None


class Bench:
    """Starts what parts need, within the time that is left.

    Attributes:
        figures: Of the parts so far, by name.
        setup: For the checks.
    """

    def __init__(
        self, device: str, folder: Path, seconds: float, asked: Asked, figures: dict[str, Any]
    ) -> None:
        import torch

        self.figures = figures
        self.folder = folder
        self.asked = asked
        self.on_gpu = device == "cuda"
        gpus = torch.cuda.device_count() if self.on_gpu else 0
        self.setup = Setup(
            device=device, processes=gpus or 2, model="base" if self.on_gpu else "demo"
        )
        self._deadline = time.monotonic() + seconds
        self._numbers = itertools.count()
        # A fork has everything imported, but where the first process has so much as looked for a
        # GPU, CUDA fails in its forks.
        self._context: Any = (
            multiprocessing.get_context("spawn")
            if self.on_gpu
            else forking((*IMPORTED, "pretrain.bench", "pretrain.zero"))
        )

    def left(self, least: float) -> float:
        """Seconds that are left; a part is not run where they are fewer than ``least``."""
        left = self._deadline - time.monotonic()
        if left < least:
            raise NotRunError("no time was left (--minutes)")
        return left

    def start(self, work: Callable[..., Any], *arguments: Any) -> Job:
        """Call a function of a module in a process of its own."""
        base = self.folder / f"job-{next(self._numbers)}"
        process = self._context.Process(target=_call, args=(base, work, arguments))
        process.start()
        return Job(process, base)

    def run(self, work: Callable[..., Any], *arguments: Any, limit: float = 120) -> Any:
        """What it returns."""
        job = self.start(work, *arguments)
        job.wait(self.limited(limit))
        return job.result()

    def limited(self, seconds: float) -> float:
        """So long a wait, but no longer than is left; a CPU is shared with who knows what."""
        return min(seconds if self.on_gpu else 10 * seconds, self.left(5))

    def command(self, *words: str, limit: float = 120) -> dict[str, Any]:
        """The figures of a bench, or nothing of another verb."""
        file = self.folder / f"command-{next(self._numbers)}.json"
        more = ["--json", str(file)] if words[0] == "bench" else []
        status = self.run(run_command, [*words, *more], limit=limit)
        if status:
            raise FailedError(f"hicmae {' '.join(words[:2])}: status {status}")
        return dict(json_format.loads(file.read_text())) if more else {}

    def together(self, setup: Setup, work: Callable[..., Any], *arguments: Any) -> list[Job]:
        """As many processes as it says, each told its number and a free port."""
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
        return [self.start(work, setup, rank, port, *arguments) for rank in range(setup.processes)]

    def shards(self) -> Path:
        """Shards of drawn faces, made once."""
        from shards.bench import write_bench_shards

        folder = self.folder / "shards"
        if not folder.exists():
            write_bench_shards(folder, 48 if self.on_gpu else 16)
        return folder

    def pretraining(self, out: Path, steps: int, *more: str) -> list[str]:
        """The words of a run of a small network whose numbers are compared."""
        return [
            *("pretrain", "--model.size", "demo", "--model.input.fps", "25"),  # as the shards have
            *("--data.shards", str(self.shards())),
            *("--out", str(out), "--steps", str(steps), "--data.batch_size", "4"),
            *("--optimizer.warmup_steps", "1", "--optimizer.learning_rate", "0.1", "--workers"),
            *("0", "--log.log_every", "1", "--log.pictures_every", "0", "--log.health_every", "0"),
            *("--log.progress", "false", "--wandb.mode", "disabled", "--device"),
            *(self.setup.device, "--hardware.timeout_seconds", "100", *more),
        ]


class Job(NamedTuple):
    """A process; its log and what it returned are beside ``base``."""

    process: BaseProcess
    base: Path

    def wait(self, seconds: float) -> None:
        """Until it ends, and no longer than that."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.kill()
            raise FailedError(f"stood still, or took longer than {seconds:.0f} s")

    def kill(self) -> None:
        """End it and what it has started."""
        if self.process.is_alive():
            assert self.process.pid
            with suppress(ProcessLookupError):  # it has not begun, and started nothing
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
        self.process.join()

    def result(self) -> Any:
        if self.process.exitcode == 0:
            return json_format.loads(self.base.with_suffix(".json").read_text(encoding="utf-8"))
        raise FailedError(self.said() or f"ended with {self.process.exitcode}")

    def said(self) -> str:
        """Its last line."""
        log = self.base.with_suffix(".log")
        lines = (
            log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
        )
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def _call(base: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # readers begin as they always do
    with base.with_suffix(".log").open("w") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    value = work(*arguments)
    base.with_suffix(".json").write_text(json_format.dumps(value), encoding="utf-8")


def run_command(words: Sequence[str]) -> int:
    from hicmae.__main__ import main

    return main(words)
