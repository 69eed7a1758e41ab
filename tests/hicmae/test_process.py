"""Following a command: its log, its status, and lines that overwrite themselves."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import hicmae.process
import hicmae.process_screen
from hicmae.process import Job, ProcessResult, run_jobs

POPEN = subprocess.Popen


@pytest.fixture(autouse=True)
def _python_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the last word as Python code in place of ``hicmae``."""

    def instead(command: list[str], **options: Any) -> Any:
        return POPEN([sys.executable, "-c", command[-1]], **options)

    monkeypatch.setattr(hicmae.process.subprocess, "Popen", instead)


def run(folder: Path, code: str, *, terminal: bool = False) -> tuple[int, str, str]:
    """Run one command; its status, its log and what the screen showed."""
    [(_, result)], shown = run_all(folder, [code], terminal=terminal)
    return result.status, (folder / "0.log").read_text(), shown


def run_all(
    folder: Path, codes: list[str], *, at_once: int = 1, terminal: bool = False
) -> tuple[list[tuple[str, ProcessResult]], str]:
    """Run commands; name and result of those that ended, in that order, and the screen."""
    ended: list[tuple[str, ProcessResult]] = []
    screen = io.StringIO()
    run_jobs(
        [
            Job(name=str(number), words=(code,), log=folder / f"{number}.log")
            for number, code in enumerate(codes)
        ],
        Console(file=screen, force_terminal=terminal, width=80),
        at_once=at_once,
        on_start=lambda job: None,
        on_end=lambda job, result: ended.append((job.name, result)),
    )
    return ended, screen.getvalue()


def test_the_log_holds_both_streams_and_the_last_form_of_a_progress_bar(tmp_path: Path) -> None:
    code = (
        r"import sys; print('one'); sys.stdout.flush(); sys.stderr.write('\r10%\r50%\r100%\n');"
        r"sys.stderr.flush(); print('zwei ß'); sys.stdout.write('no end')"
    )
    status, log, _ = run(tmp_path, code)
    assert status == 0
    assert log == "one\n100%\nzwei ß\nno end\n"


def test_the_status_is_that_of_the_command_and_of_its_signal(tmp_path: Path) -> None:
    assert run(tmp_path, "raise SystemExit(5)")[0] == 5
    assert run(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")[0] == 137


def test_a_terminal_shows_the_last_lines(tmp_path: Path) -> None:
    code = "import time\nfor i in range(6):\n    print('line', i, flush=True); time.sleep(0.15)\n"
    _, _, shown = run(tmp_path, code, terminal=True)
    assert "line 4" in shown


def test_without_a_terminal_a_line_now_and_then_shows_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hicmae.process_screen, "_HEARTBEAT_SECONDS", 0.2)
    _, _, shown = run(
        tmp_path,
        "import time\nfor i in range(5): print('step', i, flush=True); time.sleep(0.15)",
    )
    assert "s | step" in shown


MEET = """
import pathlib, sys, time
here = pathlib.Path({folder!r})
(here / "{name}").touch()
while not (here / "{other}").exists(): time.sleep(0.01)
"""


def test_two_commands_run_side_by_side_and_share_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(hicmae.process, "num_cores", lambda: 6)
    share = "import os; print(os.environ.get('OMP_NUM_THREADS'))"
    # Each of the first two ends only if the other one runs.
    meet = [
        MEET.format(folder=str(tmp_path), name=name, other=other) for name, other in ("ab", "ba")
    ]
    ended, _ = run_all(tmp_path, [*meet, share], at_once=2)
    assert sorted(name for name, _ in ended) == ["0", "1", "2"]
    assert {result.status for _, result in ended} == {0}
    assert (tmp_path / "2.log").read_text() == "3\n"
    run_all(tmp_path, [share])
    assert (tmp_path / "0.log").read_text() == "None\n"


def test_each_of_several_has_one_line_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hicmae.process_screen, "_HEARTBEAT_SECONDS", 0.2)
    codes = [
        f"import time\nfor i in range(5): print('{word}', i, flush=True); time.sleep(0.15)"
        for word in ("left", "right")
    ]
    for terminal in (False, True):
        _, shown = run_all(tmp_path, codes, at_once=2, terminal=terminal)
        assert re.search(r"  0 \d s \| left \d", shown)
        assert re.search(r"  1 \d s \| right \d", shown)


# Starts a child that would live on, says its number and waits for ever.
PARENT = """
import subprocess, sys, time, pathlib
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
pathlib.Path({folder!r}, "{name}.part").write_text(str(child.pid))
pathlib.Path({folder!r}, "{name}.part").rename(pathlib.Path({folder!r}, "{name}"))
time.sleep(100)
"""


def is_running(process: int) -> bool:
    """Whether a process lives; a dead one that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def gone(folder: Path, *names: str) -> bool:
    """Whether the children that ``PARENT`` has named end within a moment."""
    numbers = [int((folder / name).read_text()) for name in names]
    deadline = time.monotonic() + 10
    while any(map(is_running, numbers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(is_running, numbers))


def test_a_failure_stops_those_beside_it_with_all_they_started(tmp_path: Path) -> None:
    fail = MEET.format(folder=str(tmp_path), name="x", other="beside") + "sys.exit(5)"
    beside = PARENT.format(folder=str(tmp_path), name="beside")
    ended, _ = run_all(tmp_path, [beside, fail, "raise SystemExit"], at_once=2)
    assert [(name, result.status) for name, result in ended] == [("1", 5)]
    assert gone(tmp_path, "beside")
    assert not (tmp_path / "2.log").exists()


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_an_interrupt_ends_all_commands_with_all_they_started(
    tmp_path: Path, number: signal.Signals, error: type[BaseException]
) -> None:
    def interrupt() -> None:
        while not ((tmp_path / "a").exists() and (tmp_path / "b").exists()):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    # Started in the background of a script, these tests would inherit an ignored interrupt.
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    inherited = signal.signal(number, handlers[number])
    before = signal.getsignal(number)
    thread = threading.Thread(target=interrupt)
    thread.start()
    codes = [PARENT.format(folder=str(tmp_path), name=name) for name in "ab"]
    with pytest.raises(error):
        run_all(tmp_path, codes, at_once=2)
    thread.join()
    assert gone(tmp_path, "a", "b")
    found = signal.signal(number, inherited)
    assert found == before
