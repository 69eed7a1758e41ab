"""Training and testing one fold: everything between a checked fold and its folder of results.

Read ``train_fold``, then ``_work``, which is what one process does; below them what they use:
saving every epoch so that a killed fold goes on where it was, an average of the weights, and where
the numbers are logged. What is made of a trained fold is ``finetune.outcome``.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, RichProgressBar, WeightAveraging
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from finetune.data import have_of, is_mixed, sides_of, training_loader, view_loader
from finetune.folds import Fold, seen_by
from finetune.module import FinetuneModule, JudgedModule
from finetune.outcome import METRICS, facts_of, judge_fold, predicted, write_fold
from finetune.over_time import settle_fold
from finetune.plan import Plan
from finetune.processes import LostProcessError, Share, from_all, quiet_lightning, run_processes
from finetune.record import (
    FoldFacts,
    fold_folder,
    partial_folder,
    read_fold,
    saved_name,
)
from finetune.reporting.features import FeatureKeeper, choose_samples
from finetune.scores import metric_name, score
from finetune.tuning import is_shared
from finetune.validation import EpochChoice
from hicmae.config import to_dict
from hicmae.devices import choose_device
from hicmae.files import remove, whole_file
from hicmae.lora import merge_lora
from hicmae.optimization import trainer_precision
from hicmae.registry import load_plugins
from hicmae.run_logging import MetricsFile, WandbRun, in_sweep

_DONE = "done"


def train_fold(
    plan: Plan, fold: Fold, *, resume: bool = False, trial: WandbRun | None = None
) -> FoldFacts:
    """Train and test one fold; its folder appears when everything in it is written.

    Args:
        trial: The run of all folds under an agent of a sweep; the rows of a fold that is trained
            in several processes are in ``metrics.csv`` alone.
        resume: Whether a fold that was killed goes on from its last saved epoch.

    Raises: ValueError: a sample that cannot be read, a loss or output that is not finite, or a
        checkpoint that does not fit the network. What was saved of the fold is then deleted.
        LostProcessError: one of several processes was killed or hung. KeyboardInterrupt: the user
        has interrupted it. What was saved stays then, as with every error that is not the
        settings' or the data's: a full disk, no memory.
    """
    final, folder = fold_folder(plan.out, fold.name), partial_folder(plan.out, fold.name)
    if not (resume and can_resume(plan, fold)):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        devices = plan.config.hardware.devices
        if devices == 1:
            _work(plan, fold, Share(), trial)
        else:
            run_processes(devices, _work, (plan, fold), folder)
        remove(final)
        (folder / _DONE).replace(final)
    except LostProcessError:
        raise
    except ValueError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except SystemExit as ended:
        if not isinstance(ended.__context__, KeyboardInterrupt):
            raise
        # Lightning ends the program without a word, and lets nobody interrupt it any more.
        signal.signal(signal.SIGINT, on_interrupt)
        raise KeyboardInterrupt from None
    shutil.rmtree(folder)
    facts = read_fold(final)
    assert facts is not None
    return facts


def can_resume(plan: Plan, fold: Fold) -> bool:
    """Whether an epoch of the fold was saved by a run with this very configuration."""
    return _saved(plan, fold).is_file()


def _saved(plan: Plan, fold: Fold) -> Path:
    """Where an epoch is saved, or was by an early version."""
    paths = [partial_folder(plan.out, fold.name) / saved_name(each) for each in plan.digests]
    return next((path for path in paths if path.is_file()), paths[0])


def _work(plan: Plan, fold: Fold, share: Share, trial: WandbRun | None = None) -> None:
    """What one process does for a fold; the first writes the folder ``done``."""
    folder, config = partial_folder(plan.out, fold.name), plan.config
    quiet_lightning()
    if share.of > 1:  # a process of its own knows no losses but ours
        load_plugins()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    fold, settled = settle_fold(plan, fold)
    sides, choice, notes = sides_of(plan, fold)
    loader = training_loader(plan, sides.train, share)
    accumulate = max(1, min(config.accumulate, len(loader)))  # of few samples, one step
    steps = len(loader) // accumulate
    order: Any = loader.sampler
    if order.num_used < plan.batch_size:
        notes.append(
            f"a step took {order.num_used} of {len(sides.train)} clips; the learning rate is that"
            f" of {plan.batch_size} (recipe.batch_size x accumulate)"
        )
    kind = FinetuneModule if choice is None else JudgedModule
    module = kind(plan, sides.train, steps_per_epoch=steps)
    if config.trainer.on_bad == "skip" or not module.all_known:
        loader.count, loader.tell = accumulate, have_of
    saved = _saved(plan, fold)
    saver = EpochSaver(saved, every=config.trainer.save_every)
    shown = choose_samples(fold.test, config.seed)
    views = view_loader(plan, shown, views=1)
    keeper = FeatureKeeper(views, shown["key"].map(str).tolist(), folder)
    callbacks: list[pl.Callback] = [keeper] if choice is None else [keeper, choice]
    if config.recipe.ema_decay is not None:  # after the choice, which wants the average's weights
        callbacks.append(MovingAverage(config.recipe.ema_decay))
    log = FoldLog(folder / METRICS)
    if trial is not None:
        log.wandb, log.part = trial, part_of(plan, fold)
    finished = False
    try:
        if share.rank == 0 and config.wandb.mode != "disabled" and not in_sweep():
            log.wandb = _wandb_run(plan, fold, goes_on=saved.is_file())
        trainer = _trainer(
            plan, folder, log, accumulate=accumulate, steps=steps, callbacks=[*callbacks, saver]
        )
        tested = partial(predicted, plan, fold, share, trainer, module)
        # Before it is trained, the module still is what an annotator's was trained from.
        shared = tested(fold.test) if is_shared(config, plan.checkpoint) else []
        judged: Any = "train" if plan.protocol.judge else None
        trainer.fit(
            module,
            loader,
            None if choice is None else view_loader(plan, choice.fold.test, share, views=judged),
            ckpt_path=saved if saved.is_file() else None,
            weights_only=True,
        )
        notes += module.notes + _chosen(plan, choice, module)
        merge_lora(module.model.encoder)  # a plain network again
        result = judge_fold(plan, fold, sides, settled, tested, shared)
        skipped = sum((Counter(counts) for counts in from_all(module.skipped)), Counter())
        notes += result.notes
        notes += [f"{count} training clips skipped ({cause})" for cause, count in skipped.items()]
        if share.rank == 0:
            if log.wandb is not None:
                log.wandb.conclude(score(plan.benchmark, result.predictions), part=log.part)
            epoch = plan.resolved.epochs if choice is None or choice.epoch is None else choice.epoch
            facts = facts_of(
                plan, fold, sides, module, result, seconds=saver.seconds, epoch=epoch, notes=notes
            )
            chosen_by = [] if choice is None else [choice.fold.test]
            chosen_by += [sides.validation] if plan.keeps_out and choice is None else []
            seen = seen_by(plan.benchmark, plan.checkpoint, fold.name, [sides.train, *chosen_by])
            # Half of it may be there, of an attempt that was killed.
            write_fold(plan, facts, module, result.predictions, seen, keeper, folder / _DONE)
        finished = True
    finally:
        if log.wandb is not None and trial is None:
            log.wandb.finish(0 if finished else 1)


def _chosen(plan: Plan, choice: EpochChoice | None, module: FinetuneModule) -> list[str]:
    """Go back to the chosen epoch, if one was chosen; what is noted of it."""
    if choice is None:
        return []
    notes, judge = choice.restore(module), plan.protocol.judge
    if judge and choice.epoch is not None:
        notes.append(
            f"epoch {choice.epoch} was chosen by {metric_name(judge)} ="
            f" {choice.scores[judge]:.4f}, of one clip at a random place of"
            f" each test sample; the numbers shown are of {plan.config.recipe.num_segments}"
            " views of it"
        )
    return notes


class FoldLog(Logger):
    """Lightning's numbers in ``metrics.csv`` and, where there is a run of it, in W&B.

    A resumed fold continues the file; ``wandb`` is none in all processes but the first, and
    ``part`` the fold's name in a run of all folds.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._file: MetricsFile | None = None
        self.wandb: WandbRun | None = None
        self.part: str | None = None

    @property
    def name(self) -> None:
        """It has none, and no version: Lightning would make folders of them."""

    version = name

    @rank_zero_only
    def start(self, step: int) -> None:
        """Open the file for rows from a step on; later ones of a killed attempt are dropped."""
        self._file = MetricsFile(self._path, keep_steps=step - 1)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write a row."""
        assert self._file is not None, "training has begun"
        assert step is not None, "Lightning always says which"
        row = {"step": step, **metrics}
        self._file.append(row)
        if self.wandb is not None and step > self._file.reached:
            self.wandb.log(row, part=self.part)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """They stand in ``config.yaml``."""


class EpochSaver(Checkpoint):
    """Save everything that the rest of the training depends on, after its epochs.

    Args:
        path: The file, written beside and then renamed.
        every: Epochs between savings; 0: never.

    Attributes:
        seconds: Time of training so far, earlier attempts included.
    """

    def __init__(self, path: Path, *, every: int) -> None:
        self.path, self.every = path, every
        self._before, self._started = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since the first attempt began, without what was lost to kills."""
        return self._before + time.monotonic() - self._started

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on with the log where the saved epoch ended, or begin it."""
        assert isinstance(trainer.logger, FoldLog)
        trainer.logger.start(trainer.global_step)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the epoch. Lightning calls savers after all others, the module included."""
        if self.every == 0 or (trainer.current_epoch + 1) % self.every:
            return
        trainer.save_checkpoint(self.path, weights_only=False)  # which all processes take part in

    def state_dict(self) -> dict[str, Any]:
        """The time so far."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from there."""
        self._before, self._started = float(state_dict["seconds"]), time.monotonic()


class EpochFile(TorchCheckpointIO):
    """Writes beside the file: Lightning's own writes into the machine's temporary folder first,
    which may be small, and leaves it there when it is killed.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write it whole or not at all."""
        with whole_file(Path(path), sync=True) as beside, beside.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, *options: Any, **named: Any) -> dict[str, Any]:
        """Read it, if its bytes are those that were written: PyTorch looks at no checksum.

        Raises: OSError: they are not; the file stays where it is.
        """
        try:
            with zipfile.ZipFile(path) as parts:
                damaged = parts.testzip()
        except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
            damaged = str(error)
        if damaged is not None:
            raise OSError(
                f"{path}: this saved epoch is damaged ({damaged}); delete {Path(path).parent},"
                " and --resume trains the fold from its beginning"
            )
        return super().load_checkpoint(path, *options, **named)


class _Bar(RichProgressBar):
    """Shows the loss of the newest row: Lightning would read one from the device at every step."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        assert isinstance(pl_module, FinetuneModule)
        return {**super().get_metrics(trainer, pl_module), "loss": round(pl_module.shown_loss, 4)}


class MovingAverage(WeightAveraging):
    """Average the weights after every optimizer step.

    The network has the average for validation and after training; a saved fold holds both.

    Args:
        decay: Weight of the old average; after n steps it is at most (1 + n) / (10 + n).

    Source: the growing decay is that of TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False)
        self.decay = decay
        self._own: list[Tensor] = []  # of the network, while it has the average's

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the average where the network will be; now it is still on the CPU."""
        if stage == "fit":
            device = trainer.strategy.root_device
            self._average_model = _Average(pl_module, decay=self.decay, device=device)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lend the average to the network: exchanged with weights in bf16 it would be rounded."""
        self._own = [weight.detach().clone() for weight in pl_module.parameters()]
        self._copy_average_to_current(pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the network its own weights back."""
        with torch.no_grad():
            torch._foreach_copy_(list(pl_module.parameters()), self._own)
        self._own = []

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave it in the network also where nothing was left to train: a fold was killed behind
        its last epoch. Lightning does so where training ends, and there none begins.
        """
        self.on_train_end(trainer, pl_module)


class _Average(AveragedModel):
    """Updated for all weights at once, and without asking the device how often.

    It is in float32 also where the network is in bf16, which would round its small changes away.
    """

    def __init__(self, model: nn.Module, *, decay: float, device: torch.device | None) -> None:
        super().__init__(model, device=device, use_buffers=False)
        self.decay = decay
        self.n_averaged = torch.tensor(0)  # on the CPU

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in the weights after a step; buffers are those of the model."""
        old: list[Tensor] = list(self.module.parameters())
        new = [value.to(own.dtype) for value, own in zip(model.parameters(), old, strict=True)]
        number = int(self.n_averaged)
        if number:
            decay = min(self.decay, (1 + number) / (10 + number))
            new = list(torch._foreach_lerp(new, old, decay))
        torch._foreach_copy_(old, new)
        if buffers := list(self.module.buffers()):
            torch._foreach_copy_(buffers, list(model.buffers()))
        self.n_averaged += 1


def _trainer(
    plan: Plan,
    folder: Path,
    log: FoldLog,
    *,
    accumulate: int,
    steps: int,
    callbacks: Sequence[pl.Callback],
) -> pl.Trainer:
    """Lightning's trainer for one process of a fold, of so many steps an epoch."""
    config, device = plan.config, choose_device(plan.config.device)
    devices = config.hardware.devices
    precision, plugins = trainer_precision(plan.precision, device)
    # A fold's processes are started here; Lightning would take the tasks of SLURM for one run, and
    # this one for that of the task's number, which writes nothing.
    plugins += [LightningEnvironment(), EpochFile()]
    shows = config.trainer.progress and sys.stderr.isatty()
    if devices == 1:
        rank_zero_only.rank = 0  # type: ignore[attr-defined]  # how Lightning keeps it
    trainer = pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=[device.index] if ":" in config.device else devices,
        strategy=_strategy(plan, device),
        plugins=plugins or None,
        use_distributed_sampler=False,
        precision=precision,  # type: ignore[arg-type]  # checked by resolve_precision
        max_epochs=plan.resolved.epochs,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=config.optimizer.clip_norm,
        logger=log,
        log_every_n_steps=min(config.trainer.log_every, steps),
        default_root_dir=folder,
        callbacks=[*callbacks, _Bar()] if shows else list(callbacks),
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=shows,
    )
    # Lightning notes a SIGTERM, looks at that between batches, at other times not at all, and ends
    # the program as if all were done. Left alone, the signal ends it, and says so.
    signals = trainer._signal_connector
    signals.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def _strategy(plan: Plan, device: torch.device) -> DDPStrategy | str:
    """How several processes keep their weights the same."""
    if plan.config.hardware.devices == 1:
        return "auto"
    return DDPStrategy(
        timeout=timedelta(seconds=plan.config.hardware.timeout_seconds),
        # Hosts exchange their numbers of rows beside the devices, which would be waited for.
        process_group_backend="gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl",
        # A batch of clips with a modality each leaves weights out that other batches use.
        find_unused_parameters=plan.config.recipe.modality_dropout > 0 or is_mixed(plan),
        # They never change; and processes do not have as many test views as each other.
        broadcast_buffers=False,
    )


def part_of(plan: Plan, fold: Fold | None = None) -> str:
    """What a run, or a fold of it, is called among those of a command: ``video/seed-0/fold-1/``."""
    names = [*plan.below, *([] if fold is None else [f"fold-{fold.name}"])]
    return "".join(f"{name}/" for name in names)


@contextlib.contextmanager
def trial_of(plan: Plan) -> Iterator[WandbRun | None]:
    """Under an agent of a sweep, one W&B run of all that a command does: the agent gives its id.

    Args:
        plan: Of the first run of the command.
    """
    run = None
    if in_sweep() and plan.config.wandb.mode != "disabled":
        run = WandbRun(plan.top, plan.config.wandb, _said(plan), verb="finetune")
    finished = False
    try:
        yield run
        finished = True
    finally:
        if run is not None:
            run.finish(0 if finished else 1)


def _wandb_run(plan: Plan, fold: Fold, *, goes_on: bool) -> WandbRun:
    """One W&B run a fold, in the group of what one command made; a resumed fold goes on in its."""
    folder = plan.out / "wandb" / fold_folder(plan.out, fold.name).name
    if not goes_on:  # an earlier attempt's keeps its files, and no more rows
        (folder / "wandb" / "run-id.txt").unlink(missing_ok=True)
    return WandbRun(
        folder,
        plan.config.wandb,
        {"fold": fold.name, **_said(plan)},
        verb="finetune",
        name=plan.top.name,
        part="".join(f"-{name}" for name in (*plan.below, f"fold-{fold.name}")),
        group=plan.top.name,
    )


def _said(plan: Plan) -> dict[str, Any]:
    """What W&B shall know of a run."""
    return {
        "seed": plan.config.seed,
        "protocol": to_dict(plan.protocol),
        "configuration_digest": plan.digest,
        "benchmark": to_dict(plan.benchmark),
        "model": to_dict(plan.model),
        "emotion": to_dict(plan.emotion),
        "resolved": to_dict(plan.resolved),
        **{
            name: to_dict(getattr(plan.config, name))
            for name in ("recipe", "optimizer", "mixing", "augment")
        },
    }
