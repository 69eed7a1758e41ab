"""What training steps did and how fast: one row of numbers every few steps, and who sees it.

``StepMeter`` measures and averages, over processes too; ``ProgressShown`` is what a person sees of
it. ``hicmae.run_logging`` keeps the rows.

Deviation: the reference logs the total loss alone; here every term and the gradient norm.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

from hicmae.devices import peak_memory_bytes, resident_memory_bytes
from hicmae.run_logging import Row
from pretrain.module import Batch, PretrainModule, StepCallback

# Takes numbers that are on a device, and what is done with them once they are on the host.
Reader = Callable[[Sequence[Tensor], Callable[[Sequence[float]], None]], None]


def read_now(values: Sequence[Tensor], then: Callable[[Sequence[float]], None]) -> None:
    """A ``Reader`` that waits for the device at once."""
    then([float(value) for value in values])


class StepMeter(StepCallback):
    """Counts, times and averages; hands a row to each sink on the first process.

    A row has ``step``; ``epoch`` and ``clips`` seen so far; ``seconds`` of training so far; means
    over the steps since the last row of ``loss``, every term by name (of what some batches have no
    clip for, over the others; ``…_absent`` is their share) and ``gradient_norm`` (before clipping);
    ``learning_rate`` of the last step; ``clips_per_second`` over all processes and
    ``data_wait_share`` of the time that the first process waited for a batch, both without the time
    of probes, pictures and saving;
    ``peak_memory_bytes`` of the first process (of its device, if that has a memory of its own) and
    ``resident_memory_bytes`` of it now, without its readers; ``skipped`` samples so far in total
    and as ``skipped_<cause>``; and what others have noted since the last row.

    Args:
        log_every: Optimizer steps between rows; the last step always has one.
        epoch_clips: Clips of one pass over the data.
        gather: What each process has, of what this one has: ``SideGroup.gather``.
    """

    def __init__(
        self,
        *,
        log_every: int,
        epoch_clips: int,
        sinks: Sequence[Callable[[Row], None]],
        gather: Callable[[Any], list[Any]] = lambda value: [value],
    ) -> None:
        self._gather = gather
        self.log_every = log_every
        self.epoch_clips = epoch_clips
        self.sinks = sinks
        self.last_row: dict[str, float | int] = {}
        self.skipped: Counter[str] = Counter()  # by this process's readers
        self._skipped_before: dict[str, int] = {}  # by all, before a resume
        self._own_clips = 0  # by this process
        self._clips_before = 0  # by all, before a resume
        self._clips = 0  # by all, up to the last row
        self._seconds = 0.0
        self._learning_rate = 0.0
        self._noted: dict[str, float | Tensor] = {}
        self._asked: list[tuple[Sequence[Tensor], Callable[[Sequence[float]], None]]] = []
        self._window = _Window()
        self._aside_since: float | None = None

    def note(self, values: Mapping[str, float | Tensor]) -> None:
        """Add numbers to the next row: of what is measured less often than rows are made."""
        self._noted.update(values)

    def read(self, values: Sequence[Tensor], then: Callable[[Sequence[float]], None]) -> None:
        """Read numbers, 0-d each, along with those of the next row: a ``Reader``."""
        self._asked.append((values, then))

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What happens within it is no training: it takes seconds, and slows nothing down."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # steps that are still at work there are training
        self._aside_since = time.perf_counter()
        yield
        self._leave_out()
        self._aside_since = None

    def _leave_out(self) -> None:
        """Take what passed aside out of the window so far: a checkpoint is saved within it."""
        if self._aside_since is not None:
            since, self._aside_since = self._aside_since, time.perf_counter()
            self._window.started += self._aside_since - since
            self._seconds += self._aside_since - since

    def state_dict(self) -> dict[str, Any]:
        self._leave_out()
        clips, skipped = self._so_far()
        return {
            "clips": self._clips,
            "seconds": self._seconds,
            "skipped": skipped,
            "window": self._window.state(clips - self._clips),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._clips = state_dict["clips"]
        self._seconds = state_dict["seconds"]
        self._skipped_before = dict(state_dict["skipped"])
        self._window = _Window.of(state_dict["window"])
        self._clips_before = self._clips + self._window.clips

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        super().on_train_start(trainer, pl_module)
        self._window.started = time.perf_counter() - self._window.passed
        self._window.to(pl_module.device)

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Batch, *_: Any) -> None:
        """Note how long the batch was waited for and what its readers left out."""
        self._window.wait += module.batch_arrived - module.batch_wanted
        self._own_clips += len(batch["keys"])
        self.skipped.update(batch.get("skipped", {}))

    def before_step(self, trainer: pl.Trainer, module: PretrainModule, optimizer: Any) -> None:
        """Note the rate of this step: the schedule moves on before the batch ends."""
        self._learning_rate = optimizer.param_groups[0]["lr"]

    def after_batch(self, trainer: pl.Trainer, module: PretrainModule, outputs: Any) -> None:
        self._window.batches += 1
        for name, value in outputs["terms"].items():
            self._window.sums[name] = self._window.sums.get(name, 0.0) + value

    def act(self, trainer: pl.Trainer, module: PretrainModule, batch: Batch | None) -> None:
        """Add the step to the window; at its end make a row."""
        self._window.steps += 1
        assert module.gradient_norm is not None
        self._window.norms = self._window.norms + module.gradient_norm
        if trainer.global_step % self.log_every == 0:
            self._make_row(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        if self._window.steps:
            self._make_row(trainer, module)

    def _make_row(self, trainer: pl.Trainer, module: PretrainModule) -> None:
        """Average the window over steps and processes and hand it out."""
        names = list(self._window.sums)
        means = torch.stack([self._window.sums[name] for name in names]) / self._window.batches
        means = trainer.strategy.reduce(means, reduce_op="mean")
        measured = {name: value for name, value in self._noted.items() if isinstance(value, Tensor)}
        noted = {
            name: value for name, value in self._noted.items() if not isinstance(value, Tensor)
        }
        asked = [value for some, _ in self._asked for value in some]
        norms = torch.as_tensor(self._window.norms)
        # All together, because the host waits for the device here, and nowhere else.
        numbers = [*means, norms, *measured.values(), *asked]
        found = iter(
            torch.stack(
                [number.to(means.device, torch.float64, non_blocking=True) for number in numbers]
            ).tolist()
        )
        values = over_present({name: next(found) for name in names})
        norm = next(found) / self._window.steps
        noted |= {name: next(found) for name in measured}
        for some, then in self._asked:
            then([next(found) for _ in some])
        passed = time.perf_counter() - self._window.started
        before, (self._clips, skipped) = self._clips, self._so_far()
        self._seconds += passed
        row: dict[str, float | int] = {
            "step": trainer.global_step,
            "epoch": self._clips / self.epoch_clips,
            "clips": self._clips,
            "seconds": self._seconds,
            **values,
            "gradient_norm": norm,
            "learning_rate": self._learning_rate,
            "clips_per_second": (self._clips - before) / passed,
            "data_wait_share": self._window.wait / passed,
            "peak_memory_bytes": peak_memory_bytes(module.device),
            "resident_memory_bytes": resident_memory_bytes(),
            "skipped": sum(skipped.values()),
            **{f"skipped_{cause}": count for cause, count in sorted(skipped.items())},
            **noted,
        }
        self._noted, self._asked = {}, []
        self.last_row = row
        if trainer.is_global_zero:
            for sink in self.sinks:
                sink(row)
        self._window = _Window()

    def _so_far(self) -> tuple[int, dict[str, int]]:
        """Clips so far, and samples left out by cause, over all processes; a collective call."""
        clips, skipped = self._clips_before, Counter(self._skipped_before)
        for own, part in self._gather((self._own_clips, dict(self.skipped))):
            clips += own
            skipped.update(part)
        return clips, dict(skipped)


class ProgressShown(pl.Callback):
    """A bar with steps, loss, clips a second and time to go; without a terminal, a line a row."""

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

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=trainer.global_step)

    def on_train_end(self, *_: Any) -> None:
        """Take the bar down, so that an error stands on a line of its own."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_exception(self, *_: Any) -> None:
        self.on_train_end()


def over_present(means: Mapping[str, float]) -> dict[str, float]:
    """Turn means over all batches, 0 counted where nobody had a clip, into means over the others.

    A loss and its accuracies are meant, where its term ``absent`` tells the share of the former; of
    that alone they stay 0.
    """
    found = dict(means)
    for name, absent in means.items():
        loss = name.removesuffix("_absent")
        if name != loss and 0 < absent < 1:
            for term in found:
                if term == loss or term.startswith(f"{loss}_accuracy"):
                    found[term] /= 1 - absent
    return found


def line_of(row: Row, num_steps: int) -> str:
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


@dataclass
class _Window:
    """What has been summed up since the last row."""

    sums: dict[str, Tensor] = field(default_factory=dict)  # of each term, over batches
    norms: Tensor | float = 0.0  # of the gradient, over steps
    batches: int = 0
    steps: int = 0
    clips: int = 0  # before a resume
    wait: float = 0.0  # seconds that a batch was waited for
    passed: float = 0.0  # seconds before a resume
    started: float = field(default_factory=lambda: time.perf_counter())  # that of now

    def state(self, clips: int) -> dict[str, Any]:
        """What a resumed run goes on with, so that its next row is that of an unbroken run.

        ``clips`` is how many all processes have seen in it.

        The sums are means over processes, as the row's will be; a collective call.
        """
        sums = {name: torch.as_tensor(value) for name, value in self.sums.items()}
        if dist.is_available() and dist.is_initialized():
            for name, value in sums.items():
                total = value.clone()
                dist.all_reduce(total)
                sums[name] = total / dist.get_world_size()
        return {
            "sums": {name: value.cpu() for name, value in sums.items()},
            "norms": torch.as_tensor(self.norms).cpu(),
            "counts": (self.batches, self.steps, clips),
            "seconds": (self.wait, time.perf_counter() - self.started),
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> _Window:
        return cls(dict(state["sums"]), state["norms"], *state["counts"], *state["seconds"])

    def to(self, device: torch.device) -> None:
        """Move the sums to where the next ones will be."""
        self.sums = {name: value.to(device) for name, value in self.sums.items()}
        if isinstance(self.norms, Tensor):
            self.norms = self.norms.to(device)
