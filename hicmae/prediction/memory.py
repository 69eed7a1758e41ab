"""How much memory this process has used at most."""

from __future__ import annotations

import re
from pathlib import Path


def peak_memory_bytes() -> int:
    """Peak resident memory of this process; 0 where the system does not tell.

    ``getrusage`` would count the process that started this one, whose memory it was for a moment.
    """
    try:
        text = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else 0
