"""The decoding process: a recording in, its windows out, from either end of the pipe.

Decoders hang and crash on some files; in a process of its own that costs one recording. It is a
program, ``python -m hicmae.prediction.process FD``, not a fork or a child of ``multiprocessing``:
a user's script needs no ``if __name__ == "__main__"``, and no thread of PyTorch is copied. PyTorch
is not imported in it.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2

from hicmae.devices import peak_memory_bytes
from hicmae.files import Closing
from hicmae.media.errors import MediaError
from hicmae.media.faces import FaceConfig
from hicmae.media.missing import problem_of
from hicmae.prediction.annotate import AnnotateRequest, annotate
from hicmae.prediction.messages import Failed, Finished, Found, StageProgress, Window, WindowConfig
from hicmae.prediction.timelines import Span
from hicmae.prediction.windows import Request, cut_windows
from hicmae.settings import InputConfig
from hicmae.terminal import printable

Tell = Callable[[StageProgress], None]
# Messages that wait for the network: a few windows, so that decoding goes on beside it.
_AHEAD = 8
_HUNG, _LOST = "hung", "lost"  # what the reader says in place of a message
# What to do for a request, by its type.
_TASKS: dict[type[Any], Callable[[Any, Callable[[Any], None]], None]] = {
    Request: cut_windows,
    AnnotateRequest: annotate,
}


def read_windows(
    path: str | Path,
    *,
    input: InputConfig,
    preparation: FaceConfig,
    config: WindowConfig | None = None,
    modalities: str = "audio-video",
    process: DecodingProcess | None = None,
    progress: Tell | None = None,
    spans: Sequence[Span] | None = None,
    alone: bool = False,
) -> WindowStream:
    """Begin to read a recording.

    Args:
        path: A video, a sound file, or a folder of images.
        preparation: How its images are made, as ``preparation_of`` reads it.
        config: Where the windows are; none given: one clip long, a second apart.
        modalities: What the network reads: ``audio-video``, ``video`` or ``audio``.
        process: Where it is decoded; none given: a new one, which ends with the stream.
        progress: Called with how far it is.
        spans: One window for each of these, of the face that is seen for most of it or of the
            sound alone, instead of windows a hop apart; none given: those.
        alone: Whether sound outside the picture has windows of its own; else a note names it.

    Returns: the windows, and what was found in the recording.

    Raises:
        FileNotFoundError: There is no such file.
        PredictionError: It cannot be read, or does not hold what the network reads.
        ValueError: Windows that the network cannot be shown.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if spans is not None and not spans:
        raise PredictionError("no-span", f"{path}: no span is of it; add some, or leave it out")
    config = config if config is not None else WindowConfig()
    config.layout(input)  # refuses what no recording can be asked for
    read = modalities.split("-")
    request = Request(
        path=path,
        input=input,
        preparation=config.prepared(preparation),
        config=config,
        see="video" in read,
        hear="audio" in read,
        spans=None if spans is None else tuple(spans),
        alone=alone,
    )
    return WindowStream(request, process, progress)


class WindowStream(Closing):
    """The windows of one recording; iterate over it once. Use it as a context manager to stop
    before the end. Arguments as of ``read_windows``.

    Attributes:
        found: What the recording holds: its tracks, their boxes, notes.
        finished: What its end told; None before the last window.
    """

    def __init__(
        self, request: Request, process: DecodingProcess | None, progress: Tell | None
    ) -> None:
        self.request = request
        self.finished: Finished | None = None
        self._own = DecodingProcess() if process is None else None
        self._progress = progress
        decoding = process or self._own
        assert decoding is not None
        deadline = request.config.deadline_seconds
        answers = decoding.ask(request, path=request.path, deadline_seconds=deadline)
        self._messages = self._told(answers)
        try:
            found = next(self._messages)
        except BaseException:
            self.close()
            raise
        assert isinstance(found, Found)
        self.found = found

    def __iter__(self) -> Iterator[Window]:
        """The windows, in the order in which they end.

        Raises: PredictionError: the recording breaks off in a way that cannot be read.
        """
        for message in self._messages:
            if isinstance(message, Window):
                yield message
            elif isinstance(message, Finished):
                self.finished = message
        self.close()

    def close(self) -> None:
        """Stop reading."""
        self._messages.close()
        if self._own is not None:
            self._own.close()

    def _told(self, answers: Iterator[Any]) -> Generator[Any, None, None]:
        for message in answers:
            if not isinstance(message, StageProgress):
                yield message
            elif self._progress is not None:
                self._progress(message)


class PredictionError(ValueError):
    """A recording that cannot be predicted.

    Args:
        cause: A word of ``hicmae.media.errors.CAUSES``, or ``error``.
        message: One line that names the file.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class DecodingProcess(Closing):
    """A process that is started when it is needed and replaced when it is lost.

    It works at one request at a time; what is asked meanwhile gets a process of its own.
    """

    def __init__(self, module: str = "hicmae.prediction.process") -> None:
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._busy = threading.Lock()
        self._ahead: queue.Queue[Any] = queue.Queue(maxsize=_AHEAD)

    def __del__(self) -> None:
        self.close()

    def ask(self, request: Any, *, path: Path, deadline_seconds: float) -> Iterator[Any]:
        """Send a request and give what is answered, as it comes; the last is a ``Finished``.

        Args:
            request: Of one of the types of ``_TASKS``.
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

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        connection, self._connection = self._connection, None
        if process is not None:
            process.kill()
            process.wait()
        if connection is not None:
            try:  # noqa: SIM105 - at a program's end, what this module imported is gone
                connection.close()
            except OSError:
                pass

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
                if message in (_HUNG, _LOST):
                    raise self._gone(message, path, deadline_seconds)
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

    def _gone(self, how: str, path: Path, deadline_seconds: float) -> PredictionError:
        process = self._process
        if how == _HUNG or process is None:
            return PredictionError(
                "deadline", f"{path}: no sign of life for {deadline_seconds:g} s; given up"
            )
        status = process.wait()
        how = f"status {status}" if status >= 0 else signal.Signals(-status).name
        return PredictionError("crash", f"{path}: the decoding process ended with {how}")


def _read(
    connection: Connection, ahead: queue.Queue[Any], deadline_seconds: float, stop: threading.Event
) -> None:
    """Put messages into a queue until the last one, or until the process hangs or dies."""
    message: Any = None
    while not (isinstance(message, (Finished, Failed)) or message in (_HUNG, _LOST)):
        try:
            message = connection.recv() if connection.poll(deadline_seconds) else _HUNG
        except (EOFError, OSError):
            message = _LOST
        while not stop.is_set():
            try:
                ahead.put(message, timeout=0.2)
                break
            except queue.Full:
                continue
        if stop.is_set():
            return


def _serve(connection: Connection) -> None:
    """Work at requests until the other end goes away."""
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        try:
            _answer(request, connection.send)
        except BrokenPipeError:
            return


def _answer(request: Any, emit: Callable[[Any], None]) -> None:
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
        message = _about(request, problem_of(error), error.path)
        emit(Failed(cause=error.cause, message=message))
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
    return printable(" ".join(text.split()), " ")


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
    if os.environ.get("HICMAE_DEBUG", "") in ("", "0"):
        _silence()
    _serve(Connection(int(sys.argv[1])))
