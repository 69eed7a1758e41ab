"""Intervals and comparisons: drawn by speaker, equal to what one would do by hand."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest

from finetune.benchmark import Benchmark
from finetune.predictions import Prediction, make_prediction
from finetune.reporting import resampling
from finetune.reporting.resampling import class_intervals, compare, intervals, make_sums
from finetune.scores import score
from tests.support.finetune_fixtures import BENCHMARK, VALUES

THREE = dataclasses.replace(BENCHMARK, classes=("low", "mid", "high"), metrics=())
EVERY_VALUE = dataclasses.replace(VALUES, metrics=("ccc", "pcc", "mse"))


def classes(
    *, speakers: int = 6, each: int = 7, seed: int = 0, right: float = 0.6, named: bool = True
) -> list[Prediction]:
    """Predictions of three classes; the truth depends on the key alone."""
    truth, rng = np.random.default_rng(99), np.random.default_rng(seed)
    made = []
    for number in range(speakers * each):
        true = int(truth.integers(3))
        guess = true if rng.random() < right else int(rng.integers(3))
        made.append(
            make_prediction(
                THREE,
                key=f"k{number}",
                fold="1",
                speaker=f"s{number % speakers}" if named else "",
                true=THREE.classes[true],
                views=np.eye(3)[[guess]],
            )
        )
    return made


def values(*, speakers: int = 5, each: int = 6, seed: int = 0) -> list[Prediction]:
    """Predictions of two values far from zero."""
    truth, rng = np.random.default_rng(98), np.random.default_rng(seed)
    made = []
    for number in range(speakers * each):
        true = truth.normal(size=2) + 50
        made.append(
            make_prediction(
                VALUES,
                key=f"k{number}",
                fold="1",
                speaker=f"s{number % speakers}",
                true=true,
                views=(true + rng.normal(scale=0.5, size=2))[None],
            )
        )
    return made


def constant(items: list[Prediction]) -> list[Prediction]:
    """The same with one and the same valence predicted of everybody."""
    return [dataclasses.replace(item, predicted=(50.1, item.predicted[1])) for item in items]


def drawn(items: list[Prediction], speakers: list[str]) -> list[Prediction]:
    """The samples of some speakers, as often as they were drawn."""
    return [item for name in speakers for item in items if item.speaker == name]


@pytest.mark.parametrize(
    ("benchmark", "made"),
    [(THREE, classes()), (EVERY_VALUE, values()), (EVERY_VALUE, constant(values()))],
)
def test_weighted_sums_give_the_metrics_of_the_drawn_samples(
    benchmark: Benchmark, made: list[Prediction]
) -> None:
    """Against the metrics themselves, for draws that repeat and leave out speakers."""
    sums = make_sums(benchmark, [made])
    names = sorted({item.speaker for item in made})
    assert (sums.by, sums.num_clusters) == ("speaker", len(names))
    rng = np.random.default_rng(3)
    weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=20)
    found = sums.metrics(sums.total(0, weights.astype(float)))
    for row, counts in enumerate(weights):
        chosen = [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
        expected = score(benchmark, drawn(made, chosen))
        assert {name: each[row] for name, each in found.items()} == pytest.approx(
            expected, nan_ok=True
        )


def test_a_draw_without_a_class_or_with_constant_truths_is_scored_as_the_metrics_say() -> None:
    sums = make_sums(THREE, [classes()])
    only_low = np.zeros((1, 9))
    only_low[0, :2] = (3, 1)  # three low found, one taken for mid
    assert sums.metrics(only_low)["uar"] == pytest.approx([0.75])
    assert sums.metrics(only_low)["macro_f1"] == pytest.approx([6 / 7 / 2])
    flat = [
        make_prediction(VALUES, key=str(n), fold="1", speaker=f"s{n}", true=(0.3, n), views=view)
        for n, view in enumerate(np.random.default_rng(0).normal(size=(6, 1, 2)))
    ]
    found = intervals(VALUES, [flat])
    assert all(math.isnan(end) for end in found.values["ccc_valence"])
    assert not any(math.isnan(end) for end in found.values["ccc_arousal"])


@pytest.mark.slow
def test_the_interval_is_that_of_a_bootstrap_done_by_hand() -> None:
    made = classes()
    names = sorted({item.speaker for item in made})
    rng = np.random.default_rng(5)
    by_hand = [
        score(THREE, drawn(made, list(rng.choice(names, size=len(names)))))["uar"]
        for _ in range(400)
    ]
    found = intervals(THREE, [made])
    assert found.by == "speaker"
    assert found.values["uar"] == pytest.approx(np.percentile(by_hand, [2.5, 97.5]), abs=0.03)
    assert intervals(THREE, [made]) == found  # seeded


@pytest.mark.parametrize(("undefined", "is_known"), [(5, True), (6, False)])
def test_an_interval_is_of_the_draws_in_which_the_metric_is_defined_if_most_are(
    undefined: int, is_known: bool
) -> None:
    draws = np.arange(100.0)
    draws[:undefined] = np.nan
    low, high = resampling._percentiles(draws)
    assert (low, high) == pytest.approx((7.35, 96.65)) if is_known else math.isnan(low)


def test_speakers_make_the_interval_wider_than_samples_where_they_differ() -> None:
    """A speaker who is always right beside one who is always wrong."""
    made = [
        make_prediction(
            BENCHMARK,
            key=f"k{number}",
            fold="1",
            speaker=f"s{number % 8}",
            true=BENCHMARK.classes[number // 8 % 2],
            views=np.eye(2)[[(number // 8 + number) % 2]],  # odd speakers are wrong
        )
        for number in range(160)
    ]
    people = intervals(BENCHMARK, [made])
    alone = intervals(BENCHMARK, [[dataclasses.replace(item, speaker="") for item in made]])
    assert (people.num_clusters, alone.num_clusters, alone.by) == (8, 160, "sample")
    low, high = people.values["war"]
    assert high - low > 2 * np.subtract(*alone.values["war"][::-1])
    assert "speakers are not named" in alone.sentence()
    assert "only 8 of them" in people.sentence()


def test_samples_without_a_speaker_are_drawn_alone_and_all_others_by_theirs() -> None:
    """One unnamed sample of many does not make everybody's interval narrow."""
    made = classes()
    made[:2] = [dataclasses.replace(item, speaker="") for item in made[:2]]
    alike = [dataclasses.replace(item, speaker=item.speaker or f"~{item.key}") for item in made]
    found = intervals(THREE, [made])
    assert (found.by, found.num_clusters) == ("speaker", 8)
    assert "each sample without one, 2 in all, counts as one of its own" in found.sentence()
    for name, ends in intervals(THREE, [alike]).values.items():
        assert found.values[name] == pytest.approx(ends, abs=0.03)
    assert compare(THREE, [made], [made]).num_clusters == 8


def test_one_speaker_has_no_interval_but_its_samples_do() -> None:
    made = classes(speakers=1, each=30)
    found = intervals(THREE, [made])
    assert found.by == "sample"
    assert "(there is one speaker, so people are not drawn)" in found.sentence()
    single = intervals(THREE, [made[:1]])
    assert math.isnan(single.values["uar"][0])
    assert np.isnan(class_intervals(THREE, made[:1])).all()
    alone = compare(THREE, [made[:1]], [made[:1]])
    assert (math.isnan(alone.low), alone.difference) == (True, 0)


def test_a_gap_that_is_no_number_has_no_p_value() -> None:
    """And not the smallest there is: of truths that are all the same there is no CCC."""
    flat = [dataclasses.replace(item, true=(0.3, 0.5)) for item in values()]
    found = compare(VALUES, [flat], [constant(flat)])
    assert (math.isnan(found.difference), math.isnan(found.p_value)) == (True, True)


def test_the_mean_over_seeds_varies_less_than_a_seed() -> None:
    runs = [classes(seed=seed) for seed in range(4)]
    one, mean = (intervals(THREE, runs[:count]).values["war"] for count in (1, 4))
    assert mean[1] - mean[0] < one[1] - one[0]


def test_the_p_value_of_few_speakers_is_that_of_all_swaps() -> None:
    first, second = classes(seed=1, right=0.9), classes(seed=2, right=0.3)
    found = compare(THREE, [first], [second])
    names = sorted({item.speaker for item in first})
    seen = score(THREE, first)["uar"] - score(THREE, second)["uar"]
    assert found.difference == pytest.approx(seen)
    gaps = []
    for stays in itertools.product((False, True), repeat=len(names)):
        stay = dict(zip(names, stays, strict=True))
        sides = [
            [a if stay[a.speaker] == own else b for a, b in zip(first, second, strict=True)]
            for own in (True, False)
        ]
        gaps.append(score(THREE, sides[0])["uar"] - score(THREE, sides[1])["uar"])
    assert (found.exact, found.method) == (True, "all swaps of 6 values of speaker")
    assert found.p_value == pytest.approx(np.mean(np.abs(gaps) >= abs(seen) - 1e-12))
    assert found.low < seen < found.high
    assert found.low > 0  # a gap this large is seen


@pytest.mark.parametrize(("speakers", "exact"), [(10, True), (11, False)])  # 1024, 2048 swaps
def test_the_p_value_of_many_speakers_is_of_random_swaps_and_the_seen_one(
    speakers: int, exact: bool
) -> None:
    """So that it is never 0, which no number of draws can say."""
    found = compare(
        THREE,
        [classes(speakers=speakers, seed=1, right=1.0)],
        [classes(speakers=speakers, seed=2, right=0.0)],
    )
    assert found.exact == exact
    reached = found.p_value * (2**speakers if exact else resampling.NUM_DRAWS + 1)
    assert reached == pytest.approx(max(1, round(reached)))


def test_so_many_draws_are_made_however_many_clusters_there_are() -> None:
    assert [sum(resampling._blocks(2000, size)) for size in (1, 3000, 10**7)] == [2000] * 3


@pytest.mark.slow
def test_runs_that_are_alike_do_not_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    made = classes(speakers=20)
    same = compare(THREE, [made], [made])
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    assert not same.exact
    # Under the hypothesis a p-value below 0.2 comes in a fifth of the cases.
    monkeypatch.setattr(resampling, "NUM_DRAWS", 300)
    below = np.mean(
        [
            compare(
                THREE,
                [classes(speakers=20, seed=2 * trial)],
                [classes(speakers=20, seed=2 * trial + 1)],
            ).p_value
            < 0.2
            for trial in range(120)
        ]
    )
    assert 0.1 < below < 0.31


def test_pairing_is_by_key_and_narrows_the_interval() -> None:
    """Two runs that differ in a few samples: the gap is surer than two intervals would say."""
    first = classes(speakers=20, each=10)
    second = [
        dataclasses.replace(item, predicted=item.true) if number % 29 == 0 else item
        for number, item in enumerate(first)
    ]
    found = compare(THREE, [second], [list(reversed(first))])
    own = intervals(THREE, [first]).values["uar"]
    assert 0 < found.high - found.low < 0.5 * (own[1] - own[0])
    assert found.difference > 0


def test_seeds_are_paired_in_order_and_unequal_numbers_give_no_p_value() -> None:
    runs = [classes(seed=seed) for seed in range(3)]
    assert not math.isnan(compare(THREE, runs[:1], runs[1:2]).p_value)
    uneven = compare(THREE, runs[:2], runs[2:])
    assert math.isnan(uneven.p_value)
    assert uneven.method == "n/a"  # no swaps were tried
    assert uneven.low <= uneven.difference <= uneven.high
    with pytest.raises(AssertionError, match="other samples"):
        compare(THREE, runs[:1], [runs[1][:-1]])
