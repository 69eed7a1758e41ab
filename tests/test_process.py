"""Following a command: its log, its status, and lines that overwrite themselves."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import hicmae.process
from hicmae.process import run_logged


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Runs Python code in place of ``hicmae``; gives status, log and what the screen showed."""
    popen = subprocess.Popen

    def instead(command: list[str], **options: object) -> object:
        return popen([sys.executable, "-c", command[-1]], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(hicmae.process.subprocess, "Popen", instead)

    def call(code: str, *, terminal: bool = False) -> tuple[int, str, str]:
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=terminal, width=80)
        log = tmp_path / "log"
        status = run_logged([code], log, console).status
        return status, log.read_text(), screen.getvalue()

    return call


def test_the_log_holds_both_streams_and_the_last_form_of_a_progress_bar(run) -> None:  # type: ignore[no-untyped-def]
    code = (
        r"import sys; print('one'); sys.stdout.flush(); sys.stderr.write('\r10%\r50%\r100%\n');"
        r"sys.stderr.flush(); print('zwei ß'); sys.stdout.write('no end')"
    )
    status, log, _ = run(code)
    assert status == 0
    assert log == "one\n100%\nzwei ß\nno end\n"


def test_the_status_is_that_of_the_command_and_of_its_signal(run) -> None:  # type: ignore[no-untyped-def]
    assert run("raise SystemExit(5)")[0] == 5
    assert run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")[0] == 137


def test_a_terminal_shows_the_last_lines(run) -> None:  # type: ignore[no-untyped-def]
    code = "import time\nfor i in range(6):\n    print('line', i, flush=True); time.sleep(0.15)\n"
    _, _, shown = run(code, terminal=True)
    assert "line 4" in shown


def test_without_a_terminal_a_line_now_and_then_shows_life(  # type: ignore[no-untyped-def]
    run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hicmae.process, "_HEARTBEAT_SECONDS", 0.2)
    _, _, shown = run(
        "import time\nfor i in range(5): print('step', i, flush=True); time.sleep(0.15)"
    )
    assert "s | step" in shown
