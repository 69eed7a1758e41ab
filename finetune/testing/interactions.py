"""Which information about the label both modalities carry, one alone, or only the two together.

Redundancy, uniqueness and synergy are those of Bertschinger et al., 2014, *Quantifying unique
information*: with Δ the distributions q(x1, x2, y) that have the true p(x1, y) and p(x2, y), the
least I_q(x1 x2; y) over Δ is what the two tell without synergy. Of it, what exceeds the other
modality's own information is unique, the rest of it redundant. These three need no sample of which
both modalities and the label are known. Synergy does, and without one it has bounds only (Liang et
al., 2023, *Multimodal learning without labelled multimodal data*, arXiv 2306.04539):

- at least what the distribution of largest entropy with all three pairs p(x1, y), p(x2, y) and
  p(x1, x2) has beyond Δ's least (their bound by redundancy);
- at most what a coupling of p(x1, x2) with p(y) can have beyond it. Deviation: the entropy of the
  best coupling is bounded from below (Cicalese et al., 2019, *Minimum-entropy couplings*), where
  they take that of a greedy one, which may lie above it and then makes the bound too low.

Their bound by disagreement has a constant that they leave open; here the disagreement stands as it
is. The network that is given both modalities adds a bound of its own: no processing adds
information (Cover and Thomas, 2006, section 2.8), so its inputs say at least what it says.

What stands for a modality is what the network predicts from it alone, a class or a third of the
predicted values. This assumes that the prediction is all that the modality tells of the label.

Shape letters: N samples, K labels, A and B values of the two modalities. Information is in bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from finetune.benchmark import Benchmark
from finetune.predictions import Prediction, head_arrays, of_head
from finetune.record import RunFacts
from finetune.reporting.document import Table
from finetune.scores import scored_units
from finetune.testing.perturbations import UNSPOILED, Condition

_SHUFFLES = 10
_MOST_SHUFFLED = 15  # labels; more of them take minutes
_CONDITIONS = tuple(Condition(kind=kind) for kind in ("audio-only", "video-only", UNSPOILED))
_TOLERANCE = 1e-4  # bits that an iteration may leave


@dataclass(frozen=True, kw_only=True)
class Interactions:
    """Information about the label, bits.

    Args:
        label: Entropy of the label.
        redundant: What either modality tells.
        first, second: What only the one tells.
        synergy_of_predictions: Least and most that the two predictions tell beyond all this when
            they are looked at together: what a fusion of them can gain.
        synergy: Least and most of what the two inputs tell beyond it.
        disagreement: Share of samples of which the two predictions differ.
    """

    label: float
    redundant: float
    first: float
    second: float
    synergy_of_predictions: tuple[float, float]
    synergy: tuple[float, float]
    disagreement: float


class Columns(NamedTuple):
    """What is decomposed, each (N,) whole numbers: three predictions, and the truth."""

    sound: np.ndarray
    picture: np.ndarray
    both: np.ndarray
    label: np.ndarray


def interactions(
    first: np.ndarray, second: np.ndarray, both: np.ndarray, label: np.ndarray
) -> Interactions:
    """Decompose what predictions tell of the label, all of them whole numbers from 0.

    Args: first, second, both, label: (N,): from either modality alone, from both; the truth.
    """
    of_first, of_second = _joint(first, label), _joint(second, label)
    pairs = _joint(first, second)
    united = union_information(of_first, of_second)
    mine, theirs = information(of_first), information(of_second)
    entropy, entropy_of_pairs = _entropy(of_first.sum(axis=0)), _entropy(pairs)
    least = entropy_of_pairs + entropy - _largest_entropy(of_first, of_second, pairs)
    most = entropy_of_pairs + entropy - _coupling_entropy(pairs, of_first.sum(axis=0))
    fused = (max(0.0, least - united), max(0.0, most - united))
    seen = information(_joint(both, label))
    return Interactions(
        label=entropy,
        redundant=max(0.0, mine + theirs - united),
        first=max(0.0, united - theirs),
        second=max(0.0, united - mine),
        synergy_of_predictions=fused,
        synergy=(max(fused[0], seen - united), max(0.0, entropy - united)),
        disagreement=float(np.mean(first != second)),
    )


def interaction_parts(
    benchmark: Benchmark, predictions: Mapping[Condition, Sequence[Prediction]], facts: RunFacts
) -> list[str]:
    """The section of the modality report; nothing for networks of one modality.

    Args:
        predictions: Of the same samples in each condition.
    """
    parts = [_HOW_TO_READ]
    for name, columns in discrete(benchmark, predictions).items():
        found, generator = interactions(*columns), np.random.default_rng(0)
        few = len(np.unique(columns.label)) <= _MOST_SHUFFLED
        shuffled = [
            interactions(*columns._replace(label=generator.permutation(columns.label)))
            for _ in range(_SHUFFLES if few else 0)
        ]
        parts.append(_table(name, found, shuffled, facts).markdown())
        parts.append(
            f"The predictions from sound and from picture differ for {found.disagreement:.0%} of"
            f" {len(columns.label)} pairs."
        )
    return parts if parts[1:] else []


def discrete(
    benchmark: Benchmark, predictions: Mapping[Condition, Sequence[Prediction]]
) -> dict[str, Columns]:
    """What is decomposed, by the name of the label.

    Real values become thirds of the true values' and of each condition's own, which asks for their
    order and not for their scale. Nothing where a modality was not tested alone, and nothing of
    several classes at once and of shares, which are no one label.
    """
    if not all(condition in predictions for condition in _CONDITIONS):
        return {}
    conditions = [
        sorted(scored_units(benchmark, predictions[condition]), key=lambda i: (i.fold, i.key))
        for condition in _CONDITIONS
    ]
    made = {}
    for head in benchmark.every_head:
        if head.kind in ("multilabel", "distribution") or not of_head(head, conditions[0]):
            continue
        found = [head_arrays(head, of_head(head, units)) for units in conditions]
        (label, sound), (_, picture), (_, both) = found
        columns = Columns(sound, picture, both, label)
        if head.kind != "regression":
            made[head.name or benchmark.label or "label"] = columns
            continue
        for place, target in enumerate(head.targets):
            name = f"{head.name}.{target}" if head.name else target
            made[name] = Columns(*(_thirds(values[:, place]) for values in columns))
    return made


def information(joint: np.ndarray) -> float:
    """Mutual information of the rows and columns of a distribution (A, B)."""
    return _entropy(joint.sum(axis=0)) + _entropy(joint.sum(axis=1)) - _entropy(joint)


def union_information(first: np.ndarray, second: np.ndarray) -> float:
    """Least information that two variables have about a label, given that of each alone.

    Args:
        first: p(x1, y), (A, K).
        second: p(x2, y), (B, K), with the same p(y).

    Source: Banerjee, Rauh and Montufar, 2018, *Computing the unique information*: divergence is
        minimised in turn over q, which is one matrix scaling a label, and over p(x1, x2). It ends
        where no such step can gain ``_TOLERANCE``, or after 500.
    """
    label = first.sum(axis=0)
    first, second, label = first[:, label > 0], second[:, label > 0], label[label > 0]
    rows, columns = (first / label).T[:, :, None], (second / label).T[:, None, :]
    scale = np.ones_like(columns)
    given = rows * columns  # (K, A, B) of x1 and x2 for each label; independent at first
    pairs = np.tensordot(label, given, 1)  # (A, B)
    for _ in range(500):
        for _ in range(30):
            of_rows = _ratio(rows, (pairs * scale).sum(axis=2, keepdims=True))
            new = _ratio(columns, (pairs * of_rows).sum(axis=1, keepdims=True))
            given = pairs * of_rows * new
            scale = new
            if np.abs(given.sum(axis=2, keepdims=True) - rows).max() < 1e-6:
                break
        after = np.tensordot(label, given, 1)
        gain = np.log2(_ratio(after, pairs).max())
        pairs = after
        if gain < _TOLERANCE:
            break
    joint = given * label[:, None, None]
    return _entropy(label) + _entropy(pairs) - _entropy(joint)


def _largest_entropy(first: np.ndarray, second: np.ndarray, pairs: np.ndarray) -> float:
    """Of all distributions (A, B, K) with p(x1, y), p(x2, y) and p(x1, x2): iterative scaling.

    Source: Darroch and Ratcliff, 1972, *Generalized iterative scaling for log-linear models*.
    """
    joint = np.ones((*pairs.shape, first.shape[1]))
    for _ in range(1000):
        before = joint
        joint = joint * _ratio(pairs, joint.sum(axis=2))[:, :, None]
        joint = joint * _ratio(first, joint.sum(axis=1))[:, None, :]
        joint = joint * _ratio(second, joint.sum(axis=0))[None]
        if np.abs(joint - before).max() < 1e-7:
            break
    return _entropy(joint)


def _coupling_entropy(pairs: np.ndarray, label: np.ndarray) -> float:
    """A bound from below of the entropy of any distribution that has both of these."""
    sums = [np.cumsum(np.sort(part.ravel())[::-1]) for part in (pairs, label)]
    length = max(map(len, sums))
    padded = [np.pad(part, (0, length - len(part)), mode="edge") for part in sums]
    return _entropy(np.diff(np.minimum(*padded), prepend=0.0))


def _joint(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Shares of samples (A, B) with each pair of values; those that occur, in their order."""
    counts = np.zeros([len(np.unique(values)) for values in (first, second)])
    places = [np.unique(values, return_inverse=True)[1] for values in (first, second)]
    np.add.at(counts, tuple(places), 1)
    return counts / len(first)


def _entropy(shares: np.ndarray) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log2(positive)).sum())


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Where nothing is divided by nothing, 0."""
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below > 0)


def _thirds(values: np.ndarray) -> np.ndarray:
    """(N,) numbers of the thirds, 0 to 2; equal values are in the same one."""
    low, high = np.quantile(values, [1 / 3, 2 / 3])
    # Where two thirds have the lowest value, all are at or above both borders: what lies above
    # the lowest is then told apart from it, as what lies below a most frequent highest one is.
    return np.digitize(values, [low, high], right=bool(high == values.min()))


def _table(
    name: str, found: Interactions, shuffled: Sequence[Interactions], facts: RunFacts
) -> Table:
    """One row a part: bits, share of the label's, and what chance would give."""

    def bits(item: Interactions) -> list[float]:
        alone = [item.redundant, item.first, item.second]
        return [*alone, *item.synergy, *item.synergy_of_predictions]

    whats = (
        "sound or picture (redundancy)",
        "sound alone (unique)",
        "picture alone (unique)",
        "both together (synergy), at least",
        "both together (synergy), at most",
        "of it a fusion of the two predictions, at least",
        "of it a fusion of the two predictions, at most",
    )
    by_chance = [f"{np.mean(each):z.2f}" for each in zip(*map(bits, shuffled), strict=True)]
    return Table(
        columns=[
            f"told of {name} by (selection: {facts.rule})",
            f"of {found.label:.2f} bits",
            "share",
            "with shuffled labels",
        ],
        rows=[
            [
                what,
                facts.mark(f"{value:z.2f}"),
                f"{value / found.label:.0%}" if found.label else "n/a",
                chance,
            ]
            for what, value, chance in zip(
                whats, bits(found), by_chance or ["n/a"] * len(whats), strict=True
            )
        ],
    )


_HOW_TO_READ = (
    "**What the modalities tell together.** Information about the label, from the predictions "
    "with the sound alone, the picture alone and both (Bertschinger et al., 2014; Liang et al., "
    "2023, arXiv 2306.04539). Synergy is known only between bounds: at least what the network "
    "with both tells beyond the rest, at most what of the label is left. Assumed: all that a "
    "modality tells of the label is in the class (of real values: the third) that the network "
    "predicts from it alone. A network that never met one modality alone in training makes "
    "redundancy and uniqueness too low by it, and synergy too high. Few samples make all "
    "information too high: the last column is what the same samples give when their labels are "
    "shuffled."
)
