"""What the tests of the stream share: opening one, and what came out of it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from shards.reading.settings import DataConfig
from shards.reading.streaming import ClipStream
from tests.support.shard_fixtures import INPUT

NUM_SAMPLES = 23


def stream_of(folder: Any, *, seed: int = 0, **options: Any) -> ClipStream:
    """A stream of small batches; settings of ``DataConfig`` and arguments of ``ClipStream``."""
    several = not isinstance(folder, str | Path)
    config = {"batch_size": 4, "shuffle_shards": 8, "on_bad": "skip"}
    config["shards"] = tuple(folder) if several else folder
    for name in DataConfig.__dataclass_fields__:
        if name in options:
            config[name] = options.pop(name)
    return ClipStream(INPUT, DataConfig(**config), seed=seed, **options)  # type: ignore[arg-type]


def one_epoch(
    folder: Any, epoch: int = 0, *, batch_size: int = 1, workers: int = 0, **options: Any
) -> list[dict[str, Any]]:
    """The batches of one epoch, which must divide into them."""
    stream = stream_of(folder, batch_size=batch_size, **options)
    clips = stream.num_samples * stream.config.clips_per_sample
    count, rest = divmod(clips, batch_size * options.get("world_size", 1))
    assert rest == 0, (clips, batch_size)
    stream.first_batch = epoch * count
    return first_batches(stream, count, workers)


def first_batches(stream: ClipStream, count: int, workers: int = 0) -> list[dict[str, Any]]:
    """So many batches, from a real DataLoader."""
    return list(itertools.islice(loader(stream, workers), count))


def loader(stream: ClipStream, workers: int, **options: Any) -> Any:
    """It in a real DataLoader."""
    return torch.utils.data.DataLoader(stream, batch_size=None, num_workers=workers, **options)


def keys_of(batches: Iterable[dict[str, Any]]) -> list[str]:
    """Keys in the order they came."""
    return [key for batch in batches for key in batch["keys"]]


def skipped_in(batches: Iterable[dict[str, Any]]) -> Counter[str]:
    """What was skipped, by cause."""
    return sum((Counter(batch["skipped"]) for batch in batches), Counter())


def tar(folder: Path, number: int) -> Path:
    """A shard of the training split."""
    return folder / f"train-{number:06d}.tar"
