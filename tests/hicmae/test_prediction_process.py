"""The decoding process: what it says, and what happens when it hangs or dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe
from pathlib import Path
from types import FunctionType

import pytest

from hicmae.prediction.messages import Finished, StageProgress
from hicmae.prediction.process import DecodingProcess, PredictionError

# A process that does what the request says.
WORKER = """
import os, signal, sys, time
from multiprocessing.connection import Connection
from hicmae.prediction.messages import Failed, Finished, StageProgress
pipe = Connection(int(sys.argv[1]))
while True:
    try:
        what, count = pipe.recv()
    except EOFError:
        break
    for number in range(count):
        pipe.send(StageProgress(stage=str(os.getpid()), done=number, total=count))
    if what == "hang":
        time.sleep(600)
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    pipe.send(Failed(cause="damaged", message="x.mp4: bad") if what == "fail" else
              Finished(seconds={}))
"""


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DecodingProcess:
    (tmp_path / "odd_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return DecodingProcess("odd_worker")


def ask(process: DecodingProcess, what: str, count: int = 2) -> list[str]:
    """Ask, and give the process ids that answered."""
    messages = list(process.ask((what, count), path=Path("x.mp4"), deadline_seconds=30))
    assert isinstance(messages[-1], Finished)
    return [message.stage for message in messages if isinstance(message, StageProgress)]


def test_one_process_serves_many_recordings(process: DecodingProcess) -> None:
    with process:
        first, second = ask(process, "work"), ask(process, "work", 30)
    assert len(first) == 2
    assert len(second) == 30
    assert len({*first, *second}) == 1


def test_a_crash_costs_one_recording_and_names_the_signal(process: DecodingProcess) -> None:
    with process:
        before = ask(process, "work")
        with pytest.raises(PredictionError, match=r"x.mp4: the decoding process .* SIGSEGV"):
            ask(process, "crash")
        assert ask(process, "work")[0] != before[0]


@pytest.mark.slow
def test_a_process_that_shows_no_sign_of_life_is_killed(process: DecodingProcess) -> None:
    with process:
        ask(process, "work")  # so that it is there when the clock starts
        answers = process.ask(("hang", 1), path=Path("x.mp4"), deadline_seconds=3)
        pid = int(next(answers).stage)
        with pytest.raises(PredictionError, match=r"x.mp4: no sign of life for 3 s") as caught:
            next(answers)
        assert caught.value.cause == "deadline"
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert ask(process, "work")


def test_a_failure_keeps_the_process(process: DecodingProcess) -> None:
    with process:
        before = ask(process, "work")
        with pytest.raises(PredictionError, match=r"^x.mp4: bad$") as caught:
            ask(process, "fail")
        assert caught.value.cause == "damaged"
        assert ask(process, "work")[0] == before[0]


def test_two_at_once_get_a_process_each(process: DecodingProcess) -> None:
    with process:
        answers = process.ask(("work", 50), path=Path("x.mp4"), deadline_seconds=30)
        first = next(answers).stage
        assert ask(process, "work")[0] != first
        rest = [message.stage for message in answers if isinstance(message, StageProgress)]
        assert set(rest) == {first}
        assert len(rest) == 49


def test_stopping_early_leaves_nothing_behind(process: DecodingProcess) -> None:
    with process:
        answers = process.ask(("work", 1000), path=Path("x.mp4"), deadline_seconds=30)
        pid = int(next(answers).stage)
        answers.close()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decoding")]


def test_what_is_said_ahead_is_bounded(process: DecodingProcess) -> None:
    """The reader waits for whoever takes the messages, and the process for the reader."""
    with process:
        answers = process.ask(("work", 100_000), path=Path("x.mp4"), deadline_seconds=30)
        next(answers)
        time.sleep(0.3)
        assert process._ahead.qsize() <= 8
        answers.close()


@pytest.mark.slow
def test_the_process_ends_when_its_user_is_killed(tmp_path: Path) -> None:
    """Also in the middle of something that hangs."""
    script = (
        "import os, time\n"
        "from hicmae.prediction.process import DecodingProcess\n"
        "process = DecodingProcess()\n"
        "process._connected()\n"
        "print(process._process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as user:
        assert user.stdout is not None
        pid = int(user.stdout.readline())
        user.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}/cmdline").exists() and time.monotonic() < deadline:
        if not Path(f"/proc/{pid}/cmdline").read_bytes():
            break  # ended, and nobody has asked for its status
        time.sleep(0.1)
    else:
        assert time.monotonic() < deadline


def test_closing_needs_nothing_that_was_imported_for_at_the_end_of_a_program_it_is_gone() -> None:
    process, (here, there) = DecodingProcess(), Pipe()
    process._connection = here
    alone = FunctionType(DecodingProcess.close.__code__, {"__builtins__": __builtins__})
    alone(process)
    assert here.closed
    there.close()
