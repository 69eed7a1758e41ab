"""Training losses of fine-tuning.

For: a table from the names in a recipe to functions of outputs and targets, and their sums. Not
for: the pretraining objective (``hicmae/objective``) or metrics (``hicmae/metrics.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor], Tensor]


class Losses(NamedTuple):
    """A loss of several terms.

    Attributes:
        total: 0-d, with a gradient.
        terms: Name to value, 0-d, without.
    """

    total: Tensor
    terms: dict[str, Tensor]


def soft_cross_entropy(outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy with class probabilities as targets.

    Args:
        outputs: (B, C) logits.
        targets: (B, C) probabilities.
        weights: (C,) factor on the term of each class; none: 1.

    Returns: mean over the batch (its B, not the sum of weights), 0-d, nats.
    """
    return functional.cross_entropy(outputs, targets, weight=weights)


def concordance_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """One minus the concordance correlation coefficient over the batch, mean over dimensions.

    Args:
        outputs: (B, D), B of 2 or more.
        targets: (B, D).

    Returns: 0-d, in 0..2. A batch in which outputs and targets are the same constant gives 1:
        nothing correlates.
    Source: Lin 1989, A concordance correlation coefficient to evaluate reproducibility; unbiased
        moments, as in hicmae.metrics.
    """
    moment = max(len(outputs) - 1, 1)
    output_mean, target_mean = outputs.mean(dim=0), targets.mean(dim=0)  # (D,)
    output_gap, target_gap = outputs - output_mean, targets - target_mean  # (B, D)
    covariance = (output_gap * target_gap).sum(dim=0) / moment
    spread = (output_gap.square().sum(dim=0) + target_gap.square().sum(dim=0)) / moment
    shift = (output_mean - target_mean).square()
    # The tiny floor keeps a constant batch finite; real spreads are far above it.
    floor = torch.finfo(outputs.dtype).tiny
    return (1 - 2 * covariance / (spread + shift).clamp_min(floor)).mean()


def combined(terms: Mapping[str, float], outputs: Tensor, targets: Tensor) -> Losses:
    """A weighted sum of losses and its terms.

    Args:
        terms: Factor of each loss, as ``finetune.loss_terms`` reads them.
        outputs: (B, D).
        targets: (B, D).

    Returns: the sum, 0-d, and each term before its factor.
    """
    values = {name: LOSSES[name](outputs, targets) for name in terms}
    total = torch.stack([terms[name] * value for name, value in values.items()]).sum()
    return Losses(total, {name: value.detach() for name, value in values.items()})


# By the names of finetune.loss_terms.LOSSES.
LOSSES: dict[str, Loss] = {
    "cross-entropy": soft_cross_entropy,
    "mse": functional.mse_loss,
    "l1": functional.l1_loss,
    "ccc": concordance_loss,
}
