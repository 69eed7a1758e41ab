"""One recording after another: where uploads lie, and the queue.

A bounded number of waiting uploads, one worker, progress, cancelling and forgetting. Uploads have
names that nobody can guess or choose, and are deleted when they are done with, when the page ends,
and, after a crash, when the next page begins.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol

from hicmae.page.settings import Limits
from hicmae.processes import is_running

if TYPE_CHECKING:
    from hicmae.prediction.live import LiveNetwork

log = logging.getLogger(__name__)
State = Literal["waiting", "running", "done", "failed"]
# Results that are kept for pages that have not fetched them yet; with pictures, megabytes each.
_MOST_RESULTS = 16
Report = Callable[[str, float], None]  # a stage in words, and its share done, 0 to 1
_PREFIX = "hicmae-page-"
_OPTION = r"(?<![\w-])--[a-z]"
_BLOCK = 1 << 20


class Analyst(Protocol):
    """What looks at a recording."""

    def describe(self) -> dict[str, Any]:
        """Say what the network is, as plain data."""

    def analyse(self, path: Path, report: Report) -> dict[str, Any]:
        """Look at a recording, as plain data; ``report`` is called often and may raise.

        Raises: ValueError: the recording cannot be used; its ``cause`` may be a word for why.
        """

    def live(self) -> LiveNetwork:
        """Give what looks at a camera.

        Raises: ValueError: nothing here can; the line says why.
        """


class QueueFullError(Exception):
    """As many recordings wait as may."""


@dataclass
class PageJob:
    """A recording on its way; all fields are changed under the queue's lock."""

    path: Path  # the upload; it is deleted when the job ends
    name: str  # what the user calls it
    touched: float  # when its page last asked, on the monotonic clock
    id: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    state: State = "waiting"
    stage: str = ""
    share: float = 0.0  # of the stage, that is done
    ended: float | None = None  # when it was done or failed, on the same clock
    cancelled: bool = False
    result: dict[str, Any] | None = None  # of the analyst
    error: dict[str, str] | None = None  # ``cause`` and ``message``


class JobQueue:
    """Recordings in the order in which they came, worked on by one thread.

    Args: clock: Seconds, monotonic.
    """

    def __init__(
        self, analyst: Analyst, limits: Limits, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._analyst, self._limits, self._clock = analyst, limits, clock
        self._jobs: dict[str, PageJob] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="hicmae-page", daemon=True)
        self._thread.start()

    def require_room(self) -> None:
        """Raises: QueueFullError: as many wait as may."""
        with self._changed:
            self._expire()
            unfinished = sum(job.ended is None for job in self._jobs.values())
            if unfinished > self._limits.waiting:
                raise QueueFullError

    def add(self, path: Path, name: str) -> PageJob:
        """Let a recording wait for its turn.

        Raises: QueueFullError: as many wait as may; the file is left to the caller.
        """
        with self._changed:
            self.require_room()
            job = PageJob(path=path, name=name, touched=self._clock())
            self._jobs[job.id] = job
            self._changed.notify_all()
        return job

    def status(self, id: str) -> dict[str, Any] | None:
        """Where a job is, with its result or error when it has ended; ``None``: no such job."""
        with self._changed:
            self._expire()
            job = self._jobs.get(id)
            if job is None:
                return None
            job.touched = self._clock()
            waiting = [other.id for other in self._jobs.values() if other.state == "waiting"]
            running = sum(other.state == "running" for other in self._jobs.values())
            ahead = waiting.index(id) + running if id in waiting else 0
            return {
                "id": id,
                "name": job.name,
                "state": job.state,
                "ahead": ahead,
                "stage": job.stage,
                "share": round(job.share, 3),
                "error": job.error,
                "result": job.result,
            }

    def forget(self, id: str) -> bool:
        """Stop a job if it runs, and drop its recording and result; whether there was one."""
        with self._changed:
            job = self._jobs.pop(id, None)
            if job is None:
                return False
            job.cancelled = True
            if job.state == "waiting":
                job.path.unlink(missing_ok=True)
            return True

    def close(self) -> None:
        """Drop everything and let the worker end; a recording in work is given up."""
        with self._changed:
            self._closed = True
            for id in list(self._jobs):
                self.forget(id)
            self._changed.notify_all()
        self._thread.join(timeout=10)

    def _expire(self) -> None:
        """Forget results that are old, and uploads whose page is gone."""
        now = self._clock()
        for job in list(self._jobs.values()):
            gone = now - job.touched > self._limits.patience_seconds
            old = job.ended is not None and now - job.ended > 60 * self._limits.keep_minutes
            if old or (gone and job.ended is None):
                self.forget(job.id)
        ended = [job.id for job in self._jobs.values() if job.ended is not None]
        for id in ended[:-_MOST_RESULTS]:
            self.forget(id)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._closed and self._next() is None:
                    self._expire()
                    self._changed.wait(timeout=5)
                job = self._next()
                if self._closed or job is None:
                    return
                job.state = "running"
            self._run(job)

    def _next(self) -> PageJob | None:
        return next((job for job in self._jobs.values() if job.state == "waiting"), None)

    def _run(self, job: PageJob) -> None:
        """Look at one recording; whatever happens, its file is deleted and the worker goes on."""

        def report(stage: str, share: float) -> None:
            with self._changed:
                self._expire()
                if job.cancelled:
                    raise CancelledError
                job.stage, job.share = stage, min(max(share, 0.0), 1.0)

        result, error = None, None
        try:
            result = self._analyst.analyse(job.path, report)
        except CancelledError:
            pass  # nobody waits for it any more
        except ValueError as problem:
            message = str(problem).removeprefix(f"{job.path}: ").replace(str(job.path), job.name)
            shown = for_visitors(message)
            if shown != message:
                log.warning("%s: %s", job.name, message)
            error = {"cause": getattr(problem, "cause", "error"), "message": shown}
        except Exception:
            log.exception("%s: the page failed on it", job.name)
            message = "the program failed on this recording; its terminal shows the traceback"
            error = {"cause": "bug", "message": message}
        finally:
            job.path.unlink(missing_ok=True)
        with self._changed:
            job.result, job.error = result, error
            job.state, job.ended = ("done" if result is not None else "failed"), self._clock()


class UploadFolder:
    """A folder that only this user may enter; it is gone when the process ends.

    Args:
        parent: Where to make it; none given: the system's folder for temporary files.
    """

    def __init__(self, parent: Path | None = None) -> None:
        root = Path(tempfile.gettempdir()) if parent is None else parent
        _remove_leftovers(root)
        # mkdtemp makes it with mode 0700.
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=root))
        atexit.register(self.close)

    def save(self, source: BinaryIO) -> Path:
        """Copy an upload under a random name, which has nothing of the user's name in it."""
        path = self.path / secrets.token_hex(16)
        try:
            with path.open("xb") as file:
                shutil.copyfileobj(source, file, _BLOCK)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def close(self) -> None:
        """Delete the folder with everything in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        atexit.unregister(self.close)


def shown_name(name: str | None) -> str:
    """A file's name as it may be shown: the last part of it, printable, not too long."""
    last = re.split(r"[/\\]", name or "")[-1]
    return "".join(character for character in last if character.isprintable())[:120] or "recording"


def for_visitors(line: str) -> str:
    """A line without what is for who started the page alone: options and folders of the machine."""
    line = re.sub(r"(?<![\w./:-])/(?:[^\s:;,/]+/)+", "", line)
    line = re.sub(rf" \([^()]*{_OPTION}[^()]*\)", "", line)
    return "; ".join(part for part in line.split("; ") if not re.search(_OPTION, part)) or line


def _remove_leftovers(root: Path) -> None:
    """Delete the folders of pages that were killed; those of others cannot be, and stay."""
    for folder in root.glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).split("-")[0]
        if owner.isdigit() and not is_running(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)
