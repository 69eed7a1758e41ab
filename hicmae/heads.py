"""Heads of one network: what each slice of its outputs stands for, and which blends they name.

The outputs of a joint network are those of its heads one after another. What a head's outputs
become follows from its kind alone; ``finetune/heads.py`` says where its labels are found.

A blend is two emotions that a person shows at once, 50/50, 70/30 or 30/70. Presence is right where
exactly the true emotions are named, over all samples; salience where their proportions are too,
over samples that show two. Source: Lachmann et al., 2026, arXiv 2601.13225 (BLEMORE), and its
published evaluation (https://github.com/BlEmoRe/blemore-common, README).

Shape letters: B clips, N samples, C outputs, K classes, emotions or ordered levels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["classification", "multilabel", "distribution", "regression", "ordinal"]
KINDS: tuple[str, ...] = get_args(Kind)
# The least probability at which a class is named, where nobody has chosen one.
HALF = 0.5
# Between two borders of ordered levels, in logits.
LEAST_STEP = 1e-4
# Of thresholds of blends.
_GRID = tuple(np.linspace(0.05, 0.95, 19).round(2).tolist())
_MORE, _LESS = 0.7, 0.3  # of a blend in which one emotion leads


@dataclass(frozen=True, kw_only=True)
class HeadLabels:
    """What the outputs of one head stand for.

    Args:
        kind: classification: one of the classes; multilabel: any number of them; distribution:
            shares of them, which sum to 1; regression: real values; ordinal: one of the levels,
            the lowest first.
        names: One for each output, in order.
        thresholds: Of multilabel: the least probability at which each class is named. Of a
            distribution that names blends: both of ``Thresholds``.
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
        told = real_text if self.kind == "regression" else "{:.2f}".format
        return ", ".join(f"{n} {told(v)}" for n, v in zip(self.names, given, strict=True))


def real_text(value: float, digits: int = 2) -> str:
    """A real value with its sign, of any unit: so many digits behind the point, and of a small one
    as many that are not 0.
    """
    return f"{value:+z.{digits}{'f' if abs(value) >= 0.0995 or not value else 'g'}}"


def rounded(values: Sequence[float] | np.ndarray) -> list[float]:
    """Values (C,), of any unit, as they are told to programs: six digits that are not 0."""
    return [float(f"{value:.6g}") for value in values]


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


def of_unit(metric: str) -> bool:
    """Whether a score is in the label's unit, so of any size: ``mse``, ``head.mse_target``."""
    return re.search(r"(^|\.)mse(_|$)", metric) is not None


def head_values(outputs: Tensor, kind: str) -> Tensor:
    """What outputs (B, K) of one head stand for: probabilities, or (regression) themselves.

    Args: outputs: float32. Ordered levels have a score and one number for each border between two,
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

    Args: outputs: (B, K): the score; the lowest border; and how far each of the others lies above
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


class Thresholds(NamedTuple):
    """How shares become a blend, of all samples or of each (N,).

    ``presence``: least share of an emotion that is named; ``equal``: largest difference of two
    that are named as 50/50.
    """

    presence: float | np.ndarray
    equal: float | np.ndarray


# Where nobody has chosen: half way between the proportions, 0 and 0.3, 50/50 and 70/30.
UNCHOSEN = (0.15, 0.2)


class Right(NamedTuple):
    """What is right of each sample: booleans (N,).

    ``presence``: exactly the true emotions are named; ``blends``: two are shown; ``salience``: two
    are shown, and these are named in their proportions.
    """

    presence: np.ndarray
    blends: np.ndarray
    salience: np.ndarray


def named_blends(
    shares: np.ndarray, thresholds: Thresholds, *, unblended: int | None = None
) -> np.ndarray:
    """The proportions that predicted shares amount to.

    Args:
        shares: (N, K), each 0 or more; of equal ones the first counts as larger.
        thresholds: Of presence and of equality.
        unblended: An emotion (neutral) that is named alone or not at all.

    Returns: (N, K) of 0, 0.3, 0.5, 0.7 and 1; each row has one emotion, or two.
    """
    _check_shares(shares)
    rows, named = np.arange(len(shares)), np.zeros_like(shares, dtype=np.float64)
    order = np.argsort(-shares, axis=1, kind="stable")
    first, second = order[:, 0], order[:, 1]
    larger, smaller = shares[rows, first], shares[rows, second]
    blended = (smaller >= thresholds.presence) & (smaller > 0)
    if unblended is not None:
        blended &= (first != unblended) & (second != unblended)
    # A hair's breadth, so that 0.7 - 0.6 is 0.1.
    equal = larger - smaller <= thresholds.equal + 1e-9
    named[rows, first] = np.where(blended, np.where(equal, 0.5, _MORE), 1.0)
    named[rows[blended], second[blended]] = np.where(equal, 0.5, _LESS)[blended]
    return named


def what_is_right(true: np.ndarray, named: np.ndarray) -> Right:
    """Compare what is named with what is shown.

    Args:
        true: (N, K) proportions, above 0 where an emotion is shown.
        named: (N, K) of ``named_blends``.

    Raises: ValueError: nothing to score, or shapes that differ.
    """
    _check_shares(true, named)
    blends = (true > 0).sum(axis=1) == 2
    return Right(
        presence=((true > 0) == (named > 0)).all(axis=1),
        blends=blends,
        salience=blends & np.isclose(true, named, atol=0.005).all(axis=1),
    )


def blend_metrics(true: np.ndarray, named: np.ndarray) -> dict[str, float]:
    """``presence``: share of samples of which exactly the true emotions are named; ``salience``:
    share of those with two emotions that are named in their proportions, not-a-number without any.

    Args and errors as of ``what_is_right``.
    """
    right = what_is_right(true, named)
    salience = right.salience[right.blends].mean() if right.blends.any() else float("nan")
    return {"presence": float(right.presence.mean()), "salience": float(salience)}


def choose_thresholds(
    true: np.ndarray, shares: np.ndarray, *, unblended: int | None = None
) -> Thresholds:
    """The thresholds with the best mean of both accuracies; of equal ones the smallest.

    Args:
        true: (N, K) proportions of samples that are not tested.
        shares: (N, K) predicted ones of the same samples.

    Source: the published evaluation, which searches a grid from 0.05 to 0.95.
    """
    _check_shares(true, shares)
    best, chosen = -1.0, Thresholds(_GRID[0], _GRID[0])
    for presence in _GRID:
        for equal in _GRID:
            candidate = Thresholds(presence, equal)
            named = named_blends(shares, candidate, unblended=unblended)
            score = float(np.nanmean(list(blend_metrics(true, named).values())))
            if score > best + 1e-12:
                best, chosen = score, candidate
    return chosen


def _check_shares(*shares: np.ndarray) -> None:
    shapes = {part.shape for part in shares}
    if len(shapes) > 1 or shares[0].ndim != 2 or len(shares[0]) == 0 or shares[0].shape[1] < 2:
        raise ValueError(
            f"blends: shares of shapes {' and '.join(map(str, sorted(shapes)))} (must be the same"
            " (N, K), N not 0, K 2 or more)"
        )
    if not all(np.isfinite(part).all() and (part >= 0).all() for part in shares):
        raise ValueError("blends: shares hold values that are negative or not finite")
