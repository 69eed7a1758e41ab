"""Every path and permission that a run will need, checked before it begins.

For: the dry run. Not for: whether samples are sound (``hicmae shards check``).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from shards.index import read_index


def shard_problems(folders: Iterable[Path | str]) -> Iterator[str]:
    """Shards that are absent, unreadable or of another size than the index says."""
    for path, size in tars(folders):
        if not path.is_file():
            yield f"{path}: no such shard, though the index has it; rebuild or copy it"
        elif not os.access(path, os.R_OK):
            yield f"{path}: cannot be read (permission)"
        elif path.stat().st_size != size:
            yield f"{path}: has {path.stat().st_size} bytes, the index says {size}; copy it again"


def tars(folders: Iterable[Path | str]) -> Iterator[tuple[Path, int]]:
    """Every shard of the folders on this machine, with its size in bytes as the index has it."""
    for folder in folders:
        if not isinstance(folder, Path):
            continue
        index = read_index(folder)
        for shard in index.info["shards"]:
            yield folder / shard["name"], int(shard["bytes"])


def folder_problems(out: Path, *, needed: int, may_exist: bool) -> Iterator[str]:
    """Reasons why the run folder could not be written.

    Args:
        out: The run folder.
        needed: Bytes that it will hold at most.
        may_exist: Whether a run that is in it is gone on with or deleted.
    """
    if out.exists() and not out.is_dir():
        yield f"{out}: is a file; give a folder for the run with --out"
        return
    there = [
        name for name in ("config.yaml", "metrics.csv", "checkpoints") if (out / name).exists()
    ]
    if there and not may_exist:
        yield (
            f"{out}: holds a run already ({', '.join(there)}); pass --resume, --overwrite or "
            "another --out"
        )
    nearest = _nearest_folder(out)
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        yield f"{nearest}: cannot be written (permission), so {out} could not be made"
    elif needed > free_bytes(out):
        yield (
            f"{out}: {gib(free_bytes(out))} free, checkpoints take up to {gib(needed)}; keep fewer "
            "(log.keep, log.keep_every) or choose another --out"
        )


def free_bytes(out: Path) -> int:
    """Bytes free where the run folder is or would be."""
    return shutil.disk_usage(_nearest_folder(out)).free


def _nearest_folder(path: Path) -> Path:
    """The path, or the nearest thing above it that exists."""
    path = path.resolve()
    return next(candidate for candidate in (path, *path.parents) if candidate.exists())


def gib(count: int) -> str:
    """Bytes as text."""
    return f"{count / 2**30:.2f} GiB"
