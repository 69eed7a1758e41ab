"""What one loader process streams: its share of every epoch, as a WebDataset pipeline.

For: the order of shards and samples, and what happens to the bad ones. Not for: opening folders
(``streaming.py``), or the bytes of a clip (``sample.py``).

A *reader* is one loader process of one rank. With at least as many shards as readers, each reads
shards of its own; with fewer, all read every shard and each keeps its residue class of the
samples. Either way a sample is met exactly once an epoch, by a reader that changes with the epoch:
samples that never meet in one process are never contrasted (webdataset, pull request 73).
"""

from __future__ import annotations

import copy
import logging
import random
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from webdataset.tariterators import group_by_keys

from hicmae.settings import InputConfig
from hicmae.views import train_indices
from shards.errors import ClipError, named_counts, no_sound
from shards.sample import ClipBytes, collate, cut_clip
from shards.schema import ShardError, parse_sample_json

log = logging.getLogger(__name__)

_LOGGED_PER_CAUSE = 5


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A tar, and how many samples its index says it holds."""

    path: Path
    num_samples: int


class Reader:
    """One loader process.

    Args:
        shards: Of all readers, in an order that all share.
        input: Geometry of a clip.
        seed: The same for all readers.
        number: Which reader this is.
        num_readers: Ranks x loader processes of a rank.
        shuffle_buffer: Clips to mix.
        require_sound: Whether a sample without sound is bad.
        skip_bad: Whether what is bad is counted and left out, or raised.

    Raises:
        ClipError: There are fewer samples than readers.
    """

    def __init__(
        self,
        *,
        shards: Sequence[Shard],
        input: InputConfig,
        seed: int,
        number: int,
        num_readers: int,
        shuffle_buffer: int,
        require_sound: bool,
        skip_bad: bool,
    ) -> None:
        self.shards, self.input, self.seed = shards, input, seed
        self.number, self.num_readers = number, num_readers
        self.shuffle_buffer, self.require_sound = shuffle_buffer, require_sound
        self.skip_bad = skip_bad
        num_samples = sum(shard.num_samples for shard in shards)
        if num_samples < num_readers:
            raise ClipError(
                f"{shards[0].path.parent}: {num_samples} samples for {num_readers} readers "
                "(ranks x workers), some would get none; use fewer workers"
            )
        self.by_sample = len(shards) < num_readers
        self.skipped: Counter[str] = Counter()  # since the last batch
        self.skipped_in_epoch: Counter[str] = Counter()
        self.logged: Counter[str] = Counter()

    def batches(
        self, batch_size: int, first_epoch: int, infinite: bool
    ) -> Iterator[dict[str, Any]]:
        """Yield batches, of one epoch or of all from ``first_epoch`` on.

        Raises:
            ClipError: Something is bad and not to be skipped, or nothing was left of an epoch.
        """
        return iter(
            webdataset.DataPipeline(
                lambda: self._clips(first_epoch, infinite),
                webdataset.batched(batch_size, collation_fn=self._collate),
            )
        )

    def _clips(self, epoch: int, infinite: bool) -> Iterator[dict[str, Any]]:
        """Clips; batches are made of these, so they reach across the end of an epoch."""
        while True:
            self.skipped_in_epoch.clear()
            num_clips = 0
            for clip in self._epoch(epoch):
                num_clips += 1
                yield clip
            if not num_clips and not (infinite and self._others_find_some(epoch)):
                raise ClipError(
                    f"{self.shards[0].path.parent}: every sample of epoch {epoch} was skipped "
                    f"({named_counts(self.skipped_in_epoch)}); see: hicmae shards check"
                )
            if not infinite:
                return
            epoch += 1

    def _others_find_some(self, epoch: int) -> bool:
        """Whether this reader's share alone held nothing readable; the next one will be another."""
        if self.num_readers == 1:
            return False
        every = copy.copy(self)
        every.number, every.num_readers, every.by_sample, every.shuffle_buffer = 0, 1, False, 0
        every.skipped, every.skipped_in_epoch = Counter(), Counter()
        return next(iter(every._epoch(epoch)), None) is not None

    def _epoch(self, epoch: int) -> webdataset.DataPipeline:
        """The clips of this reader's share of one epoch."""
        order = random.Random(f"{self.seed}/{epoch}/samples/{self.number}")
        size = self.shuffle_buffer
        return webdataset.DataPipeline(
            lambda: self._shuffled_shards(epoch),
            None if self.by_sample else webdataset.slice(self.number, None, self.num_readers),
            self._samples,
            webdataset.map(lambda sample: self._cut(sample, epoch), handler=self._handle),
            webdataset.shuffle(size, initial=size, rng=order) if size > 1 else None,
            webdataset.map(lambda clip: clip.decode(self.input), handler=self._handle),
        )

    def _shuffled_shards(self, epoch: int) -> Iterator[tuple[Shard, list[int]]]:
        """All shards in this epoch's order, each with the reader of each of its samples.

        The same for every reader. Where samples are split, their readers are the residue classes
        of a permutation drawn for the epoch, so that not the same samples stay together.
        """
        shards = list(self.shards)
        random.Random(f"{self.seed}/{epoch}/shards").shuffle(shards)
        if not self.by_sample:
            yield from ((shard, [self.number] * shard.num_samples) for shard in shards)
            return
        num_samples = sum(shard.num_samples for shard in shards)
        order = np.random.default_rng([self.seed, epoch]).permutation(num_samples)
        readers = iter((order % self.num_readers).tolist())
        yield from ((shard, list(islice(readers, shard.num_samples))) for shard in shards)

    def _samples(self, shards: Iterable[tuple[Shard, list[int]]]) -> Iterator[dict[str, Any]]:
        """The members of each sample that is this reader's.

        WebDataset passes over a tar that ends early between two members, so samples are counted
        against the index, which also keeps one damaged shard from shifting every residue class.
        """
        for shard, readers in shards:
            num_read, reason = 0, "it ends early"
            try:
                for sample in _tar_samples(shard.path):
                    # A tar with more samples than its index says is read as far as that.
                    if num_read < len(readers) and readers[num_read] == self.number:
                        yield sample
                    num_read += 1
            except (OSError, EOFError, tarfile.TarError, ValueError) as error:
                reason = str(error.args[0] if error.args else error).split(" @ ")[0]
            lost = readers[num_read:].count(self.number)
            if lost and shard.path.exists():
                self._handle(
                    ClipError(
                        f"{shard.path.name}: truncated or damaged after {num_read} of "
                        f"{shard.num_samples} samples ({reason}); copy or build it again",
                        "truncated",
                    ),
                    count=lost,
                )
            elif lost:
                message = f"{shard.path}: no such shard, but its index lists it; build it again"
                self._handle(ClipError(message, "missing-shard"), count=lost)

    def _cut(self, sample: dict[str, Any], epoch: int) -> ClipBytes:
        """Choose a clip of a sample and keep only the bytes it needs."""
        key = str(sample["__key__"])
        where = f"{Path(sample['__url__']).name}: sample {key!r}"
        found = ", ".join(name for name in sample if not name.startswith("__"))
        for name in ("mjpg", "json"):
            if name not in sample:
                message = f"{where} has no {name} member (found {found}); rebuild it"
                raise ClipError(message, "missing-member")
        try:
            info = parse_sample_json(sample["json"], where)
        except ShardError as error:
            raise ClipError(str(error), "bad-json") from error
        wav = sample.get("wav")
        if wav is None and (info.has_sound or self.require_sound):
            raise no_sound(where, found, info.has_sound)
        # A generator of the sample's own: its clip does not depend on which reader meets it.
        rng = np.random.default_rng([self.seed, epoch, zlib.crc32(key.encode())])
        indices = train_indices(info.num_frames, self.input, rng)
        return cut_clip(info, sample["mjpg"], wav, indices, self.input, where)

    def _handle(self, error: Exception, count: int = 1) -> bool:
        """WebDataset's handler of errors: count it and go on with the next sample, or raise."""
        if not isinstance(error, ClipError) or not self.skip_bad:
            raise error
        self.skipped[error.cause] += count
        self.skipped_in_epoch[error.cause] += count
        self.logged[error.cause] += 1
        if self.logged[error.cause] <= _LOGGED_PER_CAUSE:
            last = self.logged[error.cause] == _LOGGED_PER_CAUSE
            log.warning("skipped (%s): %s%s", error.cause, error, " [and so on]" if last else "")
        return True

    def _collate(self, clips: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch = collate(clips)
        batch["skipped"] = dict(self.skipped)
        self.skipped.clear()
        return batch


def _tar_samples(path: Path) -> Iterator[dict[str, Any]]:
    """Samples of a tar, its members grouped by WebDataset.

    Members are read here, straight from the file: WebDataset reads any stream, in small blocks
    which it then joins, and that took three times as long.
    """
    with tarfile.open(path, "r:") as tar:
        yield from group_by_keys(_members(tar, str(path)))


def _members(tar: tarfile.TarFile, url: str) -> Iterator[dict[str, Any]]:
    for member in tar:
        file = tar.extractfile(member)  # None for what is no regular file
        if file is not None:
            yield {"fname": member.name, "data": file.read(), "__url__": url}
