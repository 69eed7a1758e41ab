"""Heads of one network: what each slice of its outputs stands for.

The outputs of a joint network are those of its heads one after another. What a head's outputs
become follows from its kind alone; ``finetune/heads.py`` says where its labels are found.

Shape letters: B clips, C outputs, K classes or ordered levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from hicmae.blends import Thresholds, named_blends

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["classification", "multilabel", "distribution", "regression", "ordinal"]
KINDS: tuple[str, ...] = get_args(Kind)
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
        thresholds: Of multilabel: the least probability at which each class is named. Of a
            distribution that names blends: both of ``hicmae.blends.Thresholds``.
        unblended: Of such a one: the class that is named alone or not at all; empty: none.
    """

    name: str
    kind: Kind
    names: tuple[str, ...]
    thresholds: tuple[float, ...] = ()
    unblended: str = field(default="", metadata={"omit_default": True})

    def __post_init__(self) -> None:
        wanted = {"multilabel": (len(self.names),), "distribution": (0, 2)}.get(self.kind, (0,))
        if len(self.thresholds) not in wanted:
            raise ValueError(
                f"head {self.name}: {len(self.thresholds)} thresholds (must be"
                f" {' or '.join(map(str, wanted))})"
            )
        if self.unblended and self.unblended not in self.names:
            raise ValueError(f"head {self.name}: unblended = {self.unblended} is none of its names")

    @property
    def answers_names(self) -> bool:
        """Whether it answers with names, not with numbers."""
        return self.kind in ("classification", "multilabel", "ordinal") or bool(self.thresholds)

    def blends(self, shares: np.ndarray, thresholds: Thresholds | None = None) -> np.ndarray:
        """The proportions (N, K) that shares (N, K) amount to; thresholds: none given, its own."""
        alone = self.names.index(self.unblended) if self.unblended else None
        return named_blends(shares, thresholds or Thresholds(*self.thresholds), unblended=alone)

    def answer(self, values: Sequence[float] | np.ndarray) -> str:
        """What values (K,) of this head say: a class, classes with plus signs, or the values.

        Of a blend each class has its percentage behind it, the larger one first.
        """
        given = np.asarray(values, dtype=np.float64)
        if self.kind in ("classification", "ordinal"):
            return self.names[int(given.argmax())]
        if self.kind == "multilabel":
            named = [
                n for n, v, t in zip(self.names, given, self.thresholds, strict=True) if v >= t
            ]
            return "+".join(named) or "none"
        if self.thresholds:
            (shares,) = self.blends(given[None])
            order = np.argsort(-shares, kind="stable")[: np.count_nonzero(shares)]
            return " + ".join(
                self.names[n] if len(order) == 1 else f"{self.names[n]} {100 * shares[n]:.0f}"
                for n in order
            )
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


def said(heads: Sequence[HeadLabels], values: np.ndarray) -> str:
    """The same in one line: each head, a colon, and its answer; "" without heads."""
    return "; ".join(f"{name}: {answer}" for name, answer in answers(heads, values).items())


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
