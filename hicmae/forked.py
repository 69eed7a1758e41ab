"""``hicmae WORDS`` in a process of its own that is forked from one with the libraries imported.

Importing them takes a process of its own five to seven seconds of processor time, which a program
that runs many commands pays once.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from pkgutil import resolve_name

# What the verbs import, their own modules among it. None of it starts a thread of PyTorch's or
# looks for a GPU, which no fork would survive. Elsewhere than on Linux libraries do not bear forks.
_IMPORTED = (
    *("torch", "torchaudio", "pytorch_lightning", "torchmetrics", "wandb", "sklearn.manifold"),
    *("matplotlib.pyplot", "matplotlib.backends.backend_agg", "hicmae.__main__"),
    *("pretrain.run", "pretrain.module", "finetune.run", "finetune.fold"),
    *("finetune.reporting.report", "shards.commands", "shards.building.build"),
)


class VerbProcess:
    """A command that has started; it leads a process group, to which all belong that it starts.

    Args:
        words: The words after ``hicmae``.
        environment: All of its environment variables. The libraries are imported under those of
            this process; of what they read then only ``OMP_NUM_THREADS`` is heeded here.
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
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(_IMPORTED) if sys.platform == "linux" else [])
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
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [str(Path(__file__).with_name("__main__.py")), *words]
    threads = environment.get("OMP_NUM_THREADS", "")
    if "torch" in sys.modules and threads.isdecimal() and int(threads) > 0:
        sys.modules["torch"].set_num_threads(int(threads))
    status = resolve_name(main)(words)
    # A forked process ends without what libraries and the command want done at the end.
    atexit._run_exitfuncs()
    sys.exit(status)
