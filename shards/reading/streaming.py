"""Reading shards as an endless, shuffled sequence of batches: the loader of pretraining.

Shards are WebDataset's tars, and any WebDataset pipeline reads them. Their order is ours
(``order.py``): a run that is moved from eight devices to four goes on with the same batches.
Members are read at the offsets of the index; WebDataset opens what is behind a ``pipe:``
(``remote.py``).

A sample that is skipped is not replaced, so its batch is smaller than the others; where all of a
rank's share is bad, the batch has no clips. Every rank goes on yielding one batch for each global
batch, so that no rank waits for another.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch

from hicmae.settings import InputConfig
from hicmae.views import train_indices
from shards.reading.files import open_folder, read_corpus
from shards.reading.order import Batches, BatchSpeakers, Place, SampleOrder, batch_speakers
from shards.reading.settings import DataConfig
from shards.reading.shared_batch import Borrower, Lender, LentBatch
from shards.reading.whole_sample import read_sample
from shards.sample import ClipBytes, cut_clip, uniform_draw
from shards.schema import ClipError, named_counts

log = logging.getLogger(__name__)

_LOGGED_PER_CAUSE = 5


class ClipStream(torch.utils.data.IterableDataset[dict[str, Any]]):
    """Folders of shards as a stream of batches, for ``DataLoader(stream, batch_size=None,
    num_workers=…)``; iterating begins at ``first_batch``, each time.

    Its items are what ``sample.collate`` gives, with "batch", the global number from the beginning
    of the stream, and "epoch", in which the batch begins. "skipped" counts the samples that were
    left out of this batch; those that the index itself tells to be bad are counted in the batch in
    which an epoch begins. A batch has fewer clips by those, possibly none; all ranks have equally
    many batches.

    Args:
        seed: Order, and the position of each clip, depend on it and on the epoch; 0 or more.
        first_batch: Global number of the batch to begin with: as many as were used before.

    Attributes:
        num_samples: Samples of an epoch, over all ranks; of all folders together if weighted.
        is_mixed: Whether some clips lack a modality that is read: batches then have "seen" and
            "heard", (B,) boolean.

    Raises:
        FileNotFoundError: A folder is absent.
        ValueError: Nothing to read there, or not at the rates of ``input``.
    """

    def __init__(
        self,
        input: InputConfig,
        config: DataConfig,
        *,
        seed: int,
        first_batch: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        assert min(seed, first_batch, rank) >= 0, (seed, first_batch, rank)
        assert rank < world_size, (rank, world_size)
        opened = [open_folder(folder, config.cache) for folder in config.folders]
        self.corpora = [
            read_corpus(
                group,
                split=config.split,
                fps=input.fps,
                require=config.needed,
                skip=config.on_bad == "skip",
            )
            for group in ([opened] if config.weights is None else [[folder] for folder in opened])
        ]
        self.input, self.config, self.seed = input, config, seed
        self.order = SampleOrder(
            [corpus.sizes.tolist() for corpus in self.corpora],
            config.weights,
            seed=seed,
            lanes=[
                corpus.lanes(config.cache)
                if config.shuffle_shards is None
                else config.shuffle_shards
                for corpus in self.corpora
            ],
        )
        self.num_samples = self.order.num_samples
        self.batches = Batches(
            num_samples=self.num_samples,
            batch_samples=config.batch_size // config.clips_per_sample,
            rank=rank,
            world_size=world_size,
        )
        self.first_batch = first_batch
        both = config.modalities == "audio-video"
        self.is_mixed = both and any(corpus.is_mixed for corpus in self.corpora)
        self._borrower = Borrower()
        self._lender: Lender | None = None  # in a loader process

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the batches of this loader process."""
        worker = torch.utils.data.get_worker_info()
        number, num_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        return self.reader().read(count(self.first_batch + number, num_workers))

    def about(self) -> str:
        """What is read, in words and by a digest of names and order: the same for all ranks."""
        return self._about(repr(self.order.lanes))

    def content(self) -> str:
        """The same by a digest of names and bytes, as the indexes have them, however they are
        drawn.
        """
        parts = [(corpus.numbers, corpus.checksums) for corpus in self.corpora]
        return self._about(*(part for both in parts for part in both))

    def _about(self, *parts: str | np.ndarray) -> str:
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part.encode() if isinstance(part, str) else part.tobytes())
        for corpus in self.corpora:
            digest.update(corpus.sizes.tobytes())
            for buffer in corpus.keys.buffers():
                digest.update(b"" if buffer is None else buffer)
        shards = sum(len(corpus.shards) for corpus in self.corpora)
        return f"{self.num_samples} samples of {shards} shards, {digest.hexdigest()[:8]}"

    def speakers(self) -> BatchSpeakers | None:
        """How many a global batch holds, as the indexes tell; None where none is known."""
        batch_size = self.batches.batch_samples * self.batches.world_size
        return batch_speakers(self.order, [corpus.speakers for corpus in self.corpora], batch_size)

    def reader(self) -> Reader:
        """What reads batches of this rank by their numbers, in any order."""
        if self._lender is None and torch.utils.data.get_worker_info() is not None:
            self._lender = Lender(self._borrower)
        return Reader(self, self._lender)


class Reader:
    """One loader process: its batches of a rank's share of the global ones.

    Args: lender: Where batches are made that go to another process; none: in memory of their own.
    """

    def __init__(self, stream: ClipStream, lender: Lender | None = None) -> None:
        self.corpora, self.order, self.batches = stream.corpora, stream.order, stream.batches
        self.input, self.config, self.seed = stream.input, stream.config, stream.seed
        self.lender, self.is_mixed = lender, stream.is_mixed
        self.skipped: Counter[str] = Counter()  # in this batch
        self.logged: Counter[str] = Counter()
        self.side = stream.input.image_size  # of an image, as last seen
        # So many bad samples on end are more than two missing shards among whole ones can give.
        largest = max(int(corpus.sizes.max()) for corpus in self.corpora)
        self.hopeless = min(self.order.num_samples, 2 * largest)
        self.lost: Counter[str] = Counter()  # since the last good sample
        self.ahead = largest if any(corpus.is_remote for corpus in self.corpora) else 0
        self.looked = 0  # how far ahead, in places of the sequence

    def read(self, numbers: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Yield this rank's share of the global batches of these numbers.

        Raises: ClipError: something is bad and not to be skipped, or nothing good is left.
        """
        for number in numbers:
            share = self.batches.share(number)
            places = [self.order.at(position) for position in share]
            if self.ahead and share:
                self._prefetch(share)
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
        about: dict[str, list[Any]] = {"num_samples": [], "seen": [], "heard": []}
        images: np.ndarray | None = None
        sounds: np.ndarray | None = None
        for place in places:
            begun = len(keys)
            try:
                for clip in self._clips(place):
                    clip.require_size()
                    # Sound alone does not tell the side; the first picture of a batch does.
                    other = clip.seen and clip.face_size != self.side and not any(about["seen"])
                    if not batch or other:
                        before, self.side = batch, clip.face_size if clip.seen else self.side
                        batch = self._memory(room)
                        images, sounds = map(_array, (batch.get("frames"), batch.get("waveform")))
                        self._move(before, images, sounds, len(keys))
                    self._require_side(clip, keys)
                    clip.decode_into(
                        *(None if a is None else a[len(keys)] for a in (images, sounds))
                    )
                    keys.append(clip.key)
                    about["num_samples"].append(len(clip.waveform))
                    about["seen"].append(clip.seen)
                    about["heard"].append(clip.heard)
            except ClipError as error:
                # Clips of the sample that were fine go too: it is one sample that is skipped.
                for values in (keys, *about.values()):
                    del values[begun:]
                self._skip(error)
            else:
                self.lost.clear()
        batch = batch or self._memory(room)
        for name in list(batch):
            batch[name] = batch[name][: len(keys)]
            if name in about:
                batch[name].copy_(torch.tensor(about[name], dtype=batch[name].dtype))
        batch["keys"] = keys
        return batch

    def _clips(self, place: Place) -> Iterator[ClipBytes]:
        config, corpus = self.config, self.corpora[place.corpus]
        if place.first:  # what the index already tells to be bad is not in the order
            self.skipped.update(corpus.left_out)
        row, files = corpus.row(place.sample)
        sample = read_sample(files, row, require=config.needed)
        mjpg = sample.mjpg if "video" in config.modalities else None
        wav = sample.wav if "audio" in config.modalities else None
        for number in range(config.clips_per_sample):
            draw = uniform_draw(self.seed, place.epoch, row.key, number)
            indices = train_indices(sample.info.num_frames, self.input, draw)
            yield cut_clip(sample.info, mjpg, wav, indices, self.input, row.where)

    def _memory(self, room: int) -> dict[str, Any]:
        input, side = self.input, self.side
        layout: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
        if "video" in self.config.modalities:
            layout["frames"] = ((room, input.num_frames, side, side, 3), torch.uint8)
        if "audio" in self.config.modalities:
            layout["waveform"] = ((room, input.clip_samples), torch.int16)
            layout["num_samples"] = ((room,), torch.int64)
        if self.is_mixed:
            layout |= dict.fromkeys(("seen", "heard"), ((room,), torch.bool))
        if self.lender is not None:
            return self.lender.lend(layout)
        return {name: torch.empty(shape, dtype=kind) for name, (shape, kind) in layout.items()}

    def _move(
        self,
        before: dict[str, Any],
        images: np.ndarray | None,
        sounds: np.ndarray | None,
        count: int,
    ) -> None:
        """Take over so many clips without a picture from memory that is given back."""
        if images is not None:
            images[:count] = 0
        if sounds is not None and before:
            sounds[:count] = before["waveform"][:count].numpy()
        if isinstance(before, LentBatch) and before.block is not None:
            before.block.memory[0] = 0

    def _require_side(self, clip: ClipBytes, keys: Sequence[str]) -> None:
        if clip.seen and clip.face_size != self.side:
            raise ValueError(
                f"samples of one batch differ in size ({keys[0] if keys else 'another'!r}: "
                f"{self.side} pixels, {clip.where}: {clip.face_size}); build all shards with one "
                "face_size"
            )

    def _skip(self, error: ClipError) -> None:
        if self.config.on_bad == "raise":
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

    def _prefetch(self, share: range) -> None:
        """Begin to fetch the shards of a batch and of what comes after it, about one ahead."""
        due: dict[int, list[int]] = {}
        stop = share.stop + self.ahead
        for place in map(self.order.at, range(max(share.start, self.looked), stop)):
            due.setdefault(place.corpus, []).append(place.sample)
        self.looked = stop
        for corpus, samples in due.items():
            self.corpora[corpus].prefetch(samples)


def _array(values: torch.Tensor | None) -> np.ndarray | None:
    return None if values is None else values.numpy()
