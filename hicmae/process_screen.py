"""The last lines of running commands on the screen.

For: redrawing them on a terminal, and a line now and then without one. Not for: the processes
(``hicmae/process.py``).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.text import Text

_LINES = 5
_REDRAW_SECONDS = 0.1
# Without a terminal to draw on, a line this often shows that the command is alive, seconds.
_HEARTBEAT_SECONDS = 30.0


class Tail:
    """The last lines of one command.

    Args:
        name: Of the command.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._current = ""
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the command has been running."""
        return time.monotonic() - self._began

    @property
    def lines(self) -> list[str]:
        """The last lines, the present one included."""
        return [*self._lines, *([self._current] if self._current else [])][-_LINES:]

    def add(self, line: str) -> None:
        """Take a finished line."""
        if line.strip():
            self._lines.append(line.strip())
        self._current = ""

    def replace(self, line: str) -> None:
        """Take the present form of a line that overwrites itself."""
        self._current = line.strip()


class Screen:
    """What a console shows of commands while they run: the last lines of one, or one line of each.

    Args:
        console: Where.
        named: Whether each command is shown as one line with its name.
    """

    def __init__(self, console: Console, *, named: bool) -> None:
        self._console = console
        self._named = named
        self._live = Live(console=console, transient=True, auto_refresh=False)
        self._drawn = time.monotonic()

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def tick(self, tails: Sequence[Tail]) -> None:
        """Show the running commands if the last time is long enough ago."""
        pause = _REDRAW_SECONDS if self._console.is_terminal else _HEARTBEAT_SECONDS
        if time.monotonic() - self._drawn < pause:
            return
        self._drawn = time.monotonic()
        self.draw(tails)
        if not self._console.is_terminal:
            for tail in tails:
                name = f"{tail.name} " if self._named else ""
                last = tail.lines[-1] if tail.lines else "running"
                line = f"  {name}{tail.seconds:.0f} s | {last}"
                self._console.print(Text(line), soft_wrap=True)

    def draw(self, tails: Sequence[Tail]) -> None:
        """Put these commands, and no others, on the terminal."""
        if self._console.is_terminal:
            lines = [line for tail in tails for line in self._shown(tail)]
            text = Text("\n".join(lines), style="dim", no_wrap=True, overflow="ellipsis")
            self._live.update(text, refresh=True)

    def _shown(self, tail: Tail) -> list[str]:
        """The lines of one command on a terminal."""
        if self._named:
            return [f"  {tail.name} {tail.seconds:.0f} s | {(tail.lines or ['running'])[-1]}"]
        return [f"  | {line}" for line in tail.lines]
