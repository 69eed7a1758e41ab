"""``hicmae pretrain``: from settings to a run folder, top to bottom.

The settings become one ``PretrainConfig``; ``pretrain.plan`` settles what a run will be;
``_train`` puts the pieces together and trains. One step is ``pretrain.module``.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hicmae.config import from_options, to_dict
from hicmae.devices import Precision
from hicmae.run_logging import WandbConfig
from hicmae.settings import AugmentConfig, ObjectiveConfig
from hicmae.terminal import plain_console
from pretrain.settings import (
    DataConfig,
    HardwareConfig,
    LogConfig,
    OptimizerConfig,
    PretrainConfig,
    ProbeConfig,
)

if TYPE_CHECKING:
    import signal

    from rich.console import Console

    from hicmae.run_logging import Row
    from pretrain.module import PretrainModule
    from pretrain.plan import Plan


def pretrain(
    *,
    data: DataConfig,
    out: Path,
    model: str | dict[str, Any] = "base",
    objective: ObjectiveConfig = PretrainConfig.objective,
    augment: AugmentConfig = PretrainConfig.augment,
    optimizer: OptimizerConfig = PretrainConfig.optimizer,
    steps: int | None = PretrainConfig.steps,
    epochs: float = PretrainConfig.epochs,
    accumulate: int = PretrainConfig.accumulate,
    device: str = PretrainConfig.device,
    precision: Precision = PretrainConfig.precision,
    workers: int = PretrainConfig.workers,
    max_skipped_steps: int = PretrainConfig.max_skipped_steps,
    hardware: HardwareConfig = PretrainConfig.hardware,
    log: LogConfig = PretrainConfig.log,
    probe: ProbeConfig = PretrainConfig.probe,
    wandb: WandbConfig = PretrainConfig.wandb,
    seed: int = PretrainConfig.seed,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    clips_per_second: float | None = None,
) -> int:
    """Pretrain the masked autoencoder on shards.

    Writes a run folder: config.yaml, metrics.csv, figures/, checkpoints/last (the portable
    checkpoint that fine-tuning takes) and checkpoints/step-….ckpt (to resume from, on any number
    of devices). The same command runs on one machine, under torchrun, and with srun.

    Args:
        data: Where the clips come from and how they are read.
        out: The run folder.
        model: Size of the network: a name out of configs/model (tiny, small, base) or a YAML file;
            or --model.size with one of these, and changes such as --model.fusion_depth 1.
        objective: Masks, weights and ablations.
        augment: Random changes to the clips.
        optimizer: AdamW and its schedule.
        steps: Optimizer steps of the whole run; null: epochs.
        epochs: Passes over the data, where steps is null.
        accumulate: Batches whose gradients are averaged into one optimizer step.
        device: auto (CUDA where it can be used), cpu, cuda (each process takes one) or cuda:1.
        precision: auto: bf16-mixed where the machine computes in bfloat16, else 32-true.
        workers: Reading processes of each training process; 0 reads in the training process.
        max_skipped_steps: Optimizer steps that may be left out, in the whole run, because the loss
            or a gradient was not finite; with one more the run stops, saved, at its next row.
        hardware: What the training runs on.
        log: What is written, and how often.
        probe: Retrieval and linear probes on held-out shards while the run goes on.
        wandb: Logging to Weights & Biases, beside metrics.csv.
        seed: Of the weights, the order of the data, the crops and the masks.
        resume: Go on from the newest whole checkpoint in the run folder, or begin if there is
            none: with the clip that would have come next, and ending with the weights that the run
            would have had. On another number of processes an optimizer step still takes the same
            clips: accumulate is changed against it.
        overwrite: Delete the run that is in the run folder.
        dry_run: Check paths and permissions, print the plan (steps, tokens, memory of each
            engine, operations, hours), and end; nothing is written.
        clips_per_second: For dry_run: speed of one device, such as bench step measures.

    Returns: 0; 128 + the number of the signal that stopped the run (it is saved then); or 1 if
        another process of the run was lost.
    Raises:
        ValueError: Settings that do not go together, a folder that holds a run, shards that
            cannot be used, too many steps that are not finite, too many bad samples.
        FileNotFoundError: No such folder of shards or model file.
    """
    options = locals()
    if clips_per_second is not None and not 0 < clips_per_second < math.inf:
        raise ValueError(f"clips_per_second = {clips_per_second:g} (must be positive and finite)")
    if resume and overwrite:
        raise ValueError(
            "resume and overwrite contradict each other; give one of them (the scripts for SLURM "
            "add --resume: delete the run yourself, or give another --out)"
        )
    from pretrain.plan import choose_model, make_plan, show

    config = from_options(PretrainConfig, options | {"model": choose_model(model)})
    plan = make_plan(config, resume=resume)
    console = plain_console(quiet=not plan.is_first)
    for line in plan.notes():
        console.print(line)
    if dry_run:
        show(plan, console, clips_per_second=clips_per_second, may_exist=resume or overwrite)
        return 0
    return _train(plan, console, resume=resume, overwrite=overwrite)


def _train(plan: Plan, console: Console, *, resume: bool, overwrite: bool) -> int:
    """Put the pieces together, train, and say what came of it; the exit status."""
    import pytorch_lightning as pl

    from hicmae.config import save_yaml
    from hicmae.processes import check_workers
    from hicmae.run_logging import MetricsFile, WandbRun
    from pretrain.checkpoints import (
        CheckpointFiles,
        Checkpoints,
        Portable,
        clear_leftovers,
        compare_settings,
        prepare_folder,
    )
    from pretrain.data import PretrainData, fixed_clips
    from pretrain.gallery import Gallery
    from pretrain.guard import Agreement, BadSamples, FiniteGuard
    from pretrain.health import Health
    from pretrain.meter import ProgressShown, StepMeter
    from pretrain.module import PretrainModule
    from pretrain.probes import Probes
    from pretrain.processes import SideGroup, StopOnSignal, lost_process
    from pretrain.zero import trainer_settings

    check_workers(plan.config.workers)  # a dry run may be of another machine
    plan = _meet(plan, resume=resume)
    if lack := plan.lack():
        console.print(lack)
    config, counts, resumption = plan.config, plan.counts, plan.resumption
    out, log, hardware = config.out, config.log, config.hardware
    if resumption.checkpoint:
        for line in compare_settings(config):
            console.print(line)
        if resumption.step >= counts.num_steps:
            done = f"already pretrained for {resumption.step} of {counts.num_steps} steps"
            console.print(f"{out}: {done}")
            return 0
    module = PretrainModule(config, counts)
    pictured = None
    if log.pictures_every and config.objective.reconstruction:
        pictured = fixed_clips(config.data, config.model.input, log.picture_clips)
        if pictured is None:
            console.print("no sample has both picture and sound: no pictures of reconstructions")
    lock = None
    if plan.is_first:
        lock = prepare_folder(out, resume=resume, overwrite=overwrite)
        clear_leftovers(out, newest=resumption.checkpoint)
        save_yaml(out / "config.yaml", config)
    console.print(_opening(plan, module))

    # Who takes the rows of numbers, on the first process.
    wandb_run = None
    if plan.is_first and config.wandb.mode != "disabled":
        wandb_run = WandbRun(out, config.wandb, to_dict(config))
    progress = ProgressShown(console, counts.num_steps)
    sinks = []
    if plan.is_first:
        sinks.append(MetricsFile(out / "metrics.csv", keep_steps=resumption.step).append)
        if wandb_run is not None:
            sinks.append(wandb_run.log)
        if log.progress:
            sinks.append(progress.show_row)

    files = CheckpointFiles(
        keep=log.keep,
        keep_every=log.keep_every,
        portable=Portable(out / "checkpoints" / "last", plan.sections),
        data=plan.stream.content(),
    )

    def say_lost(error: RuntimeError | None) -> bool:
        """Say that another process is lost; False: the error is another one."""
        line = lost_process(error, plan.processes, timeout_seconds=hardware.timeout_seconds)
        if line is not None:
            print(f"hicmae pretrain: error: {line}", file=sys.stderr, flush=True)
        return line is not None

    def end_stuck() -> None:
        """Of a process whose device never answers again."""
        say_lost(None)
        files.teardown()  # what is being written is whole then
        if wandb_run is not None:
            wandb_run.finish(1)

    side_group = SideGroup(hardware.timeout_seconds, end=end_stuck)

    # Callbacks act in this order: the guard measures the norm that the meter takes, what is
    # measured now and then goes into the row that the meter makes of the same step, and a
    # checkpoint holds what the meter has counted and all processes have agreed on.
    meter = StepMeter(
        log_every=log.log_every,
        epoch_clips=plan.found.num_clips,
        sinks=sinks,
        gather=side_group.gather,
    )
    stopper = StopOnSignal()
    guard = FiniteGuard(
        out,
        max_skipped=config.max_skipped_steps,
        say=console.print,
        look_every=log.log_every,
        read=meter.read,
    )
    bad_samples = BadSamples(config.data.max_bad)
    callbacks: list[pl.Callback] = [guard, bad_samples]
    if log.health_every:
        callbacks.append(Health(every=log.health_every, note=meter.note))
    if plan.probed is not None:
        callbacks.append(Probes(plan.probed, config.probe, note=meter.note))
    callbacks += [meter, Agreement([stopper, guard, bad_samples], side_group.sum)]
    if log.progress:
        callbacks.append(progress)
    if pictured is not None:
        callbacks.append(
            Gallery(
                out / "figures",
                every=log.pictures_every,
                clips=pictured,
                title=out.resolve().name,
                paper_style=log.paper_style,
                on_picture=wandb_run.log_picture if wandb_run else None,
            )
        )
    every, gather = log.checkpoint_every, side_group.gather
    callbacks.append(Checkpoints(out / "checkpoints", files, every=every, gather=gather))
    for callback in callbacks:
        if isinstance(callback, (Probes, Gallery, Checkpoints)):
            callback.aside = meter.aside
    callbacks += [stopper, side_group]

    trainer = pl.Trainer(
        **trainer_settings(
            plan.engine,
            processes=plan.processes,
            device=plan.device,
            precision=plan.precision,
            batch_size=config.data.batch_size,
            timeout_seconds=hardware.timeout_seconds,
            checkpoint_io=files,
            clip_norm=config.optimizer.clip_norm,
        ),
        max_steps=counts.num_steps,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.optimizer.clip_norm,
        callbacks=callbacks,
        default_root_dir=out,
    )
    reader = PretrainData(config, first_batch=resumption.first_batch)
    exit_status = 1
    try:
        trainer.fit(module, reader, ckpt_path=resumption.checkpoint, weights_only=True)
        if error := guard.error or bad_samples.error:
            raise error
        exit_status = 128 + stopper.received if stopper.received else 0
    except RuntimeError as error:
        side_group.disarm()
        if not say_lost(error):
            raise
        return exit_status
    finally:
        if wandb_run is not None:
            wandb_run.finish(exit_status)
        if lock is not None:
            lock.close()
    console.print(_closing(plan, meter.last_row, trainer.global_step, stopper.received))
    return exit_status


def _meet(plan: Plan, *, resume: bool) -> Plan:
    """Find what is wrong with the processes before anything is written; the plan of the first."""
    import torch

    from pretrain.cluster import meet
    from pretrain.plan import make_plan
    from pretrain.processes import check_gpus, check_port

    processes, config = plan.processes, plan.config
    if plan.device.type == "cuda":
        check_gpus(processes, torch.cuda.device_count())
    check_port(processes)
    if processes.launcher == "own" or processes.world_size == 1:
        return plan
    first = meet(
        processes.task,
        rank=processes.rank,
        world_size=processes.world_size,
        device=plan.device,
        out=str(config.out),
        data=plan.stream.about(),
        checkpoint=plan.resumption.name,
        timeout_seconds=config.hardware.timeout_seconds,
    )
    if first == plan.resumption.name:
        return plan
    return make_plan(config, resume=resume, chosen=first)


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
