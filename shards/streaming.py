"""Reading shards from front to back, endlessly shuffled: the loader of pretraining.

For: ``clip_stream``, an IterableDataset of finished batches. Not for: the pipeline of one loader
process (``reader.py``), or folds, evaluation and any order of one's own (``random_access.py``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from hicmae.settings import InputConfig
from shards.index import Index, read_index
from shards.reader import Reader, Shard


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How shards are streamed.

    Args:
        batch_size: Clips of a batch, per rank.
        shuffle_buffer: Clips that a loader process mixes; about 0.2 MB each at 160 pixels. 0 and
            1 leave them in the order of their shard.
        split: Split to read, or ``all``.
        sound: ``required``: a sample without sound is bad; ``optional``: its waveform is zeros
            and its ``num_samples`` 0.
        on_bad: What a bad sample or shard does: ``skip`` counts it by cause, ``raise`` stops.
    """

    batch_size: int = 8
    shuffle_buffer: int = 1000
    split: str = "train"
    sound: Literal["required", "optional"] = "required"
    on_bad: Literal["skip", "raise"] = "skip"

    def __post_init__(self) -> None:
        problems = []
        if self.batch_size < 1:
            problems.append(f"batch_size = {self.batch_size} (must be 1 or more)")
        if self.shuffle_buffer < 0:
            problems.append(f"shuffle_buffer = {self.shuffle_buffer} (must be 0 or more)")
        for name, allowed in (("sound", ("required", "optional")), ("on_bad", ("skip", "raise"))):
            if getattr(self, name) not in allowed:
                problems.append(f"{name} = {getattr(self, name)} (allowed: {', '.join(allowed)})")
        if problems:
            raise ValueError(f"stream: {'; '.join(problems)}")


def clip_stream(
    folders: Path | str | Sequence[Path | str],
    input: InputConfig,
    config: StreamConfig,
    *,
    seed: int,
    infinite: bool = True,
    first_epoch: int = 0,
    rank: int | None = None,
    world_size: int | None = None,
) -> ClipStream:
    """Open folders of shards as a stream of batches.

    Args:
        folders: One or more folders with an index.
        input: Geometry of a clip.
        config: How to read.
        seed: Order, and the position of each clip, depend on it and on the epoch.
        infinite: Whether epochs follow one another without end, batches reaching across; else one
            epoch is read each time, ``set_epoch`` choosing it, with a smaller last batch.
        first_epoch: Epoch to begin with.
        rank: Of this process; by default that of ``torch.distributed``, whose process group must
            then exist already, else of the environment (``RANK``, ``WORLD_SIZE``).
        world_size: Number of ranks, likewise.

    Returns: A dataset for ``DataLoader(stream, batch_size=None, num_workers=…)``. Its items are
        what ``sample.collate`` gives; "skipped" counts since that loader process's last batch.

    Raises:
        FileNotFoundError: A folder is absent.
        ValueError: Nothing to read there, or not at the rates of ``input``.
    """
    names = [folders] if isinstance(folders, str | Path) else list(folders)
    if not names:
        raise ValueError("no folder of shards given")
    if (rank is None) != (world_size is None):
        raise ValueError(f"rank = {rank}, world_size = {world_size}: give both or neither")
    shards = [shard for name in names for shard in _shards(read_index(name), input, config.split)]
    here, of = _rank_and_world_size() if rank is None or world_size is None else (rank, world_size)
    if not 0 <= here < of:
        raise ValueError(f"rank = {here} (must lie in 0..{of - 1})")
    stream = ClipStream(
        shards, input, config, seed=seed, infinite=infinite, rank=here, world_size=of
    )
    stream.ranks_given = rank is not None
    stream.set_epoch(first_epoch)
    return stream


class ClipStream(torch.utils.data.IterableDataset[dict[str, Any]]):
    """What ``clip_stream`` returns.

    Attributes:
        num_samples: Samples of an epoch, over all ranks.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        input: InputConfig,
        config: StreamConfig,
        *,
        seed: int,
        infinite: bool,
        rank: int,
        world_size: int,
    ) -> None:
        super().__init__()
        self.shards = list(shards)
        self.num_samples = sum(shard.num_samples for shard in shards)
        self.input, self.config = input, config
        self.seed, self.infinite = seed, infinite
        self.rank, self.world_size = rank, world_size
        self.ranks_given = True
        # In shared memory, so that persistent workers hear of a new epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """Epoch that the next iteration begins with."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration begins with, in worker processes too."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the batches of this loader process."""
        if not self.ranks_given and (self.rank, self.world_size) != _rank_and_world_size():
            raise RuntimeError(
                f"the stream was made as rank {self.rank} of {self.world_size}, before the "
                "process group; make it afterwards, or every rank reads the same samples"
            )
        worker = torch.utils.data.get_worker_info()
        number, num_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        # Ranks alternate, so that what is left over of the shards is spread over ranks first.
        reader = Reader(
            shards=self.shards,
            input=self.input,
            seed=self.seed,
            number=number * self.world_size + self.rank,
            num_readers=num_workers * self.world_size,
            shuffle_buffer=self.config.shuffle_buffer,
            require_sound=self.config.sound == "required",
            skip_bad=self.config.on_bad == "skip",
        )
        return reader.batches(self.config.batch_size, self.epoch, self.infinite)


def _shards(index: Index, input: InputConfig, split: str) -> list[Shard]:
    """The shards of a folder that are to be read.

    Raises:
        ValueError: There are none, or their frame rate does not suit.
    """
    table = index.table
    if split != "all":
        table = table[table["split"] == split]
    if table.empty:
        found = ", ".join(sorted(index.table["split"].unique())) or "nothing"
        raise ValueError(f"{index.folder}: no samples of split {split!r} (found {found})")
    other = table[table["fps"] != input.fps]
    if len(other):
        raise ValueError(
            f"{index.folder}: {len(other)} samples, {other['key'].iloc[0]!r} first, have "
            f"{other['fps'].iloc[0]:g} frames a second, the model takes {input.fps:g}; rebuild "
            "the shards at that rate"
        )
    counts = table.groupby("shard", sort=True).size()
    folder = index.folder.resolve()  # a loader process may run in another directory
    return [Shard(path=folder / str(name), num_samples=int(n)) for name, n in counts.items()]


def _rank_and_world_size() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
