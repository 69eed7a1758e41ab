"""What every process that computes needs, and processes that are forked with all imported.

Importing the libraries takes a process of its own five to seven seconds of processor time, which a
program that starts many (``VerbProcess``: ``hicmae WORDS`` in a fork) pays once.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import math
import multiprocessing
import os
import platform
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from pkgutil import resolve_name

# Source: malloc.h of the GNU C library. Setting one of the two fixes the other, so both are set:
# 32 MB is what the library's own rule ends at.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER, _LARGEST_IN_HEAP = -1, 32 * 2**20

# In collections of the middle generation, each of which comes after 7,000 new objects or more.
_LATE = 100
# Signals of which a command that they end says so; its status is 128 + signal.
ENDING = (signal.SIGTERM, signal.SIGHUP)
_SAME_SECONDS = 1.0
# Beyond the larger of these numbers (of all, and for each core) nobody means to start workers.
_MOST_WORKERS, _MOST_OF_A_CORE = 64, 16


def keep_freed_memory() -> bool:
    """Have this process, and those it forks, keep the memory that they free.

    For processes that train or run a network on a CPU. Not for servers, which would hold the memory
    of their largest job for ever, nor for GPUs, whose memory PyTorch keeps by itself.

    The C library gives the end of its heap back to the system when a step's activations are freed,
    and the system clears every page of it anew for the next step: with base and 4 clips in fp32,
    78,429 pages and 0.20 s of the system's time a step; 105 and 0.04 s when the heap is kept
    (medians of three by turns). The memory in use after a step grew by 6 %.

    Blocks of over 32 MB go straight to the system as before. In the heap, one that is freed is not
    always found again for the same size, and the heap would grow at every step.

    Returns: whether it was done: not without the GNU C library, nor where the environment already
        says how it should behave (``MALLOC_…``, ``GLIBC_TUNABLES``).
    Source: mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    if "malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(
        name.startswith("MALLOC_") for name in os.environ
    ):
        return False
    library = ctypes.CDLL(None)
    done = library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_IN_HEAP)
    return bool(done and library.mallopt(_M_TRIM_THRESHOLD, _NEVER))


def spare_imports() -> None:
    """Look for garbage among what libraries bring once instead of eight times.

    They bring a million objects that Python's collector tracks, and it walks over all of them
    whenever they have grown by a quarter: 1.1 to 1.3 of the 8 to 9 seconds of processor time that
    a command's imports took. So its first full collection comes late, spares for ever what is alive
    then, and all is as before from there on.
    """
    young, middle, old = gc.get_threshold()

    def settle(phase: str, found: dict[str, int]) -> None:
        if phase == "stop" and found["generation"] == 2:
            gc.callbacks.remove(settle)
            gc.set_threshold(young, middle, old)
            gc.freeze()

    gc.callbacks.append(settle)
    gc.set_threshold(young, middle, _LATE)


def num_cores() -> int:
    """Cores that this process may use; where the system does not tell (macOS), all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Within it, a signal that would end this process at once ends it as Ctrl-C does, so that what
    was begun is removed and what was started ends too; one that is ignored stays so. One that comes
    within a second of another is the same: `timeout` sends its own to the process and to the group.

    Raises: SystemExit: SIGTERM came, or the SIGHUP of a terminal that is gone; 128 + signal.
    """
    ended = -math.inf

    def end(number: int, _: object) -> None:
        nonlocal ended
        if time.monotonic() - ended > _SAME_SECONDS:
            ended = time.monotonic()
            raise SystemExit(128 + number)

    def heed(lost: sys.UnraisableHookArgs) -> None:
        """What was raised where it reaches nobody, as in a destructor, comes once more."""
        nonlocal ended
        status = getattr(lost.exc_value, "code", None)
        if issubclass(lost.exc_type, KeyboardInterrupt):
            status = 128 + signal.SIGINT
        elif status not in [128 + number for number in ENDING]:
            hook(lost)
            return
        ended = -math.inf
        to = threading.get_ident(), status - 128
        timers.append(threading.Timer(0.05, signal.pthread_kill, to))
        timers[-1].start()

    before, hook, timers = {}, sys.unraisablehook, list[threading.Timer]()
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, end)
        sys.unraisablehook = heed
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for timer in timers:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def is_running(process: int) -> bool:
    """Whether there is a process of this number, whosever it is."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def check_workers(workers: int) -> None:
    """Refuse to start many more processes than the cores can make use of.

    Raises: ValueError: there would be.
    """
    most = max(_MOST_WORKERS, _MOST_OF_A_CORE * num_cores())
    if workers > most:
        raise ValueError(
            f"workers = {workers} (at most {most} here, on {num_cores()} cores); each is a process "
            "with memory of its own, and more than a few a core make nothing faster"
        )


_life: Path | None = None  # the file that this process touches
_life_shown = 0.0


def signs_of_life(path: Path | None) -> None:
    """From now on, ``show_life`` touches this file; none: nothing."""
    global _life, _life_shown
    _life, _life_shown = path, 0.0
    show_life()


def show_life() -> None:
    """Tell who waits for this process that it goes on, once a second at most.

    Called between the pieces of a recording, so that a long one is told from a decoder that hangs.
    """
    global _life_shown
    if _life is not None and (now := time.monotonic()) - _life_shown >= 1.0:
        _life_shown = now
        _life.touch()


def wait_passively() -> None:
    """Have threads that wait for others of their network sleep, where other work needs the cores.

    A thread that spins is awake sooner, and on cores of its own a small network's step takes 0.6 to
    0.8 of the time; beside other work it takes what the others compute with (measured:
    ``configs/speed.md``). Results do not depend on it.

    Before PyTorch is imported, whose OpenMP reads it then; a setting of the user's own stays.
    """
    if "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        return
    if others_compute():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def others_compute() -> bool:
    """Whether other work has kept half of the cores or more busy, on average of the last minute."""
    return os.getloadavg()[0] >= num_cores() / 2


def choose_threads(threads: int | None) -> str:
    """Set how many threads a network of this process, and of those that it starts, has.

    Args: threads: Of the option; none given: one a core, or ``OMP_NUM_THREADS``. The load does not
        choose it, for sums of another number of threads differ in their last digits, and a resumed
        run would not be the unbroken one.
    Returns: A line for the user: where it was asked for, or where other work keeps so much of the
        cores that fewer threads are faster; else nothing.
    Raises: ValueError: fewer than 1 thread, or more than there are cores.
    """
    import torch

    cores = num_cores()
    if threads is not None:
        if not 1 <= threads <= cores:
            raise ValueError(
                f"threads = {threads} (must lie between 1 and {cores}, the cores here)"
            )
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
        return f"threads: {threads} of {cores} cores"
    load, now = os.getloadavg()[0], torch.get_num_threads()
    if now == 1 or not others_compute():
        return ""
    fewer = max(1, int(cores - load))
    return (
        f"threads: {now} of {cores} cores, {load:.1f} of which other work keeps busy; with "
        f"--threads {fewer} a small network may be faster"
    )


_TRACES = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|timed out|timeout|socket|broken pipe|"
    r"process group|c10d|tcpstore",
    re.IGNORECASE,
)


def speaks_of_another_process(error: RuntimeError) -> bool:
    """Whether an error says that another process is gone or did not answer, and is no bug.

    That one has died or hangs is noticed by gloo and NCCL, at the latest after the time limit of
    their process group.
    """
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or bool(_TRACES.search(str(error)))


# What the verbs import, their own modules among it. None of it starts a thread of PyTorch's or
# looks for a GPU, which no fork would survive.
IMPORTED = (
    *("torch", "torchaudio", "pytorch_lightning", "torchmetrics", "wandb", "sklearn.manifold"),
    *("matplotlib.pyplot", "matplotlib.backends.backend_agg", "hicmae.__main__"),
    *("pretrain.run", "pretrain.training", "finetune.run", "finetune.fold"),
    *("finetune.commands", "finetune.reporting.comparison", "finetune.reporting.run_report"),
    *("shards.commands", "shards.building.build"),
)


# How a process ends that its starter's script would have start processes of its own.
_BEGUN_AGAIN = 78


def end_if_begun_again() -> None:
    """End this process if it is a new one that still runs the script of its starter.

    ``multiprocessing`` has a new process import the script that starts it; one without a main guard
    would then do all its work once more, in every process. ``forking`` says so in the first.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(_BEGUN_AGAIN)


@functools.cache
def _begin_one(context: ForkServerContext | SpawnContext) -> None:
    """Start one process that does nothing: to see whether a script has a main guard, and to wait
    until the server has imported all. Others, if their starter ends meanwhile, would print traces.
    """
    main = sys.modules["__main__"]
    is_script = getattr(main, "__spec__", None) is None and hasattr(main, "__file__")
    if sys.platform != "linux" and not is_script:
        return
    process = context.Process(target=os.getpid)
    process.start()
    process.join()
    if process.exitcode == _BEGUN_AGAIN or (is_script and process.exitcode):  # or it failed first
        raise ValueError(
            f"{main.__file__}: each process that is started here begins with this script and would"
            ' do all of it again; put what it does below `if __name__ == "__main__":`'
        )


def forking(imported: Sequence[str] = IMPORTED) -> ForkServerContext | SpawnContext:
    """Of ``multiprocessing``: starts processes that are forked from a server.

    A process has one server: the first that is started from it decides what it has imported. What
    else a process needs it imports itself. It ends with the last that it has forked and the one
    that has started it. Elsewhere than on Linux, where libraries do not bear forks, each process
    imports all.

    Args: imported: Modules; those that are not there are passed over without a word.
    Raises: ValueError: Called by a script without a main guard.
    """
    end_if_begun_again()
    if sys.platform != "linux":
        spawning = multiprocessing.get_context("spawn")
        _begin_one(spawning)
        return spawning
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *imported])
    # Python (seen with 3.11) has the server look into the working folder first, where a folder that
    # is called shards would be taken for the package.
    with (
        _environment(PYTHONSAFEPATH="1", PYTHONPATH=os.pathsep.join(sys.path)),
        _interrupts_held(),
    ):
        forkserver.ensure_running()
    _begin_one(context)
    return context


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Within it, Ctrl-C waits; what is started has it blocked for ever.

    A server that is importing would print a traceback of it, and heeds it at no other time either.
    """
    resource_tracker.ensure_running()  # which would let it through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _heed_interrupts() -> None:
    """In a process that was forked from the server."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


if sys.platform == "linux" and signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
    os.register_at_fork(after_in_child=_heed_interrupts)  # this is the server


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Within it, what is started has these variables."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


@contextmanager
def as_a_program(environment: Mapping[str, str]) -> Iterator[None]:
    """In a forked process: what is done within is done as if the process had imported everything.

    Args: environment: All of its environment variables. The libraries were imported under those
        with which the server started; of what they read then only ``OMP_NUM_THREADS`` is heeded
        here.
    """
    gc.freeze()  # what the server has imported is never garbage, and looking costs half a second
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


def end_with_starter(end: Callable[[], object]) -> None:
    """In a forked process: call ``end`` once the process that asked for it is gone.

    However that ended. It is not the parent, which may live on: that is the server.
    """
    starter = multiprocessing.parent_process()
    assert starter is not None

    def wait() -> None:
        starter.join()
        end()

    threading.Thread(target=wait, daemon=True).start()


class VerbProcess:
    """A command that has started; it leads a process group, to which all belong that it starts.

    The group is killed when the process that made this is gone.

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
    end_with_starter(lambda: os.killpg(0, signal.SIGKILL))
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    sys.argv = [str(Path(__file__).with_name("__main__.py")), *words]
    with as_a_program(environment):
        status = resolve_name(main)(words)
    sys.exit(status)
