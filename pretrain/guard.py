"""What all processes leave out or stop at together: steps that are not finite, bad samples.

Each process says once an optimizer step what it has seen (``Agreement``), so that all of them
leave a step out, or stop, at the same step; ``pretrain.processes.StopOnSignal`` is a third watcher.

Deviation: in the reference one process exits on a loss that is not finite and the others wait;
here all processes leave the step out, and all stop together when it happens too often.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import Tensor

from hicmae.files import write_text
from pretrain.meter import Reader, read_now
from pretrain.module import Batch, PretrainModule, StepCallback

# Which samples lack sound or picture stands in the index; they were counted before the run.
EXPECTED_CAUSES = ("no-sound", "no-picture")
# A share is not judged by the first few samples.
LEAST_SAMPLES = 200


class NonFiniteError(ValueError):
    """The loss or a gradient was infinite or no number too often; the samples are named."""


class TooManyBadError(ValueError):
    """More samples than ``data.max_bad`` allows could not be read."""


class Watcher(Protocol):
    """Looks at something that concerns all processes."""

    def seen(self) -> tuple[int, ...]:
        """What this process has seen since the last step: always as many numbers."""

    def settle(self, trainer: pl.Trainer, totals: tuple[int, ...]) -> bool:
        """Act on the sums over processes; whether the run is to stop after this step."""


class Agreement(StepCallback):
    """Sums up what the watchers of all processes have seen, once an optimizer step.

    The watchers are the same in every process, in the same order; ``add`` sums over processes.
    """

    def __init__(
        self, watchers: Sequence[Watcher], add: Callable[[Sequence[int]], list[int]]
    ) -> None:
        self.watchers = watchers
        self.add = add

    def act(self, trainer: pl.Trainer, module: PretrainModule, batch: Batch | None) -> None:
        """Tell each other, and let every watcher decide."""
        seen = [watcher.seen() for watcher in self.watchers]
        totals = iter(self.add([n for part in seen for n in part]))
        seen = [tuple(next(totals) for _ in part) for part in seen]
        # Every watcher settles, though one may have decided already.
        decisions = [
            watcher.settle(trainer, part) for watcher, part in zip(self.watchers, seen, strict=True)
        ]
        if any(decisions):
            trainer.should_stop = True


@dataclass(frozen=True, kw_only=True)
class _Step:
    """What is told of a step that was not finite; all numbers are still on the device."""

    number: int
    keys: list[str]
    inputs: Tensor  # of each clip the sum of what the network was given
    terms: dict[str, Tensor]
    norm: Tensor
    watched: Tensor  # finite where the step was


class FiniteGuard(StepCallback):
    """Measures the gradient norm and leaves out, in all processes, a step with no finite one.

    Such a step counts as one of the run (the schedule and the data go on), but weights and the
    optimizer's state stay as they were: a fused AdamW is told on the device, which nothing waits
    for; one that is not fused is waited for. What was left out is looked at and told of every
    ``look_every`` steps; each process writes its samples' keys into the run folder. After
    ``max_skipped`` of them in the whole run, the run stops, saved.

    The norm is that of gradients averaged over processes, so all see the same; DeepSpeed looks by
    itself and leaves the step out. With fp16 an infinite gradient is normal (the scaler lowers its
    scale and skips the step), so there the loss is looked at.

    Args:
        max_skipped: Steps that may be left out in the whole run.
        say: Takes a line for the user.
        read: ``StepMeter.read``, which waits for the device every so many steps.

    Attributes:
        error: Why the run was stopped, if it was.
        num_skipped: Steps left out so far, of those that were looked at.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_skipped: int,
        say: Callable[[str], None],
        look_every: int = 1,
        read: Reader = read_now,
    ) -> None:
        self.folder = folder
        self.max_skipped = max_skipped
        self.say = say
        self.look_every = look_every
        self.read = read
        self.error: NonFiniteError | None = None
        self.num_skipped = 0
        self._parameters: list[torch.nn.Parameter] = []  # walking the modules takes milliseconds
        self._keys: list[str] = []  # of the step that goes on
        self._inputs: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._steps: list[_Step] = []  # since the last look
        self._looked: list[_Step] = []
        self._flags: list[int] = []  # of these, whether they were not finite here

    def state_dict(self) -> dict[str, Any]:
        unseen = sum(not math.isfinite(float(step.watched)) for step in self._steps)
        return {"num_skipped": self.num_skipped + unseen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.num_skipped = state_dict["num_skipped"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        assert isinstance(pl_module, PretrainModule)
        self._parameters = list(pl_module.model.parameters())

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Batch, *_: Any) -> None:
        """Keep what names the samples; the batch itself would take its memory until the look."""
        self._keys += batch["keys"]
        given = [batch[name] for name in ("video", "fbank") if batch[name] is not None]
        sums = torch.stack([values.flatten(1).sum(dim=1) for values in given])
        self._inputs.append(sums.sum(dim=0)[: len(batch["keys"])])

    def before_step(self, trainer: pl.Trainer, module: PretrainModule, optimizer: Any) -> None:
        """Measure, and keep what is bad from the weights; DeepSpeed does so in its step."""
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            return
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        module.gradient_norm = norm
        if trainer.precision == "16-mixed":
            return
        if optimizer.param_groups[0].get("fused"):
            optimizer.found_inf = (~norm.isfinite()).float()  # as PyTorch's GradScaler tells it
        elif not math.isfinite(float(norm)):
            # AdamW passes over parameters without a gradient.
            for parameter in self._parameters:
                parameter.grad = None

    def after_batch(self, trainer: pl.Trainer, module: PretrainModule, outputs: Any) -> None:
        self._losses.append(outputs["terms"]["loss"])

    def act(self, trainer: pl.Trainer, module: PretrainModule, batch: Batch | None) -> None:
        """Keep the step until it is looked at; DeepSpeed says what it has done with it."""
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            engine = trainer.strategy.deepspeed_engine
            norm = engine.get_global_grad_norm() if engine.was_step_applied() else math.inf
            if not isinstance(norm, Tensor):
                norm = torch.full((), norm or 0.0, device=module.device)
            module.gradient_norm = norm
        assert module.gradient_norm is not None
        norm, loss = module.gradient_norm, torch.stack(self._losses).sum()
        step = _Step(
            number=trainer.global_step,
            keys=self._keys,
            inputs=torch.cat(self._inputs),
            terms=module.last_terms,
            norm=norm,
            watched=loss if trainer.precision == "16-mixed" else norm,
        )
        self._steps.append(step)
        self._keys, self._inputs, self._losses = [], [], []
        if trainer.global_step % self.look_every == 0:
            self.read([step.watched for step in self._steps], self._look)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at what came after the last look; no step follows that others could stop."""
        self._look([float(step.watched) for step in self._steps])
        self.settle(trainer, self.seen())

    def seen(self) -> tuple[int, ...]:
        flags, self._flags = self._flags, []
        return tuple(flags + [0] * (self.look_every - len(flags)))

    def settle(self, trainer: pl.Trainer, totals: tuple[int, ...]) -> bool:
        """Report steps that were left out; stop if there was one too many."""
        looked, self._looked = self._looked, []
        for step, bad in zip(looked, totals, strict=False):
            if not bad:
                continue
            self.num_skipped += 1
            line = self._report(trainer, step)
            if self.num_skipped <= self.max_skipped:
                self.say(f"{line}; {self.num_skipped} of at most {self.max_skipped} such steps")
                continue
            self.error = self.error or NonFiniteError(
                f"{line}; more than max_skipped_steps = {self.max_skipped} allows; saved; lower "
                "optimizer.learning_rate, set optimizer.clip_norm or look at the samples, then "
                "--resume"
            )
        return self.error is not None

    def _look(self, watched: Sequence[float]) -> None:
        self._flags = [int(not math.isfinite(value)) for value in watched]
        self._looked, self._steps = self._steps, []

    def _report(self, trainer: pl.Trainer, step: _Step) -> str:
        """Save the keys of this process; a line about the step."""
        fine = step.inputs.isfinite().tolist()
        broken = [key for key, good in zip(step.keys, fine, strict=True) if not good]
        terms = {name: float(value) for name, value in step.terms.items()}
        norm = float(step.norm)
        report = {
            "step": step.number,
            "process": trainer.global_rank,
            "terms": {name: repr(value) for name, value in terms.items()},
            "gradient_norm": repr(norm),
            "keys": step.keys,
            "keys_of_broken_inputs": broken,
        }
        name = f"nonfinite-step-{step.number:06d}-process-{trainer.global_rank}.json"
        path = self.folder / name
        write_text(path, json.dumps(report, indent=2) + "\n")
        named = broken or step.keys
        shown = ", ".join(named[:4]) + (f" and {len(named) - 4} more" if len(named) > 4 else "")
        what = ", ".join(f"{name} {terms[name]:.4g}" for name in terms if "accuracy" not in name)
        where = "in the input of" if broken else "on"
        others = " and, of the other processes, beside it" if trainer.world_size > 1 else ""
        return (
            f"step {step.number}: not finite ({what}, gradient norm {norm:.4g}) {where} samples "
            f"{shown}; the step was not taken and all keys are in {path}{others}"
        )


class BadSamples(pl.Callback):
    """Counts the samples that readers left out, and stops the run when they are too many.

    Args: max_bad: Below 1 a share of the samples so far, of ``LEAST_SAMPLES`` at least; from 1 on a
        count.

    Attributes: error: Why the run was stopped, if it was.
    """

    def __init__(self, max_bad: float) -> None:
        self.max_bad = max_bad
        self.error: TooManyBadError | None = None
        self._causes: Counter[str] = Counter()  # in this process
        self._good, self._bad = 0, 0  # in this process, since the last step
        self._all_good, self._all_bad = 0, 0  # in all processes, of the whole run

    def state_dict(self) -> dict[str, Any]:
        return {"good": self._all_good, "bad": self._all_bad}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._all_good, self._all_bad = state_dict["good"], state_dict["bad"]

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Batch, *_: Any) -> None:
        """Count what came and what was left out on the way."""
        self._good += len(batch["keys"])
        skipped = batch.get("skipped")
        if skipped:
            bad = {cause: n for cause, n in skipped.items() if cause not in EXPECTED_CAUSES}
            self._causes.update(bad)
            self._bad += sum(bad.values())

    def seen(self) -> tuple[int, ...]:
        counts = self._good, self._bad
        self._good, self._bad = 0, 0
        return counts

    def settle(self, trainer: pl.Trainer, totals: tuple[int, ...]) -> bool:
        self._all_good += totals[0]
        self._all_bad += totals[1]
        together = self._all_good + self._all_bad
        allowed = self.max_bad
        if self.max_bad < 1:
            allowed *= max(together, LEAST_SAMPLES)
        if self._all_bad <= allowed:
            return False
        here = ", ".join(f"{cause} {n}" for cause, n in sorted(self._causes.items()))
        self.error = TooManyBadError(
            f"data: {self._all_bad} of {together} samples could not be read "
            f"({here or 'all in other processes'}), more than data.max_bad = {self.max_bad:g} "
            f"allows; saved after step {trainer.global_step}; look at them with `hicmae shards "
            "check`, then --resume, with another --data.max_bad if they are to be borne"
        )
        return True
