"""Clips for pretraining: the endless stream, and the fixed handful that pictures are made of.

What there is is counted before anything starts; ``shards/`` reads and decodes.
"""

from __future__ import annotations

import atexit
import dataclasses
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Event
from typing import Any

import cv2
import numpy as np
import pandas
import pytorch_lightning as pl
from torch.utils.data import DataLoader

from hicmae.media.faces import FaceConfig
from hicmae.optimization import StepLoader
from hicmae.settings import InputConfig
from pretrain.settings import PretrainConfig
from shards.reading.files import ShardFolder, open_folder
from shards.reading.random_access import ShardDataset
from shards.reading.settings import DataConfig
from shards.reading.streaming import ClipStream
from shards.sample import collate
from shards.schema import LACKED, ClipError, needed_members

PREFETCHED_BATCHES = 4  # held ready by each reading process
_LOOK_SECONDS = 1  # between looks of a reading process that was told to end


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What the indexes say of the samples that can be used, before any shard is read."""

    num_clips: int  # of one pass
    hours: float
    build: Mapping[str, Any] | None  # the settings of the builds, if all cut faces in one way


def survey(config: DataConfig) -> Survey:
    """Count the samples of a recipe.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: No index, nothing of that split, fewer samples than a batch, or samples
            that lack what is required where bad samples raise.
    """
    opened = [open_folder(folder, config.cache) for folder in config.folders]
    # Shards of several folders have the same names.
    tables = [folder.rows(config.split).assign(folder=folder.name) for folder in opened]
    table = pandas.concat(tables, ignore_index=True)
    for member in config.needed:
        what = LACKED[member]
        absent = table[table[f"{member}_length"] == 0]
        if len(absent) and config.on_bad == "raise":
            other = f", or --data.{what} optional" if config.modalities == "audio-video" else ""
            first = absent.iloc[0]
            raise ValueError(
                f"{first['folder']}/{first['shard']}: sample {first['key']!r} has no {what} "
                f"({len(absent)} of {len(table)} samples have none); pass --data.on_bad skip to "
                f"leave them out{other}"
            )
        table = table.drop(absent.index)
    num_clips, each = len(table) * config.clips_per_sample, config.clips_per_sample
    if num_clips < config.batch_size:
        folders = ", ".join(map(str, config.folders))
        raise ValueError(
            f"{folders}: {len(table)} usable samples of split {config.split!r}"
            + (f", {each} clips each" if each > 1 else "")
            + f", fewer than data.batch_size = {config.batch_size}; lower it or give more shards"
        )
    return Survey(
        num_clips=num_clips,
        hours=float(table["seconds"].sum()) / 3600,
        build=_shared_build(opened),
    )


def _shared_build(folders: Sequence[ShardFolder]) -> Mapping[str, Any] | None:
    """The settings of the first build, where those of all folders say the same of faces."""
    builds = [folder.index.info.get("config") or {} for folder in folders]
    # Not made into one here: this machine need not have a detector of somebody else's.
    names = [field.name for field in dataclasses.fields(FaceConfig)]
    faces = [{name: build.get(name) for name in names} for build in builds]
    return builds[0] if all(each == faces[0] for each in faces) else None


def open_stream(
    config: PretrainConfig, *, first_batch: int = 0, rank: int = 0, world_size: int = 1
) -> ClipStream:
    """The endless stream of batches of one process; see ``ClipStream``."""
    return ClipStream(
        config.model.input,
        config.data,
        seed=config.seed,
        first_batch=first_batch,
        rank=rank,
        world_size=world_size,
    )


def mixing_notes(stream: ClipStream, data: DataConfig) -> Iterator[str]:
    """What is amiss with how batches are mixed, and what to do, a line each."""
    opened = zip(stream.corpora, stream.order.lanes, strict=True)
    # Drawn from all shards at once they are a permutation, of which a few batches say little.
    some = any(lanes is not None and lanes < len(corpus.shards) for corpus, lanes in opened)
    speakers = stream.speakers() if some else None
    if speakers is not None and not speakers.is_mixed:
        gigabytes = sum(corpus.shard_bytes for corpus in stream.corpora) / 1e9
        remedy = (
            f"leave out data.shuffle_shards = {data.shuffle_shards}"
            if data.shuffle_shards is not None
            else f"raise data.cache.gigabytes = {data.cache.gigabytes:g} (all shards have "
            f"{gigabytes:.0f}), or build the shards from a shuffled manifest"
        )
        yield (
            f"warning: speakers: {speakers}; contrast then meets the same person too often: "
            f"{remedy}"
        )
    for corpus, lanes in zip(stream.corpora, stream.order.lanes, strict=True):
        room = corpus.lanes(data.cache)
        if room is not None and lanes is not None and lanes > room:
            yield (
                f"warning: the cache has room for {room} of the {lanes} shards that are read at "
                "once, so each is fetched many times an epoch; raise data.cache.gigabytes = "
                f"{data.cache.gigabytes:g} or leave out data.shuffle_shards"
            )


class PretrainData(pl.LightningDataModule):
    """The endless stream of batches, each process reading its own share.

    ``first_batch`` is the number of batches that all processes together have taken before.
    """

    def __init__(self, config: PretrainConfig, *, first_batch: int = 0) -> None:
        super().__init__()
        self.config = config
        self.first_batch = first_batch
        self._over = multiprocessing.Event()  # training, its last checkpoint included
        atexit.register(self._over.set)

    def teardown(self, stage: str) -> None:
        """Let readers end on a signal; the run is saved."""
        self._over.set()

    def on_exception(self, exception: BaseException) -> None:
        """The same; the callbacks have seen it before, and waited for what was being saved."""
        self._over.set()

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Open the stream; Lightning has set up the processes by then."""
        assert self.trainer is not None
        workers = self.config.workers
        stream = open_stream(
            self.config,
            first_batch=self.first_batch // self.trainer.world_size,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        loader = StepLoader(
            stream,
            batch_size=None,
            num_workers=workers,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
            worker_init_fn=partial(start_worker, over=self._over) if workers else None,
            prefetch_factor=PREFETCHED_BATCHES if workers else None,
            # Lightning ends only persistent readers when a run fails.
            persistent_workers=workers > 0,
        )
        if self.config.accumulate > 1:
            loader.count = self.config.accumulate
            loader.tell = partial(have_of, size=self.config.data.batch_size)
        return loader


def have_of(batch: Mapping[str, Any], size: int) -> np.ndarray:
    """Which of a batch's ``size`` places hold picture, and which sound: (2, B) boolean."""
    have = np.zeros((2, size), dtype=bool)
    for row, name in zip(have, ("seen", "heard"), strict=True):
        row[: len(batch["keys"])] = batch[name].numpy() if name in batch else True
    return have


def start_worker(number: int, *, over: Event) -> None:
    """Prepare a reading process: one thread, and signals are the training process's affair.

    Ctrl-C and the end of a terminal reach all of its processes, a cluster's SIGTERM all of a job.
    The death of a reader would end the training process, so readers live, however long the run
    takes to be saved, until training is ``over`` or its process is gone.
    """
    training_process = os.getppid()

    def look(*_: Any) -> None:
        if over.is_set() or os.getppid() != training_process:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        signal.alarm(_LOOK_SECONDS)

    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, look)
    signal.signal(signal.SIGALRM, look)


def fixed_clips(config: DataConfig, input: InputConfig, count: int) -> dict[str, Any] | None:
    """Take the same few clips whenever the same shards are asked.

    Samples with all that is trained on, spread evenly over the keys in order; the middle of each.
    One that cannot be read gives way to the next.

    Returns: a batch of at most ``count`` clips; None where no sample has all of it.
    Raises: ClipError: none can be read.
    """
    sources: list[tuple[ShardFolder, pandas.DataFrame]] = []
    needed = needed_members(config.modalities, picture=True, sound=True)
    for folder in config.folders:
        opened = open_folder(folder, config.cache)
        rows = opened.rows(config.split)
        for member in needed:
            rows = rows[rows[f"{member}_length"] > 0]
        rows = rows.sort_values("key")
        whole = rows[rows["num_frames"] >= input.num_frames * input.frame_stride]
        rows = rows if whole.empty else whole  # a repeated last frame makes a dull picture
        if len(rows):
            sources.append((opened, rows))
    if not sources:
        return None
    ends = np.cumsum([len(rows) for _, rows in sources])
    places = np.linspace(0, ends[-1] - 1, min(count, ends[-1])).round().astype(int)

    def clip(number: int) -> Any:
        which = int(np.searchsorted(ends, number, side="right"))
        opened, rows = sources[which]
        one = rows.iloc[[number - ends[which]]]  # from the end of its folder's
        return ShardDataset(opened, input=input, rows=one, views=1, modalities=config.modalities)[0]

    clips: list[Any] = []
    problem: ClipError | None = None
    taken: set[int] = set()
    for place in places.tolist():
        for number in range(place, ends[-1]):
            if number in taken:
                continue
            taken.add(number)
            try:
                clips.append(clip(number))
            except ClipError as error:
                problem = error
                continue
            break
    if not clips:
        assert problem is not None
        raise problem
    return collate(clips)
