"""One recording after another: the queue of the page.

For: a bounded number of waiting uploads, one worker, progress, cancelling and forgetting. Not for:
what is done with a recording; the analyst does that.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from hicmae.page.settings import Limits

log = logging.getLogger(__name__)

State = Literal["waiting", "running", "done", "failed"]
# Results that are kept for pages that have not fetched them yet; with pictures, megabytes each.
_MOST_RESULTS = 16

Report = Callable[[str, float], None]  # a stage in words, and its share done, 0 to 1


class Analyst(Protocol):
    """What looks at a recording."""

    def describe(self) -> dict[str, Any]:
        """Say what the network is, as plain data."""

    def analyse(self, path: Path, report: Report) -> dict[str, Any]:
        """Look at a recording, as plain data; ``report`` is called often and may raise.

        Raises: ValueError: the recording cannot be used; its ``cause`` may be a word for why.
        """


class QueueFullError(Exception):
    """As many recordings wait as may."""


class CancelledError(Exception):
    """Nobody waits for this recording any more."""


@dataclass
class Job:
    """A recording on its way; all fields are changed under the queue's lock.

    Attributes:
        path: The upload; it is deleted when the job ends.
        name: What the user calls it.
        touched: When its page last asked, on the monotonic clock.
        ended: When it was done or failed; none before.
        stage, share: What is being done, and how much of that is.
        result: Of the analyst, when done.
        error: ``cause`` and ``message``, when failed.
    """

    path: Path
    name: str
    touched: float
    id: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    state: State = "waiting"
    stage: str = ""
    share: float = 0.0
    ended: float | None = None
    cancelled: bool = False
    result: dict[str, Any] | None = None
    error: dict[str, str] | None = None


class JobQueue:
    """Recordings in the order in which they came, worked on by one thread.

    Args:
        analyst: What looks at them.
        limits: How many may wait, and how long results are kept.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, analyst: Analyst, limits: Limits, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._analyst, self._limits, self._clock = analyst, limits, clock
        self._jobs: dict[str, Job] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="hicmae-page", daemon=True)
        self._thread.start()

    def require_room(self) -> None:
        """Raises: QueueFullError: as many wait as may."""
        with self._changed:
            self._expire()
            self._require_room()

    def add(self, path: Path, name: str) -> Job:
        """Let a recording wait for its turn.

        Raises: QueueFullError: as many wait as may; the file is left to the caller.
        """
        with self._changed:
            self._require_room()
            job = Job(path=path, name=name, touched=self._clock())
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

    def _require_room(self) -> None:
        unfinished = sum(job.state in ("waiting", "running") for job in self._jobs.values())
        if unfinished > self._limits.waiting:
            raise QueueFullError

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
        """Take the first that waits, again and again."""
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

    def _next(self) -> Job | None:
        return next((job for job in self._jobs.values() if job.state == "waiting"), None)

    def _run(self, job: Job) -> None:
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
            pass
        except ValueError as problem:
            message = str(problem).removeprefix(f"{job.path}: ").replace(str(job.path), job.name)
            error = {"cause": getattr(problem, "cause", "error"), "message": message}
        except Exception:
            log.exception("%s: the page failed on it", job.name)
            message = "the program failed on this recording; its terminal shows the traceback"
            error = {"cause": "bug", "message": message}
        finally:
            job.path.unlink(missing_ok=True)
        with self._changed:
            job.result, job.error = result, error
            job.state, job.ended = ("done" if result is not None else "failed"), self._clock()
