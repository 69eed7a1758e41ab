"""What a verb needs of the terminal and the machine: an exception as one line, text that can always
be printed, a user with a name, a temporary folder with a short one, silence of libraries.
"""

from __future__ import annotations

import atexit
import errno
import getpass
import importlib
import logging
import os
import re
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# What a user can cause and mend; anything else is a bug and keeps its traceback.
_USER_ERRORS = (ValueError, OSError)
# Errors of the system that only a wrong program can cause.
_OWN_FAULTS = {errno.EBADF, errno.EFAULT, errno.ENOTSOCK, errno.ECHILD, errno.ESPIPE}
# Those that the next recording, or another attempt, would meet too.
EVERYWHERE = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EIO", "ESTALE", "EMFILE", "ENFILE", "ENOMEM")
}
# What to do about an error of the system, where its own words do not say it.
_REMEDIES = {
    errno.EACCES: "its owner can allow it with `chmod`; or use another place",
    errno.EPERM: "the system forbids it there; use another place",
    errno.ENOSPC: "free some, or write to another disk",
    errno.EDQUOT: "free some of your quota, or write to another place",
    errno.EROFS: "write to another place",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.EMFILE: "allow more with `ulimit -n`, or use fewer --workers",
    errno.ENFILE: "end other programs, or use fewer --workers",
    errno.EIO: "the disk, or the way to it, fails; try again, or use another place",
    errno.ESTALE: "the file server has replaced it; try again, or use another place",
    errno.ENOLCK: "this file system has no locks to give; use another place",
    errno.EFBIG: "this file system, or `ulimit -f`, allows no larger file; use another place",
    errno.ELOOP: "its links lead in a circle",
    errno.EINVAL: "the file system takes no such name or no such request; use another place",
    errno.EILSEQ: "the file system takes no such name; give it another one",
    errno.EBUSY: "another program holds it",
    errno.ENOMEM: "end other programs, or use fewer --workers",
    errno.EAGAIN: "no more processes or threads are allowed; use fewer --workers, or `ulimit -u`",
    errno.EADDRINUSE: "another program listens there; give another port",
    errno.ECONNREFUSED: "nobody listens there",
    errno.ETIMEDOUT: "no answer; try again",
    errno.EHOSTUNREACH: "no way to it; look at the network",
    errno.ENETUNREACH: "no way to it; look at the network",
}
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f]")  # but blanks and line breaks
# The name of a socket has at most 107 bytes, and libraries put names of 34 into this folder.
# Source: unix(7); multiprocessing's listeners, and PyTorch's torch-shm-dir-XXXXXX/manager.sock.
_LONGEST_TMPDIR = 72


def user_message(error: Exception) -> str | None:
    """One line about an error that the user can mend; ``None`` for a bug."""
    inner = _worker_message(str(error)) if isinstance(error, (*_USER_ERRORS, RuntimeError)) else ""
    if inner:
        return one_line(inner)
    if not isinstance(error, _USER_ERRORS):
        return None
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        if error.errno in _OWN_FAULTS:
            return None
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        remedy = _REMEDIES.get(error.errno)
        said = f"{where}{error.strerror.lower()}" + (f" ({remedy})" if remedy else "")
        return one_line(said)
    return one_line(str(error)) or type(error).__name__


def settle() -> None:
    """Make do with what some machines lack, before anything heavy is imported.

    Output that is not UTF-8 gets a question mark for what it cannot show. A user without an entry
    in the list of users, as in containers, gets his number for a name, which PyTorch asks for, and
    where no home is told one below the temporary folder. A temporary folder whose name is too long
    for sockets is reached by a link with a short one.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure") and stream.errors in ("strict", None):
            stream.reconfigure(errors="replace")
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid{os.getuid()}"
        own = Path(tempfile.gettempdir(), f"hicmae-{os.environ['USER']}")
        os.environ.setdefault("HOME", str(own))  # where libraries keep what they fetch
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > _LONGEST_TMPDIR and os.path.isdir("/tmp"):  # noqa: PTH112
        short = Path(tempfile.mkdtemp(prefix="hicmae-", dir="/tmp"))
        (short / "t").symlink_to(folder)
        os.environ["TMPDIR"] = tempfile.tempdir = str(short / "t")
        atexit.register(_drop_link, short, os.getpid())


def _drop_link(short: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a fork
        shutil.rmtree(short, ignore_errors=True)


def one_line(text: str) -> str:
    """A text without line breaks, and with nothing that moves or colours what a terminal shows."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", re.sub(r"\s*[\n\v\f\r]\s*", " ", text.strip()))


def printable(text: str, instead: str = "\N{REPLACEMENT CHARACTER}") -> str:
    """A text for a terminal or a picture: names of files and classes may hold anything."""
    return "".join(letter if letter.isprintable() else instead for letter in text)


def plain_console(**options: Any) -> Console:
    """Where a verb writes whole lines, and names of folders, files and classes as they are.

    "[a]" in a name is no style, ":joy:" no picture.
    """
    from rich.console import Console

    return Console(soft_wrap=True, highlight=False, markup=False, emoji=False, **options)


def print_line(console: Console, text: str) -> None:
    """A whole line, whatever the width of the terminal, so that it can be searched for."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def quieten() -> None:
    """Silence what libraries are known to say that helps no user of a verb."""
    for category, text in _CHATTER:
        warnings.filterwarnings("ignore", message=text, category=category)
    for name, level in _LOGGERS.items():
        logging.getLogger(name).setLevel(level)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


# Category and pattern of warnings that are about the libraries among themselves, or that say what
# a setting of ours has decided.
_CHATTER: tuple[tuple[type[Warning], str], ...] = (
    (Warning, r".*isinstance\(treespec, LeafSpec\).*"),
    (Warning, r".*pynvml.*"),
    (Warning, r".*does not have many workers.*"),
    (Warning, r".*`IterableDataset` has `__len__` defined.*"),
    (Warning, r".*Checkpoint directory .* exists and is not empty.*"),
    (Warning, r".*is smaller than the logging interval.*"),
    (Warning, r".*Found .* module\(s\) in eval mode at the start of training.*"),
    (Warning, r".*`training_step` returned `None`.*"),  # of a batch whose clips were all skipped
    # Both hooks are the module's on purpose: transforms run on its device.
    (Warning, r".*You have overridden `on_(before|after)_batch_transfer`.*"),
    # Jobs need no srun on a machine that merely has one.
    (Warning, r".*The `srun` command is available on your system but is not used.*"),
    # Clipping is DeepSpeed's there, as its docstring says.
    (Warning, r".*Since DeepSpeed handles gradient clipping internally.*"),
    # What is named instead is not in every PyTorch that serves here; DeepSpeed calls some, too.
    (Warning, r".*torch\.distributed\.[\w.]+`? is deprecated.*"),
    (Warning, r".*`broadcast_buffers` is deprecated.*"),
)
# "GPU available: False", "Tip: For seamless cloud uploads", "`Trainer.fit` stopped", …
_LOGGERS = {
    "pytorch_lightning": logging.WARNING,
    "pytorch_lightning.utilities.rank_zero": logging.WARNING,
    "lightning_fabric": logging.WARNING,
    "lightning_fabric.utilities.rank_zero": logging.WARNING,
    "lightning_fabric.utilities.seed": logging.WARNING,
    # "Terminating process 123 via signal SIGTERM": of those beside one that has failed
    "torch.multiprocessing.spawn": logging.ERROR,
}
_ENVIRONMENT = {
    "WANDB_SILENT": "true",  # where a run's files are is said by the verb
}


def _worker_message(text: str) -> str:
    """The message inside an error that a DataLoader's worker process passed on, if its type is
    one that a user can cause; torch wraps it in the worker's traceback, and turns a type whose
    constructor it cannot call into a RuntimeError.
    """
    if not text.startswith("Caught ") or "Original Traceback" not in text:
        return ""
    last = [line for line in text.splitlines() if re.match(r"[\w.]+: ", line)]
    if not last:
        return ""
    name, _, message = last[-1].partition(": ")
    module, _, kind = name.rpartition(".")
    try:
        error_type = getattr(importlib.import_module(module or "builtins"), kind)
    except (ImportError, AttributeError):
        return ""
    return message if issubclass(error_type, _USER_ERRORS) else ""
