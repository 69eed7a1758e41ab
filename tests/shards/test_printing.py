"""How far a build is: rates, time left and causes; a bar on a terminal, else lines now and then."""

from __future__ import annotations

import io
from collections import Counter

import pytest
from rich.console import Console

from shards.building.build import Progress
from shards.printing import BuildDisplay, progress_note


def at(done: int, kept: int = 0, **causes: int) -> Progress:
    return Progress(
        done=done,
        kept=kept,
        total=100,
        num_samples=done,
        seconds=8.0 * (done - kept),
        refused=Counter(causes),
    )


def test_rates_are_of_this_run_and_the_time_left_of_what_is_left() -> None:
    note = progress_note(at(60, kept=40, crash=1, unreadable=3), 10.0)
    assert note == (
        "2.0 recordings/s, 16.0 s of video/s, 0:00:20 left, 60 samples, "
        "4 refused (3 unreadable, 1 crash)"
    )
    assert progress_note(at(40, kept=40), 0.0) == "40 samples, 0 refused"


def test_without_a_terminal_there_is_a_line_every_half_minute_and_no_bar() -> None:
    now, shown = [0.0], io.StringIO()
    display = BuildDisplay(Console(file=shown, width=40), clock=lambda: now[0])
    with display:
        for done in range(1, 101):
            now[0] = float(done)
            display.update(at(done))
    lines = shown.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"{done} of 100 recordings" for done in (30, 60, 90)
    ]
    assert lines[0].startswith("30 of 100 recordings: 1.0 recordings/s, 8.0 s of video/s, 0:01:10")
    assert "\x1b" not in shown.getvalue()


def test_on_a_terminal_there_is_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    shown = io.StringIO()
    console = Console(file=shown, width=160, force_terminal=True)
    now = [0.0]
    with BuildDisplay(console, clock=lambda: now[0]) as display:
        now[0] = 10.0
        display.update(at(50, crash=2))
    text = shown.getvalue()
    assert "50/100" in text
    assert "5.0 recordings/s, 40.0 s of video/s, 0:00:10 left" in text
    assert "2 refused (2 crash)" in text
    assert "recordings:" not in text
