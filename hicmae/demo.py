"""The whole system in one command: the very commands a user would type, one after another.

For: running the steps of ``configs/demo.yaml`` as processes of their own, showing each, and
ending at the report. Not for: the work itself; every step is an ordinary ``hicmae`` command that
can be typed again by hand. Steps are read by ``hicmae/demo_steps.py``; which of them are done is
kept by ``hicmae/demo_folder.py``.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from hicmae.config import config_path, from_dict, load_yaml
from hicmae.demo_folder import prepare, read_done, remove, save_done
from hicmae.demo_steps import DemoConfig, fill, groups, step_words
from hicmae.process import Job, ProcessResult, num_cores, run_jobs

DEMO_STEPS = Path("configs/demo.yaml")
_AT_ONCE = 2
_LOG_TAIL_LINES = 25


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
    prepare(out, resume=resume, overwrite=overwrite)
    run = _Run(config, out, quick=quick)
    began = time.monotonic()
    for group in groups(config.steps):
        failure = run.group(group)
        if failure is not None:
            again = ["demo", "--resume", "--out", str(out), *(["--quick"] if quick else [])]
            if steps != DEMO_STEPS:
                again += ["--steps", str(steps)]
            run.say(f"To go on from here: hicmae {shlex.join(again)}")
            return failure.status
    report = Path(fill(config.report, config.filled(out, quick=quick)))
    if not report.is_file():
        raise ValueError(f"{path}: report {report} was made by no step")
    before = f", {run.num_before} of them before, the others" if run.num_before else ""
    run.say(f"\nAll {len(config.steps)} steps done{before} in {_clock(time.monotonic() - began)}.")
    run.say(f"The report: {report}")
    return 0


class _Run:
    """One run of a demo, group by group.

    Args:
        config: The steps.
        out: The demo's folder, prepared.
        quick: Whether with the small values.

    Attributes:
        num_before: Steps that an earlier run has done.
    """

    def __init__(self, config: DemoConfig, out: Path, *, quick: bool) -> None:
        self.steps, self.out = config.steps, out
        self.values = config.filled(out, quick=quick)
        self.commands = step_words(config, out, quick=quick)
        self.seconds = read_done(out, self.commands, groups(config.steps))
        self.num_before = sum(taken is not None for taken in self.seconds)
        self.console = Console(highlight=False)
        # At once: what comes after a step that is to run again is not done any more.
        save_done(out, self.commands, self.seconds)

    def group(self, numbers: Sequence[int]) -> ProcessResult | None:
        """Run those steps of a group that are not done; returns how one failed, if one did."""
        jobs = {}
        for number in numbers:
            taken = self.seconds[number]
            if taken is None:
                jobs[self._job(number)] = number
            else:
                self._announce(number)
                self.say(f"  done before, in {_clock(taken)}")
        failures = []
        at_once = min(_AT_ONCE, num_cores(), len(jobs))

        def start(job: Job) -> None:
            makes = self.steps[jobs[job]].makes
            self._announce(jobs[job])
            if makes is not None:
                remove(self.out, Path(fill(makes, self.values)))

        def end(job: Job, result: ProcessResult) -> None:
            name = f"{job.name} " if at_once > 1 else ""
            if result.status != 0:
                failures.append(result)
                self._explain(job, result)
                return
            self.seconds[jobs[job]] = result.seconds
            save_done(self.out, self.commands, self.seconds)
            if self.steps[jobs[job]].show:
                self.say(job.log.read_text(encoding="utf-8").rstrip())
            self.say(f"  {name}done in {_clock(result.seconds)}")

        if jobs:
            run_jobs(list(jobs), self.console, at_once=at_once, on_start=start, on_end=end)
        return failures[0] if failures else None

    def say(self, text: str, style: str = "") -> None:
        """Print text as it is, without markup or breaks."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    def _job(self, number: int) -> Job:
        """The process of a step."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.steps[number].title.lower()).strip("-")[:40]
        return Job(
            name=f"[{number + 1}/{len(self.steps)}]",
            words=tuple(self.commands[number]),
            log=self.out / "logs" / f"{number + 1:02d}-{slug}.log",
        )

    def _announce(self, number: int) -> None:
        """Say what a step does, and its command."""
        title = self.steps[number].title
        self.say(f"\n[{number + 1}/{len(self.steps)}] {title}", style="bold")
        self.say(f"$ hicmae {shlex.join(self.commands[number])}")

    def _explain(self, job: Job, result: ProcessResult) -> None:
        """Say which step failed, with the end of its output and how to repeat it."""
        lines = job.log.read_text(encoding="utf-8").splitlines()[-_LOG_TAIL_LINES:]
        self.say("\n".join(lines))
        self.say(f"Step {job.name} failed with exit status {result.status}. Its output: {job.log}")
        self.say(f"To repeat it alone: hicmae {shlex.join(job.words)}")


def _clock(seconds: float) -> str:
    """A duration for reading."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
