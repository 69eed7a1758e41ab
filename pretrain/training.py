"""One training run: its pieces, put together from what ``pretrain.plan`` has settled.

Read ``train``, then ``_Run``, which holds the pieces.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import IO, Any

import pytorch_lightning as pl
import torch
from rich.console import Console

from hicmae.checkpoints.checkpoint import is_checkpoint
from hicmae.config import from_dict, leaves, load_yaml, save_yaml, to_dict
from hicmae.processes import check_workers
from hicmae.run_logging import MetricsFile, Row, WandbRun
from hicmae.settings import ObjectiveConfig
from pretrain.checkpoints import (
    CheckpointFiles,
    Checkpoints,
    Portable,
    clear_leftovers,
    compare_settings,
    prepare_folder,
    since_chosen,
)
from pretrain.cluster import Start, differences, meet, refuse_differences
from pretrain.data import PretrainData, fixed_clips
from pretrain.gallery import Gallery
from pretrain.guard import Agreement, BadSamples, FiniteGuard
from pretrain.health import Health
from pretrain.meter import ProgressShown, StepMeter
from pretrain.module import PretrainModule, StepCallback
from pretrain.plan import Plan, make_plan
from pretrain.probes import Probes
from pretrain.processes import SideGroup, StopOnSignal, check_gpus, check_port, lost_process
from pretrain.zero import trainer_settings


def train(plan: Plan, console: Console, *, resume: bool, overwrite: bool) -> int:
    """Train what was planned and say what came of it; the exit status, as of ``pretrain``."""
    check_workers(plan.config.workers)  # a dry run may be of another machine
    plan = _meet(plan, resume=resume)
    if lack := plan.lack():
        console.print(lack)
    if plan.resumption.checkpoint and _was_done(plan, console):
        return 0
    module = PretrainModule(plan.config, plan.counts)
    pictured = _pictured(plan, console)
    lock = _begin(plan, resume=resume, overwrite=overwrite) if plan.is_first else None
    console.print(_opening(plan, module))
    run = _Run(plan, console, pictured)
    trainer = run.trainer()
    run.side_group.watch_start(trainer.strategy.launcher)
    reader = PretrainData(plan.config, first_batch=plan.resumption.first_batch)
    exit_status = 1
    try:
        trainer.fit(module, reader, ckpt_path=plan.resumption.checkpoint, weights_only=True)
        if error := run.guard.error or run.bad_samples.error:
            raise error
        exit_status = 128 + run.stopper.received if run.stopper.received else 0
    except RuntimeError as error:
        run.side_group.disarm()
        if not run.say_lost(error):
            raise
        return exit_status
    finally:
        if run.wandb is not None:
            run.wandb.finish(exit_status)
        if lock is not None:
            lock.close()
    console.print(_closing(plan, run.meter.last_row, trainer.global_step, run.stopper.received))
    return exit_status


def _meet(plan: Plan, *, resume: bool) -> Plan:
    """Find what is wrong with the processes before anything is written; the plan of the first."""
    processes, config = plan.processes, plan.config
    if plan.device.type == "cuda":
        check_gpus(processes, torch.cuda.device_count())
    check_port(processes)
    if processes.launcher == "own" or processes.world_size == 1:
        return plan
    start = Start(
        out=str(config.out),
        data=plan.stream.about(),
        settings=_settings(plan, resume=resume),
        checkpoint=plan.resumption.name,
    )
    first = meet(
        processes.task,
        start,
        rank=processes.rank,
        world_size=processes.world_size,
        device=plan.device,
        timeout_seconds=config.hardware.timeout_seconds,
    )
    if first == plan.resumption.name:
        return plan
    return make_plan(config, resume=resume, chosen=first)


def _settings(plan: Plan, *, resume: bool) -> dict[str, Any]:
    """By their dotted names, as the processes of a run compare them."""
    # What auto stands for, which machines of two kinds choose differently.
    settings = dict(leaves(to_dict(plan.config))) | {"precision": plan.precision}
    if resume:  # it follows from the checkpoint, which one that is not the first may not see yet
        del settings["accumulate"]
    return settings


def _was_done(plan: Plan, console: Console) -> bool:
    """Say what differs from the run that is resumed; whether nothing of it is left to do."""
    for line in compare_settings(plan.config):
        console.print(line)
    step, num_steps = plan.resumption.step, plan.counts.num_steps
    if step >= num_steps:
        done = f"already pretrained for {step} of {num_steps} steps"
        console.print(f"{plan.config.out}: {done}")
        if plan.is_first:
            _restore_last(plan, console)
    return step >= num_steps


def _restore_last(plan: Plan, console: Console) -> None:
    """Write the portable checkpoint of a finished run, where it was deleted, and say so."""
    out, checkpoint = plan.config.out, plan.resumption.checkpoint
    last = out / "checkpoints" / "last"
    if checkpoint is None or is_checkpoint(last):
        return
    # What it was trained with, and not what this command says that trains nothing.
    settings = load_yaml(out / "config.yaml")
    objective = from_dict(ObjectiveConfig, settings.get("objective", {}), str(out / "config.yaml"))
    sections = plan.sections | {"objective": objective, "pretraining": settings}
    with prepare_folder(out, resume=True, overwrite=False):
        Portable(last, sections).restore(checkpoint)
    console.print(f"{last}: was missing, written again from {checkpoint.name}")


def _pictured(plan: Plan, console: Console) -> Any:
    """The clips of the pictures, if there are to be any."""
    config = plan.config
    if not (config.log.pictures_every and config.objective.reconstruction):
        return None
    pictured = fixed_clips(config.data, config.model.input, config.log.picture_clips)
    if pictured is None:
        console.print("no sample has both picture and sound: no pictures of reconstructions")
    return pictured


def _begin(plan: Plan, *, resume: bool, overwrite: bool) -> IO[bytes]:
    """Take the run folder, in the first process; its lock.

    Raises: ValueError: as ``prepare_folder``; it is no longer what the plan was made from.
    """
    out = plan.config.out
    lock = prepare_folder(out, resume=resume, overwrite=overwrite)
    if newer := since_chosen(out, plan.resumption):
        lock.close()
        raise ValueError(
            f"{out}: another process has saved {newer.name} since this one looked; give the same"
            " command again, to go on from there"
        )
    clear_leftovers(out, newest=plan.resumption.checkpoint)
    save_yaml(out / "config.yaml", plan.config)
    return lock


class _Run:
    """What acts beside the training of one process, and who takes the rows of numbers."""

    def __init__(self, plan: Plan, console: Console, pictured: Any) -> None:
        self.plan, self.console = plan, console
        config, log = plan.config, plan.config.log
        self.wandb: WandbRun | None = None
        if plan.is_first:
            done = plan.resumption.step
            self.rows = MetricsFile(config.out / "metrics.csv", keep_steps=done)
        if plan.is_first and config.wandb.mode != "disabled":
            reached, settings = self.rows.reached, to_dict(config)
            self.wandb = WandbRun(config.out, config.wandb, settings, reached=reached)
        self.files = CheckpointFiles(
            keep=log.keep,
            keep_every=log.keep_every,
            portable=Portable(config.out / "checkpoints" / "last", plan.sections),
            data=plan.stream.content(),
        )
        self.side_group = SideGroup(config.hardware.timeout_seconds, end=self._end_stuck)
        self.progress = ProgressShown(console, plan.counts.num_steps)
        self.meter = StepMeter(
            log_every=log.log_every,
            epoch_clips=plan.found.num_clips,
            sinks=self._sinks() if plan.is_first else [],
            gather=self.side_group.gather,
        )
        self.stopper = StopOnSignal()
        self.guard = FiniteGuard(
            config.out,
            max_skipped=config.max_skipped_steps,
            say=console.print,
            look_every=log.log_every,
            read=self.meter.read,
        )
        self.bad_samples = BadSamples(config.data.max_bad)
        self.callbacks = self._callbacks(pictured)

    def trainer(self) -> pl.Trainer:
        plan, config = self.plan, self.plan.config
        return pl.Trainer(
            **trainer_settings(
                plan.engine,
                processes=plan.processes,
                device=plan.device,
                precision=plan.precision,
                batch_size=config.data.batch_size,
                timeout_seconds=config.hardware.timeout_seconds,
                checkpoint_io=self.files,
                clip_norm=config.optimizer.clip_norm,
            ),
            max_steps=plan.counts.num_steps,
            accumulate_grad_batches=config.accumulate,
            gradient_clip_val=config.optimizer.clip_norm,
            callbacks=self.callbacks,
            default_root_dir=config.out,
        )

    def say_lost(self, error: RuntimeError | None) -> bool:
        """Say that another process is lost; False: the error is another one."""
        seconds = self.plan.config.hardware.timeout_seconds
        line = lost_process(error, self.plan.processes, timeout_seconds=seconds)
        if line is not None:
            print(f"hicmae pretrain: error: {line}", file=sys.stderr, flush=True)
        return line is not None

    def _end_stuck(self) -> None:
        """Of a process whose device never answers again."""
        self.say_lost(None)
        self.files.teardown()  # what is being written is whole then
        if self.wandb is not None:
            self.wandb.finish(1)

    def _sinks(self) -> list[Callable[[Row], None]]:
        """Who takes the rows."""
        sinks: list[Callable[[Row], None]] = [self.rows.append]
        if self.wandb is not None:
            sinks.append(self.wandb.log)
        if self.plan.config.log.progress:
            sinks.append(self.progress.show_row)
        return sinks

    def _callbacks(self, pictured: Any) -> list[pl.Callback]:
        """They act in this order: the guard measures the norm that the meter takes, what is
        measured now and then goes into the row that the meter makes of the same step, and a
        checkpoint holds what the meter has counted and all processes have agreed on.
        """
        plan, log, meter, group = self.plan, self.plan.config.log, self.meter, self.side_group
        agreement = Agreement([self.stopper, self.guard, self.bad_samples], group.sum)
        callbacks: list[pl.Callback] = [self.guard, self.bad_samples]
        if log.health_every:
            callbacks.append(Health(every=log.health_every, note=meter.note))
        before: list[StepCallback] = []
        if plan.probed is not None:
            before.append(Probes(plan.probed, plan.config.probe, note=meter.note))
        callbacks += [*before, meter, agreement]
        if log.progress:
            callbacks.append(self.progress)
        after: list[StepCallback] = []
        if pictured is not None:
            gallery = Gallery(
                plan.config.out / "figures",
                every=log.pictures_every,
                clips=pictured,
                title=plan.config.out.resolve().name,
                paper_style=log.paper_style,
                on_picture=self.wandb.log_picture if self.wandb else None,
            )
            after.append(gallery)
        folder, every = plan.config.out / "checkpoints", log.checkpoint_every
        after.append(Checkpoints(folder, self.files, every=every, gather=group.gather))
        for callback in [*before, *after]:
            callback.aside = meter.aside
        return [*callbacks, *after, self.stopper, group, _Comparison(plan, group)]


class _Comparison(pl.Callback):
    """Compares the processes of nodes that were started by hand, which have not met before.

    Behind ``SideGroup``, through which they speak.
    """

    def __init__(self, plan: Plan, group: SideGroup) -> None:
        self.plan, self.group = plan, group

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raises: ValueError: they have other folders, shards, settings or checkpoints."""
        plan = self.plan
        if plan.processes.launcher != "own" or plan.processes.num_nodes == 1:
            return
        mine = _settings(plan, resume=False) | {"checkpoint": plan.resumption.name}
        said = self.group.gather((str(plan.config.out), plan.stream.about(), mine))
        folders, readers, settings = zip(*said, strict=True)
        differs = [differences(each, settings[0]) for each in settings]
        refuse_differences("NODE_RANK", folders, readers, differs)


def _opening(plan: Plan, module: PretrainModule) -> str:
    """What is about to happen, in two lines."""
    found, counts, done = plan.found, plan.counts, plan.resumption.step
    count = sum(parameter.numel() for parameter in module.model.parameters())
    going = f"from step {done} " if done else ""
    return (
        f"{found.num_clips} clips ({found.hours:.2f} hours); network of {count / 1e6:.1f} M "
        f"parameters; {plan.precision}\n"
        f"{plan.config.out}: pretraining {going}to step {counts.num_steps} of "
        f"{counts.global_batch} clips, {counts.steps_per_epoch} steps an epoch, warm-up "
        f"{counts.warmup_steps}, peak learning rate {module.peak_learning_rate:.2e}"
        + "".join(f"; {name} to step {end}" for end, name in counts.stages)
    )


def _closing(plan: Plan, row: Row, step: int, stopped_by: signal.Signals | None) -> str:
    """What came of it, in one line."""
    numbers = f"loss {row['loss']:.4f}, {row['clips_per_second']:.1f} clips/s"
    if row["skipped"]:
        numbers += f", {row['skipped']} samples skipped (causes in metrics.csv)"
    what, then = f"pretrained {step} steps", ""
    if stopped_by:
        what = f"stopped by {stopped_by.name} after step {step} of {plan.counts.num_steps}"
        then = ", saved; go on with --resume"
    return f"{what}: {numbers}; checkpoint {plan.config.out / 'checkpoints' / 'last'}{then}"
