"""Memory that is kept between steps, in a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from hicmae.processes import choose_threads, wait_passively

_TAKE_AND_FREE = """
from pathlib import Path
import torch
from hicmae.processes import keep_freed_memory

def megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 10**6

done, before = keep_freed_memory(), megabytes()
blocks = [torch.ones(4_000_000) for _ in range(16)]  # 16 MB each
del blocks
print(done, megabytes() - before)
"""


def kept(**environment: str) -> tuple[str, int]:
    """What ``keep_freed_memory`` said, and the megabytes that stay of 256 that were freed."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"
    }
    ran = subprocess.run(
        [sys.executable, "-c", _TAKE_AND_FREE],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    said, megabytes = ran.stdout.split()
    return said, int(megabytes)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")
def test_freed_memory_stays_with_the_process() -> None:
    said, megabytes = kept()
    assert said == "True"
    assert megabytes > 200


@pytest.mark.slow
def test_what_the_environment_says_of_memory_holds() -> None:
    assert kept(MALLOC_ARENA_MAX="2")[0] == "False"
    said, megabytes = kept(MALLOC_MMAP_THRESHOLD_="1000000")
    assert said == "False"
    assert megabytes < 50, "each block went back"


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
