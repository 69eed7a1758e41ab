"""The decoding process as its user sees it: a recording in, messages out, or one error.

For: killing and replacing it when a recording makes it hang or die. It is a program of its own,
not a fork or a child of ``multiprocessing``: a user's script needs no
``if __name__ == "__main__"``, and no thread of PyTorch is copied. Not for: what it does
(``worker.py``).
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hicmae.prediction.messages import Failed, Finished

# Messages that wait for the network: a few windows, so that decoding goes on beside it.
_AHEAD = 8


class PredictionError(ValueError):
    """A recording that cannot be predicted.

    Args:
        cause: A word of ``hicmae.media.errors.CAUSES``, or ``error``.
        message: One line that names the file.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class DecodingProcess:
    """A process that is started when it is needed and replaced when it is lost.

    It works at one request at a time; what is asked meanwhile gets a process of its own.

    Args:
        module: What is run in it.
    """

    def __init__(self, module: str = "hicmae.prediction.worker") -> None:
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._busy = threading.Lock()
        self._ahead: queue.Queue[Any] = queue.Queue(maxsize=_AHEAD)

    def __enter__(self) -> DecodingProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def ask(self, request: Any, *, path: Path, deadline_seconds: float) -> Iterator[Any]:
        """Send a request and give what is answered, as it comes; the last is a ``Finished``.

        Args:
            request: What ``worker.py`` knows.
            path: The recording, for messages.
            deadline_seconds: Without a word from the process for so long it is killed.

        Raises: PredictionError: the recording cannot be predicted; it hung; it crashed.
        """
        if not self._busy.acquire(blocking=False):
            with DecodingProcess(self._module) as other:
                yield from other.ask(request, path=path, deadline_seconds=deadline_seconds)
            return
        try:
            yield from self._answers(request, path, deadline_seconds)
        finally:
            self._busy.release()

    @property
    def num_waiting(self) -> int:
        """Messages that were read and not yet taken."""
        return self._ahead.qsize()

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        connection, self._connection = self._connection, None
        if process is not None:
            process.kill()
            process.wait()
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.close()

    def _answers(self, request: Any, path: Path, deadline_seconds: float) -> Iterator[Any]:
        try:
            connection = self._connected()
            connection.send(request)
        except OSError:  # it went away just now
            self.close()
            connection = self._connected()
            connection.send(request)
        self._ahead = ahead = queue.Queue[Any](maxsize=_AHEAD)
        stop = threading.Event()
        reader = threading.Thread(
            target=_read,
            args=(connection, ahead, deadline_seconds, stop),
            name="decoding",
            daemon=True,
        )
        reader.start()
        finished = False
        try:
            while True:
                message = ahead.get()
                finished = isinstance(message, (Finished, Failed))
                if isinstance(message, Failed):
                    raise PredictionError(message.cause, message.message)
                if isinstance(message, _Lost):
                    raise self._lost(message, path, deadline_seconds)
                yield message
                if finished:
                    return
        finally:
            stop.set()
            if not finished and self._process is not None:
                self._process.kill()  # what it still has to say, nobody waits for
            reader.join()
            if not finished:
                self.close()

    def _connected(self) -> Connection:
        if self._process is not None and self._process.poll() is None:
            assert self._connection is not None
            return self._connection
        self.close()
        ours, theirs = Pipe()
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "PYTHONSAFEPATH": "1",  # no module of the folder that the user is in
                "OMP_NUM_THREADS": "1",  # the network has the other cores
            },
        )
        theirs.close()
        self._connection = ours
        return ours

    def _lost(self, lost: _Lost, path: Path, deadline_seconds: float) -> PredictionError:
        process = self._process
        if lost.hung or process is None:
            return PredictionError(
                "deadline", f"{path}: no sign of life for {deadline_seconds:g} s; given up"
            )
        status = process.wait()
        how = f"status {status}" if status >= 0 else signal.Signals(-status).name
        return PredictionError("crash", f"{path}: the decoding process ended with {how}")


class _Lost:
    """The process says no more."""

    def __init__(self, *, hung: bool) -> None:
        self.hung = hung


def _read(
    connection: Connection, ahead: queue.Queue[Any], deadline_seconds: float, stop: threading.Event
) -> None:
    """Put messages into a queue until the last one, or until the process hangs or dies."""
    message: Any = None
    while not isinstance(message, (Finished, Failed, _Lost)):
        try:
            message = connection.recv() if connection.poll(deadline_seconds) else _Lost(hung=True)
        except (EOFError, OSError):
            message = _Lost(hung=False)
        while not stop.is_set():
            try:
                ahead.put(message, timeout=0.2)
                break
            except queue.Full:
                continue
        if stop.is_set():
            return
