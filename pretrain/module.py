"""The Lightning module of pretraining: one training step, from a batch to AdamW.

A step is ``on_after_batch_transfer`` (the transforms), ``training_step`` (the network and its
loss), and the optimizer of ``configure_optimizers``. What is watched, logged, saved or drawn
beside it are callbacks, most of them a ``StepCallback``.

Deviation: the reference forgets the random state on resuming; here every draw follows from the
seed and the number of the batch.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import Tensor

from hicmae.blocks import set_bf16_residual, set_grad_checkpointing
from hicmae.devices import send
from hicmae.objective.losses import find_presence
from hicmae.optimization import parameter_groups, warmup_cosine
from hicmae.pretraining import HiCMAE
from hicmae.transforms import ClipTransform
from pretrain.settings import Counts, PretrainConfig

Batch = dict[str, Any]


class PretrainModule(pl.LightningModule):
    """HiCMAE in training.

    Every random draw of a step (augmentation, masks) follows from the seed and the number of the
    batch alone, so a resumed run draws what an unbroken one would have drawn. Batches are numbered
    over all processes: of N processes, process r has the batches r, r + N, r + 2 N, …. A batch
    keeps its number, its clips and its draws however many processes there are.

    Attributes: num_batches: Batches that all processes together have taken so far.

    Args:
        config: The recipe: sizes, objective, augmentation, optimizer, seed, and of the hardware
            ``compile``, ``cuda_graphs`` (the weights keep their names), ``recompute`` and
            ``bf16_residual``.
        counts: How long the run is; the global batch scales the learning rate.
    """

    def __init__(self, config: PretrainConfig, counts: Counts) -> None:
        super().__init__()
        torch.manual_seed(config.seed)
        self.config = config
        self.counts = counts
        self.model = HiCMAE(config.model, config.objective, config.data.modalities)
        set_grad_checkpointing(self.model, config.hardware.recompute)
        set_bf16_residual(self.model, config.hardware.bf16_residual)
        if config.hardware.compile:
            self.model.compile(cuda_graphs=config.hardware.cuda_graphs)
        elif config.hardware.cuda_graphs:
            self.model.record()
        self.transform = ClipTransform(config.model.input, config.augment)
        self.gradient_norm: Tensor | None = None  # of the newest step, before clipping
        self.last_terms: dict[str, Tensor] = {}  # of the newest batch
        self.batch_wanted = 0.0  # when the step before was done with, performance clock
        self.batch_arrived = 0.0  # when the newest batch came from its reader
        self.num_batches = 0
        self._rates: list[tuple[float, float]] = []  # and weight decay, of each parameter group

    @property
    def peak_learning_rate(self) -> float:
        """The base rate scaled to the global batch. Source: linear scaling rule at 256 clips."""
        return self.config.optimizer.learning_rate * self.counts.global_batch / 256

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the number of batches, on which every random draw depends."""
        checkpoint["place"] = {
            "batches": self.num_batches,
            "batch_size": self._batch_size(),
            "global_batch": self.counts.global_batch,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting batches where the checkpoint stood, in batches of today's size."""
        place = checkpoint["place"]
        self.num_batches = place["batches"] * place["batch_size"] // self._batch_size()
        # A step ends where Lightning's count of this process's batches is a multiple of theirs.
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        more = self.num_batches // self.trainer.world_size - progress["current"]["ready"]
        for counts in (progress["current"], progress["total"]):
            counts.update({name: count + more for name, count in counts.items()})
        for group in checkpoint["optimizer_states"][0]["param_groups"]:
            group["fused"] = self._fused()  # before its state is put where that kernel wants it

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Note when the batch came; it is still where the reader put it."""
        self.batch_arrived = time.perf_counter()
        return batch

    @torch.no_grad()
    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turn bytes into the network's input, on the device, with this batch's random numbers.

        A batch of fewer clips than it should have, since bad ones were left out, is filled up with
        black, silent ones; ``presence`` says which are there. So nothing is compiled anew, other
        processes wait for nobody, and a process whose clips were all bad takes part.
        """
        # The reader numbers what all processes take at once; its count and ours must agree.
        world_size = self.trainer.world_size
        assert batch.get("batch", self.num_batches // world_size) * world_size == self.num_batches
        torch.manual_seed(step_seed(self.config.seed, self.num_batches + self.global_rank))
        self.num_batches += world_size
        kept = {name: batch[name] for name in ("keys", "skipped") if name in batch}
        tensors, present = self._filled(batch)
        video, fbank = self.transform(tensors)
        # A mixture tells of each clip what it has, which of what stands in is nothing.
        seen, heard = (tensors.get(name, present) for name in ("seen", "heard"))
        # Of unlike batches of a step each clip counts alike.
        step = batch.get("step")  # (k, 2, B)
        step = None if step is None else send(torch.from_numpy(np.stack(step)), self.device)
        presence = find_presence(seen, heard, step, batch.get("number", 0))
        return kept | {"video": video, "fbank": fbank, "presence": presence}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """One forward pass; Lightning averages accumulated gradients and takes the step.

        Returns: ``loss`` and, detached, every term by name with ``loss`` among them.
        """
        self.model.stage = self.counts.stage(self.trainer.global_step)
        # Lightning has entered it already, but DeepSpeed has left it again.
        with self.trainer.precision_plugin.forward_context():
            output = self.model(batch["video"], batch["fbank"], presence=batch["presence"])
        self.last_terms = {"loss": output.loss.detach()} | output.terms
        return {"loss": output.loss, "terms": self.last_terms}

    def configure_optimizers(self) -> Any:
        """AdamW over the parameter groups, and the schedule, one value an optimizer step."""
        groups = parameter_groups(
            self.model,
            learning_rate=self.peak_learning_rate,
            weight_decay=self.config.optimizer.weight_decay,
        )
        self._rates = [(group["lr"], group["weight_decay"]) for group in groups]
        optimizer = torch.optim.AdamW(
            groups,
            betas=self.config.optimizer.betas,
            eps=self.config.optimizer.eps,
            fused=self._fused(),
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate_factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimizer pass over what the stage does not train: of a gradient that is zero it
        would decay the weight. DeepSpeed takes the gradients elsewhere, and there it does decay.
        """
        if self.counts.stages and not self._has_deepspeed():
            for parameter in self.model.idle_parameters():
                parameter.grad = None

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm that was measured already; Lightning refuses to with a fused step, and
        DeepSpeed clips by itself.
        """
        if gradient_clip_val is not None and not self._has_deepspeed():
            assert self.gradient_norm is not None, "FiniteGuard measures it just before"
            torch.nn.utils.clip_grads_with_norm_(
                self.model.parameters(), gradient_clip_val, self.gradient_norm, foreach=True
            )

    def on_train_start(self) -> None:
        """Honour the settings of this run where a checkpoint has brought those of an older one."""
        scheduler = self.lr_schedulers()
        assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
        optimizer = scheduler.optimizer  # also where DeepSpeed has wrapped it
        factor = self.rate_factor(scheduler.last_epoch)
        for group, (rate, decay) in zip(optimizer.param_groups, self._rates, strict=True):
            group |= {"betas": self.config.optimizer.betas, "eps": self.config.optimizer.eps}
            group |= {"weight_decay": decay, "initial_lr": rate, "lr": rate * factor}
        scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.batch_wanted = time.perf_counter()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Note that the callbacks are done too, and only the reader is waited for."""
        self.batch_wanted = time.perf_counter()

    def rate_factor(self, step: int) -> float:
        """Learning rate of an optimizer step (counted from 0) over the peak rate."""
        settings = self.config.optimizer
        return warmup_cosine(
            min(step, self.counts.num_steps - 1),
            final=settings.min_learning_rate / settings.learning_rate,
            num_steps=self.counts.num_steps,
            warmup_steps=self.counts.warmup_steps,
        )

    def _filled(self, batch: Batch) -> tuple[Batch, Tensor]:
        """The tensors of a batch with B clips or more, and (B,) whether each is there."""
        count = len(batch["keys"])
        missing = max(self._batch_size() - count, 0)
        present = torch.arange(count + missing, device=self.device) < count
        names = ("frames", "waveform", "num_samples", "seen", "heard")
        tensors = {name: batch[name].to(self.device) for name in names if name in batch}
        if missing:
            tensors = {
                name: F.pad(part, (0, 0) * (part.ndim - 1) + (0, missing))
                for name, part in tensors.items()
            }
        return tensors, present

    def _batch_size(self) -> int:
        parts = self.trainer.accumulate_grad_batches * self.trainer.world_size
        return self.counts.global_batch // parts

    def _fused(self) -> bool:
        # With fp16 a fused step would unscale gradients inside itself, hiding their true norm.
        scales = self.trainer.precision == "16-mixed" and not self._has_deepspeed()
        return self.config.optimizer.fused and not scales

    def _has_deepspeed(self) -> bool:
        return isinstance(self.trainer.strategy, DeepSpeedStrategy)


class StepCallback(pl.Callback):
    """Acts beside the training: once an optimizer step, or once in ``every`` of them.

    Lightning tells a callback of batches, of which a step may accumulate several; this one turns
    that into the three moments that ours need.

    Attributes:
        acted_step: The newest optimizer step after which it has acted; that of the checkpoint
            where a run is resumed.
        aside: Entered for as long as it acts: ``StepMeter.aside`` where that is no training.
    """

    every = 1
    acted_step = 0
    aside: Callable[[], AbstractContextManager[Any]] = nullcontext

    def before_step(self, trainer: pl.Trainer, module: PretrainModule, optimizer: Any) -> None:
        """Gradients are there, and the optimizer is about to use them."""

    def after_batch(self, trainer: pl.Trainer, module: PretrainModule, outputs: Any) -> None:
        """A batch is done with; ``outputs`` is what ``training_step`` returned."""

    def act(self, trainer: pl.Trainer, module: PretrainModule, batch: Batch | None) -> None:
        """An optimizer step has been taken; ``batch`` is the newest, None at the run's end."""

    def is_due(self, trainer: pl.Trainer) -> bool:
        """Whether to act after the step that has been taken."""
        return trainer.global_step % self.every == 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What the resumed run did after this step is not done again."""
        self.acted_step = trainer.global_step

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: Any, optimizer: Any) -> None:
        self.before_step(trainer, module, optimizer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Tell of the batch, and of the step if one ended with it."""
        self.after_batch(trainer, module, outputs)
        if trainer.global_step != self.acted_step and self.is_due(trainer):
            self.act_once(trainer, module, batch)

    def act_once(self, trainer: pl.Trainer, module: Any, batch: Batch | None = None) -> None:
        """Act now, unless that was done after this very step; for ``on_train_end`` too."""
        if trainer.global_step != self.acted_step:
            self.acted_step = trainer.global_step
            with self.aside():
                self.act(trainer, module, batch)


def step_seed(seed: int, batch: int) -> int:
    """A seed for the draws of one batch: any two differ in all their numbers."""
    text = f"{seed}/{batch}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
