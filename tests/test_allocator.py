"""Memory that is kept between steps, in a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
import torch
from hicmae.allocator import keep_freed_memory

done = keep_freed_memory() if sys.argv[1] == "keep" else None

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(4_000_000) for _ in range(16)]  # 16 MB each
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(done, sum(faults() for _ in range(4)))
"""


def freed_and_taken_again(how: str, **environment: str) -> tuple[str, int]:
    """What ``keep_freed_memory`` said, and the pages cleared for blocks that were freed before."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"
    }
    ran = subprocess.run(
        [sys.executable, "-c", _FAULTS, how],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    said, faults = ran.stdout.split()
    return said, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")
def test_freed_memory_is_taken_again_without_clearing_it() -> None:
    _, given_back = freed_and_taken_again("system")
    assert given_back > 10_000  # 256 MB are 62,500 pages of 4 KB
    said, kept = freed_and_taken_again("keep")
    assert said == "True"
    assert kept < given_back / 4


def test_what_the_environment_says_of_memory_holds() -> None:
    assert freed_and_taken_again("keep", MALLOC_ARENA_MAX="2")[0] == "False"
    assert freed_and_taken_again("keep", GLIBC_TUNABLES="glibc.malloc.tcache_count=7")[0] == "False"
