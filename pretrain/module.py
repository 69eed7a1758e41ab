"""The Lightning module of pretraining: transforms on the device, the objective, AdamW.

For: one training step. Not for: what is logged, saved or drawn (``pretrain/callbacks.py`` and
beside it), nor where batches come from (``pretrain/data.py``).

Deviation: the reference forgets the random state on resuming; here every draw follows from the
seed and the number of the batch.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from hicmae.parameters import parameter_groups
from hicmae.pretraining import HiCMAE
from hicmae.schedule import warmup_cosine
from hicmae.settings import ModelConfig, ObjectiveConfig
from hicmae.transforms import AugmentConfig, ClipTransform
from pretrain.settings import OptimizerConfig

Batch = dict[str, Any]


class PretrainModule(pl.LightningModule):
    """HiCMAE in training.

    Every random draw of a step (augmentation, masks) follows from the seed, the process and the
    number of the batch alone, so a resumed run draws what an unbroken one would have drawn.

    Args:
        model: Sizes of the network.
        objective: Masks, weights and ablations.
        augment: Random changes to the clips, made on the device.
        optimizer: AdamW and its schedule.
        num_steps: Optimizer steps of the whole run.
        warmup_steps: Optimizer steps of the linear warm-up.
        global_batch: Clips of one optimizer step over all processes; scales the learning rate.
        seed: Of the weights and of every draw.
        compile_network: Whether ``torch.compile`` is applied; the weights keep their names.
    """

    def __init__(
        self,
        *,
        model: ModelConfig,
        objective: ObjectiveConfig,
        augment: AugmentConfig,
        optimizer: OptimizerConfig,
        num_steps: int,
        warmup_steps: int,
        global_batch: int,
        seed: int,
        compile_network: bool = False,
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.model = HiCMAE(model, objective)
        if compile_network:
            self.model.compile()
        self.transform = ClipTransform(model.input, augment)
        self.settings = optimizer
        self.num_steps = num_steps
        self.warmup_steps = warmup_steps
        self.global_batch = global_batch
        self.seed = seed
        self.gradient_norm: Tensor | None = None  # of the newest step, before clipping
        self.last_terms: dict[str, Tensor] = {}  # of the newest batch
        self.batch_wanted = 0.0  # when the step before was done with, performance clock
        self.batch_arrived = 0.0  # when the newest batch came from its reader
        self._num_batches = 0

    @property
    def peak_learning_rate(self) -> float:
        """The base rate scaled to the global batch. Source: linear scaling rule at 256 clips."""
        return self.settings.learning_rate * self.global_batch / 256

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the number of the batch, on which every random draw depends."""
        checkpoint["num_batches"] = self._num_batches

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting batches where the checkpoint stood."""
        self._num_batches = checkpoint["num_batches"]

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Note when the batch came; it is still where the reader put it."""
        self.batch_arrived = time.perf_counter()
        return batch

    @torch.no_grad()
    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turn bytes into the network's input, on the device, with this step's random numbers."""
        torch.manual_seed(step_seed(self.seed, self.global_rank, self._num_batches))
        self._num_batches += 1
        video, fbank = self.transform(batch)
        kept = {name: batch[name] for name in ("keys", "skipped") if name in batch}
        return kept | {"video": video, "fbank": fbank}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """One forward pass; Lightning averages accumulated gradients and takes the step.

        Returns: ``loss`` and, detached, every term by name with ``loss`` among them.
        """
        output = self.model(batch["video"], batch["fbank"])
        self.last_terms = {"loss": output.loss.detach()} | output.terms
        return {"loss": output.loss, "terms": self.last_terms}

    def configure_optimizers(self) -> Any:
        """AdamW over the parameter groups, and the schedule, one value an optimizer step."""
        # With fp16 a fused step would unscale gradients inside itself, hiding their true norm.
        fused = self.trainer.precision != "16-mixed"
        optimizer = torch.optim.AdamW(
            self._groups(), betas=self.settings.betas, eps=self.settings.eps, fused=fused
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate_factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm that was measured already; Lightning refuses to with a fused step."""
        if gradient_clip_val is not None:
            assert self.gradient_norm is not None, "FiniteGuard measures it just before"
            torch.nn.utils.clip_grads_with_norm_(
                self.model.parameters(), gradient_clip_val, self.gradient_norm
            )

    def on_train_start(self) -> None:
        """Honour the settings of this run where a checkpoint has brought those of an older one."""
        scheduler = self.lr_schedulers()
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
        assert isinstance(optimizer, torch.optim.Optimizer)
        fresh = self._groups()
        assert len(fresh) == len(optimizer.param_groups)
        factor = self.rate_factor(scheduler.last_epoch)
        for group, now in zip(optimizer.param_groups, fresh, strict=True):
            group |= {"betas": self.settings.betas, "eps": self.settings.eps}
            group |= {"weight_decay": now["weight_decay"], "initial_lr": now["lr"]}
            group["lr"] = now["lr"] * factor
        scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.batch_wanted = time.perf_counter()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Note that the callbacks are done too, and only the reader is waited for."""
        self.batch_wanted = time.perf_counter()

    def rate_factor(self, step: int) -> float:
        """Learning rate of an optimizer step (counted from 0) over the peak rate."""
        return warmup_cosine(
            min(step, self.num_steps - 1),
            base=1.0,
            final=self.settings.min_learning_rate / self.settings.learning_rate,
            num_steps=self.num_steps,
            warmup_steps=self.warmup_steps,
        )

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters with their learning rate and weight decay."""
        return parameter_groups(
            self.model,
            learning_rate=self.peak_learning_rate,
            weight_decay=self.settings.weight_decay,
        )


def step_seed(seed: int, rank: int, batch: int) -> int:
    """A seed for the draws of one batch of one process: any two differ in all their numbers."""
    text = f"{seed}/{rank}/{batch}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
