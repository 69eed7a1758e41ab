"""What the training side alone decides about the loss: moments, votes and weights of classes.

For: numbers that are computed from training samples before the first step. Not for: smoothing and
mixing targets (``finetune/mixing.py``) or losses (``finetune/losses.py``).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from finetune.benchmark import Benchmark
from finetune.folds import as_text, need_column, true_values


def target_moments(
    benchmark: Benchmark, rows: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Mean and deviation of each real-valued target over the training side alone.

    Args:
        benchmark: What is predicted.
        rows: Of the training side.

    Returns: mean (D,), standard deviation (D,), 1 where a target is constant, and notes about
        such targets; for classes, zeros, ones and none.
    """
    if benchmark.task == "classification":
        return np.zeros(1), np.ones(1), []
    values = true_values(benchmark, rows)
    constant = values.min(axis=0) == values.max(axis=0)
    notes = [
        f"{name} is the same in every training sample, so nothing was learned about it"
        for name, flag in zip(benchmark.targets, constant, strict=True)
        if flag
    ]
    return values.mean(axis=0), np.where(constant, 1.0, values.std(axis=0)), notes


def vote_shares(benchmark: Benchmark, rows: pd.DataFrame) -> tuple[Tensor, list[str]]:
    """Shares of the raters' votes as training targets.

    A sample without a vote for any of the classes keeps its label.

    Args:
        benchmark: With ``votes``.
        rows: Of the training side.

    Returns: (N, C) float32, rows sum to 1; and a note about samples without votes.
    Raises: ValueError: the benchmark names no columns of votes; the index lacks one; a count that
        is no number or negative.
    """
    if not benchmark.votes:
        raise ValueError(
            f"benchmark '{benchmark.name}' names no columns of votes; leave recipe.soft_labels out"
        )
    for column in benchmark.votes:
        need_column(rows, column, f"benchmark '{benchmark.name}' (votes, for recipe.soft_labels)")
    # A cell without a number is a rater's silence; a word or a negative count is a mistake.
    cells = rows[list(benchmark.votes)]
    counts = cells.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    empty = cells.map(as_text).to_numpy() == ""
    wrong = np.argwhere(~(np.isfinite(counts) & (counts >= 0)) & ~empty)
    if len(wrong):
        row, place = wrong[0]
        raise ValueError(
            f"sample '{rows.iloc[int(row)]['key']}': {benchmark.votes[place]} ="
            f" {cells.iloc[int(row), int(place)]!r} is no count of votes"
            f" ({len(np.unique(wrong[:, 0]))} such samples)"
        )
    counts = np.where(empty, 0.0, counts)
    totals = counts.sum(axis=1, keepdims=True)
    voted = totals > 0
    hard = np.eye(len(benchmark.classes))[class_numbers(benchmark, rows)]
    shares = np.where(voted, counts / np.where(voted, totals, 1.0), hard)
    silent = int((~voted).sum())
    notes = [f"{silent} of {len(rows)} training samples have no vote and keep their label"]
    return torch.from_numpy(shares).float(), notes if silent else []


def balanced_weights(benchmark: Benchmark, rows: pd.DataFrame) -> Tensor:
    """Weight of each class in the loss: N / (C · n_c), 1 on average over the training samples.

    Returns: (C,) float32.
    Source: King and Zeng, 2001, "Logistic regression in rare events data".
    """
    counts = np.bincount(class_numbers(benchmark, rows), minlength=len(benchmark.classes))
    assert counts.min() > 0, "a fold without a class is refused before training"
    return torch.from_numpy(len(rows) / (len(counts) * counts)).float()


def class_numbers(benchmark: Benchmark, rows: pd.DataFrame) -> np.ndarray:
    """Places of the labels among the classes. Returns: int64 (N,)."""
    assert benchmark.label is not None
    place = {name: number for number, name in enumerate(benchmark.classes)}
    return rows[benchmark.label].map(as_text).map(place).to_numpy(dtype=np.int64)
