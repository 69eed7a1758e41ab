"""What a person sees while a run goes on: a progress bar, or lines where there is no terminal.

For: the first process's console. Not for: numbers that are kept (``pretrain/records.py``).
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pretrain.records import Row


class ProgressShown(pl.Callback):
    """A bar with steps, loss, clips a second and time to go; without a terminal, a line a row.

    Args:
        console: Where it is shown.
        num_steps: Optimizer steps of the whole run.
    """

    def __init__(self, console: Console, num_steps: int) -> None:
        self.console = console
        self.num_steps = num_steps
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def show_row(self, row: Row) -> None:
        """Show the newest numbers; a sink of the meter."""
        if self._bar is not None and self._task is not None:
            skipped = f", skipped {row['skipped']}" if row["skipped"] else ""
            self._bar.update(
                self._task,
                numbers=f"loss {row['loss']:.4f}, {row['clips_per_second']:.1f} clips/s{skipped}",
            )
        else:
            self.console.print(line_of(row, self.num_steps), highlight=False, soft_wrap=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put up the bar."""
        if trainer.is_global_zero and self.console.is_terminal:
            self._bar = Progress(
                TextColumn("pretraining"),
                BarColumn(),
                TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._task = self._bar.add_task(
                "", total=self.num_steps, completed=trainer.global_step, numbers=""
            )
            self._bar.start()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the bar."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=trainer.global_step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the bar down."""
        self._stop()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Take the bar down, so that the error stands on a line of its own."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def line_of(row: Row, num_steps: int) -> str:
    """One line about a row of the meter."""
    parts = [f"loss {row['loss']:.4f}"]
    parts += [f"{name} {row[name]:.4f}" for name in ("video", "audio", "contrast") if name in row]
    parts += [
        f"lr {row['learning_rate']:.2e}",
        f"{row['clips_per_second']:.1f} clips/s",
        f"waiting for data {row['data_wait_share']:.0%}",
    ]
    if row["skipped"]:
        parts.append(f"skipped {row['skipped']}")
    return f"step {row['step']}/{num_steps}  {', '.join(parts)}"
