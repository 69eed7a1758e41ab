"""A ``hicmae`` command as a process of its own, logged to a file and followed on the screen.

For: the steps of the demo. Not for: worker pools.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

LOG_TAIL_LINES = 25
_SCREEN_LINES = 5
# Without a terminal to draw on, a line this often shows that the step is alive, seconds.
_HEARTBEAT_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class ProcessResult:
    """How a command ended.

    Args:
        status: Exit status as a shell gives it (128 + signal when killed).
        seconds: Time it took.
    """

    status: int
    seconds: float


def run_logged(words: list[str], log: Path, console: Console) -> ProcessResult:
    """Run ``hicmae`` with these words under this interpreter.

    Args:
        words: The words after ``hicmae``.
        log: File for everything it says; of a line that overwrites itself (a progress bar), the
            last form.
        console: Where the last lines are shown while it runs.
    """
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "hicmae", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        with log.open("w", encoding="utf-8") as file, _Screen(console) as screen:
            _follow(process, file, screen)
        status = process.wait()
    except BaseException:
        # Ctrl-C reaches the child too; it gets a moment to end by itself.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        process.kill()
        process.wait()
        raise
    return ProcessResult(
        status=status if status >= 0 else 128 - status, seconds=time.monotonic() - began
    )


def _follow(process: subprocess.Popen[bytes], file: TextIO, screen: _Screen) -> None:
    """Copy the output of a process until it ends."""
    assert process.stdout is not None
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    line = ""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(timeout=1.0):
                screen.tick()
                continue
            chunk = os.read(process.stdout.fileno(), 65536)
            for character in decoder.decode(chunk, final=not chunk):
                if character == "\n":
                    file.write(line.split("\r")[-1] + "\n")
                    screen.add(line)
                    line = ""
                elif character == "\r" and line:
                    screen.replace(line)
                    line = "\r"
                else:
                    line += character
            file.flush()
            screen.tick()
            if not chunk:
                break
    if line.strip():
        file.write(line.split("\r")[-1] + "\n")
        screen.add(line)


class _Screen:
    """The last lines of a running step: redrawn on a terminal, now and then without one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: deque[str] = deque(maxlen=_SCREEN_LINES)
        self._live = Live(console=console, transient=True, auto_refresh=False)
        self._drawn = self._began = time.monotonic()
        self._current = ""

    def __enter__(self) -> _Screen:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def add(self, line: str) -> None:
        """Take a finished line."""
        if line.strip():
            self._lines.append(line.strip())
        self._current = ""

    def replace(self, line: str) -> None:
        """Take the present form of a line that overwrites itself."""
        self._current = line.strip()

    def tick(self) -> None:
        """Show the state if the last time is long enough ago."""
        now = time.monotonic()
        shown = [*self._lines, self._current] if self._current else list(self._lines)
        if self._console.is_terminal:
            if now - self._drawn < 0.1:
                return
            text = "\n".join(f"  | {line}" for line in shown[-_SCREEN_LINES:])
            self._live.update(
                Text(text, style="dim", no_wrap=True, overflow="ellipsis"), refresh=True
            )
        elif now - self._drawn >= _HEARTBEAT_SECONDS:
            last = shown[-1] if shown else "running"
            self._console.print(Text(f"  {now - self._began:.0f} s | {last}"), soft_wrap=True)
        else:
            return
        self._drawn = now
