"""Running one function over many items in processes that may hang or die.

A damaged file can make a decoder loop for ever or take the process down: the item is lost, nothing
else is.
"""

from __future__ import annotations

import functools
import itertools
import resource
import signal
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pebble import ProcessFuture, ProcessPool
from pebble.common import ProcessExpired

from hicmae.processes import check_workers, forking, num_cores, signs_of_life

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items that may be under way or done ahead of the one that is waited for, for each worker.
_AHEAD = 4
# What replacing a worker may take on a busy machine, before an item is begun.
_GRACE_SECONDS = 120.0
# How a worker ends that another process told to: pebble makes a status of the one signal. No
# decoder sends them to its own process.
_FROM_OUTSIDE = (int(signal.SIGTERM), -signal.SIGTERM, -signal.SIGHUP)


@dataclass(frozen=True, kw_only=True)
class Lost:
    """An item that gave no result.

    Args:
        cause: ``deadline`` or ``crash``.
        message: What happened, without the item's name.
    """

    cause: str
    message: str


def run_in_order(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int | None,
    deadline_seconds: float,
    initializer: Callable[[], None] | None = None,
    memory_bytes: int | None = None,
) -> Iterator[tuple[Item, Result | Lost]]:
    """Give the results in the order of the items, whatever the number of workers.

    No more than a few items a worker are under way, so memory does not grow with their number.
    Exceptions of the function are raised here: it has to turn what an item causes into a result.

    Args:
        function: Importable by name; it and the items travel to the workers.
        workers: Processes; none: one a core that this process may use.
        deadline_seconds: A worker that shows no sign of life (``hicmae.processes.show_life``) for
            so long is killed and replaced.
        memory_bytes: What a worker may allocate for its data; it gets a MemoryError beyond it, or
            dies, which costs it the item. None: no limit.
    """
    workers = min(workers or num_cores(), max(len(items), 1))
    check_workers(workers)
    # Forked from a server of their own, which has imported what the function needs: as quick as
    # fork, and safe beside a progress bar.
    context = forking([getattr(function, "func", function).__module__, __name__])
    first = functools.partial(_begin, initializer, memory_bytes)
    new_pool = functools.partial(ProcessPool, workers, context=context, initializer=first)
    pool = new_pool()
    waiting: deque[tuple[Item, ProcessFuture, Path]] = deque()
    upcoming = iter(items)
    marks, numbers = tempfile.TemporaryDirectory(prefix="hicmae-"), itertools.count()
    restarted_for: Item | None = None
    repeated_for: Item | None = None

    def schedule(item: Item) -> tuple[Item, ProcessFuture, Path]:
        mark = Path(marks.name, str(next(numbers)))
        return item, pool.schedule(_watched, args=(function, item, mark)), mark

    def stop() -> None:
        pool.stop()
        pool.join()

    def restart() -> None:
        """Stop all workers, and queue again what they have not finished."""
        nonlocal pool
        stop()
        pool = new_pool()
        for place, (item, future, _) in enumerate(waiting):
            if not future.done() or future.cancelled() or future.exception() is not None:
                waiting[place] = schedule(item)

    try:
        while True:
            for item in itertools.islice(upcoming, workers * _AHEAD - len(waiting)):
                waiting.append(schedule(item))
            if not waiting:
                return
            task = item, future, mark = waiting.popleft()
            outcome: Result | Lost
            try:
                # All before it are done, so it is being worked at.
                if _ends(future, mark, deadline_seconds):
                    outcome = future.result()
                else:
                    told = f"no sign of life for {deadline_seconds:g} s; given up"
                    remedy = "where disk or machine are that slow, take a longer --deadline_seconds"
                    outcome = Lost(cause="deadline", message=f"{told}; {remedy}")
                    future.cancel()  # which ends its worker
                    if not mark.exists():  # the pool lost sight of it
                        restart()
                mark.unlink(missing_ok=True)
            except ProcessExpired as error:
                if error.exitcode in _FROM_OUTSIDE and repeated_for is not item:
                    # Someone ends this whole build, most likely: the item is not to blame.
                    repeated_for = item
                    waiting.appendleft(schedule(item))
                    continue
                outcome = Lost(cause="crash", message=_death(error.exitcode))
            except BrokenProcessPool as error:
                # A worker died before it could say at what: begin again, and the second time
                # without the item that was next.
                first_time = restarted_for is not item
                if first_time:
                    restarted_for = item
                    waiting.appendleft(task)
                restart()
                if first_time:
                    continue
                outcome = Lost(cause="crash", message=f"its process died ({error})")
            yield item, outcome
    finally:
        stop()
        marks.cleanup()


def _ends(future: ProcessFuture, mark: Path, deadline_seconds: float) -> bool:
    """Wait for an item to be done; False: its worker shows no sign of life."""
    seen, since = None, time.monotonic()
    while not future.done():
        wait([future], timeout=min(1.0, deadline_seconds / 4))
        found = mark.stat().st_mtime_ns if mark.exists() else None
        if found != seen:
            seen, since = found, time.monotonic()
        grace = _GRACE_SECONDS if seen is None else 0
        if not future.done() and time.monotonic() - since > deadline_seconds + grace:
            return False
    return True


def _watched(function: Callable[[Item], Result], item: Item, mark: Path) -> Result:
    """In a worker: do an item, whose signs of life are seen at a file."""
    signs_of_life(mark)
    return function(item)


def _begin(initializer: Callable[[], None] | None, memory_bytes: int | None) -> None:
    """In a new worker: bound what it may allocate (not what it maps from files)."""
    if memory_bytes is not None:
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        most = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    if initializer is not None:
        initializer()


def _death(exitcode: int) -> str:
    """How a process ended, in words."""
    if exitcode >= 0:
        return f"its process ended with status {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    memory = " (out of memory?)" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{memory}"
