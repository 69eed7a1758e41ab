"""What to say when another process of a run has died or hangs.

For: the one line about it. Not for: noticing it, which gloo and NCCL do, at the latest after
``hardware.timeout_seconds``, or telling such an error from a bug (``hicmae/lost_process.py``).
"""

from __future__ import annotations

from hicmae.lost_process import speaks_of_another_process
from pretrain.processes import Processes


def lost_process(error: RuntimeError, processes: Processes, *, timeout_seconds: int) -> str | None:
    """One line about an error that comes of another process; None: it is something else."""
    if processes.world_size == 1 or not speaks_of_another_process(error):
        return None
    return (
        f"process {processes.rank} of {processes.world_size} has lost another one, which died or "
        f"did not answer within {timeout_seconds} s (hardware.timeout_seconds); see its own "
        "message, then go on from the last checkpoint with --resume"
    )
