"""Reading the two sides of a fold from shards.

For: loaders of training clips and of test views, and the questions a collection must answer
before training. Not for: decoding (``shards``) or dividing (``finetune/folds.py``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from finetune.benchmark import Benchmark
from finetune.fitting.order import EpochOrder, Share, part_of
from finetune.settings import TrainerConfig
from hicmae.settings import InputConfig
from shards.index import Index
from shards.random_access import ShardDataset
from shards.sample import collate

Loader = DataLoader[Any]
_ALL = Share()


def check_sound(rows: pd.DataFrame, *, modalities: str) -> None:
    """Refuse samples without sound where the network listens.

    Raises: ValueError: the first such sample, and how many there are.
    """
    if "audio" not in modalities.split("-"):
        return
    mute = np.flatnonzero((rows["num_samples"] <= 0).to_numpy())
    if len(mute):
        raise ValueError(
            f"sample '{rows.iloc[int(mute[0])]['key']}' has no sound ({len(mute)} of {len(rows)}"
            f" samples), and modalities = {modalities} needs it; leave them out of the shards, or"
            " pass --modalities video"
        )


def training_loader(
    index: Index,
    rows: pd.DataFrame,
    benchmark: Benchmark,
    input: InputConfig,
    *,
    modalities: str,
    batch_size: int,
    seed: int,
    trainer: TrainerConfig,
    share: Share = _ALL,
) -> Loader:
    """Shuffled clips, one a sample and epoch, each at a random place.

    A last batch that is not full is left out unless it is the only one: its step would be as long
    as that of a full batch. ``batch_size`` is of all processes together.
    """
    dataset = _dataset(
        index, rows, benchmark, input, modalities, views="train", seed=seed, on_bad=trainer.on_bad
    )
    return DataLoader(
        dataset,
        batch_size=batch_size // share.of,
        sampler=EpochOrder(len(rows), batch_size=batch_size, seed=seed, share=share),
        generator=torch.Generator().manual_seed(seed),
        persistent_workers=trainer.workers > 0,
        **_common(trainer),
    )


def test_loader(
    index: Index,
    rows: pd.DataFrame,
    benchmark: Benchmark,
    input: InputConfig,
    *,
    modalities: str,
    batch_size: int,
    num_segments: int,
    trainer: TrainerConfig,
    share: Share = _ALL,  # noqa: PT028  # this is no test
) -> Loader:
    """Every view of every sample once, in order; a sample that cannot be read is an error.

    Of several processes each reads its part, and nothing is repeated to make parts equal.
    """
    dataset = _dataset(
        index, rows, benchmark, input, modalities, views=num_segments, seed=0, on_bad="raise"
    )
    return DataLoader(
        dataset,
        batch_size=max(1, batch_size // share.of),
        sampler=part_of(len(dataset), share),
        # Of its own: scoring an epoch must not move the draws of the training.
        generator=torch.Generator().manual_seed(0),
        **_common(trainer),
    )


# pytest collects functions by this prefix wherever a test module imports them.
test_loader.__test__ = False  # type: ignore[attr-defined]


def _dataset(
    index: Index,
    rows: pd.DataFrame,
    benchmark: Benchmark,
    input: InputConfig,
    modalities: str,
    *,
    views: Any,
    seed: int,
    on_bad: Any,
) -> ShardDataset:
    """The samples of one side, with their truth."""
    return ShardDataset(
        index,
        input=input,
        rows=rows,
        views=views,
        labels=(benchmark.label, benchmark.classes) if benchmark.label else None,
        targets=benchmark.targets or None,
        require_sound="audio" in modalities.split("-"),
        on_bad=on_bad,
        seed=seed,
    )


def _common(trainer: TrainerConfig) -> dict[str, Any]:
    """What both loaders are made with."""
    return {
        "num_workers": trainer.workers,
        "collate_fn": collate,
        "pin_memory": torch.cuda.is_available() and trainer.accelerator != "cpu",
    }
