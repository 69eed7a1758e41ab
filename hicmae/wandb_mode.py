"""Whether Weights & Biases logs online.

For: the mode a run starts it with, and what ``hicmae doctor`` says. Not for: logging; W&B itself is
not imported here.
"""

from __future__ import annotations

import netrc
import os
from typing import Literal, cast
from urllib.parse import urlsplit

WandbMode = Literal["online", "offline", "disabled"]


def wandb_mode(mode: str) -> WandbMode:
    """Turn ``auto`` into what W&B is started with: online only where the user is logged in."""
    wished = os.environ.get("WANDB_MODE") if mode == "auto" else mode
    if wished:
        return cast(WandbMode, "offline" if wished == "dryrun" else wished)
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        known = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
    except (FileNotFoundError, PermissionError, netrc.NetrcParseError):
        known = None
    return "online" if known else "offline"
