"""One fold's network in training: transforms on the device, mixing, the loss, AdamW.

Shape letters: B batch, C classes, D real-valued targets.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor

from finetune.data import balanced_weights, target_moments, training_targets
from finetune.losses import combined, combined_heads, fewest
from finetune.mixing import alike, mix_batch
from finetune.plan import Plan
from finetune.processes import from_all
from finetune.tuning import apply_tuning, is_shared, start_from_shared
from hicmae.blocks import set_grad_checkpointing
from hicmae.checkpoints.checkpoint import load_encoder
from hicmae.devices import send
from hicmae.emotion import EmotionModel, by_presence, outputs_to_values
from hicmae.graphs import Recorded
from hicmae.objective.losses import all_rows, equal_rows
from hicmae.optimization import parameter_groups, warmup_cosine
from hicmae.transforms import ClipTransform
from shards.schema import named_counts

Batch = dict[str, Any]
# Shares of a blend add up to 1 but for rounding.
WHOLE = 1 - 1e-5


class Weight(NamedTuple):
    """What a batch counts in its optimizer step.

    Attributes:
        num_clips: Of all processes.
        share: Factor on the loss: its clips over the mean of the batches of the step.
        heads: (H,) further factors, on the losses of heads whose label some clips lack.
        seed: Of what is drawn for mixing; none: drawn with everything else.
    """

    num_clips: int
    share: float
    heads: Tensor | None = None
    seed: int | None = None


class FinetuneModule(pl.LightningModule):
    """An emotion network in training for one fold, with the pretrained encoder.

    Args:
        rows: What is trained on, in the order in which the loader numbers samples.
        steps_per_epoch: Optimizer steps of a pass over them.

    Attributes:
        notes: About the targets, for the reader of the numbers.
        frozen: Parts that are not trained and stay as they are at test time (no drop path).
        targets: What the loss compares each row with, see ``training_targets``.
        class_weights: (C,) factor of each class in the loss; none: 1.
        head_weights: By head, as ``class_weights``; of one task by the empty name.
        target_mean, target_std: (D,) of the rows; real values are standardised for the loss.
        skipped: Training clips that could not be read, by cause.
        last_epoch_loss: Mean loss of the last epoch that has ended.
        shown_loss: Of the newest step that has a row.

    Raises: ValueError: votes that are no counts, or a checkpoint that does not fit.
    """

    target_mean: Tensor
    target_std: Tensor
    targets: Tensor
    class_weights: Tensor | None

    def __init__(self, plan: Plan, rows: pd.DataFrame, *, steps_per_epoch: int) -> None:
        super().__init__()
        config = plan.config
        self.plan = plan
        self.benchmark, self.settings, self.seed = plan.benchmark, config.optimizer, config.seed
        self.terms = plan.loss_terms
        self.heads = [head.labels() for head in plan.benchmark.heads]
        self.head_losses = [
            (head.name, head.weight, place, head.terms) for head, place in plan.benchmark.placed
        ]
        self.learning_rate = plan.scaled(plan.resolved.learning_rate)
        self.num_steps = steps_per_epoch * plan.resolved.epochs
        self.warmup_steps = round(config.optimizer.warmup_epochs * steps_per_epoch)
        self.skipped: dict[str, int] = {}
        self.last_epoch_loss: float | None = None
        self.shown_loss = math.nan
        self.num_used = 0  # clips of all processes since the last optimizer step
        self._weights: list[Weight] = []  # of the batches of this step
        means, deviations, self.notes = target_moments(plan.benchmark, rows)
        mean, std = torch.from_numpy(means), torch.from_numpy(deviations)
        targets, notes = training_targets(plan.benchmark, rows, config.recipe, mean, std)
        self.notes += notes
        balanced = config.recipe.class_weights == "balanced"
        self.head_weights = {
            head.name: balanced_weights(head, rows)
            for head in (plan.benchmark.every_head if balanced else ())
            if head.kind == "classification"
        }
        self.model = EmotionModel(plan.model, plan.emotion)
        self.transform = ClipTransform(plan.model.input, config.augment)
        self.register_buffer("target_mean", mean.float())
        self.register_buffer("target_std", std.float())
        self.register_buffer("targets", targets, persistent=False)
        self.register_buffer("class_weights", self.head_weights.get(""), persistent=False)
        self.all_known = bool(targets[:, plan.benchmark.num_outputs :].all())
        if plan.checkpoint is not None:
            load_encoder(self.model.encoder, plan.checkpoint)
            if is_shared(config, plan.checkpoint):
                start_from_shared(self.model, plan.checkpoint, self.target_mean, self.target_std)
        self.frozen = apply_tuning(self.model, config.recipe)
        self.train()  # nobody else does where a fold goes on, nor in a second process
        set_grad_checkpointing(self.model, config.hardware.recompute)
        self._recorded: Recorded | None = None
        if config.hardware.cuda_graphs:
            self._recorded = Recorded(self.model, self.model, lambda outputs: [outputs])

    def train(self, mode: bool = True) -> FinetuneModule:
        """Switch to training; what is frozen stays as it is at test time."""
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self

    def on_train_epoch_start(self) -> None:
        """Start the epoch's draws: places and order of the clips, augmentation, drop path.

        They follow from seed, epoch and process alone, so an epoch is the same whatever came
        before it: validation, or a kill and a resume.
        """
        loader = self.trainer.train_dataloader
        assert loader is not None
        loader.dataset.set_epoch(self.current_epoch)
        loader.sampler.set_epoch(self.current_epoch)
        own = np.random.SeedSequence([self.seed, self.current_epoch, self.global_rank])
        torch.manual_seed(int(own.generate_state(1)[0]))

    def on_train_epoch_end(self) -> None:
        """Keep and log the mean loss of the epoch.

        Logged here, because Lightning would do it after the epoch is saved, and a kill in between
        would lose it.
        """
        if "loss_epoch" not in self.trainer.callback_metrics:
            raise ValueError(
                f"every training clip of epoch {self.current_epoch + 1} was skipped "
                f"({named_counts(self.skipped)}); `hicmae shards check` names what is damaged"
            )
        self.last_epoch_loss = self._finite(self.trainer.callback_metrics["loss_epoch"])
        row = {"epoch": self.current_epoch, "loss_epoch": self.last_epoch_loss}
        for logger in self.loggers:
            logger.log_metrics(row, step=self.global_step - 1)
            logger.save()

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Keep what each clip has where nothing waits for it: as plain numbers."""
        for name in ("seen", "heard"):
            if isinstance(batch.get(name), Tensor):
                batch[name] = batch[name].tolist()
        return batch

    @torch.no_grad()
    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turn bytes into the network's input, on the device, outside of autocast."""
        for cause, count in (batch.get("skipped") or {}).items():
            self.skipped[cause] = self.skipped.get(cause, 0) + count
        if batch.get("number") == 0:
            self._weights = self._weigh(batch["step"])
        if batch.keys() <= {"skipped", "step", "number"}:  # all of them
            return self._stand_in(batch["number"]) if self.trainer.world_size > 1 else {}
        wanted = self.model.emotion.modalities.split("-")
        sources = {"video": "frames", "audio": "waveform"}
        absent = [name for key, name in sources.items() if key not in wanted]
        video, fbank = self.transform(
            {key: value for key, value in batch.items() if key not in absent}
        )
        names = ("sample", "view", "seen", "heard", "number")
        kept = {key: batch[key] for key in names if key in batch}
        return kept | {"video": video, "fbank": fbank}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Mix, predict, and compare. Returns: the loss, 0-d; None of a batch without clips.

        Of several processes one without clips takes part with a gradient of zero. A clip counts
        the same in whichever batch of a step it is, of whichever process; a step in which none has
        any is left out.
        """
        if not batch:
            return None
        video, fbank = batch["video"], batch["fbank"]
        number = batch.get("number")
        weight = None if number is None else self._weights[number]
        if "sample" in batch:
            own = self.targets[batch["sample"]]
            with _draws_of(weight):
                video, fbank, targets, seen, heard = self._mixed(
                    video, fbank, own, *_presence(batch)
                )
            network = self.model if seen is not None else self._recorded or self.model
            outputs = by_presence(network, video, fbank, seen, heard).float()
        else:
            outputs = self.model(video, fbank).float()
            targets = self.targets[:0]
        size = len(targets)
        total = size * self.trainer.world_size if weight is None else weight.num_clips
        self.num_used += total
        if not total:
            return (outputs * 0).sum()
        loss, terms = self._loss(outputs, targets, None if weight is None else weight.heads)
        self.log(
            "loss_epoch",
            loss,
            on_step=False,
            on_epoch=True,
            logger=False,
            batch_size=size,
            sync_dist=True,  # at the epoch's end
        )
        loss = loss if weight is None or weight.share == 1 else loss * weight.share
        # The host waits for the device, and processes for each other, where a row is due alone.
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self.trainer.is_last_batch or (self.global_step + 1) % every == 0:
            shown = self.trainer.strategy.reduce(loss.detach().clone(), reduce_op="mean")
            self.shown_loss = self._finite(shown)
            rate = self.learning_rate * self.rate_factor(self.global_step)
            row = {f"loss_{name}": value for name, value in terms.items()}
            self.log_dict(row | {"loss_step": shown, "learning_rate": rate}, batch_size=size)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimizer pass over a step for which no process had a clip."""
        if not self.num_used:
            optimizer.zero_grad()
        self.num_used = 0

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Predict views.

        Returns: ``sample`` (B,), ``view`` (B,), and ``output``: probabilities (B, C), or real
            values (B, D) in the benchmark's units.
        """
        values = outputs_to_values(
            by_presence(self.model, batch["video"], batch["fbank"], *_presence(batch)),
            task=self.benchmark.task,
            mean=self.target_mean,
            std=self.target_std,
            heads=self.heads,
        )
        return {"sample": batch["sample"], "view": batch["view"], "output": values}

    @torch.no_grad()
    def pooled(self, loader: Iterable[Batch]) -> np.ndarray:
        """Features (N, W) float32 of the clips of a loader, as the head reads them."""
        found = []
        for batch in loader:
            seen, heard = batch.get("seen"), batch.get("heard")
            moved = self.transfer_batch_to_device(batch, self.device, 0)
            ready = self.on_after_batch_transfer(moved, 0)
            features = by_presence(self.model.features, ready["video"], ready["fbank"], seen, heard)
            found.append(features.float().cpu().numpy())
        return np.concatenate(found)

    def configure_optimizers(self) -> Any:
        """AdamW over the parameter groups, and the schedule, one value an optimizer step."""
        groups = parameter_groups(
            self.model,
            learning_rate=self.learning_rate,
            weight_decay=self.settings.weight_decay,
            layer_decay=self.settings.layer_decay,
        )
        # One kernel for all weights; Lightning refuses to clip gradients before such a step.
        fused = self.settings.clip_norm is None
        optimizer = torch.optim.AdamW(groups, betas=self.settings.betas, fused=fused)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate_factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def rate_factor(self, step: int) -> float:
        """Learning rate of an optimizer step (counted from 0) over the highest rate."""
        return warmup_cosine(
            step,
            final=self.plan.scaled(self.settings.min_learning_rate) / self.learning_rate,
            num_steps=self.num_steps,
            warmup_steps=self.warmup_steps,
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what a resumed fold has to report."""
        everyone = sum((Counter(counts) for counts in from_all(self.skipped)), Counter())
        checkpoint["skipped"] = dict(everyone)
        checkpoint["last_epoch_loss"] = self.last_epoch_loss

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it up again."""
        self.skipped = dict(checkpoint["skipped"]) if self.global_rank == 0 else {}
        self.last_epoch_loss = checkpoint["last_epoch_loss"]

    def _mixed(
        self,
        video: Tensor | None,
        fbank: Tensor | None,
        own: Tensor,
        seen: Tensor | None,
        heard: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor | None, Tensor | None]:
        """Clips as they are trained on, with their targets and which of them keep what.

        Args: own: (B, C) targets before. seen, heard: As of ``_presence``.
        """
        mixing, targets = self.plan.config.mixing, own
        kinds = {head.kind for head in self.benchmark.every_head}
        if "regression" not in kinds or mixing.regression:
            other = None
            if seen is not None and heard is not None:
                other = send(alike(seen, heard), own.device)
            video, fbank, targets = mix_batch(video, fbank, own, mixing, neighbour=other)
        if video is not None and fbank is not None:
            seen, heard = self._dropped(seen, heard, len(own))
        if seen is not None and not mixing.audio:  # a clip that is heard alone was not mixed
            targets = torch.where(send(seen, own.device)[:, None], targets, own)
        return video, fbank, targets, seen, heard

    def _dropped(
        self, seen: Tensor | None, heard: Tensor | None, size: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Which clips keep their picture and their sound (B,), as of ``_presence``."""
        dropout = self.plan.config.recipe.modality_dropout
        if dropout > 0:
            draws = torch.rand(size, 2)  # on the CPU, as all draws are
            whole = torch.ones(size, dtype=torch.bool)
            seen, heard = (whole if there is None else there for there in (seen, heard))
            single = (draws[:, 0] < dropout) & seen & heard  # who has one alone keeps it
            seen = seen & ~(single & (draws[:, 1] < 0.5))
            heard = heard & ~(single & (draws[:, 1] >= 0.5))
        return seen, heard

    def _loss(
        self, outputs: Tensor, targets: Tensor, shares: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and, of a sum, its terms; of all processes' where they share a batch.

        A correlation is of the batch and no mean over clips, so outputs are gathered, with their
        gradients; the mean of the processes' gradients is then that of one process.
        """
        if self._gathers:
            outputs, targets = all_rows(outputs[: len(targets)]), all_rows(targets)
        elif not len(targets):  # its own mean is of nothing
            return (outputs * 0).sum(), {}
        if self.heads:
            # What was blended with a clip that has no label has none.
            known = targets[:, outputs.shape[1] :] > WHOLE
            weights = {name: each.to(outputs.device) for name, each in self.head_weights.items()}
            targets = targets[:, : outputs.shape[1]]
            return combined_heads(self.head_losses, outputs, targets, known, weights, shares)
        total, terms = combined(self.terms, outputs, targets, self.class_weights)
        return total, terms if len(terms) > 1 else {}

    @property
    def _gathers(self) -> bool:
        """Whether the loss is of all processes' clips together."""
        of_batch = any(term.loss.of_batch for term in self.terms)
        # The mean over clips that have a label is of all processes' clips too.
        return (of_batch or not self.all_known) and self.trainer.world_size > 1

    @torch.no_grad()
    def _weigh(self, step: Sequence[Batch]) -> list[Weight]:
        """What the batches of an optimizer step count, of which a loss is the mean over each.

        A collective call. What clips have no label of a head after mixing is known in advance, by
        drawing here what will be drawn then.

        Args: step: Of each batch, of this process, what ``have_of`` gives.
        """
        sizes = np.array(from_all([len(batch.get("sample", ())) for batch in step]))
        totals, everyone = sizes.sum(axis=0), max(int(sizes.sum()), 1)
        # A loss of the gathered clips is that of all processes already.
        own = totals[None] if self._gathers else sizes
        shares = own[self.global_rank % len(own)] * own.size / everyone
        weights = [Weight(*of) for of in zip(totals.tolist(), shares.tolist(), strict=True)]
        if self.all_known or len(step) == 1:
            return weights
        seeds = torch.randint(2**62, (len(step),)).tolist()
        weights = [each._replace(seed=seed) for each, seed in zip(weights, seeds, strict=True)]
        counts = torch.stack([self._known(*of) for of in zip(step, weights, strict=True)])  # (k, H)
        counts = equal_rows(counts[None]).sum(dim=0)
        for head, (*_, terms) in enumerate(self.head_losses):
            counts[:, head] *= counts[:, head] >= fewest(terms)
        # The share of clips with a label in a batch, over that in the step.
        density = counts.sum(dim=0).clamp(min=1) / everyone
        heads = counts / counts.new_tensor(totals).clamp(min=1)[:, None] / density
        return [each._replace(heads=of) for each, of in zip(weights, heads, strict=True)]

    def _known(self, batch: Batch, weight: Weight) -> Tensor:
        """How many clips of a batch of a step will have the label of each head, (H,) float32."""
        num_outputs = self.benchmark.num_outputs
        if "sample" not in batch:
            return self.targets.new_zeros(self.targets.shape[1] - num_outputs)
        own = self.targets[batch["sample"]]
        blank = {
            name: like.expand(len(own), *like.shape[1:]) for name, like in self._blank(1).items()
        }
        video, fbank = (blank[name] if batch[name] else None for name in ("video", "fbank"))
        with _draws_of(weight):
            targets = self._mixed(video, fbank, own, *_presence(batch))[2]
        return (targets[:, num_outputs:] > WHOLE).sum(dim=0).float()

    def _stand_in(self, number: int) -> Batch:
        """A black, silent clip, for a process whose own were all skipped; nothing counts it."""
        wanted = self.model.emotion.modalities
        names = {"video": "video", "fbank": "audio"}
        clips = {
            key: like if names[key] in wanted else None for key, like in self._blank(3).items()
        }
        return clips | {"number": number}

    def _blank(self, channels: int) -> dict[str, Tensor]:
        """A black, silent clip."""
        size, device = self.plan.model.input, self.device
        shape = 1, channels, size.num_frames, size.image_size, size.image_size
        return {
            "video": torch.zeros(shape, device=device),
            "fbank": torch.zeros(1, size.fbank_frames, size.mel_bins, device=device),
        }

    def _finite(self, loss: Tensor) -> float:
        """A loss on the host. Raises: ValueError: it is no finite number."""
        value = float(loss)
        if not math.isfinite(value):
            raise ValueError(
                f"the training loss became {value} in epoch {self.current_epoch + 1};"
                " lower optimizer.learning_rate or set optimizer.clip_norm"
            )
        return value


@contextlib.contextmanager
def _draws_of(weight: Weight | None) -> Iterator[None]:
    """Draw from the seed of a batch, if it has one, and leave the other draws alone."""
    if weight is None or weight.seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(weight.seed)
        yield


def _presence(batch: Batch) -> tuple[Tensor | None, Tensor | None]:
    """Which clips have their picture and their sound, (B,) boolean; None where all have both."""
    if "seen" not in batch or (all(batch["seen"]) and all(batch["heard"])):
        return None, None
    return torch.tensor(batch["seen"]), torch.tensor(batch["heard"])


class JudgedModule(FinetuneModule):
    """The same, for a training whose epochs are scored.

    A class of its own, because Lightning warns of a validation step that no loader feeds.
    """

    def on_validation_epoch_start(self) -> None:
        """Draw the places anew of clips that have a random one."""
        self.trainer.val_dataloaders.dataset.set_epoch(self.current_epoch)  # type: ignore[union-attr]

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Predict views of the side that chooses the epoch; as ``predict_step``."""
        return self.predict_step(batch, batch_idx)
