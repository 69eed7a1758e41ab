"""What every process that computes needs: freed memory kept, and to know whose an error is."""

from __future__ import annotations

import ctypes
import os
import platform
import re

# Source: malloc.h of the GNU C library. Setting one of the two fixes the other, so both are set:
# 32 MB is what the library's own rule ends at.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER, _LARGEST_IN_HEAP = -1, 32 * 2**20


def keep_freed_memory() -> bool:
    """Have this process, and those it forks, keep the memory that they free.

    For processes that train or run a network on a CPU. Not for servers, which would hold the memory
    of their largest job for ever, nor for GPUs, whose memory PyTorch keeps by itself.

    The C library gives the end of its heap back to the system when a step's activations are freed,
    and the system clears every page of it anew for the next step: with base and 4 clips in fp32,
    78,429 pages and 0.20 s of the system's time a step; 105 and 0.04 s when the heap is kept
    (medians of three by turns). The memory in use after a step grew by 6 %.

    Blocks of over 32 MB go straight to the system as before. In the heap, one that is freed is not
    always found again for the same size, and the heap would grow at every step.

    Returns: whether it was done: not without the GNU C library, nor where the environment already
        says how it should behave (``MALLOC_…``, ``GLIBC_TUNABLES``).

    Source: mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    if "malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(
        name.startswith("MALLOC_") for name in os.environ
    ):
        return False
    library = ctypes.CDLL(None)
    done = library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_IN_HEAP)
    return bool(done and library.mallopt(_M_TRIM_THRESHOLD, _NEVER))


def wait_passively() -> None:
    """Have threads that wait for others of their network sleep, where other work needs the cores.

    A thread that spins is awake sooner, and on cores of its own a small network's step takes 0.6 to
    0.8 of the time; beside other work it takes what the others compute with (measured:
    ``configs/speed.md``). Results do not depend on it.

    Before PyTorch is imported, whose OpenMP reads it then; a setting of the user's own stays.
    """
    if "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        return
    if others_compute():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def others_compute() -> bool:
    """Whether other work has kept half of the cores or more busy, on average of the last minute."""
    return os.getloadavg()[0] >= len(os.sched_getaffinity(0)) / 2


def choose_threads(threads: int | None) -> str:
    """Set how many threads a network of this process, and of those that it starts, has.

    Args:
        threads: Of the option; none given: one a core, or ``OMP_NUM_THREADS``. The load does not
            choose it, for sums of another number of threads differ in their last digits, and a
            resumed run would not be the unbroken one.

    Returns: A line for the user: where it was asked for, or where other work keeps so much of the
        cores that fewer threads are faster; else nothing.

    Raises: ValueError: fewer than 1 thread, or more than there are cores.
    """
    import torch

    cores = len(os.sched_getaffinity(0))
    if threads is not None:
        if not 1 <= threads <= cores:
            raise ValueError(
                f"threads = {threads} (must lie between 1 and {cores}, the cores here)"
            )
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
        return f"threads: {threads} of {cores} cores"
    load, now = os.getloadavg()[0], torch.get_num_threads()
    if now == 1 or not others_compute():
        return ""
    fewer = max(1, int(cores - load))
    return (
        f"threads: {now} of {cores} cores, {load:.1f} of which other work keeps busy; with "
        f"--threads {fewer} a small network may be faster"
    )


_TRACES = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|timed out|timeout|socket|broken pipe|"
    r"process group|c10d|tcpstore",
    re.IGNORECASE,
)


def speaks_of_another_process(error: RuntimeError) -> bool:
    """Whether an error says that another process is gone or did not answer, and is no bug.

    That one has died or hangs is noticed by gloo and NCCL, at the latest after the time limit of
    their process group.
    """
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or bool(_TRACES.search(str(error)))
