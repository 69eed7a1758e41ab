"""``hicmae pretrain``: from settings to a run folder, top to bottom.

The settings become one ``PretrainConfig``; ``pretrain.plan`` settles what a run will be;
``pretrain.training`` puts the pieces together and trains. One step is ``pretrain.module``.
"""

from __future__ import annotations

import math

from hicmae.config import choose_model, with_options_of
from hicmae.terminal import plain_console
from pretrain.settings import PretrainConfig


@with_options_of(PretrainConfig, model=choose_model)
def pretrain(
    *,
    config: PretrainConfig,
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
        config: Of the run; one option for each of its fields.
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
    if clips_per_second is not None and not 0 < clips_per_second < math.inf:
        raise ValueError(f"clips_per_second = {clips_per_second:g} (must be positive and finite)")
    if resume and overwrite:
        raise ValueError(
            "resume and overwrite contradict each other; give one of them (the scripts for SLURM "
            "add --resume: delete the run yourself, or give another --out)"
        )
    from pretrain.plan import make_plan, show

    plan = make_plan(config, resume=resume)
    console = plain_console(quiet=not plan.is_first)
    for line in plan.notes():
        console.print(line)
    if dry_run:
        show(plan, console, clips_per_second=clips_per_second, may_exist=resume or overwrite)
        return 0
    from pretrain.training import train

    return train(plan, console, resume=resume, overwrite=overwrite)
