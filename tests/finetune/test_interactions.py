"""Redundancy, uniqueness and synergy are what they were made to be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import rel_entr

from finetune.predictions import Prediction, make_prediction
from finetune.testing.interactions import (
    Interactions,
    discrete,
    information,
    interactions,
    union_information,
)
from finetune.testing.perturbations import Condition
from tests.support.finetune_fixtures import BENCHMARK, VALUES

BITS = np.array([(a, b) for a in (0, 1) for b in (0, 1)] * 25)
FIRST, SECOND = BITS.T


def joint(values: np.ndarray, label: np.ndarray) -> np.ndarray:
    counts = np.zeros((2, label.max() + 1))
    np.add.at(counts, (values, label), 1 / len(label))
    return counts


def test_what_only_both_tell_is_synergy() -> None:
    """Exclusive or: each prediction alone is a guess, the network with both is always right."""
    label = FIRST ^ SECOND
    for said in ((FIRST, SECOND), (np.zeros_like(label), np.ones_like(label))):
        found = interactions(*said, label, label)
        assert (found.redundant, found.first, found.second) == pytest.approx((0, 0, 0), abs=1e-5)
        assert found.synergy == pytest.approx((1, 1), abs=1e-5)
        assert found.label == pytest.approx(1)
    # Of two constants no fusion gains anything, of the two bits it may gain all.
    assert found.synergy_of_predictions == pytest.approx((0, 0), abs=1e-5)
    assert interactions(FIRST, SECOND, label, label).synergy_of_predictions == pytest.approx(
        (0, 1), abs=1e-5
    )


def test_what_either_tells_is_redundant() -> None:
    found = interactions(FIRST, FIRST, FIRST, FIRST)
    assert found.redundant == pytest.approx(1, abs=1e-5)
    assert (found.first, found.second) == pytest.approx((0, 0), abs=1e-5)
    assert found.synergy == pytest.approx((0, 0), abs=1e-5)
    assert found.disagreement == 0


@pytest.mark.parametrize("swapped", [False, True])
def test_what_one_alone_tells_is_unique_to_it(swapped: bool) -> None:
    said = (SECOND, FIRST) if swapped else (FIRST, SECOND)
    found = interactions(*said, FIRST, FIRST)
    assert (found.first, found.second) == pytest.approx((0, 1) if swapped else (1, 0), abs=1e-5)
    assert found.redundant == pytest.approx(0, abs=1e-5)
    assert found.synergy == pytest.approx((0, 0), abs=1e-5)
    assert found.disagreement == 0.5


def test_two_halves_of_a_label_are_both_unique() -> None:
    """Of four classes each modality tells one bit."""
    label = 2 * FIRST + SECOND
    found = interactions(FIRST, SECOND, label, label)
    assert (found.redundant, found.first, found.second) == pytest.approx((0, 1, 1), abs=1e-5)
    assert found.synergy == pytest.approx((0, 0), abs=1e-5)


@pytest.mark.parametrize(
    ("gate", "redundant", "unique"),
    [
        # Source: Bertschinger et al., 2014, table 1 (AND: 0.311 shared, 1/2 synergy).
        (np.bitwise_and, 0.3113, 0.0),
        (np.bitwise_or, 0.3113, 0.0),
        (np.bitwise_xor, 0.0, 0.0),
    ],
)
def test_gates_are_decomposed_as_published(
    gate: Callable[..., np.ndarray], redundant: float, unique: float
) -> None:
    label = gate(FIRST, SECOND)
    found = interactions(FIRST, SECOND, label, label)
    assert found.redundant == pytest.approx(redundant, abs=1e-3)
    assert (found.first, found.second) == pytest.approx((unique, unique), abs=1e-3)
    # All of the label is told by both, so the bounds meet.
    assert found.synergy[0] == pytest.approx(found.synergy[1], abs=1e-3)
    if gate is np.bitwise_and:
        assert found.synergy[0] == pytest.approx(0.5, abs=1e-3)
        # What the two predictions tell together the inputs do, whatever a network makes of them.
        blind = interactions(FIRST, SECOND, np.zeros_like(label), label)
        assert blind.synergy[0] == pytest.approx(0.5, abs=2e-3)


@pytest.mark.slow
def test_the_least_information_is_that_of_a_search() -> None:
    """Against a search over every q of two bits, of which each label leaves one number free."""
    generator = np.random.default_rng(0)
    for _ in range(5):
        true = generator.dirichlet(np.ones(8)).reshape(2, 2, 2)  # x1, x2, y
        cells = []
        for label in (0, 1):
            rows, columns = true[:, :, label].sum(axis=1), true[:, :, label].sum(axis=0)
            low, high = max(0.0, rows[0] - columns[1]), min(rows[0], columns[0])
            corner = np.linspace(low, high, 201)
            rest = (rows[0] - corner, columns[0] - corner, rows[1] - columns[0] + corner)
            cells.append(np.clip([corner, *rest], 0, 1))
        # (4, 2, 201, 201): of each label's numbers all pairs.
        q = np.stack(np.broadcast_arrays(cells[0][:, :, None], cells[1][:, None]), axis=1)
        apart = q.sum(axis=0, keepdims=True) * q.sum(axis=1, keepdims=True)
        best = rel_entr(q, apart).sum(axis=(0, 1)).min() / np.log(2)
        found = union_information(true.sum(axis=1), true.sum(axis=0))
        assert found == pytest.approx(best, abs=1e-4)
        assert found <= information(true.reshape(4, 2)) + 1e-6


def test_the_truth_lies_between_the_bounds() -> None:
    """Of random predictions whose joint distribution is known, and a network that sees it."""
    generator = np.random.default_rng(1)
    for _ in range(5):
        first, second, label = (
            generator.choice(27, size=400, p=generator.dirichlet(np.full(27, 0.3)))
            // np.array([[9], [3], [1]])
            % 3
        )
        pair = 3 * first + second
        found: Interactions = interactions(first, second, pair, label)
        counts = np.zeros((9, 3))
        np.add.at(counts, (pair, label), 1 / 400)
        told = found.redundant + found.first + found.second
        synergy = information(counts) - told
        least, most = found.synergy_of_predictions
        assert least - 1e-4 <= synergy <= most + 1e-4
        assert found.synergy[0] == pytest.approx(synergy, abs=1e-4)
        assert synergy <= found.synergy[1] + 1e-4


def said(condition: str, number: int, views: list[list[float]], true: object) -> Prediction:
    return make_prediction(
        VALUES if isinstance(true, tuple) else BENCHMARK,
        key=f"k{number:03d}",
        fold="1",
        speaker="s",
        true=true,
        views=np.array(views),
    )


def test_what_is_decomposed_are_the_same_samples_in_each_condition() -> None:
    label = FIRST ^ SECOND
    by_condition = {
        Condition(kind=kind): [
            said(kind, number, [np.eye(2)[value].tolist()], BENCHMARK.classes[label[number]])
            for number, value in order(enumerate(values))
        ]
        for kind, values, order in (
            ("unspoiled", label, list),
            ("audio-only", FIRST, list),
            ("video-only", SECOND, lambda items: sorted(items, key=lambda item: -item[0])),
        )
    }
    sound, picture, both, true = discrete(BENCHMARK, by_condition)["emotion"]
    assert sound.tolist() == FIRST.tolist()
    assert picture.tolist() == SECOND.tolist()
    assert both.tolist() == true.tolist() == label.tolist()
    del by_condition[Condition(kind="video-only")]
    assert discrete(BENCHMARK, by_condition) == {}


def test_real_values_become_thirds_by_their_order() -> None:
    values = np.linspace(-1, 1, 9)
    by_condition = {
        Condition(kind=kind): [
            said(kind, number, [[scale * value + 3, value]], (float(value), float(-value)))
            for number, value in enumerate(values)
        ]
        for kind, scale in (("unspoiled", 1), ("audio-only", 0.01), ("video-only", 0))
    }
    found = discrete(VALUES, by_condition)
    sound, picture, both, true = found["valence"]
    assert true.tolist() == both.tolist() == sound.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len(set(picture.tolist())) == 1  # one value for everybody tells nothing
    assert found["arousal"][3].tolist() == true.tolist()[::-1]


def test_values_above_a_lowest_one_that_most_have_are_told_apart() -> None:
    """As many labels are where nothing is felt: 0 for 7 of 9."""
    values = np.array([0, 0, 0, 0, 0, 0, 0, 0.7, 0.9])
    for sign in (1, -1):
        by_condition = {
            Condition(kind=kind): [
                said(kind, number, [[value, value]], (float(value), float(value)))
                for number, value in enumerate(sign * values)
            ]
            for kind in ("unspoiled", "audio-only", "video-only")
        }
        sound, picture, both, true = discrete(VALUES, by_condition)["valence"]
        found = interactions(sound, picture, both, true)
        assert found.label == pytest.approx(-(7 / 9 * np.log2(7 / 9) + 2 / 9 * np.log2(2 / 9)))
        assert found.redundant == pytest.approx(found.label, abs=1e-3)
