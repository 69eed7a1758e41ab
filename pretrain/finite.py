"""Losses and gradients that are infinite or no number: left out, reported, and at last too many.

For: keeping them from the weights. Not for: why they come (the report has the samples' keys).

Deviation: in the reference one process exits on a loss that is not finite and the others wait;
here all processes leave the step out, and all stop together when it happens too often.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DeepSpeedStrategy

from pretrain.module import Batch, PretrainModule


class NonFiniteError(ValueError):
    """The loss or a gradient was infinite or no number too often; the samples are named."""


class FiniteGuard(pl.Callback):
    """Measures the gradient norm and leaves out, in all processes, a step with no finite one.

    Such a step counts as one of the run (the schedule and the data go on), but weights and the
    optimizer's state stay as they were. Each process writes its samples' keys into the run
    folder. After ``max_skipped`` of them in the whole run the next one stops it, saved.

    The norm is that of gradients averaged over processes, so all see the same; DeepSpeed looks by
    itself and leaves the step out. With fp16 an infinite gradient is normal (the scaler lowers its
    scale and skips the step), so there the loss is looked at.

    Args:
        folder: The run folder.
        max_skipped: Steps that may be left out in the whole run.
        say: Takes a line for the user.

    Attributes:
        error: Why the run was stopped, if it was.
        num_skipped: Steps left out so far.
    """

    def __init__(self, folder: Path, *, max_skipped: int, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.max_skipped = max_skipped
        self.say = say
        self.error: NonFiniteError | None = None
        self.num_skipped = 0
        self._module: PretrainModule | None = None
        self._parameters: list[torch.nn.Parameter] = []  # walking the modules takes milliseconds
        self._batches: list[Batch] = []  # of the step that goes on
        self._norm = math.nan
        self._bad = False
        self._step = 0

    def state_dict(self) -> dict[str, Any]:
        """Count that a resumed run goes on with."""
        return {"num_skipped": self.num_skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the count of the run that is resumed."""
        self.num_skipped = state_dict["num_skipped"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with an empty step."""
        assert isinstance(pl_module, PretrainModule)
        self._module = pl_module
        self._parameters = list(pl_module.model.parameters())
        self._step = trainer.global_step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Remember what goes into the step."""
        self._batches.append(batch)

    def on_before_optimizer_step(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Measure, and drop what must not reach the weights; DeepSpeed does so in its step."""
        assert isinstance(pl_module, PretrainModule)
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            return
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        pl_module.gradient_norm = norm
        # This waits for the device once a step; in return a bad step never reaches the weights.
        self._norm = float(norm)
        if trainer.precision != "16-mixed" and not math.isfinite(self._norm):
            self._bad = True
            # AdamW passes over parameters without a gradient.
            for parameter in self._parameters:
                parameter.grad = None

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Look at the loss with fp16, and at what DeepSpeed has done."""
        assert isinstance(pl_module, PretrainModule)
        fp16 = trainer.precision == "16-mixed"
        if fp16 and not math.isfinite(float(outputs["terms"]["loss"])):
            self._bad = True
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            engine = trainer.strategy.deepspeed_engine
            applied = engine.was_step_applied()
            self._norm = float(engine.get_global_grad_norm() or 0.0) if applied else math.inf
            pl_module.gradient_norm = torch.tensor(self._norm)
            self._bad |= not applied and not fp16

    def seen(self) -> tuple[int, ...]:
        """Whether this process has seen a step that must be left out."""
        return (int(self._bad),)

    def settle(self, trainer: pl.Trainer, totals: tuple[int, ...]) -> bool:
        """Report a step that was left out; stop if it was one too many."""
        batches, self._batches, self._bad = self._batches, [], False
        if not totals[0]:
            return False
        assert self._module is not None
        self.num_skipped += 1
        line = self._report(trainer, self._module, batches)
        if self.num_skipped <= self.max_skipped:
            self.say(f"{line}; {self.num_skipped} of at most {self.max_skipped} such steps")
            return False
        self.error = NonFiniteError(
            f"{line}; more than max_skipped_steps = {self.max_skipped} allows; saved; lower "
            "optimizer.learning_rate, set optimizer.clip_norm or look at the samples, then --resume"
        )
        return True

    def _report(self, trainer: pl.Trainer, module: PretrainModule, batches: list[Batch]) -> str:
        """Save the keys of this process; a line about the step."""
        step = trainer.global_step
        keys = [key for batch in batches for key in batch["keys"]]
        broken = [key for batch in batches for key in _broken_inputs(batch)]
        terms = {name: float(value) for name, value in module.last_terms.items()}
        report = {
            "step": step,
            "process": trainer.global_rank,
            "terms": {name: repr(value) for name, value in terms.items()},
            "gradient_norm": repr(self._norm),
            "keys": keys,
            "keys_of_broken_inputs": broken,
        }
        path = self.folder / f"nonfinite-step-{step:06d}-process-{trainer.global_rank}.json"
        beside = path.with_name(f".{path.name}.part")
        beside.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        beside.replace(path)
        named = broken or keys
        shown = ", ".join(named[:4]) + (f" and {len(named) - 4} more" if len(named) > 4 else "")
        what = ", ".join(f"{name} {terms[name]:.4g}" for name in terms if "accuracy" not in name)
        where = "in the input of" if broken else "on"
        others = " and, of the other processes, beside it" if trainer.world_size > 1 else ""
        return (
            f"step {step}: not finite ({what}, gradient norm {self._norm:.4g}) {where} samples "
            f"{shown}; the step was not taken and all keys are in {path}{others}"
        )


def _broken_inputs(batch: Batch) -> list[str]:
    """Keys of the clips whose input is not finite already."""
    fine = torch.ones(len(batch["keys"]), dtype=torch.bool)
    for name in ("video", "fbank"):
        fine &= torch.isfinite(batch[name]).flatten(1).all(dim=1).cpu()
    return [key for key, good in zip(batch["keys"], fine.tolist(), strict=True) if not good]
