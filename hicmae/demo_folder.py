"""The folder of a demo, and which of its steps are done.

For: going on where an earlier demo stopped, and touching nothing that is no demo's. Not for:
running steps (``hicmae/demo.py``).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

_STATE = "demo.json"


def prepare(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Make the folder, and touch nothing that is not an earlier demo.

    Raises: ValueError: the folder is in use.
    """
    if resume and overwrite:
        raise ValueError("give either --resume or --overwrite, not both")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file, not a folder; give another --out")
    if out.is_dir() and any(out.iterdir()):
        if not (out / _STATE).is_file():
            raise ValueError(f"{out}: holds files that are no demo's; give another --out")
        if not resume and not overwrite:
            raise ValueError(
                f"{out}: holds an earlier demo; give --resume, --overwrite or another --out"
            )
        if overwrite:
            shutil.rmtree(out)
    (out / "logs").mkdir(parents=True, exist_ok=True)
    if not (out / _STATE).is_file():
        save_done(out, [], [])


def read_done(
    out: Path, commands: Sequence[list[str]], groups: Sequence[Sequence[int]]
) -> list[float | None]:
    """What each step took in an earlier demo, or None where it has to run.

    A step that differs spoils what comes after it, but not those beside it.

    Args:
        out: The folder.
        commands: The words of each step.
        groups: The steps by number, from 0; those of one group do not depend on one another.
    """
    state = json.loads((out / _STATE).read_text(encoding="utf-8"))
    saved = list(zip(state["commands"], state["seconds"], strict=True))
    seconds: list[float | None] = [None] * len(commands)
    for group in groups:
        for number in group:
            if number < len(saved) and saved[number][0] == commands[number]:
                seconds[number] = saved[number][1]
        if any(seconds[number] is None for number in group):
            break
    return seconds


def save_done(out: Path, commands: Sequence[list[str]], seconds: Sequence[float | None]) -> None:
    """Note which steps are done: those that have taken some time."""
    done = [
        words if taken is not None else None for words, taken in zip(commands, seconds, strict=True)
    ]
    beside = out / f"{_STATE}.{os.getpid()}"
    text = json.dumps({"commands": done, "seconds": list(seconds)}, indent=1)
    beside.write_text(text, encoding="utf-8")
    beside.replace(out / _STATE)


def remove(out: Path, made: Path) -> None:
    """Remove what a step is about to write again, inside the demo's folder only.

    Raises: ValueError: it is not inside.
    """
    if not made.resolve().is_relative_to(out.resolve()) or made.resolve() == out.resolve():
        raise ValueError(f"demo: makes: {made} is not inside {out}")
    if made.is_dir():
        shutil.rmtree(made)
    else:
        made.unlink(missing_ok=True)
