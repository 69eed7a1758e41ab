"""The demo's processes: their logs, their status, and that none is left behind."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import hicmae.demo
from hicmae.demo import Step, _Run
from hicmae.processes import ending_in_order


def run_code(words: list[str]) -> int:
    """Stands for ``hicmae``: runs the word as Python code."""
    exec(words[-1], {})
    return 0


@pytest.fixture(autouse=True)
def _python_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hicmae.demo, "_MAIN", f"{__name__}:run_code")


def run(out: Path, *codes: str) -> tuple[int, list[str], list[bool]]:
    """Run commands as one group: the status, their logs, and which are done."""
    steps = tuple(Step(title=str(n), command=shlex.quote(code)) for n, code in enumerate(codes))
    (out / "logs").mkdir(exist_ok=True)
    (out / "demo.json").write_text('{"commands": [], "seconds": []}')
    started = _Run(steps, out, {})
    status = started.group(range(len(codes)))
    logs = [started.log(n) for n in range(len(codes))]
    texts = [log.read_text() if log.is_file() else "" for log in logs]
    return status, texts, [taken is not None for taken in started.seconds]


def test_the_log_holds_both_streams_and_the_last_form_of_a_progress_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        r"import sys; print('one'); sys.stdout.flush(); sys.stderr.write('\r10%\r50%\r100%\n');"
        r"sys.stderr.flush(); print('zwei ß'); sys.stdout.write('no end')"
    )
    status, logs, done = run(tmp_path, code)
    assert (status, logs, done) == (0, ["one\n100%\nzwei ß\nno end\n"], [True])
    assert "  | 100%\n  | zwei ß\n" in capsys.readouterr().out, "shown as it came"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("raise SystemExit(5)", 5),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137),
    ],
)
def test_the_status_is_that_of_the_command_and_of_its_signal(
    tmp_path: Path, code: str, status: int
) -> None:
    assert run(tmp_path, code) == (status, [""], [False])


MEET = """
import pathlib, sys, time
here = pathlib.Path({folder!r})
(here / "{name}").touch()
while not (here / "{other}").exists(): time.sleep(0.01)
"""


@pytest.mark.slow
def test_two_commands_run_side_by_side_and_share_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(hicmae.demo, "num_cores", lambda: 6)
    share = "import os; print(os.environ.get('OMP_NUM_THREADS'))"
    # Each of the first two ends only if the other one runs.
    meet = [
        MEET.format(folder=str(tmp_path), name=name, other=other) for name, other in ("ab", "ba")
    ]
    status, logs, done = run(tmp_path, *meet, share)
    assert (status, logs[2], done) == (0, "3\n", [True] * 3)
    assert re.search(r"  \[3/3\] \| 3\n", capsys.readouterr().out), "named, as others run beside"
    assert run(tmp_path, share)[1] == ["None\n"]


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


@pytest.mark.slow
def test_a_failure_stops_those_beside_it_with_all_they_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hicmae.demo, "num_cores", lambda: 2)
    fail = MEET.format(folder=str(tmp_path), name="x", other="beside") + "sys.exit(5)"
    beside = PARENT.format(folder=str(tmp_path), name="beside")
    status, _, done = run(tmp_path, beside, fail, "raise SystemExit")
    assert (status, done) == (5, [False] * 3)
    assert gone(tmp_path, "beside")
    assert len(list((tmp_path / "logs").iterdir())) == 2, "the third was not started"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_an_interrupt_ends_all_commands_with_all_they_started(
    tmp_path: Path,
    number: signal.Signals,
    error: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hicmae.demo, "num_cores", lambda: 2)

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
    with pytest.raises(error), ending_in_order():
        run(tmp_path, *[PARENT.format(folder=str(tmp_path), name=name) for name in "ab"])
    thread.join()
    assert gone(tmp_path, "a", "b")
    found = signal.signal(number, inherited)
    assert found == before


# A demo of two steps that write nothing, and so do not notice that nobody reads.
KILLED = """
import sys
from pathlib import Path
import hicmae.demo
from tests.hicmae.test_demo_processes import PARENT, run

if __name__ == "__main__":
    hicmae.demo._MAIN = f"{run.__module__}:run_code"
    hicmae.demo.num_cores = lambda: 2
    out = sys.argv[1]
    run(Path(out), *[PARENT.format(folder=out, name=name) for name in "ab"])
"""


@pytest.mark.slow
def test_a_killed_demo_leaves_no_step_behind(tmp_path: Path, repository: Path) -> None:
    """Else --resume would remove the folder of one that is still at work in it."""
    (tmp_path / "killed.py").write_text(KILLED)
    words = [sys.executable, str(tmp_path / "killed.py"), str(tmp_path)]
    with subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(repository)}) as started:
        while not ((tmp_path / "a").exists() and (tmp_path / "b").exists()):
            assert started.poll() is None
            time.sleep(0.05)
        started.kill()
    assert gone(tmp_path, "a", "b")
