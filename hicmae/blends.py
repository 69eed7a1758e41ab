"""Which emotions a person shows at once, and which of them more: accuracies of blends.

Source: Lachmann et al., 2026, arXiv 2601.13225 (BLEMORE), and its published evaluation
(https://github.com/BlEmoRe/blemore-common, README). A prediction names one emotion, or two with
50/50, 70/30 or 30/70. Presence is right where exactly the true emotions are named, over all
samples; salience where their proportions are too, over samples that show two.

Shape letters: N samples, K emotions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_GRID = tuple(np.linspace(0.05, 0.95, 19).round(2).tolist())
_MORE, _LESS = 0.7, 0.3  # of a blend in which one emotion leads


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
    _check(shares)
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
    _check(true, named)
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
        unblended: As of ``named_blends``.

    Source: the published evaluation, which searches a grid from 0.05 to 0.95.
    """
    _check(true, shares)
    best, chosen = -1.0, Thresholds(_GRID[0], _GRID[0])
    for presence in _GRID:
        for equal in _GRID:
            candidate = Thresholds(presence, equal)
            named = named_blends(shares, candidate, unblended=unblended)
            score = float(np.nanmean(list(blend_metrics(true, named).values())))
            if score > best + 1e-12:
                best, chosen = score, candidate
    return chosen


def _check(*shares: np.ndarray) -> None:
    shapes = {part.shape for part in shares}
    if len(shapes) > 1 or shares[0].ndim != 2 or len(shares[0]) == 0 or shares[0].shape[1] < 2:
        raise ValueError(
            f"blends: shares of shapes {' and '.join(map(str, sorted(shapes)))} (must be the same"
            " (N, K), N not 0, K 2 or more)"
        )
    if not all(np.isfinite(part).all() and (part >= 0).all() for part in shares):
        raise ValueError("blends: shares hold values that are negative or not finite")
