"""Ending a run on a signal, after a whole step, with a checkpoint.

For: Ctrl-C, SIGTERM, and the SIGUSR1 that clusters send ahead of a pre-emption or a time limit.
Not for: what happens afterwards (``pretrain/run.py`` and the scripts in ``pretrain/slurm``).
"""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytorch_lightning as pl

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopOnSignal(pl.Callback):
    """Ends training after the current optimizer step on a signal; the run is then saved.

    A second Ctrl-C stops at once, unsaved. All processes stop after the same step, though only
    one may have got the signal.

    Attributes:
        received: The signal, if there was one; in every process.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def seen(self) -> tuple[int, ...]:
        """One flag a signal."""
        return tuple(int(self.received == number) for number in _SIGNALS)

    def settle(self, trainer: pl.Trainer, totals: tuple[int, ...]) -> bool:
        """Stop if any process got one."""
        arrived = [number for number, count in zip(_SIGNALS, totals, strict=True) if count]
        if arrived:
            self.received = arrived[0]
        return bool(arrived)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the signals."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._note)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back: Lightning goes on to restore what it found itself."""
        self._give_back()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Give the signals back."""
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _note(self, number: int, frame: Any) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
