"""Small shards of plain colours that show one emotion, or two at once in known proportions.

A colour is the mean of those of its emotions, weighted by their shares.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from finetune.benchmark import Benchmark
from finetune.heads import Head
from tests.support.shard_fixtures import describe, jpeg, write_shards

EMOTIONS = ("anger", "joy", "sadness", "neutral")
COLUMNS = tuple(f"share_{name}" for name in EMOTIONS)
_COLOURS = np.array([(220, 40, 40), (40, 220, 40), (40, 40, 220), (40, 40, 40)])
FPS = 25

BLENDS = Benchmark(
    name="blends",
    task="joint",
    heads=(
        Head(
            name="emotions",
            kind="distribution",
            classes=EMOTIONS,
            columns=COLUMNS,
            unblended="neutral",
            metrics=("presence", "salience", "intersection"),
        ),
    ),
    combinations={"both": {"emotions.presence": 0.5, "emotions.salience": 0.5}},
    leading="both",
)
# The strongest emotion alone; of two that are equal the first.
ONE_LABEL = Benchmark(name="one", task="classification", label="strongest", classes=EMOTIONS)


def every_blend() -> np.ndarray:
    """Shares (13, 4): each emotion alone, and every two but neutral in all proportions."""
    alone = np.eye(len(EMOTIONS))
    pairs = [
        share * alone[first] + (1 - share) * alone[second]
        for first, second in itertools.combinations(range(3), 2)
        for share in (0.3, 0.5, 0.7)
    ]
    return np.concatenate([alone, np.array(pairs)])


def write_blend_shards(folder: Path) -> Path:
    """Shards of six speakers, in two folds, who show every blend three times, always paler."""
    samples = []
    for speaker, (number, shares), take in itertools.product(
        range(6), enumerate(every_blend()), range(3)
    ):
        colour = shares @ _COLOURS + 4 * (speaker - 3) + 3 * take
        labels = {
            **dict(zip(COLUMNS, map(float, shares.round(2)), strict=True)),
            "strongest": EMOTIONS[int(shares.argmax())],
            "fold": 1 + speaker % 2,
        }
        jpegs = [jpeg(tuple(int(value) for value in colour))] * 17
        samples.append(describe(f"s{speaker}/{number:02d}-{take}", jpegs, None, labels=labels))
    return write_shards(folder, samples, samples_per_shard=60)
