"""Telling an error that comes of another process of a run from a bug.

For: runs in several processes. Not for: noticing that one has died or hangs, which gloo and NCCL
do, at the latest after the time limit of their process group.
"""

from __future__ import annotations

import re

import torch.distributed as dist

_TRACES = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|timed out|timeout|socket|broken pipe|"
    r"process group|c10d|tcpstore",
    re.IGNORECASE,
)


def speaks_of_another_process(error: RuntimeError) -> bool:
    """Whether an error says that another process is gone or did not answer."""
    return isinstance(error, dist.DistError) or bool(_TRACES.search(str(error)))
