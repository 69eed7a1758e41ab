"""``hicmae pretrain``: from settings to a run folder.

For: the command, training, and the first and the last line. Not for: settling what is trained
(``pretrain/preparation.py``), nor putting the pieces together (``pretrain/assembly.py``).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from hicmae.config import save_yaml
from hicmae.precision import Precision
from hicmae.settings import ObjectiveConfig
from hicmae.transforms import AugmentConfig
from pretrain.assembly import Assembly, assemble
from pretrain.data import PretrainData, fixed_clips
from pretrain.dry_run import show
from pretrain.folder import clear_leftovers, compare_settings, prepare_folder
from pretrain.lost_process import lost_process
from pretrain.module import PretrainModule
from pretrain.plan import Plan
from pretrain.preparation import Prepared, Request, prepare
from pretrain.probe_settings import ProbeConfig
from pretrain.settings import (
    DataConfig,
    HardwareConfig,
    LogConfig,
    OptimizerConfig,
    WandbConfig,
)

_OBJECTIVE = ObjectiveConfig()
_AUGMENT = AugmentConfig.pretraining()
_OPTIMIZER = OptimizerConfig()
_HARDWARE = HardwareConfig()
_LOG = LogConfig()
_PROBE = ProbeConfig()
_WANDB = WandbConfig()


def pretrain(
    *,
    data: DataConfig,
    out: Path,
    model: str | dict[str, Any] = "base",
    objective: ObjectiveConfig = _OBJECTIVE,
    augment: AugmentConfig = _AUGMENT,
    optimizer: OptimizerConfig = _OPTIMIZER,
    steps: int | None = None,
    epochs: float = 100.0,
    accumulate: int = 1,
    precision: Precision = "auto",
    max_skipped_steps: int = 10,
    hardware: HardwareConfig = _HARDWARE,
    log: LogConfig = _LOG,
    probe: ProbeConfig = _PROBE,
    wandb: WandbConfig = _WANDB,
    seed: int = 0,
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
        precision: auto: bf16-mixed where the machine computes in bfloat16, else 32-true.
        max_skipped_steps: Optimizer steps that may be left out, in the whole run, because the loss
            or a gradient was not finite; the next one stops the run, saved.
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
    prepared = prepare(
        Request(
            data=data,
            out=out,
            model=model,
            objective=objective,
            augment=augment,
            optimizer=optimizer,
            steps=steps,
            epochs=epochs,
            accumulate=accumulate,
            precision=precision,
            max_skipped_steps=max_skipped_steps,
            hardware=hardware,
            log=log,
            probe=probe,
            wandb=wandb,
            seed=seed,
            resume=resume,
            overwrite=overwrite,
        )
    )
    console = Console(quiet=not prepared.is_first, soft_wrap=True, highlight=False)
    for line in prepared.notes():
        console.print(line)
    if dry_run:
        show(prepared, console, clips_per_second=clips_per_second)
        return 0
    return _run(prepared, console)


def _run(prepared: Prepared, console: Console) -> int:
    """Train; the exit status."""
    asked, plan, out = prepared.asked, prepared.plan, prepared.asked.out
    checkpoint, done = prepared.resumption.checkpoint, prepared.resumption.step
    if checkpoint:
        for line in compare_settings(out, prepared.config):
            console.print(line)
        if done >= plan.num_steps:
            console.print(f"{out}: already pretrained for {done} of {plan.num_steps} steps")
            return 0
    module = PretrainModule(
        model=prepared.sizes,
        objective=asked.objective,
        augment=asked.augment,
        optimizer=asked.optimizer,
        num_steps=plan.num_steps,
        warmup_steps=plan.warmup_steps,
        global_batch=plan.global_batch,
        seed=asked.seed,
        compile_network=asked.hardware.compile,
        recompute=asked.hardware.recompute,
    )
    pictured = None
    if asked.log.pictures_every:
        pictured = fixed_clips(asked.data, prepared.sizes.input, asked.log.picture_clips)
    if prepared.is_first:
        prepare_folder(out, resume=asked.resume, overwrite=asked.overwrite)
        clear_leftovers(out, newest=checkpoint)
        save_yaml(out / "config.yaml", prepared.config)
    console.print(_opening(prepared, module))
    run = assemble(prepared, pictured=pictured, console=console)
    reader = PretrainData(
        asked.data,
        prepared.sizes.input,
        seed=asked.seed,
        first_batch=prepared.resumption.first_batch,
    )
    exit_status = 1
    try:
        run.trainer.fit(module, datamodule=reader, ckpt_path=checkpoint, weights_only=True)
        stopped_by = run.guard.error or run.bad_samples.error
        if stopped_by is not None:
            raise stopped_by
        exit_status = 128 + run.stopper.received if run.stopper.received else 0
    except RuntimeError as error:
        lost = lost_process(
            error, prepared.processes, timeout_seconds=asked.hardware.timeout_seconds
        )
        if lost is None:
            raise
        print(f"hicmae pretrain: error: {lost}", file=sys.stderr)
        return exit_status
    finally:
        if run.wandb is not None:
            run.wandb.finish(exit_status)
    console.print(_closing(run, plan, out))
    return exit_status


def _opening(prepared: Prepared, module: PretrainModule) -> str:
    """What is about to happen, in two lines."""
    found, plan, done = prepared.found, prepared.plan, prepared.resumption.step
    count = sum(parameter.numel() for parameter in module.model.parameters())
    going = f"from step {done} " if done else ""
    return (
        f"{found.num_clips} clips ({found.hours:.1f} h of video); network of {count / 1e6:.1f} M "
        f"parameters; {prepared.precision}\n"
        f"{prepared.asked.out}: pretraining {going}to step {plan.num_steps} of "
        f"{plan.global_batch} clips, {plan.steps_per_epoch} steps an epoch, warm-up "
        f"{plan.warmup_steps}, peak learning rate {module.peak_learning_rate:.2e}"
    )


def _closing(run: Assembly, plan: Plan, out: Path) -> str:
    """What came of it, in one line."""
    row, step = run.meter.last_row, run.trainer.global_step
    numbers = f"loss {row['loss']:.4f}, {row['clips_per_second']:.1f} clips/s"
    if row["skipped"]:
        numbers += f", {row['skipped']} samples skipped (causes in metrics.csv)"
    what, then = f"pretrained {step} steps", ""
    if run.stopper.received:
        what = f"stopped by {run.stopper.received.name} after step {step} of {plan.num_steps}"
        then = ", saved; go on with --resume"
    return f"{what}: {numbers}; checkpoint {out / 'checkpoints' / 'last'}{then}"
