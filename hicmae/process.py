"""``hicmae`` commands as processes of their own, logged to files and followed on the screen.

For: the steps of the demo, one at a time or some side by side. Not for: worker pools, nor how
the screen looks (``hicmae/process_screen.py``).
"""

from __future__ import annotations

import codecs
import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from hicmae.process_screen import Screen, Tail

# What a command that is told to stop gets to end by itself, seconds.
_GRACE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command to run.

    Args:
        name: Stands before its last line where several run at once.
        words: The words after ``hicmae``.
        log: File for everything it says; of a line that overwrites itself (a progress bar), the
            last form.
    """

    name: str
    words: tuple[str, ...]
    log: Path


@dataclass(frozen=True, kw_only=True)
class ProcessResult:
    """How a command ended.

    Args:
        status: Exit status as a shell gives it (128 + signal when killed).
        seconds: Time it took.
    """

    status: int
    seconds: float


def run_jobs(
    jobs: Sequence[Job],
    console: Console,
    *,
    at_once: int = 1,
    on_start: Callable[[Job], None],
    on_end: Callable[[Job, ProcessResult], None],
) -> None:
    """Run commands under this interpreter, in order, so many at a time.

    When one fails, those beside it are stopped and no other is started. However this ends, no
    process is left behind: each command leads a process group, which ends with it.

    Args:
        jobs: The commands.
        console: Where the last lines are shown while they run.
        at_once: How many run side by side; they share the cores (``OMP_NUM_THREADS``, unless the
            user has set it).
        on_start: Called before a command starts.
        on_end: Called when it has ended by itself, well or not.
    """
    waiting, running = deque(jobs), list[_Running]()
    screen = Screen(console, named=at_once > 1)
    with _ended_by_signals(), screen, selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    on_start(waiting[0])
                    started = _Running(waiting.popleft(), at_once)
                    running.append(started)
                    selector.register(started.output, selectors.EVENT_READ, started)
                for key, _ in selector.select(timeout=1.0):
                    if key.data.read():
                        continue
                    selector.unregister(key.fileobj)
                    running.remove(key.data)
                    result = key.data.finish()
                    screen.draw([process.tail for process in running])
                    on_end(key.data.job, result)
                    if result.status != 0:
                        return
                screen.tick([process.tail for process in running])
        finally:
            _stop(running)


class _Running:
    """A command that runs, and its log."""

    def __init__(self, job: Job, at_once: int) -> None:
        self.job = job
        self.tail = Tail(job.name)
        self._file = job.log.open("w", encoding="utf-8")
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._line = ""
        share = {"OMP_NUM_THREADS": str(max(1, num_cores() // at_once))} if at_once > 1 else {}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hicmae", *job.words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**share, **os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.output = self.process.stdout

    def read(self) -> bool:
        """Take what the command has said; false at its end."""
        chunk = os.read(self.output.fileno(), 65536)
        for character in self._decoder.decode(chunk, final=not chunk):
            if character == "\n":
                self._end_line()
            elif character == "\r" and self._line:
                self.tail.replace(self._line)
                self._line = "\r"
            else:
                self._line += character
        if not chunk and self._line.strip():
            self._end_line()
        self._file.flush()
        return bool(chunk)

    def finish(self) -> ProcessResult:
        """Wait for the end, and end what the command has left running."""
        status = self.process.wait()
        self.kill()
        return ProcessResult(
            status=status if status >= 0 else 128 - status, seconds=self.tail.seconds
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command and all it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """End the whole group and close its log."""
        self.signal(signal.SIGKILL)
        self.process.wait()
        self.output.close()
        self._file.close()

    def _end_line(self) -> None:
        self._file.write(self._line.split("\r")[-1] + "\n")
        self.tail.add(self._line)
        self._line = ""


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _stop(running: Sequence[_Running]) -> None:
    """Interrupt commands, give them a moment to end by themselves, and kill what is left."""
    try:
        for process in running:
            process.signal(signal.SIGINT)
        deadline = time.monotonic() + _GRACE_SECONDS
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.process.wait(timeout=max(0.0, deadline - time.monotonic()))
    finally:
        for process in running:
            process.kill()


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let a signal that would end this process do so in order, as Ctrl-C does: the commands,
    which have groups of their own, would not hear of it.
    """

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
