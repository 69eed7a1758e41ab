"""The side group: processes agree over gloo, off the device, and learn at once of one that died.

NCCL notices nothing: its kernels spin on the device until a watchdog aborts the process, with a
host that waits for them and can say, save and close nothing any more. So every optimizer step has
one exchange of a few integers between hosts, and a thread watches the next process: its connection
breaks when it dies. Where the host does not come back, that thread says so and ends the process.

The times fit together, each below the next, or what is promised is cut off by what comes earlier:
``hardware.timeout_seconds`` (no answer in an exchange), ``+ GRACE_SECONDS`` (a host that is stuck
in a step), ``+ WATCHDOG_SECONDS`` (NCCL's abort), and ``srun --wait`` of ``slurm/*.sbatch``.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
import torch
from torch import distributed

from hicmae.processes import speaks_of_another_process

# What a process that has lost another one gets to end by itself.
GRACE_SECONDS = 10
# How much later than an exchange of this group one of NCCL's gives up.
WATCHDOG_SECONDS = 60
_FOREVER = timedelta(days=3650)
_LOOK_SECONDS = 0.5
_OVER = -1


def main_timeout(timeout_seconds: int, device: torch.device) -> timedelta:
    """How long the group waits that gradients go through."""
    later = 0 if device.type == "cpu" else WATCHDOG_SECONDS
    return timedelta(seconds=timeout_seconds + later)


class SideGroup(pl.Callback):
    """Sums between hosts, and the watch over the other processes; of one process, nothing.

    The last of a trainer's callbacks, so that it watches until the others are done.

    Attributes:
        lost: The process that has died, if one is known to have.

    Args:
        timeout_seconds: Longest that an exchange waits, and that a step may take once one has been
            taken: the first may compile.
        end: Says and closes what a process has to that is stuck; called once at most, in a thread,
            and the process ends after it.
    """

    def __init__(self, timeout_seconds: int, *, end: Callable[[], object]) -> None:
        self.lost: int | None = None
        self._timeout_seconds = timeout_seconds
        self._end = end
        self._group: Any = None
        self._ring: Any = None
        self._watchers: list[threading.Thread] = []
        self._done = threading.Event()
        self._trouble: float | None = None  # since when this process knows of a loss
        self._step: float | None = None  # when the step began that goes on
        self._first = True
        self._ending = threading.Lock()  # held by whoever ends the process

    def sum(self, numbers: Sequence[int]) -> list[int]:
        """Add up over processes; a collective call at the end of a step.

        Raises: RuntimeError: another process is gone or does not answer.
        """
        if self._group is None:
            return list(numbers)
        if self.lost is not None:
            raise RuntimeError(f"process group: connection closed by process {self.lost}")
        totals = torch.tensor(numbers)
        distributed.all_reduce(totals, group=self._group)
        self._step, self._first = None, False
        return [int(total) for total in totals]

    def gather(self, value: Any) -> list[Any]:
        """What each process has, by rank; a collective call."""
        if self._group is None:
            return [value]
        found: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(found, value, group=self._group)
        return found

    def disarm(self) -> None:
        """Leave the end to the caller, who waits for it here where the thread is at it already."""
        self._done.set()
        self._ending.acquire()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the groups, and watch.

        Raises: ValueError: gloo finds no way between the hosts.
        """
        if trainer.world_size == 1:
            return
        ranks = list(range(trainer.world_size))
        timeout = timedelta(seconds=self._timeout_seconds)
        try:
            self._group = distributed.new_group(ranks, timeout=timeout, backend="gloo")
            # One of its own, as an exchange that nothing answers breaks a group.
            self._ring = distributed.new_group(ranks, timeout=_FOREVER, backend="gloo")
        except RuntimeError as error:
            raise ValueError(
                f"process {trainer.global_rank} of {trainer.world_size}: no connection to the "
                f"others over gloo ({str(error).splitlines()[0]}); see their messages, or name the "
                "network interface between the nodes with GLOO_SOCKET_IFNAME"
            ) from None
        for work in (self._listen, self._watch):
            self._watchers.append(threading.Thread(target=work, daemon=True, name="side group"))
            self._watchers[-1].start()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """From here on to the exchange nothing is waited for but the device."""
        if self._step is None and not self._first:
            self._step = time.monotonic()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """All are done: from now on a connection that breaks means nothing."""
        if self._group is None:
            return
        self._step = None
        distributed.barrier(group=self._group)
        self._done.set()
        self._tell(_OVER)
        for thread in self._watchers:
            thread.join()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Lightning now empties the device, which never comes back where NCCL spins on it."""
        if isinstance(exception, RuntimeError) and speaks_of_another_process(exception):
            self._trouble = self._trouble or time.monotonic()
        else:
            self._done.set()

    def _listen(self) -> None:
        """Wait for a word of the next process, which comes at the end or when another has died."""
        after = (distributed.get_rank() + 1) % distributed.get_world_size()
        word = torch.zeros(1, dtype=torch.int64)
        try:
            distributed.recv(word, src=after, group=self._ring)
            lost = int(word)
        except RuntimeError:
            lost = after
        if lost == _OVER or self._done.is_set():
            return
        self.lost, self._trouble = lost, time.monotonic()
        self._tell(lost)

    def _tell(self, word: int) -> None:
        """Send a word to the process that listens to this one, if it is still there."""
        before = (distributed.get_rank() - 1) % distributed.get_world_size()
        if before != self.lost:
            try:
                distributed.send(torch.tensor([word]), dst=before, group=self._ring)
            except RuntimeError:
                self.lost = before

    def _watch(self) -> None:
        """End this process where it knows of a loss, or is stuck in a step, and stays there."""
        while not self._done.wait(_LOOK_SECONDS):
            now, trouble, step = time.monotonic(), self._trouble, self._step
            stuck = step is not None and now - step > self._timeout_seconds + GRACE_SECONDS
            stuck |= trouble is not None and now - trouble > GRACE_SECONDS
            if stuck and self._ending.acquire(blocking=False):
                try:
                    self._end()
                finally:
                    os._exit(1)
