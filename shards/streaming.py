"""Reading shards as an endless, shuffled sequence of batches: the loader of pretraining.

For: ``clip_stream``, an IterableDataset of finished batches that can be resumed exactly. Not for:
folds, evaluation and any order of one's own (``random_access.py``).

The sequence of global batches is a function of (the indexes, seed, batch_size x ranks, settings of
the shuffle) and not of the number of ranks or loader processes. A run that is moved from eight
devices to four goes on with the same batches, and a batch is known by its number.

Shards are WebDataset's tars, and any WebDataset pipeline reads them. Their order is ours:
WebDataset deals whole shards to processes and draws from buffers that fill as tars are read, so
what comes depends on the number of processes, on each one's past, and on nothing that could be
saved. Here the order is arithmetic (``order.py``, ``batches.py``), and members are read at the
offsets of the index. WebDataset still opens what is behind a ``pipe:`` (``remote.py``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch

from hicmae.settings import InputConfig
from shards.reading.batches import Batches
from shards.reading.corpus import Corpus, read_corpus
from shards.reading.files import open_folder
from shards.reading.order import SampleOrder
from shards.reading.reader import Reader, ReaderConfig
from shards.reading.shared_batch import Borrower, Lender
from shards.reading.stream_config import StreamConfig

__all__ = ["ClipStream", "StreamConfig", "clip_stream"]


def clip_stream(
    folders: Path | str | Sequence[Path | str],
    input: InputConfig,
    config: StreamConfig,
    *,
    seed: int,
    infinite: bool = True,
    first_batch: int = 0,
    first_epoch: int = 0,
    rank: int | None = None,
    world_size: int | None = None,
) -> ClipStream:
    """Open folders of shards as a stream of batches.

    Args:
        folders: One or more folders with an index: paths, fsspec URLs, or ``pipe:`` commands
            (``remote.py``).
        input: Geometry of a clip.
        config: How to read.
        seed: Order, and the position of each clip, depend on it and on the epoch; 0 or more.
        infinite: Whether epochs follow one another without end, batches reaching across; else one
            epoch is read each time, ``set_epoch`` choosing it, with a smaller last batch that is
            spread over the ranks (a rank's part may be empty).
        first_batch: Global number of the batch to begin with: as many as were used before.
        first_epoch: Epoch to begin with instead: the first batch with nothing of the one before.
        rank: Of this process; by default that of ``torch.distributed``, whose process group must
            then exist already, else of the environment (``RANK``, ``WORLD_SIZE``).
        world_size: Number of ranks, likewise.

    Returns: A dataset for ``DataLoader(stream, batch_size=None, num_workers=…)``. Its items are
        what ``sample.collate`` gives, with "batch", the global number from the beginning of the
        stream, and "epoch", in which the batch begins. "skipped" counts the samples that were
        left out of this batch; those that the index itself tells to be bad are counted in the
        batch in which an epoch begins. A batch has fewer clips by those, possibly none; all
        ranks have equally many batches.

    Raises:
        FileNotFoundError: A folder is absent.
        ValueError: Nothing to read there, or not at the rates of ``input``; settings that
            contradict each other.
    """
    names = [folders] if isinstance(folders, str | Path) else list(folders)
    _require(names, config, seed, first_batch, first_epoch)
    if (rank is None) != (world_size is None):
        raise ValueError(f"rank = {rank}, world_size = {world_size}: give both or neither")
    here, of = _rank_and_world_size() if rank is None or world_size is None else (rank, world_size)
    if not 0 <= here < of:
        raise ValueError(f"rank = {here} (must lie in 0..{of - 1})")
    opened = [open_folder(name, config.cache) for name in names]
    corpora = [
        read_corpus(
            group,
            split=config.split,
            fps=input.fps,
            require_sound=config.sound == "required",
            skip=config.on_bad == "skip",
        )
        for group in ([opened] if config.weights is None else [[folder] for folder in opened])
    ]
    stream = ClipStream(
        corpora, input, config, seed=seed, infinite=infinite, rank=here, world_size=of
    )
    stream.ranks_given = rank is not None
    if first_epoch:
        stream.set_epoch(first_epoch)
    else:
        stream.set_batch(first_batch)
    return stream


class ClipStream(torch.utils.data.IterableDataset[dict[str, Any]]):
    """What ``clip_stream`` returns.

    Iterating begins at the batch chosen last, by ``first_batch``, ``set_batch``, ``set_epoch`` or
    ``load_state_dict``. Loader processes read ahead, so the stream cannot know how many batches
    were used; the trainer says so with ``mark_used``, and ``state_dict`` tells of that.

    Attributes:
        num_samples: Samples of an epoch, over all ranks; of all folders together if weighted.
        left_out: Samples that the indexes tell to be bad, by cause; not among those.
        batches: How the sequence is cut; ``batches.of_epoch`` is the length of a finite stream.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        input: InputConfig,
        config: StreamConfig,
        *,
        seed: int,
        infinite: bool,
        rank: int,
        world_size: int,
    ) -> None:
        super().__init__()
        self.corpora, self.input, self.config, self.seed = corpora, input, config, seed
        self.order = SampleOrder(
            [corpus.sizes.tolist() for corpus in corpora],
            config.weights,
            seed=seed,
            window=config.shuffle_buffer,
        )
        self.num_samples = self.order.num_samples
        self.left_out = {
            cause: sum(corpus.left_out.get(cause, 0) for corpus in corpora)
            for cause in dict.fromkeys(cause for corpus in corpora for cause in corpus.left_out)
        }
        self.batches = Batches(
            num_samples=self.num_samples,
            batch_samples=config.batch_size // config.clips_per_sample,
            rank=rank,
            world_size=world_size,
            infinite=infinite,
        )
        self.ranks_given = True
        self._used = 0
        # In shared memory, so that persistent workers hear of a new epoch.
        self._first = torch.zeros((), dtype=torch.int64).share_memory_()
        self._borrower = Borrower()
        self._lender: Lender | None = None  # in a loader process

    @property
    def epoch(self) -> int:
        """Epoch of the batch that the next iteration begins with."""
        return self.batches.epoch(int(self._first))

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration begin with an epoch, in worker processes too."""
        self.set_batch(self.batches.first(epoch))

    def set_batch(self, batch: int) -> None:
        """Let the next iteration begin with a batch of this global number."""
        self._first.fill_(batch)
        self._used = batch

    def mark_used(self, batch: Mapping[str, Any]) -> None:
        """Note that the trainer has used a batch, and all before it."""
        self._used = int(batch["batch"]) + 1

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on after the last batch that was used: numbers and strings."""
        return {"batch": self._used, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another stream was, on as many or other ranks and workers.

        Raises:
            ValueError: The other one had other samples or another order.
        """
        identity = self._identity()
        other = [
            f"{name} was {state.get(name)!r}, is {value!r}"
            for name, value in identity.items()
            if state.get(name) != value
        ]
        if other:
            raise ValueError(
                f"stream: the saved state is of another sequence of batches ({'; '.join(other)}); "
                "give the same shards and settings, or begin a new run"
            )
        self.set_batch(int(state["batch"]))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the batches of this loader process."""
        batches, rank = self.batches, (self.batches.rank, self.batches.world_size)
        if not self.ranks_given and rank != _rank_and_world_size():
            raise RuntimeError(
                f"the stream was made as rank {rank[0]} of {rank[1]}, before the process group; "
                "make it afterwards, or every rank reads the same samples"
            )
        worker = torch.utils.data.get_worker_info()
        number, num_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        first = int(self._first)
        if batches.infinite:
            return self.reader().read(count(first + number, num_workers))
        end = batches.first(batches.epoch(first) + 1)
        return self.reader().read(range(first + number, end, num_workers))

    def reader(self) -> Reader:
        """What reads batches of this rank by their numbers, in any order."""
        config = ReaderConfig(
            input=self.input,
            seed=self.seed,
            clips_per_sample=self.config.clips_per_sample,
            require_sound=self.config.sound == "required",
            skip_bad=self.config.on_bad == "skip",
        )
        if self._lender is None and torch.utils.data.get_worker_info() is not None:
            self._lender = Lender(self._borrower)
        return Reader(self.corpora, self.order, self.batches, config, self._lender)

    def _identity(self) -> dict[str, Any]:
        """All that the sequence of global batches depends on."""
        config = self.config
        return {
            "global_batch": config.batch_size * self.batches.world_size,
            "seed": self.seed,
            "infinite": self.batches.infinite,
            "shuffle_buffer": config.shuffle_buffer,
            "clips_per_sample": config.clips_per_sample,
            "weights": None if config.weights is None else list(map(float, config.weights)),
            "shards": [corpus.digest for corpus in self.corpora],
        }


def _require(
    names: Sequence[Path | str], config: StreamConfig, seed: int, first_batch: int, first_epoch: int
) -> None:
    """Refuse what cannot be, all at once."""
    problems = []
    if not names:
        problems.append("no folder of shards given")
    if config.weights is not None and len(config.weights) != len(names):
        problems.append(f"{len(config.weights)} weights for {len(names)} folders of shards")
    if min(seed, first_batch, first_epoch) < 0 or (first_batch and first_epoch):
        problems.append(
            f"seed = {seed}, first_batch = {first_batch}, first_epoch = {first_epoch} (each must "
            "be 0 or more, and one of the latter 0)"
        )
    if problems:
        raise ValueError(f"stream: {'; '.join(problems)}")


def _rank_and_world_size() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
