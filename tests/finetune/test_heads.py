"""Kinds of heads: labels as numbers, losses, scores and thresholds against other computations."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    f1_score,
    mean_absolute_error,
    mean_squared_error,
    precision_recall_fscore_support,
)

from finetune import validation
from finetune.benchmark import Benchmark, load_benchmark
from finetune.folds import check_heads
from finetune.heads import Head, read_truth
from finetune.losses import combined_heads, cumulative_link, loss_terms
from finetune.predictions import Prediction, make_prediction
from finetune.record import Run
from finetune.reporting.resampling import make_sums
from finetune.reporting.run_report import head_sections
from finetune.scores import metric_name, score, score_run, undefined
from finetune.validation import best_thresholds
from hicmae.config import from_dict, to_dict
from hicmae.heads import LEAST_STEP, border_logits, head_values
from hicmae.metrics import distribution_metrics, multilabel_metrics, ordinal_metrics

LEVELS = ("little", "some", "much")
NAMES = ("a", "b", "c")
TAGS = Head(name="tags", kind="multilabel", label="tags", classes=NAMES)
SHARES = Head(name="shares", kind="distribution", classes=NAMES, columns=("sa", "sb", "sc"))
LEVEL = Head(name="level", kind="ordinal", label="level", classes=LEVELS)
REAL = Head(name="real", kind="regression", targets=("valence",), metrics=("ccc", "pcc", "mse"))
CLASS = Head(name="class", kind="classification", label="class", classes=NAMES)
ALL = Benchmark(name="all", task="joint", heads=(TAGS, SHARES, LEVEL, REAL, CLASS))


def rows(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({"key": ["k0", "k1", "k2"], **columns})


def test_labels_of_each_kind_become_numbers_and_gaps_are_known() -> None:
    truth, known = read_truth(TAGS, rows(tags=["a; c", "", "b"]))
    assert truth.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert known.tolist() == [True, False, True]
    truth, known = read_truth(
        SHARES, rows(sa=[70, 0.2, None], sb=[30, 0.3, None], sc=[0, 0.5, None])
    )
    assert truth.tolist() == [
        pytest.approx(row) for row in ([0.7, 0.3, 0], [0.2, 0.3, 0.5], [0] * 3)
    ]
    assert known.tolist() == [True, True, False]
    votes = dataclasses.replace(SHARES, columns=(), votes=("sa", "sb", "sc"))
    truth, known = read_truth(votes, rows(sa=[3, 0, 1], sb=[1, 0, None], sc=[0, 0, 1]))
    assert truth.tolist() == [[0.75, 0.25, 0], [0, 0, 0], [0.5, 0, 0.5]]
    assert known.tolist() == [True, False, True]
    flags = dataclasses.replace(TAGS, label=None, columns=("sa", "sb", "sc"))
    truth, known = read_truth(flags, rows(sa=[1, 0, 0], sb=[1, 0, None], sc=[0, 0, 1]))
    assert truth[:2].tolist() == [[1, 1, 0], [0, 0, 0]]
    assert known.tolist() == [True, True, False]
    truth, known = read_truth(LEVEL, rows(level=["much", "some", None]))
    assert truth.argmax(axis=1).tolist() == [2, 1, 0]
    assert known.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("head", "columns", "message"),
    [
        (
            SHARES,
            {"sa": [1, 0.5, 1], "sb": [0, 0.2, 0], "sc": [0] * 3},
            "sum to 0.7 .*to 1 or to 100",
        ),
        (SHARES, {"sa": [1, -1, 1], "sb": [0, 2, 0], "sc": [0] * 3}, "'k1': sa = .* is no share"),
        (TAGS, {"tags": ["a", "a;d", "b"]}, "sample 'k1': tags 'd' is no class of head 'tags'"),
        (LEVEL, {"level": ["much", "mush", "some"]}, "level 'mush' .*did you mean"),
        (REAL, {"valence": [1, "high", 2]}, "'k1': valence = 'high' is no finite number"),
        (REAL, {"valence": [1, "-0,5", 2]}, r"\(1 such samples; .*\); write -0\.5, with a point"),
    ],
)
def test_labels_that_are_wrong_are_refused_by_sample(
    head: Head, columns: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_truth(head, rows(**columns))


@pytest.mark.parametrize("head", [TAGS, LEVEL, CLASS])
def test_a_class_of_any_head_that_nobody_in_training_has_is_refused(head: Head) -> None:
    given = {"tags": ["a", "b", "a"], "level": ["little", "some", None], "class": ["a", "b", "a"]}
    alone, last = Benchmark(name="one", task="joint", heads=(head,)), head.names[-1]
    with pytest.raises(ValueError, match=rf"fold 1: no training sample of {last} \(head"):
        check_heads(alone, rows(**given), "fold 1")


@pytest.mark.parametrize(
    ("heads", "more", "message"),
    [
        ([{"name": "x", "kind": "multilable"}], {}, "multilabel"),
        ([], {}, "missing key 'heads'"),
        (
            [{"name": "v", "kind": "regression", "targets": ["a"], "metrics": ["ccc", "ccc"]}],
            {},
            "head 'v': metrics names one twice",
        ),
        ([{"name": "x", "kind": "ordinal", "classes": ["a", "b"]}], {}, "labels come from nowhere"),
        (
            [{"name": "v", "kind": "regression", "targets": ["valence"]}] * 2,
            {},
            "heads names v twice",
        ),
        (
            [{"name": "v", "kind": "regression", "targets": ["valence"], "loss": "kl"}],
            {},
            "'kl' is none of its losses",
        ),
        (
            [{"name": "v", "kind": "regression", "targets": ["valence"]}],
            {"combinations": {"both": {"e.uar": 1.0}}},
            "'e.uar' is no score",
        ),
        (
            [{"name": "v", "kind": "regression", "targets": ["valence"]}],
            {"leading": "v.mse"},
            "the better the lower",
        ),
        ([{"name": "", "kind": "regression", "targets": ["valence"]}], {}, "a head has no name"),
        (
            [{"name": "v", "kind": "regression", "targets": ["valence"]}],
            {"combinations": {"both": {"v.ccc": float("nan")}}},
            "both: v.ccc = nan .must be a finite number",
        ),
    ],
)
def test_heads_that_make_no_sense_are_one_line(
    heads: list[dict[str, object]], more: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        from_dict(Benchmark, {"name": "b", "task": "joint", "heads": heads, **more}, "b.yaml")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["real", "real_values"])
def test_a_score_of_one_target_may_lead_and_is_read_back(name: str) -> None:
    head = Head(name=name, kind="regression", targets=("valence", "arousal"))
    leading = f"{name}.ccc_valence"
    benchmark = Benchmark(name="b", task="joint", heads=(head, CLASS), leading=leading)
    assert from_dict(Benchmark, to_dict(benchmark), "benchmark.yaml") == benchmark
    with pytest.raises(ValueError, match=r"metric 'class\.mse' is none"):
        dataclasses.replace(benchmark, leading="class.mse")


@pytest.mark.parametrize(
    ("metric", "written"),
    [
        ("total", "total"),
        ("f1_minus_mse", "f1_minus_mse"),
        ("weighted_f1", "weighted F1"),
        ("ccc_valence", "CCC valence"),
        ("mood.weighted_f1", "mood weighted F1"),
        ("mood.mse_valence", "mood MSE valence"),
    ],
)
def test_metrics_are_written_as_people_do(metric: str, written: str) -> None:
    """A combination, whose name is the user's, by that and nothing more."""
    assert metric_name(metric) == written


def test_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 2, (2, 60, 3))
    found = multilabel_metrics(true, predicted)
    assert found["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro"))
    assert found["micro_f1"] == pytest.approx(f1_score(true, predicted, average="micro"))
    assert found["exact"] == pytest.approx(accuracy_score(true, predicted))
    levels, guesses = rng.integers(0, 3, (2, 60))
    kappa = cohen_kappa_score(levels, guesses, weights="quadratic")
    of_levels = ordinal_metrics(levels, guesses, 3)
    assert of_levels["qwk"] == pytest.approx(kappa)
    assert of_levels["mae"] == pytest.approx(mean_absolute_error(levels, guesses))
    p, q = rng.dirichlet(np.ones(3), (2, 60))
    shares = distribution_metrics(p, q)
    assert shares["kl"] == pytest.approx((p * np.log(p / q)).sum(1).mean())
    assert shares["intersection"] == pytest.approx(1 - np.abs(p - q).sum(1).mean() / 2)
    cosine = (p * q).sum(1) / np.sqrt((p**2).sum(1) * (q**2).sum(1))
    assert shares["cosine"] == pytest.approx(cosine.mean())


def predictions(number: int = 40) -> list[Prediction]:
    """Of all kinds, some labels missing."""
    rng = np.random.default_rng(1)
    made = []
    for place in range(number):
        truths = {
            "tags": tuple(rng.integers(0, 2, 3).astype(float).tolist()),
            "shares": tuple(rng.dirichlet(np.ones(3)).tolist()),
            "level": LEVELS[rng.integers(3)],
            "real": (float(rng.normal()),),
            "class": NAMES[rng.integers(3)],
        }
        for name in truths:
            if rng.random() < 0.2:
                truths[name] = ()
        groups = [rng.random(3), *rng.dirichlet(np.ones(3), 2), rng.normal(size=1)]
        views = np.concatenate([*groups, rng.dirichlet(np.ones(3))])[None]
        made.append(
            make_prediction(
                ALL, key=f"k{place}", fold="1", speaker=f"s{place % 5}", true=truths, views=views
            )
        )
    return made


def test_scores_by_sums_are_those_of_the_metrics_and_gaps_do_not_count() -> None:
    made = predictions()
    found = score(ALL, made)
    sums = make_sums(ALL, [made])
    by_sums = sums.metrics(sums.total(0, np.array([[1, 1, 1, 1, 1], [2, 0, 1, 1, 0]])))
    again = score(ALL, [i for who in ("s0", "s0", "s2", "s3") for i in made if i.speaker == who])
    for name, value in found.items():
        assert by_sums[name] == pytest.approx([value, again[name]], abs=1e-6), name
    real = [item.heads["real"] for item in made if item.heads["real"].true]
    assert 0 < len(real) < len(made)
    expected = mean_squared_error([i.true for i in real], [i.predicted for i in real])
    assert found["real.mse"] == pytest.approx(expected)


def test_the_tables_of_names_and_of_shares_are_scikit_learns_and_numpys() -> None:
    made, facts = predictions(), SimpleNamespace(mark=str, rule="last")
    told: Any = {"facts": facts, "folds": (), "scores": None, "disagreements": ()}
    both = Benchmark(name="both", task="joint", heads=(TAGS, SHARES))
    run = Run(folder=Path(), benchmark=both, predictions=tuple(made), **told)
    names, shares = (section.parts for section in head_sections(run, Path(), ""))
    known = [item.heads["tags"] for item in made if item.heads["tags"].true]
    assert f"{len(known)} of 40 tested have a label" in str(names[0])
    true, given = (np.array([getattr(i, w) for i in known]) for w in ("true", "predicted"))
    found = precision_recall_fscore_support(true, given)
    expected = [
        [name, f"{true[:, n].sum():.0f}", f"{given[:, n].sum():.0f}", "0.500"]
        + [f"{each[n]:.3f}" for each in found[:3]]
        for n, name in enumerate(NAMES)
    ]
    assert names[1].rows == expected  # type: ignore[union-attr]
    known = [item.heads["shares"] for item in made if item.heads["shares"].true]
    true, given = (np.array([getattr(i, w) for i in known]) for w in ("true", "predicted"))
    columns = [true.mean(0), given.mean(0), given.mean(0) - true.mean(0)]
    columns.append(mean_absolute_error(true, given, multioutput="raw_values"))
    for n, row in enumerate(shares[1].rows):  # type: ignore[union-attr]
        assert [row[0], *map(float, row[1:])] == [
            NAMES[n],
            *(pytest.approx(each[n], abs=5.1e-4) for each in columns),
        ]


def test_a_draw_of_people_without_a_label_of_a_head_scores_nothing_of_it() -> None:
    unlabelled = {head.name: () for head in ALL.heads}
    views = np.full((1, 13), 0.3)
    made = [
        make_prediction(ALL, key=f"k{n}", fold="1", speaker=f"s{n}", true=unlabelled, views=views)
        for n in range(4)
    ]
    sums = make_sums(ALL, [made])
    drawn = sums.metrics(sums.total(0, np.ones((1, 4))))
    assert all(np.isnan(value).all() for value in drawn.values()), drawn
    (*_, fold) = undefined(score_run(ALL, made))
    assert fold.startswith("Fold 1: tags macro F1, ")
    assert "constant there or nobody has the label of the head; shown as n/a" in fold


def test_ordered_levels_have_the_probabilities_of_proportional_odds() -> None:
    outputs = torch.tensor([[0.7, -1.0, 0.5], [-2.0, -1.0, 0.5]], dtype=torch.float64)
    second = -1.0 + np.log1p(np.exp(0.5)) + LEAST_STEP
    assert border_logits(outputs)[0].tolist() == pytest.approx([0.7 + 1.0, 0.7 - second])

    def below(border: float, score: float) -> float:
        return float(1 / (1 + np.exp(score - border)))

    by_hand = [
        [below(-1, s), below(second, s) - below(-1, s), 1 - below(second, s)] for s in (0.7, -2.0)
    ]
    assert head_values(outputs, "ordinal").numpy() == pytest.approx(np.array(by_hand))
    targets = torch.eye(3, dtype=torch.float64)[[2, 0]]
    expected = -np.log([by_hand[0][2], by_hand[1][0]]).mean()
    assert cumulative_link(outputs, targets).item() == pytest.approx(expected)


def test_borders_are_found_in_constructed_data() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 1, generator=generator)
    noise = torch.rand(4000, 1, generator=generator).logit()
    level = torch.bucketize((2 * x + noise)[:, 0], torch.tensor([-1.0, 1.5]))
    slope = torch.zeros(1, requires_grad=True)
    borders = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([slope, borders], max_iter=100)
    targets = torch.eye(3)[level]

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        outputs = torch.cat([x * slope, borders.expand(4000, 2)], dim=1)
        value = cumulative_link(outputs, targets)
        value.backward()
        return value

    optimizer.step(loss)
    assert slope.item() == pytest.approx(2, abs=0.15)
    assert borders[0].item() == pytest.approx(-1, abs=0.15)
    upper = borders[0] + torch.nn.functional.softplus(borders[1])
    assert upper.item() == pytest.approx(1.5, abs=0.15)


def test_an_extreme_score_keeps_a_finite_gradient() -> None:
    outputs = torch.tensor([[80.0, -3.0, 2.0], [-90.0, 1.0, -30.0]], requires_grad=True)
    cumulative_link(outputs, torch.eye(3)[[1, 1]]).backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


def test_missing_labels_of_one_head_change_no_gradient_of_another() -> None:
    outputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.cat([torch.eye(3)[[0, 1, 2, 0, 1, 2]], torch.arange(6.0)[:, None] / 5], dim=1)
    heads = [
        ("class", 1.0, slice(0, 3), CLASS.terms),
        ("real", 0.5, slice(3, 4), REAL.terms),
    ]

    def gradient(known: torch.Tensor) -> torch.Tensor:
        loss, _ = combined_heads(heads, outputs, targets, known, {})
        (found,) = torch.autograd.grad(loss, outputs)
        return found

    whole = torch.ones(6, 2, dtype=torch.bool)
    some = whole.clone()
    some[[1, 4], 1] = False
    found = gradient(some)
    assert torch.equal(found[:, :3], gradient(whole)[:, :3])
    assert (found[[1, 4], 3] == 0).all()
    # By hand: the softmax less the class over 6 clips; twice the error over the 4 with a label.
    by_hand = (outputs[:, :3].softmax(1) - targets[:, :3]) / 6
    assert found[:, :3].detach().numpy() == pytest.approx(by_hand.detach().numpy(), abs=1e-6)
    kept = [0, 2, 3, 5]
    errors = 0.5 * 2 * (outputs[kept, 3] - targets[kept, 3]) / 4
    assert found[kept, 3].numpy() == pytest.approx(errors.detach().numpy(), abs=1e-6)
    some[:, 1] = False
    assert (gradient(some)[:, 3] == 0).all()


def test_weights_of_classes_are_those_of_their_head() -> None:
    heads = [(name, 1.0, slice(n, n + 2), CLASS.terms) for n, name in ((0, "a"), (2, "b"))]
    targets, known = torch.tensor([[1.0, 0, 1, 0]]), torch.ones(1, 2, dtype=torch.bool)
    weights = {"b": torch.tensor([3.0, 1])}
    _, told = combined_heads(heads, torch.zeros(1, 4), targets, known, weights)
    assert told == pytest.approx({"a": np.log(2), "b": 3 * np.log(2)})


def test_thresholds_are_those_of_the_best_f1() -> None:
    made = predictions()
    found = best_thresholds(ALL, made)["tags"]
    known = [item.heads["tags"] for item in made if item.heads["tags"].true]
    for place, chosen in enumerate(found):
        true = np.array([item.true[place] for item in known])
        sure = np.array([(item.probabilities or ())[place] for item in known])
        best = max(f1_score(true, sure >= limit) for limit in [0.0, *np.nextafter(sure, 2), *sure])
        assert f1_score(true, sure >= chosen) == pytest.approx(best)


@pytest.mark.parametrize(
    ("truth", "wanted"),
    [([1, 0, 0, 1], 0.35), ([1, 1, 1, 1], 0.5), ([0, 0, 0, 0], 0.5)],  # 0.05 is as good as 0.35
)
def test_of_equal_thresholds_the_nearest_to_a_half_is_taken(
    truth: list[int], wanted: float
) -> None:
    found = validation._best_threshold(np.array(truth), np.array([0.1, 0.2, 0.3, 0.4]))
    assert found == pytest.approx(wanted)


def test_a_correlation_of_one_clip_alone_is_left_out_and_not_told() -> None:
    heads = [("real", 1.0, slice(0, 1), loss_terms("ccc+mse", "regression"))]
    known = torch.tensor([[True], [False]])
    total, told = combined_heads(heads, torch.ones(2, 1), torch.zeros(2, 1), known, {})
    assert (total, told) == (0, {})
    known[1] = True  # of two it is told
    total, told = combined_heads(heads, torch.ones(2, 1), torch.zeros(2, 1), known, {})
    assert (total, told) == (2, {"real": 2, "real.ccc": 1, "real.mse": 1})


@pytest.mark.parametrize("name", ["iemocap_joint", "msp_improv_joint", "mer_multi_joint"])
def test_the_joint_benchmarks_are_read(name: str) -> None:
    found = load_benchmark(name)
    alone = load_benchmark(name.removesuffix("_joint"))
    assert found.heads[0].classes == alone.classes
    assert found.folds == alone.folds
    assert "valence" in found.heads[1].targets


def test_mer_multi_leads_by_its_combined_score() -> None:
    found = load_benchmark("mer_multi_joint")
    assert found.ranking == "f1_minus_mse"
    assert found.combinations == {
        "f1_minus_mse": {"emotion.weighted_f1": 1.0, "valence.mse": -0.25}
    }


def test_a_benchmark_of_one_task_is_one_head(repository: Path) -> None:
    (head,) = load_benchmark("crema_d").every_head
    assert (head.name, head.kind, head.label) == ("", "classification", "emotion")
    assert load_benchmark("synthetic_va").num_outputs == 2
