"""One line of what ``hicmae doctor`` says.

For: what every check returns. Not for: the checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "broken"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found.

    Args:
        topic: What was looked at.
        state: ``ok``; ``note``: works, with less; ``broken``: a command will fail.
        found: What there is.
        remedy: What to do about it.
    """

    topic: str
    state: State = "ok"
    found: str
    remedy: str = ""
