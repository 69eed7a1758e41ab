"""Names of training losses and sums of them, as recipes and benchmarks write them.

For: reading ``mse+0.5*ccc`` without PyTorch. Not for: computing losses (``finetune/losses.py``).
"""

from __future__ import annotations

import math

# Losses of each task; the first is its default.
LOSSES: dict[str, tuple[str, ...]] = {
    "classification": ("cross-entropy",),
    "regression": ("mse", "l1", "ccc"),
}


def loss_terms(text: str, task: str) -> dict[str, float]:
    """Read a loss: a name, or a sum of names with factors.

    Args:
        text: Such as ``ccc``, ``mse+ccc`` or ``mse + 0.5*ccc``.
        task: ``classification`` or ``regression``.

    Returns: factor of each term, in the order written.
    Raises: ValueError: a name that is no loss of the task, one that stands twice, or a factor
        that is not positive.
    """
    known = LOSSES.get(task, ())
    terms: dict[str, float] = {}
    for part in text.split("+"):
        factor, star, name = part.rpartition("*")
        name = name.strip()
        try:
            value = float(factor) if star else 1.0
        except ValueError:
            value = math.nan
        if name not in known:
            raise ValueError(
                f"loss = {text} does not fit {task}: '{name}' is none of its losses (allowed:"
                f" {', '.join(known)}{', or a sum such as mse+0.5*ccc' if len(known) > 1 else ''})"
            )
        if name in terms:
            raise ValueError(f"loss = {text} names {name} twice")
        if not 0 < value < math.inf:
            raise ValueError(f"loss = {text}: the factor of {name} must be a positive number")
        terms[name] = value
    return terms
