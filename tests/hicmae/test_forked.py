"""Commands in forked processes: they are what a process of their own would have been."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hicmae import forked
from hicmae.forked import VerbProcess


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
    for name in forked.IMPORTED:  # one that does not is passed over without a word
        importlib.import_module(name)


_FORKED = """
import importlib, os, sys, torch
from hicmae.forked import IMPORTED
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


def test_elsewhere_than_on_linux_processes_are_spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    assert forked.forking().get_start_method() == "forkserver"
    monkeypatch.setattr("sys.platform", "darwin")
    assert forked.forking().get_start_method() == "spawn"
