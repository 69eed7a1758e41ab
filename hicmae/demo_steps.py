"""The steps of the demo, as ``configs/demo.yaml`` lists them.

For: what a step is, and the words of its command. Not for: running them (``hicmae/demo.py``).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

Values = dict[str, int | float | str]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of the demo.

    Args:
        title: What it does, for the reader.
        command: The words after ``hicmae``. ``{out}`` and the names under ``values`` are replaced.
        makes: The folder it writes, removed before the step runs so that a half-done one does not
            stand in the way of ``--resume``.
        show: Whether its whole output is shown when it is done.
        group: Name shared with neighbours that need nothing of one another: two of them run side
            by side where there are two cores.
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
        quick: Values that replace those for a run of a minute that shows nothing but that
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
            *(s.makes or "" for s in self.steps),
        ):
            unknown = sorted(set(re.findall(r"\{(\w*)\}", text)) - set(known))
            problems += [f"'{{{name}}}' in '{text}' is not among the values" for name in unknown]
        if problems:
            raise ValueError(f"demo: {'; '.join(problems)}")

    def filled(self, out: Path, *, quick: bool) -> Values:
        """What stands in for the names in braces."""
        return {**self.values, **(self.quick if quick else {}), "out": str(out)}


def step_words(config: DemoConfig, out: Path, *, quick: bool) -> list[list[str]]:
    """The words after ``hicmae`` of every step."""
    values = config.filled(out, quick=quick)
    # Split first, then fill in: a path with a space stays one word.
    return [[fill(word, values) for word in shlex.split(step.command)] for step in config.steps]


def groups(steps: Sequence[Step]) -> list[list[int]]:
    """Numbers of the steps, from 0, neighbours of one group together."""
    found: list[list[int]] = []
    for number, step in enumerate(steps):
        if number and step.group is not None and step.group == steps[number - 1].group:
            found[-1].append(number)
        else:
            found.append([number])
    return found


def fill(text: str, values: Values) -> str:
    """Replace ``{name}`` by its value; other braces (YAML or JSON in a command) stay."""
    return re.sub(r"\{(\w+)\}", lambda match: str(values[match.group(1)]), text)
