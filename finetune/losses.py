"""Training losses of fine-tuning: one table from the names in a recipe to functions, and sums.

A loss of another package is registered as those here are; see ``hicmae/registry.py``. PyTorch is
imported where it computes, because benchmarks name losses and are read without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from hicmae.config import did_you_mean
from hicmae.registry import NoSettings, Registry

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A registered loss.

    Args:
        compute: From outputs (B, C), targets (B, C) and, by name, each of its settings to a value,
            0-d.
        tasks: What it is for: kinds of ``hicmae.heads``.
        of_batch: Whether it is of the batch and no mean over clips, as a correlation is: it needs
            two clips, and those of all processes together.
        weighted: Whether it takes ``weights`` (C,), a factor of each class.
    """

    compute: Callable[..., Tensor]
    tasks: tuple[str, ...]
    of_batch: bool = False
    weighted: bool = False

    def __call__(self, *values: Any, **settings: Any) -> Tensor:
        return self.compute(*values, **settings)


# The first that fits a task is its default.
LOSSES: Registry[Loss] = Registry("fine-tuning loss")


def register_loss(
    name: str,
    *,
    tasks: Sequence[str],
    settings: type[Any] = NoSettings,
    of_batch: bool = False,
    weighted: bool = False,
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorator that makes a function a loss that recipes can name.

    Args:
        name: As recipes write it.
        settings: A frozen dataclass; ``recipe.loss_settings.NAME`` fills it, and its fields are
            handed to the function by name.
        tasks, of_batch, weighted: As of ``Loss``.

    Raises: ValueError: the name is taken.
    """

    def add(compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        loss = Loss(compute=compute, tasks=tuple(tasks), of_batch=of_batch, weighted=weighted)
        LOSSES.register(name, settings=settings)(loss)
        return compute

    return add


class Term(NamedTuple):
    """A loss of a sum, the factor on its value, and its settings by name."""

    name: str
    factor: float
    loss: Loss
    settings: dict[str, Any]


def default_loss(task: str) -> str:
    """The loss of a task where nobody names one."""
    return _losses_of(task)[0]


def loss_terms(
    text: str, task: str, settings: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Term]:
    """Read a loss: a name, or a sum of names with factors.

    Args:
        text: Such as ``ccc``, ``mse+ccc`` or ``mse + 0.5*ccc``.
        task: ``classification``, ``regression``, or another kind of head.
        settings: Of losses, by their names.

    Returns: the terms, in the order written.
    Raises: ValueError: a name that is no loss of the task, one that stands twice, a factor that is
        not positive, or settings that are wrong or of a loss that is not there.
    """
    known, left = _losses_of(task), dict(settings or {})
    terms: dict[str, Term] = {}
    for part in text.split("+"):
        factor, star, name = part.rpartition("*")
        name = name.strip()
        try:
            value = float(factor) if star else 1.0
        except ValueError:
            value = math.nan
        if name not in known:
            sums = f", or a sum such as {known[0]}+0.5*{known[-1]}" if len(known) > 1 else ""
            raise ValueError(
                f"loss = {text} does not fit {task}: '{name}' is none of its losses (allowed:"
                f" {', '.join(known)}{sums})"
            )
        if name in terms:
            raise ValueError(f"loss = {text} names {name} twice")
        if not 0 < value < math.inf:
            raise ValueError(f"loss = {text}: the factor of {name} must be a positive number")
        entry = LOSSES[name]
        own = entry.configure(left.pop(name, {}), f"loss_settings.{name}")
        terms[name] = Term(name, value, entry.make, dict(vars(own)))
    for name in left:
        raise ValueError(
            f"loss_settings has settings of '{name}', which loss = {text} does not name"
            f"{did_you_mean(name, terms)}"
        )
    return list(terms.values())


def combined(
    terms: Sequence[Term], outputs: Tensor, targets: Tensor, class_weights: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """A weighted sum of losses and its terms.

    Args:
        outputs, targets: (B, C).
        class_weights: (C,) for losses that take them; none: 1.

    Returns: the sum, 0-d, with a gradient, and by name each term before its factor, without.
    """
    import torch

    values = {}
    for term in terms:
        given = {"weights": class_weights} if term.loss.weighted else {}
        values[term.name] = term.loss(outputs, targets, **term.settings, **given)
    total = torch.stack([term.factor * values[term.name] for term in terms]).sum()
    return total, {name: value.detach() for name, value in values.items()}


def fewest(terms: Sequence[Term]) -> int:
    """How many clips with a label a loss needs: of the batch, 2."""
    return 2 if any(term.loss.of_batch for term in terms) else 1


def combined_heads(
    heads: Sequence[tuple[str, float, slice, Sequence[Term]]],
    outputs: Tensor,
    targets: Tensor,
    known: Tensor,
    class_weights: Mapping[str, Tensor],
    shares: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of the losses of several heads, each over the clips that have its label.

    Args:
        heads: Name, weight, place of the outputs, and terms of each.
        outputs, targets: (B, C) of all heads.
        known: (B, H) bool, who has the label of which.
        class_weights: By head, as of ``combined``.
        shares: (H,) further factors, of one batch of several; none: 1.

    Returns: the sum, 0-d, with a gradient (0 of a head of whose clips there are not the
        ``fewest``); by head, and of sums ``HEAD.TERM``, the values without.
    """
    import torch

    losses, told = [], {}
    for number, (name, weight, place, terms) in enumerate(heads):
        rows = known[:, number].nonzero().flatten()
        if len(rows) < fewest(terms):
            losses.append(0.0 * outputs[:, place].sum())
            continue
        own, parts = combined(
            terms, outputs[rows, place], targets[rows, place], class_weights.get(name)
        )
        losses.append(weight * own if shares is None else weight * shares[number] * own)
        told[name] = own.detach()
        if len(parts) > 1:
            told |= {f"{name}.{term}": value for term, value in parts.items()}
    return torch.stack(losses).sum(), told


@register_loss("cross-entropy", tasks=["classification", "distribution"], weighted=True)
def soft_cross_entropy(outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy with class probabilities as targets.

    Args:
        outputs: (B, C) logits.
        targets: (B, C) probabilities.
        weights: (C,) factor on the term of each class; none: 1.

    Returns: mean over the batch (its B, not the sum of weights), 0-d, nats.
    """
    from torch.nn import functional

    return functional.cross_entropy(outputs, targets, weight=weights)


@register_loss("kl", tasks=["distribution"])
def divergence(outputs: Tensor, targets: Tensor) -> Tensor:
    """Kullback-Leibler divergence of predicted shares from the true ones, mean over clips.

    Args: outputs: (B, C) logits. targets: (B, C) shares, rows sum to 1.
    Returns: 0-d, nats.
    """
    from torch.nn import functional

    return functional.kl_div(outputs.log_softmax(dim=1), targets, reduction="batchmean")


@register_loss("binary-cross-entropy", tasks=["multilabel"])
def binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each class on its own, mean over clips and classes.

    Args: outputs: (B, C) logits. targets: (B, C) in 0..1.
    Returns: 0-d, nats.
    """
    from torch.nn import functional

    return functional.binary_cross_entropy_with_logits(outputs, targets)


@register_loss("cumulative-link", tasks=["ordinal"])
def cumulative_link(outputs: Tensor, targets: Tensor) -> Tensor:
    """Negative logarithm of the probability of the true level under proportional odds.

    Args: outputs: (B, K) score and borders, see ``hicmae.heads.border_logits``. targets: (B, K)
        probability of each level (one-hot, or mixed).
    Returns: mean over clips, 0-d, nats.
    Source: McCullagh, 1980, Regression models for ordinal data.
    """
    import torch
    from torch.nn import functional

    from hicmae.heads import border_logits, border_steps

    logits = border_logits(outputs)  # (B, K - 1), falling from border to border
    # log(σ(a) − σ(b)) with a > b, without the difference of numbers that are nearly the same.
    gap = torch.log(-torch.expm1(-border_steps(outputs)))
    inner = functional.logsigmoid(logits[:, :-1]) + functional.logsigmoid(-logits[:, 1:]) + gap
    lowest, highest = functional.logsigmoid(-logits[:, :1]), functional.logsigmoid(logits[:, -1:])
    return -(targets * torch.cat([lowest, inner, highest], dim=1)).sum(dim=1).mean()


@register_loss("mse", tasks=["regression"])
def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error, 0-d."""
    from torch.nn import functional

    return functional.mse_loss(outputs, targets)


@register_loss("l1", tasks=["regression"])
def absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error, 0-d."""
    from torch.nn import functional

    return functional.l1_loss(outputs, targets)


@register_loss("ccc", tasks=["regression"], of_batch=True)
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
    import torch

    moment = max(len(outputs) - 1, 1)
    output_mean, target_mean = outputs.mean(dim=0), targets.mean(dim=0)  # (D,)
    output_gap, target_gap = outputs - output_mean, targets - target_mean  # (B, D)
    covariance = (output_gap * target_gap).sum(dim=0) / moment
    spread = (output_gap.square().sum(dim=0) + target_gap.square().sum(dim=0)) / moment
    shift = (output_mean - target_mean).square()
    # The tiny floor keeps a constant batch finite; real spreads are far above it.
    floor = torch.finfo(outputs.dtype).tiny
    return (1 - 2 * covariance / (spread + shift).clamp_min(floor)).mean()


def _losses_of(task: str) -> list[str]:
    return [name for name in LOSSES if task in LOSSES[name].make.tasks]
