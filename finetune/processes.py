"""Training a fold in several processes of this machine that share each batch.

Starting them, telling each who it is, bringing back the one line of an error, and exchanging what
they found.
"""

from __future__ import annotations

import contextlib
import io
import logging
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import distributed
from torch.multiprocessing.spawn import ProcessContext, ProcessException, ProcessExitedException

from hicmae.processes import (
    as_a_program,
    end_with_starter,
    forking,
    keep_freed_memory,
    speaks_of_another_process,
)
from hicmae.terminal import quieten, user_message

# What the others get to end by themselves when one has ended too early.
_GRACE_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Share:
    """One of several processes that share the work.

    Args:
        rank: Number of the process, from 0.
    """

    rank: int = 0
    of: int = 1


class LostProcessError(ValueError):
    """A process died or fell silent while the others went on: the work is worth resuming."""


class SystemFaultError(OSError):
    """What the system refused a process, in one line: a full disk, a file that is not there."""


def run_processes(
    number: int, work: Callable[..., None], arguments: tuple[Any, ...], folder: Path
) -> None:
    """Call ``work(*arguments, share)`` in so many processes and wait for them.

    They are forked from one with the libraries imported, which all calls of a command share.

    Args:
        work: A function of a module.
        arguments: What can be pickled.
        folder: Where errors are passed on.

    Raises: ValueError: the first that a process raised; the others are ended. OSError: the same.
        LostProcessError: a process was killed, or did not answer the others in time.
    """
    for path in [*folder.glob(".error-*"), *folder.glob(".lost-*")]:  # of an earlier attempt
        path.unlink()
    # As bytes: a tensor would be a file descriptor, of which some 250 at most can be handed over; a
    # checkpoint of any published size has 540 tensors.
    given = io.BytesIO()
    torch.save(arguments, given)
    context = torch.multiprocessing.start_processes(
        _one,
        (
            number,
            find_free_network_port(),
            dict(os.environ),
            multiprocessing.get_start_method(),
            work,
            given.getvalue(),
            folder,
        ),
        nprocs=number,
        join=False,
        start_method=forking().get_start_method(),
    )
    assert context is not None
    try:
        while not context.join(grace_period=_GRACE_SECONDS):
            pass
    except ProcessException as error:
        raise _explained(error, context, folder) from None
    finally:
        _interrupt(context.processes)


def refuse_torchrun(environ: Mapping[str, str]) -> None:
    """Refuse to be one of several processes that torchrun has started: each would do all the work.

    Raises: ValueError: this is one.
    """
    number = environ.get("WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" in environ and number != "1":
        raise ValueError(
            f"torchrun started {number} processes (WORLD_SIZE), and each would train all folds into"
            f" the same folder; start it without torchrun, with --hardware.devices {number}"
        )


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
    environment: Mapping[str, str],
    start_method: str,
    work: Callable[..., None],
    given: bytes,
    folder: Path,
) -> None:
    of_group = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(number),
        "NODE_RANK": "0",
        "LOCAL_RANK": str(rank),
    }
    # How the end of the command is told; a shell lets what it runs in the background ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_with_starter(lambda: os.kill(os.getpid(), signal.SIGINT))
    rank_zero_only.rank = rank  # type: ignore[attr-defined]  # how Lightning keeps it
    with as_a_program(environment):
        if os.environ.get("HICMAE_DEBUG", "") in ("", "0"):
            quieten()
        os.environ |= of_group
        multiprocessing.set_start_method(start_method, force=True)
        torch.set_num_threads(max(1, torch.get_num_threads() // number))
        keep_freed_memory()
        arguments = torch.load(io.BytesIO(given), weights_only=False)
        try:
            work(*arguments, Share(rank=rank, of=number))
        except ValueError as error:
            (folder / f".error-{rank}").write_text(str(error), encoding="utf-8")
            raise
        except OSError as error:  # told by the traceback alone: the folder's disk may be full
            said = user_message(error)
            if said is None:
                raise
            raise SystemFaultError(said) from error
        except RuntimeError as error:
            if speaks_of_another_process(error):
                (folder / f".lost-{rank}").touch()
            raise
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()


def _explained(error: ProcessException, context: ProcessContext, folder: Path) -> Exception:
    """What is raised for a process that has ended too early."""
    for path in sorted(folder.glob(".error-*")):
        return ValueError(path.read_text(encoding="utf-8"))
    which = f"process {error.error_index} of {len(context.processes)}"
    remedy = "go on from the last saved epoch with --resume"
    if isinstance(error, ProcessExitedException):
        how = f"was killed by {error.signal_name}, as happens where memory runs out"
        if error.signal_name == "SIGABRT":  # what a watchdog of NCCL does
            how = "was aborted; another one may not have answered within hardware.timeout_seconds"
        if error.exit_code >= 0:
            how = f"ended with status {error.exit_code}"
        return LostProcessError(f"{which} {how}; {remedy}")
    lost = {path.name for path in folder.glob(".lost-*")}
    if f".lost-{error.error_index}" not in lost:
        return _system_fault(str(error)) or error
    for rank, path in enumerate(map(Path, context.error_files)):
        if f".lost-{rank}" not in lost and path.is_file():  # a bug there, which this one noticed
            text = pickle.loads(path.read_bytes())
            return _system_fault(text) or RuntimeError(text)
    return LostProcessError(
        f"{which} has lost another one, which died or did not answer within"
        f" hardware.timeout_seconds; {remedy}"
    )


def _system_fault(traceback: str) -> OSError | None:
    """What the system refused a process that has ended with this traceback, if that was it."""
    last = traceback.strip().rpartition("\n")[2]
    mark, found, said = last.partition(f"{SystemFaultError.__name__}: ")
    return SystemFaultError(said) if found and mark == f"{__name__}." else None


def _interrupt(processes: Sequence[Any]) -> None:
    """End what still runs as Ctrl-C does, which not every sender of a signal sends to all."""
    for process in processes:
        if process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGINT)
    deadline = time.monotonic() + _GRACE_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
