"""``hicmae pretrain``: from settings to a run folder.

For: checking everything before the first step, putting the pieces together, and the last line.
Not for: any of the pieces.
"""

from __future__ import annotations

import logging
import math
import warnings
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich.console import Console

from hicmae import __version__
from hicmae.config import save_yaml, to_dict
from hicmae.precision import Precision, resolve_precision
from hicmae.settings import ObjectiveConfig
from hicmae.transforms import AugmentConfig
from pretrain.assembly import Assembly, assemble
from pretrain.data import PretrainData, Survey, fixed_clips, survey
from pretrain.folder import compare_settings, newest_checkpoint, prepare_folder, step_of
from pretrain.module import PretrainModule
from pretrain.plan import Plan, make_plan
from pretrain.settings import (
    DataConfig,
    HardwareConfig,
    LogConfig,
    OptimizerConfig,
    WandbConfig,
)
from pretrain.sizes import choose_model

_OBJECTIVE = ObjectiveConfig()
_AUGMENT = AugmentConfig.pretraining()
_OPTIMIZER = OptimizerConfig()
_HARDWARE = HardwareConfig()
_LOG = LogConfig()
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
    hardware: HardwareConfig = _HARDWARE,
    log: LogConfig = _LOG,
    wandb: WandbConfig = _WANDB,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
) -> int:
    """Pretrain the masked autoencoder on shards.

    Writes a run folder: config.yaml, metrics.csv, figures/, checkpoints/last (the portable
    checkpoint that fine-tuning takes) and checkpoints/step-….ckpt (to resume from).

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
        hardware: What the training runs on.
        log: What is written, and how often.
        wandb: Logging to Weights & Biases, beside metrics.csv.
        seed: Of the weights, the order of the data, the crops and the masks.
        resume: Go on from the newest checkpoint in the run folder, or begin if there is none.
            Weights, optimizer, schedule, counts and random draws are restored; of the data, the
            interrupted pass is not finished but a fresh one begun.
        overwrite: Delete the run that is in the run folder.

    Returns: 0, or 128 + the number of the signal that stopped the run (it is saved then).
    Raises:
        ValueError: Settings that do not go together, a folder that holds a run, shards that
            cannot be used, a loss that is not finite.
        FileNotFoundError: No such folder of shards or model file.
    """
    sizes = choose_model(model)
    number_format = resolve_precision(precision, accelerator=hardware.accelerator)
    found = survey(data)
    plan = make_plan(
        found.num_clips,
        batch_size=data.batch_size,
        accumulate=accumulate,
        world_size=hardware.world_size,
        steps=steps,
        epochs=epochs,
        optimizer=optimizer,
    )
    config = {
        "data": to_dict(data),
        "out": str(out),
        "model": to_dict(sizes),
        "objective": to_dict(objective),
        "augment": to_dict(augment),
        "optimizer": to_dict(optimizer),
        "steps": steps,
        "epochs": epochs,
        "accumulate": accumulate,
        "precision": precision,
        "hardware": to_dict(hardware),
        "log": to_dict(log),
        "wandb": to_dict(wandb),
        "seed": seed,
    }
    is_first = getattr(rank_zero_only, "rank", 0) == 0
    console = Console(quiet=not is_first, soft_wrap=True, highlight=False)
    _hush()
    checkpoint = newest_checkpoint(out) if resume else None
    done = step_of(checkpoint) if checkpoint else 0
    if checkpoint:
        for line in compare_settings(out, config):
            console.print(line)
        if done >= plan.num_steps:
            console.print(f"{out}: already pretrained for {done} of {plan.num_steps} steps")
            return 0
    module = PretrainModule(
        model=sizes,
        objective=objective,
        augment=augment,
        optimizer=optimizer,
        num_steps=plan.num_steps,
        warmup_steps=plan.warmup_steps,
        global_batch=plan.global_batch,
        seed=seed,
        compile_network=hardware.compile,
    )
    pictured = fixed_clips(data, sizes.input, log.picture_clips) if log.pictures_every else None
    if is_first:
        prepare_folder(out, resume=resume, overwrite=overwrite)
        save_yaml(out / "config.yaml", config)
    console.print(_opening(found, plan, module, number_format, out, done))
    run = assemble(
        out=out,
        plan=plan,
        epoch_clips=found.num_clips,
        done=done,
        pictured=pictured,
        config=config,
        sections={
            "model": sizes,
            "objective": objective,
            "pretraining": config,
            "version": __version__,
        },
        accumulate=accumulate,
        clip_norm=optimizer.clip_norm,
        precision=number_format,
        hardware=hardware,
        log=log,
        wandb=wandb,
        console=console,
        is_first=is_first,
    )
    reader = PretrainData(
        data, sizes.input, seed=seed, first_epoch=math.ceil(done / plan.steps_per_epoch)
    )
    exit_status = 1
    try:
        run.trainer.fit(module, datamodule=reader, ckpt_path=checkpoint, weights_only=True)
        exit_status = 128 + run.stopper.received if run.stopper.received else 0
    finally:
        if run.wandb is not None:
            run.wandb.finish(exit_status)
    console.print(_closing(run, plan, out))
    return exit_status


def _opening(
    found: Survey, plan: Plan, module: PretrainModule, precision: str, out: Path, done: int
) -> str:
    """What is about to happen, in two lines."""
    count = sum(parameter.numel() for parameter in module.model.parameters())
    going = f"from step {done} " if done else ""
    return (
        f"{found.num_clips} clips ({found.hours:.1f} h of video); network of {count / 1e6:.1f} M "
        f"parameters; {precision}\n"
        f"{out}: pretraining {going}to step {plan.num_steps} of {plan.global_batch} clips, "
        f"{plan.steps_per_epoch} steps an epoch, warm-up {plan.warmup_steps}, peak learning rate "
        f"{module.peak_learning_rate:.2e}"
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


def _hush() -> None:
    """Silence what Lightning says that no user of ours can act on."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (
        # Both hooks are the module's on purpose: transforms run on its device.
        r".*You have overridden `on_(before|after)_batch_transfer`.*",
        r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    ):
        warnings.filterwarnings("ignore", message=message)
