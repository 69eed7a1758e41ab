"""What to say when another process of a run has died or hangs.

For: telling such an error from a bug. Not for: noticing it, which gloo and NCCL do, at the latest
after ``hardware.timeout_seconds``.
"""

from __future__ import annotations

import re

import torch.distributed as dist

from pretrain.processes import Processes

_TRACES = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|timed out|timeout|socket|broken pipe|"
    r"process group|c10d|tcpstore",
    re.IGNORECASE,
)


def lost_process(error: RuntimeError, processes: Processes, *, timeout_seconds: int) -> str | None:
    """One line about an error that comes of another process; None: it is something else."""
    if processes.world_size == 1:
        return None
    if not isinstance(error, dist.DistError) and not _TRACES.search(str(error)):
        return None
    return (
        f"process {processes.rank} of {processes.world_size} has lost another one, which died or "
        f"did not answer within {timeout_seconds} s (hardware.timeout_seconds); see its own "
        "message, then go on from the last checkpoint with --resume"
    )
