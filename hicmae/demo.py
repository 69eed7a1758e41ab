"""The whole system in one command: the very commands a user would type, one after another.

The steps of ``configs/demo.yaml`` run as processes of their own, shown as they go, and end at the
report. Which of them are done is kept in the demo's folder, so that it can go on where it stopped.
"""

from __future__ import annotations

import json
import os
import queue
import re
import shlex
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.text import Text

from hicmae.config import config_path, from_dict, load_yaml
from hicmae.files import LOCK, naming, only_writer, remove, write_text
from hicmae.processes import VerbProcess, num_cores

DEMO_STEPS = Path("configs/demo.yaml")
# Kinds of values; text may be given as anything.
_KINDS = {bool: "true or false", int: "a number", float: "a number"}
_STATE = "demo.json"
_AT_ONCE = 2
# What a command that is told to stop gets to end by itself, seconds.
_GRACE_SECONDS = 10.0
# What takes the words of a command.
_MAIN = "hicmae.__main__:main"

Values = dict[str, bool | int | float | str]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of the demo.

    Args:
        title: What it does, for the reader.
        command: The words after ``hicmae``. ``{out}`` and the names under ``values`` are replaced.
        makes: The folder it writes, removed before the step runs so that a half-done one does not
            stand in the way of ``--resume``.
        show: Whether its whole output is shown when it is done.
        group: Name shared with neighbours of which two run side by side where there are two cores.
            One whose command names the folder that another of them ``makes`` waits for that.
    """

    title: str
    command: str
    makes: str | None = None
    show: bool = False
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What ``configs/demo.yaml`` holds.

    Args:
        steps: The commands in order.
        report: The file to look at in the end.
        values: Numbers and words that commands share, by name.
        quick: Values that replace those for a run of two minutes that shows nothing but that
            everything runs.
    """

    steps: tuple[Step, ...]
    report: str
    values: Values = field(default_factory=dict)
    quick: Values = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = [
            f"quick.{name} replaces no value" for name in self.quick if name not in self.values
        ]
        known = {"out": "out", **self.values}
        for text in (
            self.report,
            *(s.command for s in self.steps),
            *self.made,
        ):
            unknown = sorted(set(re.findall(r"\{(\w*)\}", text)) - set(known))
            problems += [f"'{{{name}}}' in '{text}' is not among the values" for name in unknown]
        if problems:
            raise ValueError(f"demo: {'; '.join(problems)}")

    @property
    def made(self) -> list[str]:
        """What steps make, with names in braces."""
        return [step.makes for step in self.steps if step.makes is not None]

    def filled(self, out: Path, *, quick: bool, given: Values | None = None) -> Values:
        """What stands in for the names in braces.

        Args:
            quick: Whether with the small values.
            given: Values in place of both.

        Raises: ValueError: a name that is not among the values, or something of another kind.
        """
        given = given or {}
        if unknown := sorted(set(given) - set(self.values)):
            raise ValueError(f"values: {', '.join(unknown)} (allowed: {', '.join(self.values)})")
        for name, value in given.items():
            usual = self.values[name]
            kind = _KINDS.get(type(usual), "")
            if kind and _KINDS.get(type(value)) != kind:
                raise ValueError(f"values: {name} = {value!r} (must be {kind}, such as {usual!r})")
        chosen = {**self.values, **(self.quick if quick else {}), **given}
        # As a command line has them: true, not True.
        words = {k: json.dumps(v) if isinstance(v, bool) else v for k, v in chosen.items()}
        return {**words, "out": str(out)}


def demo(
    *,
    out: Path = Path("demo"),
    steps: Path = DEMO_STEPS,
    quick: bool = False,
    values: dict[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> int:
    """See the whole system work: synthetic media, shards, pretraining, fine-tuning, a report.

    Each step is a command that can be typed by hand; it is printed with the time it took, and its
    output is kept in OUT/logs.

    Args:
        out: Folder for everything the demo makes.
        steps: YAML list of the steps.
        quick: Use the small values: two minutes that show that everything runs, and no more.
        values: Values in place of those of the file, such as '{seed: 1}'.
        resume: Go on in OUT where an earlier demo stopped.
        overwrite: Start anew in the OUT of an earlier demo, of which what steps make is removed.

    Returns: 0, or the exit status of the step that failed.
    Raises: ValueError: OUT is in use. FileNotFoundError: no such file of steps.
    """
    path = config_path(steps)
    config = from_dict(DemoConfig, load_yaml(path), str(path))
    filled = config.filled(out, quick=quick, given=values)
    report = Path(fill(config.report, filled))
    made = [Path(fill(text, filled)) for text in config.made]
    if out in report.parents:  # and what a report has beside it
        made += [report, report.with_suffix(".html"), report.with_name("figures")]
    with _prepare(out, made, resume=resume, overwrite=overwrite):
        run = _Run(config.steps, out, filled)
        began = time.monotonic()
        for group in groups(config.steps):
            status = run.group(group)
            if status != 0:
                again = ["demo", "--resume", "--out", str(out), *(["--quick"] if quick else [])]
                again += ["--values", json.dumps(values)] if values else []
                if steps != DEMO_STEPS:
                    again += ["--steps", str(steps)]
                run.say(f"To go on from here: hicmae {shlex.join(again)}")
                return status
        if not report.is_file():
            raise ValueError(f"{path}: report {report} was made by no step")
        before = f", {run.num_before} of them before, the others" if run.num_before else ""
        run.say(
            f"\nAll {len(config.steps)} steps done{before} in {_clock(time.monotonic() - began)}."
        )
        run.say(f"The report: {report}")
        return 0


def step_words(steps: Sequence[Step], values: Values) -> list[list[str]]:
    """The words after ``hicmae`` of every step."""
    # Split first, then fill in: a path with a space stays one word.
    return [[fill(word, values) for word in shlex.split(step.command)] for step in steps]


def groups(steps: Sequence[Step]) -> list[list[int]]:
    """Numbers of the steps, from 0, neighbours of one group together."""
    found: list[list[int]] = []
    for number, step in enumerate(steps):
        if number and step.group is not None and step.group == steps[number - 1].group:
            found[-1].append(number)
        else:
            found.append([number])
    return found


def needs(steps: Sequence[Step]) -> list[set[int]]:
    """Of every step the numbers, from 0, of those before it whose folder its command names."""
    return [
        {
            other
            for other, before in enumerate(steps[:number])
            if before.makes and re.search(re.escape(before.makes) + r"(?![\w.-])", step.command)
        }
        for number, step in enumerate(steps)
    ]


def fill(text: str, values: Values) -> str:
    """Replace ``{name}`` by its value; other braces (YAML or JSON in a command) stay."""
    return re.sub(r"\{(\w+)\}", lambda match: str(values[match.group(1)]), text)


class _Run:
    """One run of a demo, group by group.

    Args:
        values: What stands in for the names in braces.

    Attributes:
        num_before: Steps that an earlier run has done.
    """

    def __init__(self, steps: Sequence[Step], out: Path, values: Values) -> None:
        self.steps, self.out, self.values = steps, out, values
        self.commands = step_words(steps, values)
        self.needs = needs(steps)
        self.seconds = _read_done(out, self.commands, groups(steps), self.needs)
        self.num_before = sum(taken is not None for taken in self.seconds)
        self.console = Console(highlight=False)
        # At once: what comes after a step that is to run again is not done any more.
        _save_done(out, self.commands, self.seconds)

    def group(self, numbers: Sequence[int]) -> int:
        """Run those steps of a group that are not done, side by side where there are cores.

        When one fails, those beside it are stopped and no other is started. However this ends, no
        process is left behind.

        Returns: 0, or the exit status of the one that failed.
        """
        waiting = [number for number in numbers if self.seconds[number] is None]
        for number in numbers:
            if number not in waiting:
                self._announce(number)
                self.say(f"  done before, in {_clock(self.seconds[number] or 0.0)}")
        at_once = min(_AT_ONCE, num_cores(), len(waiting))
        running: dict[int, _Process] = {}
        heard: queue.Queue[tuple[int, str | None]] = queue.Queue()
        try:
            while waiting or running:
                while len(running) < at_once and (ready := self._ready(waiting)):
                    number = ready[0]
                    waiting.remove(number)
                    self._announce(number)
                    self._clear(number)
                    running[number] = _Process(
                        self.commands[number], self.log(number), at_once, number, heard
                    )
                number, line = heard.get()
                name = f"[{number + 1}/{len(self.steps)}] " if at_once > 1 else ""
                if line is not None:
                    if not self.steps[number].show:  # which comes in one piece
                        self.say(f"  {name}| {line}", style="dim")
                    continue
                ended = running.pop(number)
                status = ended.finish()
                if status != 0:
                    self._explain(number, status)
                    return status
                self.seconds[number] = ended.seconds
                _save_done(self.out, self.commands, self.seconds)
                if self.steps[number].show:
                    self.say(ended.log.read_text(encoding="utf-8").rstrip())
                self.say(f"  {name}done in {_clock(ended.seconds)}")
        finally:
            _stop(list(running.values()))
        return 0

    def _ready(self, waiting: Sequence[int]) -> list[int]:
        """Those of the waiting steps that need nothing that is not made yet."""
        return [
            number
            for number in waiting
            if all(self.seconds[other] is not None for other in self.needs[number])
        ]

    def log(self, number: int) -> Path:
        """The file for the output of a step."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.steps[number].title.lower()).strip("-")[:40]
        return self.out / "logs" / f"{number + 1:02d}-{slug}.log"

    def say(self, text: str, style: str = "") -> None:
        """Print text as it is, without markup or breaks."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    def _announce(self, number: int) -> None:
        title = self.steps[number].title
        self.say(f"\n[{number + 1}/{len(self.steps)}] {title}", style="bold")
        self.say(f"$ hicmae {shlex.join(self.commands[number])}")

    def _clear(self, number: int) -> None:
        """Remove what a step is about to write again, inside the demo's folder only."""
        makes = self.steps[number].makes
        if makes is None:
            return
        _remove(self.out, Path(fill(makes, self.values)))

    def _explain(self, number: int, status: int) -> None:
        if self.steps[number].show:
            self.say(self.log(number).read_text(encoding="utf-8").rstrip())
        name = f"[{number + 1}/{len(self.steps)}]"
        self.say(f"Step {name} failed with exit status {status}. Its output: {self.log(number)}")
        self.say(f"To repeat it alone: hicmae {shlex.join(self.commands[number])}")


class _Process:
    """A command whose output is shown and kept as it comes; what it has started ends with it.

    Args:
        log: File for everything it says; of a line that overwrites itself (a progress bar), the
            last form.
        at_once: How many share the cores (``OMP_NUM_THREADS``, unless the user has set it).
        number: Stands before each line that is put into ``heard``.
        heard: Takes what it says, line by line, and nothing at its end.
    """

    def __init__(
        self,
        words: Sequence[str],
        log: Path,
        at_once: int,
        number: int,
        heard: queue.Queue[tuple[int, str | None]],
    ) -> None:
        share = {"OMP_NUM_THREADS": str(max(1, num_cores() // at_once))} if at_once > 1 else {}
        self.log, self._began = log, time.monotonic()
        self._error: OSError | None = None
        self.process = VerbProcess(words, {**share, **os.environ}, _MAIN)
        self._reader = threading.Thread(target=self._read, args=(number, heard), daemon=True)
        self._reader.start()

    def _read(self, number: int, heard: queue.Queue[tuple[int, str | None]]) -> None:
        try:
            with naming(self.log), self.log.open("w", encoding="utf-8") as file:
                for raw in self.process.output:
                    line = raw.decode("utf-8", errors="replace").rstrip("\n").split("\r")[-1]
                    file.write(line + "\n")
                    file.flush()
                    if line.strip():
                        heard.put((number, line))
        except OSError as error:
            self._error = error
        finally:  # or what waits for it would do so without end
            self.seconds = time.monotonic() - self._began
            heard.put((number, None))

    def finish(self) -> int:
        """Wait for the end, and end what the command has left running.

        Returns: the exit status as a shell gives it (128 + signal when killed).
        Raises: OSError: what it says could not be written; it is ended then.
        """
        if self._error is not None:
            self.kill()
            raise self._error
        status = self.process.wait()
        assert status is not None
        self.kill()
        return status

    def kill(self) -> None:
        self.process.kill()
        self._reader.join()


def _stop(running: Sequence[_Process]) -> None:
    """Interrupt commands, give them a moment to end by themselves, and kill what is left."""
    try:
        for process in running:
            process.process.signal(signal.SIGINT)
        deadline = time.monotonic() + _GRACE_SECONDS
        for process in running:
            process.process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for process in running:
            process.kill()


def _remove(out: Path, made: Path) -> None:
    """Remove what a step makes.

    Raises: ValueError: it is not inside the demo's folder.
    """
    if out.resolve() not in made.resolve().parents:
        raise ValueError(f"demo: makes: {made} is not inside {out}")
    remove(made)


def _prepare(out: Path, made: Sequence[Path], *, resume: bool, overwrite: bool) -> IO[bytes]:
    """Make the folder, and touch nothing that is not an earlier demo.

    Args: made: What is removed of that to begin anew, besides its logs.
    Returns: what keeps other processes from writing into it, until it is closed.
    Raises: ValueError: the folder is in use.
    """
    if resume and overwrite:
        raise ValueError("give either --resume or --overwrite, not both")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file, not a folder; give another --out")
    there = [path for path in out.iterdir() if path.name != LOCK] if out.is_dir() else []
    if there:
        if not (out / _STATE).is_file():
            raise ValueError(f"{out}: holds files that are no demo's; give another --out")
        if not resume and not overwrite:
            raise ValueError(
                f"{out}: holds an earlier demo; give --resume, --overwrite or another --out"
            )
    out.mkdir(parents=True, exist_ok=True)
    lock = only_writer(out)
    for path in (out / "logs", out / _STATE, *made) if overwrite else ():
        _remove(out, path)
    (out / "logs").mkdir(exist_ok=True)
    if not (out / _STATE).is_file():
        _save_done(out, [], [])
    return lock


def _read_done(
    out: Path,
    commands: Sequence[list[str]],
    groups: Sequence[Sequence[int]],
    needs: Sequence[set[int]],
) -> list[float | None]:
    """What each step took in an earlier demo, or None where it has to run.

    A step that differs spoils what comes after it, but of those beside it only what needs it.

    Args:
        commands: The words of each step.
        groups: The steps by number, from 0.
        needs: Of each step those whose folder it reads.
    """
    try:
        state = json.loads((out / _STATE).read_text(encoding="utf-8"))
        saved = list(zip(state["commands"], state["seconds"], strict=True))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{out / _STATE}: damaged ({error}); give --overwrite or another --out"
        ) from error
    seconds: list[float | None] = [None] * len(commands)
    for group in groups:
        for number in group:
            whole = all(seconds[other] is not None for other in needs[number])
            if whole and number < len(saved) and saved[number][0] == commands[number]:
                seconds[number] = saved[number][1]
        if any(seconds[number] is None for number in group):
            break
    return seconds


def _save_done(out: Path, commands: Sequence[list[str]], seconds: Sequence[float | None]) -> None:
    """Note which steps are done: those that have taken some time."""
    done = [
        words if taken is not None else None for words, taken in zip(commands, seconds, strict=True)
    ]
    text = json.dumps({"commands": done, "seconds": list(seconds)}, indent=1)
    write_text(out / _STATE, text)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
