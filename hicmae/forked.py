"""Processes that are forked from one with the libraries imported, and ``hicmae WORDS`` in such.

Importing them takes a process of its own five to seven seconds of processor time, which a program
that starts many pays once.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from pkgutil import resolve_name

# What the verbs import, their own modules among it. None of it starts a thread of PyTorch's or
# looks for a GPU, which no fork would survive.
IMPORTED = (
    *("torch", "torchaudio", "pytorch_lightning", "torchmetrics", "wandb", "sklearn.manifold"),
    *("matplotlib.pyplot", "matplotlib.backends.backend_agg", "hicmae.__main__"),
    *("pretrain.run", "pretrain.module", "finetune.run", "finetune.fold"),
    *("finetune.reporting.report", "shards.commands", "shards.building.build"),
)


def forking(imported: Sequence[str] = IMPORTED) -> ForkServerContext | SpawnContext:
    """Of ``multiprocessing``: starts processes that are forked from a server.

    A process has one server: the first that is started from it decides what it has imported. What
    else a process needs it imports itself. It ends with the last that it has forked and the one
    that has started it. Elsewhere than on Linux, where libraries do not bear forks, each process
    imports all.

    Args:
        imported: Modules; those that are not there are passed over without a word.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(imported))
    return context


@contextmanager
def as_a_program(environment: Mapping[str, str]) -> Iterator[None]:
    """In a forked process: what is done within is done as if the process had imported everything.

    Args:
        environment: All of its environment variables. The libraries were imported under those
            with which the server started; of what they read then only ``OMP_NUM_THREADS`` is
            heeded here.
    """
    # A fork's own processes, readers among them, would begin as it has: from another such server.
    multiprocessing.set_start_method(None, force=True)
    threads, before = environment.get("OMP_NUM_THREADS", ""), os.environ.get("OMP_NUM_THREADS")
    os.environ.clear()
    os.environ.update(environment)
    if "torch" in sys.modules and threads != before and threads.isdecimal() and int(threads) > 0:
        sys.modules["torch"].set_num_threads(int(threads))
    try:
        yield
    finally:
        # A forked process ends without what libraries and the command want done at the end.
        atexit._run_exitfuncs()


class VerbProcess:
    """A command that has started; it leads a process group, to which all belong that it starts.

    Args:
        words: The words after ``hicmae``.
        environment: All of its environment variables, see ``as_a_program``.
        main: ``module:function`` that takes the words and returns the exit status.

    Attributes:
        output: What it says on both streams, bytes, until the last process that can write ends.
    """

    def __init__(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        main: str = "hicmae.__main__:main",
    ) -> None:
        context = forking()
        reader, writer = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_run, args=(list(words), dict(environment), main, writer)
        )
        self._process.start()
        writer.close()
        self.output = os.fdopen(os.dup(reader.fileno()), "rb")
        reader.close()

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for its end, so long at most.

        Returns: the exit status as a shell gives it (128 + signal when killed); None: it runs on.
        """
        self._process.join(seconds)
        status = self._process.exitcode
        return 128 - status if status is not None and status < 0 else status

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command and all it has started, which may live longer than it."""
        assert self._process.pid is not None
        with suppress(ProcessLookupError):  # nobody is left, or it has not begun
            os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """End it and all it has started."""
        self._process.kill()
        self._process.join()
        self.signal(signal.SIGKILL)


def _run(words: list[str], environment: dict[str, str], main: str, output: Connection) -> None:
    """In the new process: be what ``python -m hicmae`` is."""
    os.setsid()
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    sys.argv = [str(Path(__file__).with_name("__main__.py")), *words]
    with as_a_program(environment):
        status = resolve_name(main)(words)
    sys.exit(status)
