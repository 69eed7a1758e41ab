"""How long a run is, in steps: epochs, batches and warm-up turned into counts.

For: arithmetic that is checked before anything starts. Not for: the learning rate itself
(``hicmae/schedule.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

from pretrain.settings import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Counts of a whole run.

    Attributes:
        num_steps: Optimizer steps.
        warmup_steps: Those of the warm-up.
        global_batch: Clips of one optimizer step, over processes and accumulation.
        steps_per_epoch: Optimizer steps in which about every clip is seen once.
    """

    num_steps: int
    warmup_steps: int
    global_batch: int
    steps_per_epoch: int


def make_plan(
    num_clips: int,
    *,
    batch_size: int,
    accumulate: int,
    world_size: int,
    steps: int | None,
    epochs: float,
    optimizer: OptimizerConfig,
) -> Plan:
    """Turn a recipe into counts.

    Args:
        num_clips: Of one pass over the data.
        batch_size: Clips that one process handles at once.
        accumulate: Batches of one optimizer step.
        world_size: Processes.
        steps: Optimizer steps of the run; None: ``epochs``.
        epochs: Passes over the data, where ``steps`` is None.
        optimizer: For the warm-up.

    Raises: ValueError: a count below one, or a warm-up longer than the run.
    """
    problems = [
        f"{name} = {value} (must be 1 or more)"
        for name, value in (("accumulate", accumulate), ("steps", steps))
        if value is not None and value < 1
    ]
    if steps is None and not epochs > 0:
        problems.append(f"epochs = {epochs} (must be positive)")
    if problems:
        raise ValueError(f"pretrain: {'; '.join(problems)}")
    global_batch = batch_size * accumulate * world_size
    per_epoch = max(1, num_clips // global_batch)
    num_steps = max(1, round(epochs * per_epoch)) if steps is None else steps
    if optimizer.warmup_steps is None:
        warmup_steps, name = round(optimizer.warmup_epochs * per_epoch), "warmup_epochs"
    else:
        warmup_steps, name = optimizer.warmup_steps, "warmup_steps"
    if warmup_steps > num_steps:
        raise ValueError(
            f"optimizer.{name}: the warm-up takes {warmup_steps} steps, the run {num_steps} "
            f"({per_epoch} steps an epoch); shorten it or train longer"
        )
    return Plan(
        num_steps=num_steps,
        warmup_steps=warmup_steps,
        global_batch=global_batch,
        steps_per_epoch=per_epoch,
    )
