"""Heads of one network: what each slice of its outputs stands for.

The outputs of a joint network are those of its heads one after another. What a head's outputs
become follows from its kind alone; ``finetune/heads.py`` says where its labels are found.

Shape letters: B clips, C outputs, K classes or ordered levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["classification", "multilabel", "distribution", "regression", "ordinal"]
KINDS: tuple[str, ...] = get_args(Kind)
# Kinds that answer with names.
ANSWERING = ("classification", "multilabel", "ordinal")
# The least probability at which a class is named, where nobody has chosen one.
HALF = 0.5
# Between two borders of ordered levels, in logits.
LEAST_STEP = 1e-4


@dataclass(frozen=True, kw_only=True)
class HeadLabels:
    """What the outputs of one head stand for.

    Args:
        name: Of the head.
        kind: classification: one of the classes; multilabel: any number of them; distribution:
            shares of them, which sum to 1; regression: real values; ordinal: one of the levels,
            the lowest first.
        names: One for each output, in order.
        thresholds: Of multilabel: the least probability at which each class is named.
    """

    name: str
    kind: Kind
    names: tuple[str, ...]
    thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        wanted = len(self.names) if self.kind == "multilabel" else 0
        if len(self.thresholds) != wanted:
            raise ValueError(
                f"head {self.name}: {len(self.thresholds)} thresholds (must be {wanted})"
            )

    def answer(self, values: Sequence[float] | np.ndarray) -> str:
        """What values (K,) of this head say: a class, classes with plus signs, or the values."""
        given = np.asarray(values, dtype=np.float64)
        if self.kind in ("classification", "ordinal"):
            return self.names[int(given.argmax())]
        if self.kind == "multilabel":
            named = [
                n for n, v, t in zip(self.names, given, self.thresholds, strict=True) if v >= t
            ]
            return "+".join(named) or "none"
        form = "+.2f" if self.kind == "regression" else ".2f"
        return ", ".join(f"{n} {v:{form}}" for n, v in zip(self.names, given, strict=True))


def slices(heads: Sequence[HeadLabels]) -> Iterator[tuple[HeadLabels, slice]]:
    """Each head with the place of its outputs."""
    start = 0
    for head in heads:
        yield head, slice(start, start + len(head.names))
        start += len(head.names)


def output_names(heads: Sequence[HeadLabels]) -> tuple[str, ...]:
    """A name for each output of all heads: that of the head, a point, and its own."""
    return tuple(f"{head.name}.{name}" for head in heads for name in head.names)


def answers(heads: Sequence[HeadLabels], values: np.ndarray) -> dict[str, str]:
    """What values (C,) of all heads say, by head."""
    return {head.name: head.answer(values[place]) for head, place in slices(heads)}


def head_values(outputs: Tensor, kind: str) -> Tensor:
    """What outputs (B, K) of one head stand for: probabilities, or (regression) themselves.

    Args:
        outputs: float32. Ordered levels have a score and one number for each border between two,
            see ``border_logits``.
    """
    import torch

    if kind in ("classification", "distribution"):
        return outputs.softmax(dim=-1)
    if kind == "multilabel":
        return outputs.sigmoid()
    if kind == "ordinal":
        above = border_logits(outputs).sigmoid()  # (B, K - 1), falling
        ends = torch.ones_like(above[:, :1])
        return torch.cat([ends, above], dim=1) - torch.cat([above, 0 * ends], dim=1)
    return outputs


def border_logits(outputs: Tensor) -> Tensor:
    """Logit of each border of ordered levels to lie below the clip: its score less the border.

    Args:
        outputs: (B, K): the score; the lowest border; and how far each of the others lies above
            the one before it, through a softplus, so that borders never cross.

    Returns: (B, K - 1).
    Source: McCullagh, 1980, Regression models for ordinal data (proportional odds).
    """
    import torch

    steps = torch.cat([outputs[:, 1:2], border_steps(outputs)], dim=1)
    return outputs[:, :1] - steps.cumsum(dim=1)


def border_steps(outputs: Tensor) -> Tensor:
    """How far each border but the lowest lies above the one before it, (B, K - 2), positive."""
    from torch.nn import functional

    return functional.softplus(outputs[:, 2:]) + LEAST_STEP


def constant_outputs(heads: Sequence[HeadLabels]) -> tuple[int, ...]:
    """Outputs that are the same for every clip: the borders of ordered levels."""
    return tuple(
        number
        for head, place in slices(heads)
        if head.kind == "ordinal"
        for number in range(place.start + 1, place.stop)
    )


def thresholds_of(heads: Sequence[HeadLabels]) -> Mapping[str, tuple[float, ...]]:
    """Thresholds of the heads that have some."""
    return {head.name: head.thresholds for head in heads if head.thresholds}
