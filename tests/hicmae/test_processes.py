"""Memory that is kept between steps, in a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

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
