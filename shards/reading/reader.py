"""What one loader process streams: its batches of a rank's share of the global ones.

For: clips of the samples that are due, and what happens to the bad ones. Not for: which samples
are due (``order.py``, ``batches.py``), or opening folders (``streaming.py``).

A sample that is skipped is not replaced, so its batch is smaller than the others; where all of a
rank's share is bad, the batch has no clips. Every rank goes on yielding one batch for each global
batch, so that no rank waits for another.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hicmae.settings import InputConfig
from hicmae.views import train_indices
from shards.errors import ClipError, named_counts
from shards.reading.batches import Batches
from shards.reading.corpus import Corpus
from shards.reading.draw import uniform_draw
from shards.reading.order import Place, SampleOrder
from shards.reading.shared_batch import Lender
from shards.reading.whole_sample import read_sample
from shards.sample import ClipBytes, cut_clip

log = logging.getLogger(__name__)

_LOGGED_PER_CAUSE = 5


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """What all loader processes have in common.

    Args:
        input: Geometry of a clip.
        seed: Positions of clips depend on it, on the pass over the corpus and on the sample.
        clips_per_sample: Clips to cut out of each sample, one after another in the batch.
        require_sound: Whether a sample without sound is bad.
        skip_bad: Whether what is bad is counted and left out, or raised.
    """

    input: InputConfig
    seed: int
    clips_per_sample: int
    require_sound: bool
    skip_bad: bool


class Reader:
    """One loader process.

    Args:
        corpora: What is read.
        order: Of their samples.
        batches: How it is cut.
        config: The rest.
        lender: Where batches are made that go to another process; none: in memory of their own.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        order: SampleOrder,
        batches: Batches,
        config: ReaderConfig,
        lender: Lender | None = None,
    ) -> None:
        self.corpora, self.order, self.batches, self.config = corpora, order, batches, config
        self.lender = lender
        self.skipped: Counter[str] = Counter()  # in this batch
        self.logged: Counter[str] = Counter()
        self.side = config.input.image_size  # of an image, as last seen
        # So many bad samples on end are more than two missing shards among whole ones can give.
        largest = max(int(corpus.sizes.max()) for corpus in corpora)
        self.hopeless = min(order.num_samples, 2 * largest + order.window)
        self.lost: Counter[str] = Counter()  # since the last good sample
        self.ahead = largest if any(corpus.is_elsewhere for corpus in corpora) else 0
        self.looked = 0  # how far ahead, in places of the sequence

    def read(self, numbers: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Yield this rank's share of the global batches of these numbers.

        Raises:
            ClipError: Something is bad and not to be skipped, or nothing good is left.
        """
        for number in numbers:
            share = self.batches.share(number)
            places = [self.order.at(position) for position in share]
            if self.ahead and share:
                self._prefetch(share.stop)
            self.skipped.clear()
            batch = self._batch(places)
            batch |= {
                "skipped": dict(self.skipped),
                "batch": number,
                "epoch": self.batches.epoch(number),
            }
            yield batch

    def _batch(self, places: Sequence[Place]) -> dict[str, Any]:
        """The clips of some places, decoded where they will stay."""
        room = len(places) * self.config.clips_per_sample
        batch: dict[str, Any] = {}
        keys: list[str] = []
        num_samples: list[int] = []
        images = sounds = np.empty(0)
        for place in places:
            begun = len(keys)
            try:
                for clip in self._clips(place):
                    clip.require_size()
                    if not batch:
                        self.side = clip.face_size
                        batch = self._memory(room)
                        images, sounds = batch["frames"].numpy(), batch["waveform"].numpy()
                    self._require_side(clip, keys)
                    clip.decode_into(images[len(keys)], sounds[len(keys)])
                    keys.append(clip.key)
                    num_samples.append(len(clip.waveform))
            except ClipError as error:
                # Clips of the sample that were fine go too: it is one sample that is skipped.
                del keys[begun:], num_samples[begun:]
                self._skip(error)
            else:
                self.lost.clear()
        batch = batch or self._memory(room)
        for name in ("frames", "waveform", "num_samples"):
            batch[name] = batch[name][: len(keys)]
        batch["num_samples"].copy_(torch.tensor(num_samples, dtype=torch.int64))
        batch["keys"] = keys
        return batch

    def _clips(self, place: Place) -> Iterator[ClipBytes]:
        """The clips of a sample, cut."""
        config, corpus = self.config, self.corpora[place.corpus]
        if place.first:  # what the index already tells to be bad is not in the order
            self.skipped.update(corpus.left_out)
        row, files = corpus.row(place.sample)
        sample = read_sample(files, row, require_sound=config.require_sound)
        for number in range(config.clips_per_sample):
            draw = uniform_draw(config.seed, place.epoch, row.key, number)
            indices = train_indices(sample.info.num_frames, config.input, draw)
            yield cut_clip(sample.info, sample.mjpg, sample.wav, indices, config.input, row.where)

    def _memory(self, room: int) -> dict[str, Any]:
        """Tensors for so many clips, not yet written."""
        input, side = self.config.input, self.side
        layout: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "frames": ((room, input.num_frames, side, side, 3), torch.uint8),
            "waveform": ((room, input.clip_samples), torch.int16),
            "num_samples": ((room,), torch.int64),
        }
        if self.lender is not None:
            return self.lender.lend(layout)
        return {name: torch.empty(shape, dtype=kind) for name, (shape, kind) in layout.items()}

    def _require_side(self, clip: ClipBytes, keys: Sequence[str]) -> None:
        if clip.face_size != self.side:
            raise ValueError(
                f"samples of one batch differ in size ({keys[0] if keys else 'another'!r}: "
                f"{self.side} pixels, {clip.where}: {clip.face_size}); build all shards with one "
                "face_size"
            )

    def _skip(self, error: ClipError) -> None:
        """Count a bad sample and go on, or raise."""
        if not self.config.skip_bad:
            raise error
        self.skipped[error.cause] += 1
        self.lost[error.cause] += 1
        self.logged[error.cause] += 1
        if self.logged[error.cause] <= _LOGGED_PER_CAUSE:
            last = self.logged[error.cause] == _LOGGED_PER_CAUSE
            log.warning("skipped (%s): %s%s", error.cause, error, " [and so on]" if last else "")
        if self.lost.total() >= self.hopeless:
            raise ClipError(
                f"{self.lost.total()} samples one after another were skipped "
                f"({named_counts(self.lost)}), the last: {error}; see: hicmae shards check",
                error.cause,
            ) from error

    def _prefetch(self, position: int) -> None:
        """Begin to fetch the shards of what comes after a batch, about one shard ahead."""
        due: dict[int, list[int]] = {}
        for place in map(self.order.at, range(max(position, self.looked), position + self.ahead)):
            due.setdefault(place.corpus, []).append(place.sample)
        self.looked = position + self.ahead
        for corpus, samples in due.items():
            self.corpora[corpus].prefetch(samples)
