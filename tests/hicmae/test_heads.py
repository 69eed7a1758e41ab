"""Blends: what is named, and what of it is right."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hicmae.heads import (
    UNCHOSEN,
    HeadLabels,
    Thresholds,
    blend_metrics,
    choose_thresholds,
    constant_outputs,
    named_blends,
)

LOW = Thresholds(0.1, 0.1)


@pytest.mark.parametrize(
    ("shares", "named"),
    [
        ([0.8, 0.1, 0.05, 0.05], [0.7, 0.3, 0, 0]),
        ([0.2, 0.7, 0.05, 0.05], [0.3, 0.7, 0, 0]),
        ([0.4, 0.35, 0.2, 0.05], [0.5, 0.5, 0, 0]),  # of three the two largest
        ([0.3, 0.3, 0.3, 0.1], [0.5, 0.5, 0, 0]),  # of equal ones the first
        ([0.45, 0.55, 0, 0], [0.5, 0.5, 0, 0]),  # a difference of exactly 0.1
        ([0.95, 0.05, 0, 0], [1, 0, 0, 0]),
        ([0.05, 0.04, 0.03, 0], [1, 0, 0, 0]),  # something is always named
        ([0.1, 0, 0, 0.9], [0, 0, 0, 1]),  # the last one does not blend
        ([0.6, 0, 0, 0.4], [1, 0, 0, 0]),
    ],
)
def test_shares_become_one_emotion_or_two_in_known_proportions(
    shares: list[float], named: list[float]
) -> None:
    assert named_blends(np.array([shares]), LOW, unblended=3)[0].tolist() == named
    assert (named_blends(np.eye(3), Thresholds(0, 0.1)) == np.eye(3)).all(), "0 is no part"


def test_the_accuracies_are_those_of_the_definition() -> None:
    """The samples that the published evaluation shows as its example, counted by hand."""
    anger, disgust, fear, happy, neutral = np.eye(5)
    cases = [  # true, named
        (anger, neutral),
        (anger, anger),
        (disgust, fear),
        (disgust, disgust),
        (fear, happy),
        (fear, fear),
        (0.5 * disgust + 0.5 * happy, 0.5 * disgust + 0.5 * happy),
        (0.7 * disgust + 0.3 * happy, 0.3 * disgust + 0.7 * happy),
        (0.3 * anger + 0.7 * happy, 0.3 * anger + 0.7 * happy),
        (0.5 * anger + 0.5 * happy, 0.5 * anger + 0.5 * happy),
        (0.3 * anger + 0.7 * happy, 0.3 * anger + 0.7 * happy),
        (0.5 * anger + 0.5 * happy, 0.3 * anger + 0.7 * happy),
        (0.5 * anger + 0.5 * happy, happy),  # half of a blend is neither
        (happy, 0.5 * anger + 0.5 * happy),
    ]
    true, named = (np.array(side) for side in zip(*cases, strict=True))
    found = blend_metrics(true, named)
    assert found == pytest.approx({"presence": 9 / 14, "salience": 4 / 7})
    assert math.isnan(blend_metrics(true[:6], named[:6])["salience"])


def test_thresholds_are_those_that_undo_how_shares_were_made() -> None:
    generator = np.random.default_rng(0)
    true = np.eye(5)[generator.integers(5, size=300)]
    for row in range(0, 300, 2):
        first, second = generator.permutation(4)[:2]
        share = (0.3, 0.5, 0.7)[row % 3]
        true[row] = share * np.eye(5)[first] + (1 - share) * np.eye(5)[second]
    shares = true + generator.uniform(0, 0.09, true.shape)
    chosen = choose_thresholds(true, shares, unblended=4)
    named = named_blends(shares, chosen, unblended=4)
    assert blend_metrics(true, named) == {"presence": 1, "salience": 1}
    assert blend_metrics(true, named_blends(shares, Thresholds(0.95, 0.05)))["presence"] < 0.7
    # Thresholds of each sample are those of all, one by one.
    own = Thresholds(*np.array([chosen, (0.95, 0.05)] * 150).T)
    mixed = named_blends(shares, own, unblended=4)
    assert (mixed[::2] == named[::2]).all()
    assert (mixed[1::2] == np.eye(5)[shares[1::2].argmax(axis=1)]).all()
    unchosen = named_blends(np.array([[0.16, 0.84], [0.41, 0.59]]), Thresholds(*UNCHOSEN))
    assert unchosen.tolist() == [[0.3, 0.7], [0.5, 0.5]]


def test_of_thresholds_that_are_as_good_the_smallest_are_chosen_also_where_nobody_blends() -> None:
    true, shares = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.88, 0.12], [0.57, 0.43]])
    assert choose_thresholds(true, shares) == Thresholds(0.15, 0.15)
    assert choose_thresholds(true[:1], shares[:1]) == Thresholds(0.15, 0.05)


def test_what_is_no_share_is_refused() -> None:
    fine = np.full((3, 4), 0.25)
    for wrong in (fine[:0], fine[:, :1], fine[0], fine - 1, fine * np.nan):
        with pytest.raises(ValueError, match=r"^blends: shares"):
            named_blends(wrong, LOW)
    with pytest.raises(ValueError, match=r"\(2, 4\) and \(3, 4\)"):
        blend_metrics(fine, fine[:2])


def test_a_head_answers_with_what_it_names() -> None:
    head = HeadLabels(
        name="emotions",
        kind="distribution",
        names=("joy", "fear", "calm"),
        thresholds=(0.2, 0.1),
        unblended="calm",
    )
    assert head.answer([0.3, 0.6, 0.1]) == "fear 70 + joy 30"
    assert head.answer([0.45, 0.5, 0.05]) == "joy 50 + fear 50"
    assert head.answer([0.3, 0.1, 0.6]) == "calm"
    assert HeadLabels(name="e", kind="distribution", names=("a", "b")).answer([0.7, 0.3]) == (
        "a 0.70, b 0.30"
    )
    several = HeadLabels(
        name="e", kind="multilabel", names=("joy", "fear", "awe"), thresholds=(0.5, 0.2, 0.9)
    )
    assert several.answer([0.5, 0.19, 0.95]) == "joy+awe"
    assert several.answer([0.4, 0.1, 0.8]) == "none"
    real = HeadLabels(name="v", kind="regression", names=("a", "b", "c"))
    assert real.answer([-0.3, 5e-5, -0.0]) == "a -0.30, b +5e-05, c +0.00"
    with pytest.raises(ValueError, match="1 thresholds \\(must be 0 or 2\\)"):
        HeadLabels(name="e", kind="distribution", names=("a", "b"), thresholds=(0.2,))


def test_of_ordered_levels_the_borders_alone_are_the_same_for_every_clip() -> None:
    heads = [
        HeadLabels(name="e", kind="classification", names=("a", "b")),
        HeadLabels(name="level", kind="ordinal", names=("1", "2", "3")),
    ]
    assert constant_outputs(heads) == (3, 4)
