"""The decoding process: recordings in by a pipe, windows out.

For: ``python -m hicmae.prediction.worker FD``, which ``process.py`` starts. Decoders hang and crash
on some files; here that costs this process and one recording. PyTorch is not imported. Not for:
being called.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import cv2

from hicmae.media.errors import MediaError
from hicmae.prediction.annotate import AnnotateRequest, annotate
from hicmae.prediction.cutting import cut_windows
from hicmae.prediction.memory import peak_memory_bytes
from hicmae.prediction.messages import Failed, Finished
from hicmae.prediction.opening import Request

# What to do for a request, by its type.
_TASKS: dict[type[Any], Callable[[Any, Callable[[Any], None]], None]] = {
    Request: cut_windows,
    AnnotateRequest: annotate,
}


def serve(connection: Connection) -> None:
    """Work at requests until the other end goes away."""
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        try:
            answer(request, connection.send)
        except BrokenPipeError:
            return


def answer(request: Any, emit: Callable[[Any], None]) -> None:
    """Do one request; whatever is wrong with its recording becomes the last message."""

    def tell(message: Any) -> None:
        if isinstance(message, Finished):
            message = replace(message, peak_memory_bytes=peak_memory_bytes())
        emit(message)

    try:
        _TASKS[type(request)](request, tell)
    except BrokenPipeError:
        raise
    except MediaError as error:
        emit(Failed(cause=error.cause, message=_about(request, error.problem, error.path)))
    except FileNotFoundError as error:
        emit(Failed(cause="unreadable", message=_one_line(str(error))))
    except ValueError as error:
        emit(Failed(cause="error", message=_about(request, str(error))))
    except (OSError, MemoryError) as error:
        emit(Failed(cause="unreadable", message=_about(request, _named(error))))
    except Exception as error:  # a decoder's surprise costs this recording and not the run
        emit(Failed(cause="error", message=_about(request, _named(error))))


def _about(request: Any, problem: str, path: str | None = None) -> str:
    """One line that names the recording as the user knows it, or another file by its own name."""
    own = path is None or os.path.abspath(path) == os.path.abspath(request.path)  # noqa: PTH100
    return _one_line(f"{request.path if own else path}: {problem}")


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _one_line(text: str) -> str:
    """File names and messages may hold line breaks and control characters."""
    text = " ".join(text.split())
    return "".join(character if character.isprintable() else " " for character in text)


def _silence() -> None:
    """Decoders' own chatter to nowhere; what matters of it is in the messages."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _end_with(parent: int) -> None:
    """End when the process that asked is gone, also out of a decoder that hangs."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    cv2.setNumThreads(1)
    if not os.environ.get("HICMAE_DEBUG"):
        _silence()
    serve(Connection(int(sys.argv[1])))
