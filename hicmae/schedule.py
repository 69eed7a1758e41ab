"""The learning rate over the steps of a run: linear warm-up, then half a cosine.

For: pretraining and fine-tuning alike. Not for: setting an optimiser's groups; whoever trains
multiplies the value by each group's ``lr_scale``.
"""

from __future__ import annotations

import math


def warmup_cosine(
    step: int,
    *,
    base: float,
    final: float,
    num_steps: int,
    warmup_steps: int,
    warmup_start: float = 0.0,
) -> float:
    """Value of the schedule at one step.

    The warm-up is a straight line whose last step is already at ``base``; the cosine starts at
    ``base`` on the next step and would reach ``final`` at step ``num_steps``, one after the last.
    A warm-up of a single step stays at ``warmup_start``. Steps past the end keep ``final``.

    Args:
        step: Step of the optimiser, counted from 0.
        base: Highest value, after the warm-up.
        final: Value at the end.
        num_steps: Steps of the run, warm-up included.
        warmup_steps: Steps of the warm-up; 0 for none.
        warmup_start: Value at step 0 of the warm-up.

    Raises:
        ValueError: A negative step, no steps at all, or a warm-up longer than the run.

    Source: the cosine is SGDR's (arXiv 1608.03983) without restarts; where exactly the warm-up
        ends was matched to the numbers of HiCMAE's published code.
    """
    if step < 0 or num_steps < 1 or not 0 <= warmup_steps <= num_steps:
        raise ValueError(
            f"schedule: step = {step}, num_steps = {num_steps}, warmup_steps = {warmup_steps} "
            "(must be step >= 0, num_steps >= 1 and 0 <= warmup_steps <= num_steps)"
        )
    if step < warmup_steps:
        return warmup_start + (base - warmup_start) * step / max(1, warmup_steps - 1)
    if step >= num_steps:
        return final
    progress = (step - warmup_steps) / (num_steps - warmup_steps)
    return final + (base - final) * (1 + math.cos(math.pi * progress)) / 2
