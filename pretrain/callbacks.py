"""What happens around the steps: checkpoints, stopping on signals and on non-finite numbers.

For: Lightning callbacks that keep a run safe. Not for: measuring (``pretrain/meter.py``) or
pictures (``pretrain/gallery.py``).

Deviation: in the reference one process exits on a loss that is not finite and the others wait;
here all stop after the same step, and the step's sample keys are saved.
"""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from hicmae.checkpoint import save_checkpoint
from pretrain.folder import step_files
from pretrain.module import Batch, PretrainModule


class NonFiniteError(ValueError):
    """The loss or a gradient is infinite or no number; the samples of the step are named."""


class Checkpoints(pl.Callback):
    """Saves ``step-000100.ckpt`` to resume from, and the portable ``last/`` with it.

    Both are written beside and renamed. The weights in ``last/`` are those of the newest step
    file, and it carries the configuration of the run.

    Args:
        folder: ``checkpoints/`` of the run folder.
        every: Optimizer steps between them; one is also saved when training ends.
        keep: How many step files are kept, the newest ones.
        config: Sections for the portable checkpoint's configuration.
    """

    def __init__(self, folder: Path, *, every: int, keep: int, config: Mapping[str, Any]) -> None:
        self.folder = folder
        self.every = every
        self.keep = keep
        self.config = config
        self._saved_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What a run was resumed from need not be saved again."""
        self._saved_step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Save when it is time."""
        if trainer.global_step != self._saved_step and trainer.global_step % self.every == 0:
            self._save(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save where the run ended, or was stopped."""
        if trainer.global_step != self._saved_step:
            self._save(trainer, pl_module)

    def _save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """All processes take part: some strategies save a part in each."""
        assert isinstance(pl_module, PretrainModule)
        step = trainer.global_step
        final = self.folder / f"step-{step:06d}.ckpt"
        beside = self.folder / f".{final.name}.part"
        trainer.save_checkpoint(beside)
        if trainer.is_global_zero:
            if final.is_dir():
                shutil.rmtree(final)
            beside.replace(final)
            save_checkpoint(
                self.folder / "last",
                pl_module.model,
                kind="pretraining",
                config={**self.config, "step": step},
            )
            for old in step_files(self.folder)[: -self.keep]:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        self._saved_step = step
        trainer.strategy.barrier()


class StopOnSignal(pl.Callback):
    """Ends training after the current optimizer step on Ctrl-C or SIGTERM; the run is then saved.

    A second Ctrl-C stops at once, unsaved. All processes stop after the same step.

    Attributes:
        received: The signal, if there was one.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over both signals."""
        self._step = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Ask for the end where a step is whole."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        stop = self.received is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            trainer.should_stop = True

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


class FiniteGuard(pl.Callback):
    """Measures the gradient norm and stops, before the weights are touched, if it is not finite.

    The norm is that of the gradients averaged over processes, so all of them stop together. The
    keys of the step's samples are saved in the run folder. With fp16 an infinite gradient is
    normal (the scaler skips the step), so there the loss is looked at instead, after the step.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._keys: list[str] = []
        self._batch: Batch = {}
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with an empty step."""
        self._step = trainer.global_step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Remember what goes into the step."""
        self._keys += batch["keys"]
        self._batch = batch

    def on_before_optimizer_step(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Measure, and look."""
        assert isinstance(pl_module, PretrainModule)
        gradients = [p.grad for p in pl_module.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        pl_module.gradient_norm = norm
        # This waits for the device once a step; in return a bad step never reaches the weights.
        if trainer.precision != "16-mixed" and not bool(torch.isfinite(norm)):
            self._stop(trainer, pl_module, float(norm))

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """With fp16, look at the loss; forget the samples of a step that is done."""
        assert isinstance(pl_module, PretrainModule)
        if trainer.precision == "16-mixed":
            bad = not bool(torch.isfinite(outputs["terms"]["loss"]))
            if trainer.strategy.reduce_boolean_decision(bad, all=False):
                self._stop(trainer, pl_module, float("nan"))
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            self._keys = []
            self._batch = {}

    def _stop(self, trainer: pl.Trainer, module: PretrainModule, norm: float) -> None:
        """Save the keys and raise."""
        step = trainer.global_step + 1
        terms = {name: float(value) for name, value in module.last_terms.items()}
        broken = _broken_inputs(self._batch)
        report = {
            "step": step,
            "process": trainer.global_rank,
            "terms": {name: repr(value) for name, value in terms.items()},
            "gradient_norm": repr(norm),
            "keys": self._keys,
            "keys_of_broken_inputs": broken,
        }
        path = self.folder / f"nonfinite-step-{step:06d}-process-{trainer.global_rank}.json"
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        named = broken or self._keys
        shown = ", ".join(named[:4]) + (f" and {len(named) - 4} more" if len(named) > 4 else "")
        what = ", ".join(f"{name} {terms[name]:.4g}" for name in terms if "accuracy" not in name)
        where = "in the input of" if broken else "on"
        raise NonFiniteError(
            f"step {step}: not finite ({what}, gradient norm {norm:.4g}) {where} samples {shown}; "
            f"the step was not taken and all keys are in {path}; lower optimizer.learning_rate, "
            "set optimizer.clip_norm or look at the samples, then --resume"
        )


def _broken_inputs(batch: Batch) -> list[str]:
    """Keys of the clips whose input is not finite already."""
    if not batch:
        return []
    fine = torch.ones(len(batch["keys"]), dtype=torch.bool)
    for name in ("video", "fbank"):
        fine &= torch.isfinite(batch[name]).flatten(1).all(dim=1).cpu()
    return [key for key, good in zip(batch["keys"], fine.tolist(), strict=True) if not good]
