"""An exception as one line for the user of a verb, and silence where libraries chatter."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import re
import warnings

# What a user can cause and mend; anything else is a bug and keeps its traceback.
_USER_ERRORS = (
    ValueError,
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


def user_message(error: Exception) -> str | None:
    """One line about an error that the user can mend; ``None`` for a bug."""
    inner = _worker_message(str(error)) if isinstance(error, (*_USER_ERRORS, RuntimeError)) else ""
    if inner:
        return one_line(inner)
    if isinstance(error, OSError):
        full = error.errno == errno.ENOSPC
        if not full and not isinstance(error, _USER_ERRORS):
            return None
        if error.filename is not None and error.strerror:
            return one_line(f"{error.filename}: {error.strerror.lower()}")
    elif not isinstance(error, _USER_ERRORS):
        return None
    return one_line(str(error)) or type(error).__name__


def one_line(text: str) -> str:
    """A text without line breaks."""
    return re.sub(r"\s*\n\s*", " ", text.strip())


def printable(text: str, instead: str = "\N{REPLACEMENT CHARACTER}") -> str:
    """A text for a terminal or a picture: names of files and classes may hold anything."""
    return "".join(letter if letter.isprintable() else instead for letter in text)


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
    # Both hooks are the module's on purpose: transforms run on its device.
    (Warning, r".*You have overridden `on_(before|after)_batch_transfer`.*"),
    # Jobs need no srun on a machine that merely has one.
    (Warning, r".*The `srun` command is available on your system but is not used.*"),
    # Clipping is DeepSpeed's there, as its docstring says.
    (Warning, r".*Since DeepSpeed handles gradient clipping internally.*"),
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
