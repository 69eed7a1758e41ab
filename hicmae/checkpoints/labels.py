"""What the outputs of a fine-tuned network stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What the outputs of a fine-tuned network stand for.

    Args:
        task: Classes, or real values.
        names: One for each output, in order.
        mean: Of each real value over the training side, in the unit of the labels: the network's
            outputs times ``std`` plus this. Empty for classes.
        std: Standard deviation of the same.
    """

    task: Literal["classification", "regression"]
    names: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        problems = []
        if not self.names or len(set(self.names)) != len(self.names):
            problems.append(f"names = {list(self.names)} (must be one or more, each once)")
        wanted = len(self.names) if self.task == "regression" else 0
        for field in ("mean", "std"):
            if len(getattr(self, field)) != wanted:
                problems.append(f"{field} has {len(getattr(self, field))} values, not {wanted}")
        if problems:
            raise ValueError(f"labels: {'; '.join(problems)}")
