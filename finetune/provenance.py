"""Where a number comes from: digests of the experiment and the commit of the code."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

from hicmae.plain import to_dict


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def settings_digest(settings: Any) -> str:
    """SHA-256 of settings in canonical JSON; order of keys does not matter."""
    text = json.dumps(to_dict(settings), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def git_commit() -> str | None:
    """Commit of this very code, with ``+`` if files were changed; none outside a repository."""
    room = Path(__file__).resolve().parent
    # An installed copy may lie inside somebody else's repository: ours has this file at its root.
    top = _git(room, "rev-parse", "--show-toplevel")
    if top is None or Path(top) != room.parent:
        return None
    commit = _git(room, "rev-parse", "HEAD")
    if commit is None:
        return None
    return commit + ("+" if _git(room, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *words: str) -> str | None:
    """Output of a git command, or nothing where git or the repository is absent."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
