"""The whole system in one command: the very commands a user would type, one after another.

For: running the steps of ``configs/demo.yaml`` as processes of their own, showing each, and
ending at the report. Not for: the work itself; every step is an ordinary ``hicmae`` command that
can be typed again by hand.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from hicmae.config import config_path, from_dict, load_yaml
from hicmae.process import LOG_TAIL_LINES, run_logged

DEMO_STEPS = Path("configs/demo.yaml")
_STATE = "demo.json"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of the demo.

    Args:
        title: What it does, for the reader.
        command: The words after ``hicmae``. ``{out}`` and the names under ``values`` are replaced.
        makes: The folder it writes, removed before the step runs so that a half-done one does not
            stand in the way of ``--resume``.
        show: Whether its whole output is shown when it is done.
    """

    title: str
    command: str
    makes: str | None = None
    show: bool = False


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What ``configs/demo.yaml`` holds.

    Args:
        steps: The commands in order.
        report: The file to look at in the end.
        values: Numbers and words that commands share, by name.
        quick: Values that replace those for a run of a minute that shows nothing but that
            everything runs.
    """

    steps: tuple[Step, ...]
    report: str
    values: dict[str, int | float | str] = field(default_factory=dict)
    quick: dict[str, int | float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = [
            f"quick.{name} replaces no value" for name in self.quick if name not in self.values
        ]
        known = {"out": "out", **self.values}
        for text in (
            self.report,
            *(s.command for s in self.steps),
            *(s.makes or "" for s in self.steps),
        ):
            unknown = sorted(set(re.findall(r"\{(\w*)\}", text)) - set(known))
            problems += [f"'{{{name}}}' in '{text}' is not among the values" for name in unknown]
        if problems:
            raise ValueError(f"demo: {'; '.join(problems)}")


def demo(
    *,
    out: Path = Path("demo"),
    steps: Path = DEMO_STEPS,
    quick: bool = False,
    resume: bool = False,
    overwrite: bool = False,
) -> int:
    """See the whole system work: synthetic media, shards, pretraining, fine-tuning, a report.

    Each step is a command that can be typed by hand; it is printed with the time it took, and its
    output is kept in OUT/logs.

    Args:
        out: Folder for everything the demo makes.
        steps: YAML list of the steps.
        quick: Use the small values: a minute that shows that everything runs, and no more.
        resume: Go on in OUT where an earlier demo stopped.
        overwrite: Start anew in the OUT of an earlier demo, which is removed.

    Returns: 0, or the exit status of the step that failed.
    Raises: ValueError: OUT is in use. FileNotFoundError: no such file of steps.
    """
    path = config_path(steps)
    config = from_dict(DemoConfig, load_yaml(path), str(path))
    _prepare(out, resume=resume, overwrite=overwrite)
    values = _values(config, out, quick=quick)
    commands = step_words(config, out, quick=quick)
    num_done = _num_done(out, commands) if resume else 0

    console = Console(highlight=False)
    began = time.monotonic()
    seconds = _read_seconds(out)[:num_done]
    for number, (step, words) in enumerate(zip(config.steps, commands, strict=True), start=1):
        console.print(Text(f"\n[{number}/{len(commands)}] {step.title}", style="bold"))
        console.print(Text(f"$ hicmae {shlex.join(words)}"), soft_wrap=True)
        if number <= num_done:
            console.print(f"  done before, in {_clock(seconds[number - 1])}")
            continue
        if step.makes is not None:
            _remove(out, Path(_fill(step.makes, values)))
        log = out / "logs" / f"{number:02d}-{_slug(step.title)}.log"
        result = run_logged(words, log, console)
        if result.status != 0:
            again = ["demo", "--resume", "--out", str(out), *(["--quick"] if quick else [])]
            if steps != DEMO_STEPS:
                again += ["--steps", str(steps)]
            _explain(console, words, again, log, result.status)
            return result.status
        seconds.append(result.seconds)
        _save_state(out, commands[:number], seconds)
        if step.show:
            console.print(Text(log.read_text(encoding="utf-8").rstrip()), soft_wrap=True)
        console.print(f"  done in {_clock(result.seconds)}")
    report = Path(_fill(config.report, values))
    if not report.is_file():
        raise ValueError(f"{path}: report {report} was made by no step")
    console.print(f"\nAll {len(commands)} steps done in {_clock(sum(seconds))}", end="")
    console.print(f" ({_clock(time.monotonic() - began)} now)." if num_done else ".")
    console.print(Text(f"The report: {report}"), soft_wrap=True)
    return 0


def step_words(config: DemoConfig, out: Path, *, quick: bool) -> list[list[str]]:
    """The words after ``hicmae`` of every step."""
    values = _values(config, out, quick=quick)
    # Split first, then fill in: a path with a space stays one word.
    return [[_fill(word, values) for word in shlex.split(step.command)] for step in config.steps]


def _values(config: DemoConfig, out: Path, *, quick: bool) -> dict[str, int | float | str]:
    """What stands in for the names in braces."""
    return {**config.values, **(config.quick if quick else {}), "out": str(out)}


def _prepare(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Make the folder, and touch nothing that is not an earlier demo."""
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
        _save_state(out, [], [])


def _num_done(out: Path, commands: list[list[str]]) -> int:
    """How many leading steps an earlier demo finished with these very commands: a step that
    differs spoils what comes after it.
    """
    done = json.loads((out / _STATE).read_text(encoding="utf-8"))["commands"]
    count = 0
    while count < min(len(done), len(commands)) and done[count] == commands[count]:
        count += 1
    return count


def _read_seconds(out: Path) -> list[float]:
    """What the finished steps took."""
    seconds: list[float] = json.loads((out / _STATE).read_text(encoding="utf-8"))["seconds"]
    return seconds


def _save_state(out: Path, commands: list[list[str]], seconds: list[float]) -> None:
    """Note which steps are done."""
    beside = out / f"{_STATE}.{os.getpid()}"
    text = json.dumps({"commands": commands, "seconds": seconds}, indent=1)
    beside.write_text(text, encoding="utf-8")
    beside.replace(out / _STATE)


def _fill(text: str, values: dict[str, int | float | str]) -> str:
    """Replace ``{name}`` by its value; other braces (YAML or JSON in a command) stay."""
    return re.sub(r"\{(\w+)\}", lambda match: str(values[match.group(1)]), text)


def _remove(out: Path, made: Path) -> None:
    """Remove what a step is about to write again, inside the demo's folder only."""
    if not made.resolve().is_relative_to(out.resolve()) or made.resolve() == out.resolve():
        raise ValueError(f"demo: makes: {made} is not inside {out}")
    if made.is_dir():
        shutil.rmtree(made)
    else:
        made.unlink(missing_ok=True)


def _explain(console: Console, words: list[str], again: list[str], log: Path, status: int) -> None:
    """Say which step failed, with the end of its output and how to repeat it."""
    lines = log.read_text(encoding="utf-8").splitlines()[-LOG_TAIL_LINES:]
    console.print(Text("\n".join(lines)), soft_wrap=True)
    for line in (
        f"This step failed with exit status {status}. Its output: {log}",
        f"To repeat it alone: hicmae {shlex.join(words)}",
        f"To go on from here: hicmae {shlex.join(again)}",
    ):
        console.print(Text(line), soft_wrap=True)


def _slug(title: str) -> str:
    """A title as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40]


def _clock(seconds: float) -> str:
    """A duration for reading."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
