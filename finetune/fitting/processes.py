"""Training a fold in several processes of this machine that share each batch.

For: starting them, telling each who it is, and bringing back the one line of an error; and
exchanging what they found. Not for: several machines.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import distributed

from finetune.fitting.order import Share
from hicmae.allocator import keep_freed_memory

# Of the process group; each process has them in its environment.
_HOST = "127.0.0.1"


def run_processes(
    number: int, work: Callable[..., None], arguments: tuple[Any, ...], folder: Path
) -> None:
    """Call ``work(*arguments, share)`` in so many processes and wait for them.

    Args:
        number: Of processes.
        work: A function of a module.
        arguments: What can be pickled.
        folder: Where errors are passed on.

    Raises: ValueError: the first that a process raised; the others are ended.
    """
    with socket.socket() as free:
        free.bind((_HOST, 0))
        port = free.getsockname()[1]
    try:
        torch.multiprocessing.start_processes(
            _one,
            (number, port, multiprocessing.get_start_method(), work, arguments, folder),
            nprocs=number,
            start_method="spawn",
        )
    except Exception:
        for path in sorted(folder.glob(".error-*")):
            raise ValueError(path.read_text(encoding="utf-8")) from None
        raise


def from_all(value: Any) -> list[Any]:
    """What each process has, by rank; every process must call this. One process: its own."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, value)
    return found


def quiet_lightning() -> None:
    """Leave out what Lightning says of hardware and process groups at every start."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _one(
    rank: int,
    number: int,
    port: int,
    start_method: str,
    work: Callable[..., None],
    arguments: tuple[Any, ...],
    folder: Path,
) -> None:
    """What each process does."""
    os.environ |= {
        "MASTER_ADDR": _HOST,
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(number),
        "NODE_RANK": "0",
        "LOCAL_RANK": str(rank),
    }
    # A spawned process spawns its own by default, and a reader would import everything anew.
    multiprocessing.set_start_method(start_method, force=True)
    rank_zero_only.rank = rank  # type: ignore[attr-defined]  # how Lightning keeps it
    torch.set_num_threads(max(1, torch.get_num_threads() // number))
    keep_freed_memory()
    try:
        work(*arguments, Share(rank=rank, of=number))
    except ValueError as error:
        (folder / f".error-{rank}").write_text(str(error), encoding="utf-8")
        raise
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
