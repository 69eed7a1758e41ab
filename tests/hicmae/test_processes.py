"""Memory that is kept between steps, and commands in forked processes: they are what a process of
their own would have been.
"""

from __future__ import annotations

import gc
import importlib
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from hicmae import processes
from hicmae.processes import (
    VerbProcess,
    check_workers,
    choose_threads,
    keep_freed_memory,
    spare_imports,
    wait_passively,
)


def test_many_more_workers_than_cores_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "num_cores", lambda: 2)
    check_workers(64)
    with pytest.raises(ValueError, match=r"workers = 65 \(at most 64 here, on 2 cores\)"):
        check_workers(65)
    monkeypatch.setattr(processes, "num_cores", lambda: 32)
    check_workers(512)


def take_and_free(_: list[str]) -> int:
    """Say what ``keep_freed_memory`` did, and the megabytes that stay of 256 that are freed."""

    def megabytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 10**6

    done, before = keep_freed_memory(), megabytes()
    blocks = [torch.ones(4_000_000) for _ in range(16)]  # 16 MB each
    del blocks
    print(done, megabytes() - before)
    return 0


def clean(**environment: str) -> dict[str, str]:
    """The environment without what it may say of memory, and with this."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"
    } | environment


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")
def test_what_is_alive_at_the_first_full_collection_is_spared_for_ever() -> None:
    thresholds, callbacks, frozen = gc.get_threshold(), list(gc.callbacks), gc.get_freeze_count()
    spare_imports()
    assert gc.get_threshold()[:2] == thresholds[:2]
    assert gc.get_threshold()[2] > thresholds[2]
    gc.collect(1)
    assert gc.get_freeze_count() == frozen
    gc.collect()
    assert (gc.get_threshold(), gc.callbacks) == (thresholds, callbacks)
    assert gc.get_freeze_count() > frozen
    assert len(gc.get_objects()) < gc.get_freeze_count()


def test_freed_memory_stays_with_the_process() -> None:
    process = VerbProcess([], clean(), f"{__name__}:take_and_free")
    said, megabytes = process.output.read().split()
    assert process.wait(60) == 0
    assert said == b"True"
    assert int(megabytes) > 200


@pytest.mark.slow
def test_what_the_environment_says_of_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("MALLOC_ARENA_MAX", "2")
        assert not keep_freed_memory()
    # The C library reads its own when a program starts.
    ran = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import take_and_free; take_and_free([])"],
        env=clean(MALLOC_MMAP_THRESHOLD_="1000000", PYTHONPATH=os.pathsep.join(sys.path)),
        capture_output=True,
        text=True,
        check=True,
    )
    said, megabytes = ran.stdout.split()
    assert said == "False"
    assert int(megabytes) < 50, "each block went back"


def test_threads_are_those_asked_for_and_a_loaded_machine_is_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "getloadavg", lambda: (5.6, 0, 0))
    monkeypatch.setenv("OMP_NUM_THREADS", "8")  # put back afterwards
    assert choose_threads(3) == "threads: 3 of 8 cores"
    assert (found, os.environ["OMP_NUM_THREADS"]) == ([3], "3")
    assert "5.6 of which other work keeps busy; with --threads 2" in choose_threads(None)
    assert found == [3], "the load changes no number"
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 0, 0))
    assert choose_threads(None) == ""
    for wrong in (0, 9):
        with pytest.raises(ValueError, match=rf"threads = {wrong} \(must lie between 1 and 8"):
            choose_threads(wrong)


def test_threads_wait_asleep_beside_other_work_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "getloadavg", lambda: (4.0, 0, 0))
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setattr(os, "getloadavg", lambda: (3.9, 0, 0))
    wait_passively()
    assert "OMP_WAIT_POLICY" not in os.environ


def say_all(words: list[str]) -> int:
    """Stands for ``hicmae``: says what a command can see of its process."""
    import atexit

    import torch

    atexit.register(print, "the end")
    facts = {
        "argv": sys.argv[1:],
        "leads": os.getpgid(0) == os.getpid() == os.getsid(0),
        "environment": {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "HOME", "SAID")},
        "threads": torch.get_num_threads(),
        "input": sys.stdin.read(),
        "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        "cores": len(os.sched_getaffinity(0)),
        "servers": multiprocessing.active_children(),
        "starts": multiprocessing.get_start_method(),
    }
    print(json.dumps(facts))
    print("aside", file=sys.stderr)
    return int(words[0])


def finish(*words: str, **environment: str) -> tuple[int | None, list[str]]:
    process = VerbProcess(words, {**os.environ, **environment}, f"{__name__}:say_all")
    said = process.output.read().decode().splitlines()
    status = process.wait(60)
    process.kill()
    return status, said


def test_a_command_sees_its_words_its_environment_and_an_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SAID", raising=False)
    cores = len(os.sched_getaffinity(0))
    for number, said in (("1", "so"), (str(cores), "else")):
        status, lines = finish("7", "--out", "a b", SAID=said, OMP_NUM_THREADS=number, HOME="/x")
        facts: dict[str, Any] = json.loads(lines[0])
        assert status == 7
        assert sorted(lines[1:]) == ["aside", "the end"]
        assert facts == {
            "argv": ["7", "--out", "a b"],
            "leads": True,
            "environment": {"OMP_NUM_THREADS": number, "HOME": "/x", "SAID": said},
            "threads": int(number),
            "input": "",
            # Started in the background of a script, these tests ignore it, and what they start too.
            "interrupt": signal.getsignal(signal.SIGINT) is not signal.SIG_IGN,
            "cores": cores,
            "servers": [],
            "starts": multiprocessing.get_start_method(),  # as readers are here
        }


def test_what_is_imported_beforehand_exists() -> None:
    for name in processes.IMPORTED:  # one that does not is passed over without a word
        importlib.import_module(name)


_FORKED = """
import importlib, os, sys, torch
from hicmae.processes import IMPORTED
for name in IMPORTED:
    importlib.import_module(name)
if (child := os.fork()) == 0:
    os._exit(torch.cuda._is_in_bad_fork())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
def test_what_is_imported_beforehand_looks_for_no_gpu(repository: Path) -> None:
    """Else no fork could use one."""
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    subprocess.run([sys.executable, "-c", _FORKED], env=environment, check=True)


@pytest.mark.slow
def test_a_working_folder_with_a_folder_called_shards_is_no_obstacle(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os\n"
        "from hicmae.processes import VerbProcess, forking\n"
        "if __name__ == '__main__':\n"
        "    forking(['hicmae.__main__'])\n"  # which is quick
        "    command = VerbProcess(['shards', 'check', 'missing'], dict(os.environ))\n"
        "    print(command.output.read().decode(), command.wait())\n"
    )
    (tmp_path / "here" / "shards").mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    said = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path / "here",
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    assert "hicmae shards check: error: missing" in said
    assert said.endswith(" 2\n")


@pytest.mark.parametrize("before", ["", "import os\nos.mkdir('made')\n"])
def test_a_script_that_would_run_again_in_each_process_is_told_so(
    tmp_path: Path, before: str
) -> None:
    """Also where the second time it fails before it comes so far."""
    script = tmp_path / "script.py"
    script.write_text(
        f"{before}from hicmae.processes import forking\nforking(['json'])\nprint('went on')\n"
    )
    ran = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.count("Traceback") == 1 + bool(before)
    assert f"ValueError: {script}: each process that is started here begins with" in ran.stderr


_INTERRUPTED = """
import signal, sys
from hicmae.processes import forking
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored behind a shell's &
    try:
        context = forking(["slow"])
    except KeyboardInterrupt:
        sys.exit(130)
    process = context.Process(target=signal.raise_signal, args=[signal.SIGINT])
    process.start()
    process.join()
    sys.exit(process.exitcode)  # 1: it heeds Ctrl-C as any process
"""


@pytest.mark.parametrize("when", ["importing", "done"])
@pytest.mark.slow
def test_ctrl_c_while_the_server_imports_prints_no_traceback(tmp_path: Path, when: str) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\nprint('importing', flush=True)\ntime.sleep(1)\nprint('done', flush=True)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(_INTERRUPTED)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    if when == "importing":
        os.killpg(process.pid, signal.SIGINT)
    said, error = process.communicate(timeout=60)
    assert said == "done\n"
    assert process.returncode == (130 if when == "importing" else 1)
    assert when == "done" or not error


def test_elsewhere_than_on_linux_processes_are_spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes.forking().get_start_method() == "forkserver"
    monkeypatch.setattr("sys.platform", "darwin")
    assert processes.forking().get_start_method() == "spawn"


_STARTER = """
import os, time
from hicmae.processes import end_with_starter, forking

def work():
    end_with_starter(lambda: os._exit(1))
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    forking(["json"]).Process(target=work).start()
    time.sleep(600)
"""


_BENCH = """
import pathlib, sys, time
from pretrain.gpu_checks import Asked, Bench

if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[0]).parent
    bench = Bench("cpu", folder, 600, Asked((), (), (), None), {})
    print(bench.start(time.sleep, 600).process.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    "text", [_STARTER, pytest.param(_BENCH, marks=pytest.mark.slow)], ids=["drawing", "bench gpu"]
)
def test_a_process_ends_with_the_one_that_asked_for_it_however_that_ended(
    tmp_path: Path, text: str
) -> None:
    """Those that draw reports, render clips and measure on a GPU do."""
    script = tmp_path / "script.py"
    script.write_text(text)
    words = [sys.executable, str(script)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        worker = int(starter.stdout.readline())
        starter.kill()
        starter.wait()
        for _ in range(600):
            if not processes.is_running(worker):
                break
            time.sleep(0.1)
        else:
            os.kill(worker, signal.SIGKILL)
            pytest.fail("it lives on")
