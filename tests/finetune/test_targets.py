"""What the training side decides about the loss: votes, weights of classes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from finetune.benchmark import Benchmark
from finetune.data import balanced_weights, training_targets, vote_shares
from finetune.heads import Head
from finetune.losses import soft_cross_entropy
from finetune.plan import resolve
from finetune.settings import RecipeConfig
from tests.support.finetune_fixtures import BENCHMARK, VALUES, settings

VOTED = dataclasses.replace(BENCHMARK, votes=("votes_low", "votes_high"))


def rows(**columns: object) -> pd.DataFrame:
    given = {
        "key": ["a", "b", "c", "d"],
        "emotion": ["low", "high", "low", "low"],
        "votes_low": [3, 1, 0, 5],
        "votes_high": [1, 4, 0, None],
    }
    return pd.DataFrame(given | columns)


def test_votes_become_shares_and_who_has_none_keeps_the_label() -> None:
    shares, notes = vote_shares(VOTED, rows())
    expected = np.array([[0.75, 0.25], [0.2, 0.8], [1, 0], [1, 0]])
    assert shares.numpy() == pytest.approx(expected)
    assert shares.dtype == torch.float32
    assert notes == ["1 of 4 training samples have no vote and keep their label"]
    assert vote_shares(VOTED, rows(votes_low=[1, 1, 1, 1]))[1] == []


@pytest.mark.parametrize("wrong", ["many", -1, np.inf])
def test_votes_that_are_no_counts_are_refused_by_name(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"sample 'c': votes_low = .* is no count of votes"):
        vote_shares(VOTED, rows(votes_low=[3, 1, wrong, 5]))


def test_missing_columns_of_votes_are_refused_before_training() -> None:
    with pytest.raises(ValueError, match="no column 'votes_high'"):
        vote_shares(VOTED, rows().drop(columns="votes_high"))
    soft = RecipeConfig(soft_labels=True)
    with pytest.raises(ValueError, match="soft_labels needs its key 'votes'"):
        resolve(BENCHMARK, settings(recipe=soft, epochs=9))
    for recipe in (soft, RecipeConfig(class_weights="balanced")):
        with pytest.raises(ValueError, match="are for classification"):
            resolve(VALUES, settings(recipe=recipe, epochs=9))


def test_a_correlation_of_batches_of_one_is_refused() -> None:
    one = RecipeConfig(batch_size=1, loss="ccc")
    with pytest.raises(ValueError, match=r"batch_size = 1 with loss ccc \(a correlation needs 2"):
        resolve(VALUES, settings(recipe=one, epochs=9))
    resolve(VALUES, settings(recipe=RecipeConfig(batch_size=1), epochs=9))
    with pytest.raises(ValueError, match=r"recipe\.shots is for classification"):
        resolve(VALUES, settings(recipe=RecipeConfig(shots=2), epochs=9))


def test_targets_are_of_the_rows_in_the_order_of_the_benchmark() -> None:
    mean, std = torch.tensor([1.0, 10.0]).double(), torch.tensor([2.0, 5.0]).double()
    table = rows(arousal=[10, 15, 20, 5], valence=[1.0, 3.0, -1.0, 0.0])
    found, notes = training_targets(VALUES, table, RecipeConfig(), mean, std)
    assert found.tolist() == [[0, 0], [1, 1], [-1, 2], [-0.5, -1]]
    assert (found.dtype, notes) == (torch.float32, [])
    real = Head(name="real", kind="regression", targets=VALUES.targets)
    joint = Benchmark(name="joint", task="joint", heads=(real,))
    assert torch.equal(training_targets(joint, table, RecipeConfig(), mean, std)[0][:, :2], found)
    numbered = dataclasses.replace(BENCHMARK, classes=("0", "1"))
    table = rows(emotion=[1.0, 0.0, 1.0, 1.0])  # as a column with gaps elsewhere gives them
    found, _ = training_targets(
        numbered, table, RecipeConfig(label_smoothing=0), torch.zeros(1), torch.ones(1)
    )
    assert found.tolist() == [[0, 1], [1, 0], [0, 1], [0, 1]]


def test_balanced_weights_are_scikit_learns_and_average_to_one() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    table = rows()
    found = balanced_weights(BENCHMARK.every_head[0], table)
    expected = compute_class_weight(
        "balanced", classes=np.array(BENCHMARK.classes), y=table["emotion"].to_numpy(dtype=str)
    )
    assert found.tolist() == pytest.approx(expected.tolist())
    assert float(found[torch.tensor([0, 1, 0, 0])].mean()) == pytest.approx(1)
    head = Head(name="e", kind="classification", label="emotion", classes=BENCHMARK.classes)
    some = balanced_weights(head, rows(emotion=["low", "high", None, "low"]))
    assert some.tolist() == [3 / 4, 3 / 2]  # of those that have its label


def test_weights_scale_the_term_of_their_class() -> None:
    outputs = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1.0, 0], [0, 1], [0.5, 0.5], [1, 0], [0, 1]])
    weights = torch.tensor([0.5, 3.0])
    by_hand = -(weights * targets * outputs.log_softmax(1)).sum(1).mean()
    assert soft_cross_entropy(outputs, targets, weights).item() == pytest.approx(by_hand.item())
    assert soft_cross_entropy(outputs, targets).item() != pytest.approx(by_hand.item())
