"""Folders of shards: bytes of their tars, here or in the cache, and what their indexes say of the
samples to be read, of one folder or several, as compact arrays.
"""

from __future__ import annotations

import os
import resource
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas
import pyarrow

from shards.index import Index, read_index
from shards.reading.remote import CacheConfig, RemoteShards, as_remote
from shards.sample import decode_frames
from shards.schema import LACKED, ClipError, SampleInfo, blocks_of, lacks

# An epoch goes through many shards at once. A process may often have 1024 files, not all for us.
_MAX_OPEN = min(512, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
_FETCHES_AT_ONCE = 4
_FAILED_SECONDS = 60.0  # before a shard that could not be fetched is tried again
_MEMBERS = ("mjpg", "wav", "json")
_NUMBERS = (
    *(f"{member}_{what}" for member in _MEMBERS for what in ("offset", "length")),
    "num_frames",
    "num_samples",
)
_CACHE_SHARE = 0.8  # of the cache, for the shards that are being read


@dataclass(frozen=True)
class ShardFolder:
    """A folder of shards, ready to be read.

    Args: name: How a message names it.
    """

    index: Index
    files: ShardFiles
    name: str

    def rows(self, split: str) -> pandas.DataFrame:
        """Rows of the index that are of a split, or of ``all``.

        Raises: ValueError: there are none.
        """
        every = self.index.table
        table = every if split == "all" else every[every["split"] == split]
        if table.empty:
            found = ", ".join(sorted(every["split"].unique())) or "nothing"
            raise ValueError(
                f"{self.name}: no samples of split {split!r} (found {found}); name another, or all"
            )
        return table


def open_folder(folder: Path | str, cache: CacheConfig | None = None) -> ShardFolder:
    """Open a folder of shards, wherever it is.

    Args:
        folder: A path; or an fsspec URL, or ``pipe:`` and a command with ``{}`` for the name of a
            file, whose index is fetched now and whose shards when they are read.
        cache: Where fetched shards are kept; none given: the user's cache folder.

    Raises: FileNotFoundError, ShardError: as ``read_index``.
    """
    remote = as_remote(folder)
    if remote is None:
        index = read_index(folder)
        # A loader process may run in another directory.
        files = ShardFiles(index.folder.resolve(), name=str(folder))
        return ShardFolder(index, files, str(folder))
    shards = RemoteShards(remote, cache or CacheConfig())
    index = shards.index()
    shards.described = index.described
    files = ShardFiles(index.folder, shards, str(remote))
    return ShardFolder(index, files, str(remote))


class ShardFiles:
    """The tars of a folder, opened when first read, in each process anew; picklable.

    Args:
        folder: Where they are, or where their index is.
        remote: Where they come from, if not from ``folder``.
        name: How a message names the folder; none given: by its path.
    """

    def __init__(
        self, folder: Path, remote: RemoteShards | None = None, name: str | None = None
    ) -> None:
        self.folder, self.remote = folder, remote
        self.name = (name or str(folder)).rstrip("/")
        self._handles: OrderedDict[str, int] = OrderedDict()
        self._fetches: dict[str, Future[Path]] = {}
        self._fetcher: ThreadPoolExecutor | None = None
        self._failures: dict[str, tuple[float, ClipError]] = {}
        self._checked: set[str] = set()
        self._process = os.getpid()

    def read(self, shard: str, offset: int, length: int, where: str) -> bytes:
        """Read a range of bytes; ``where`` is how an error names what is read.

        Raises: ClipError: no such shard, it ends before the range does, or reading fails.
        """
        handle = self._handle(shard, where)
        parts = []
        try:
            while length > 0:
                part = os.pread(handle, length, offset)
                if not part:
                    size = os.fstat(handle).st_size
                    raise ClipError(
                        f"{where}: its shard is truncated, it ends at byte {size} and {length} "
                        "bytes are missing; copy or build it again",
                        "truncated",
                    )
                parts.append(part)
                offset += len(part)
                length -= len(part)
        except OSError as error:
            raise ClipError(f"{where}: cannot be read ({error.strerror})", "unreadable") from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def path(self, shard: str) -> Path:
        """Where a shard is on this machine, fetched if need be.

        Raises: ClipError: it cannot be fetched.
        """
        if self.remote is None:
            return self.folder / shard
        self._forget_parent()
        self._raise_failure(shard)
        fetch = self._fetches.pop(shard, None)
        if fetch is not None:
            # What failed then need not fail now: this process may not have wanted the shard since.
            with suppress(ClipError):
                fetch.result()
            self._raise_failure(shard)
        return self._fetch(shard)

    def prefetch(self, shard: str) -> None:
        """Begin to fetch a shard that will be wanted soon, beside this, after those before it."""
        if self.remote is None:
            return
        self._forget_parent()
        if shard in self._handles or shard in self._fetches or self.remote.holds(shard):
            return
        if self._fetcher is None:
            self._fetcher = ThreadPoolExecutor(_FETCHES_AT_ONCE, thread_name_prefix="fetch-shards")
        self._fetches[shard] = self._fetcher.submit(self._fetch, shard)

    def mend(self, shard: str) -> bool:
        """Whether what was wrong with a shard may be put right by reading it again.

        That is so if it is a copy in the cache that went bad; it is then dropped. Each is looked
        at once in a process.
        """
        if self.remote is None or shard in self._checked:
            return False
        self._checked.add(shard)
        if not self.remote.drop_damaged(shard):
            return False
        if shard in self._handles:
            os.close(self._handles.pop(shard))
        return True

    def close(self) -> None:
        """Close what is open; reading opens it again."""
        while self._handles:
            os.close(self._handles.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "remote": self.remote, "name": self.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __del__(self) -> None:
        self.close()

    def _fetch(self, shard: str) -> Path:
        assert self.remote is not None
        try:
            return self.remote.fetch(shard)
        except ClipError as error:
            self._failures[shard] = (time.monotonic(), error)
            raise

    def _raise_failure(self, shard: str) -> None:
        """Raise why a shard could not be fetched just now, if so."""
        failure = self._failures.get(shard)
        if failure is not None and time.monotonic() - failure[0] < _FAILED_SECONDS:
            raise failure[1]

    def _forget_parent(self) -> None:
        """In a forked child: the handles are its own copies, the thread is not there."""
        if self._process != os.getpid():
            self.close()
            self._fetches, self._fetcher = {}, None
            self._process = os.getpid()

    def _handle(self, shard: str, where: str) -> int:
        self._forget_parent()
        handle = self._handles.get(shard)
        if handle is None:
            handle = self._open(shard, where)
            if len(self._handles) >= _MAX_OPEN:
                os.close(self._handles.popitem(last=False)[1])
            self._handles[shard] = handle
        else:
            self._handles.move_to_end(shard)
        return handle

    def _open(self, shard: str, where: str) -> int:
        # Another process may remove a cached shard between the two steps, if the cache is small.
        for _ in range(3 if self.remote is not None else 1):
            try:
                return os.open(self.path(shard), os.O_RDONLY)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ClipError(
                    f"{where}: its shard cannot be opened ({error.strerror})", "unreadable"
                ) from error
        raise ClipError(
            f"{where}: no such shard, but the index beside it lists it; build it again",
            "missing-shard",
        )


class Row(NamedTuple):
    """What the index says of one sample.

    Args:
        shard: File name of its tar.
        mjpg_offset: Of its images in the tar, bytes; each member alike. 0 bytes of mjpg: no images,
            of wav: no sound.
        num_frames: Images, or frames in the length of sound alone.
        blocks_xxh3: Checksum of all its blocks in the tar (``schema.checksum``); 0: none is known.
        folder: How a message names the folder of its shard; empty: not at all.
    """

    key: str
    shard: str
    mjpg_offset: int
    mjpg_length: int
    wav_offset: int
    wav_length: int
    json_offset: int
    json_length: int
    num_frames: int
    num_samples: int
    blocks_xxh3: int
    folder: str = ""

    @classmethod
    def rows_of(cls, table: pandas.DataFrame, folder: str = "") -> list[Row]:
        """All rows of a table, in its order."""
        columns = [table[name].tolist() for name in cls._fields[:-1]]
        return [cls(*values) for values in zip(*columns, [folder] * len(table), strict=True)]

    @property
    def where(self) -> str:
        """How an error names the sample."""
        return f"{self.folder and f'{self.folder}/'}{self.shard}: sample {self.key!r}"

    @property
    def blocks(self) -> tuple[int, int]:
        """Where its blocks in the tar begin and end, bytes."""
        first = ("mjpg", self.mjpg_offset) if self.mjpg_length else ("wav", self.wav_offset)
        return blocks_of(f"{self.key}.{first[0]}", first[1], self.json_offset + self.json_length)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Samples in the order of their shards, which are in the order of folders and names.

    Args:
        files: Of each folder.
        shards: (number of the folder, file name) of each shard.
        sizes: (number of shards,) usable samples of each, none of them 0.
        numbers: (N, 8) int64, the columns of ``Row`` between the names and the checksum.
        checksums: (N,) uint64, the last column of ``Row``.
        shard_numbers: (N,) int32, which of ``shards`` a sample is in.
        keys: N strings.
        speakers: (N,) int32, a number for each speaker of each folder; -1: not known.
        is_mixed: Whether some lack their picture or their sound.
        shard_bytes: Of all shards together.
        left_out: Samples that the indexes themselves tell to be unusable, by cause.
    """

    files: tuple[ShardFiles, ...]
    shards: tuple[tuple[int, str], ...]
    sizes: np.ndarray
    numbers: np.ndarray
    checksums: np.ndarray
    shard_numbers: np.ndarray
    keys: Any
    speakers: np.ndarray
    is_mixed: bool
    shard_bytes: int
    left_out: dict[str, int]

    @property
    def is_remote(self) -> bool:
        """Whether some of its shards have to be fetched."""
        return any(files.remote is not None for files in self.files)

    def lanes(self, cache: CacheConfig) -> int | None:
        """Shards that can be drawn from at once; None: all.

        Those of a cache leave room in it for the next ones, which are fetched meanwhile.
        """
        room = _CACHE_SHARE * cache.gigabytes * 1e9
        if not self.is_remote or self.shard_bytes <= room:
            return None
        return max(1, int(room / self.shard_bytes * len(self.shards)))

    def row(self, sample: int) -> tuple[Row, ShardFiles]:
        """What is said of a sample, and the files it is in."""
        folder, shard = self.shards[self.shard_numbers[sample]]
        files = self.files[folder]
        numbers = [*self.numbers[sample].tolist(), int(self.checksums[sample])]
        values = [self.keys[sample].as_py(), shard, *numbers, files.name]
        return Row(*values), files

    def prefetch(self, samples: Sequence[int]) -> None:
        """Begin to fetch the shards of samples that will be wanted soon."""
        for number in dict.fromkeys(self.shard_numbers[list(samples)].tolist()):
            folder, shard = self.shards[number]
            self.files[folder].prefetch(shard)


def read_corpus(
    folders: Sequence[ShardFolder],
    *,
    split: str,
    fps: float,
    require: Mapping[str, str],
    skip: bool,
) -> Corpus:
    """Make one corpus of folders.

    Args:
        split: To read, or ``all``.
        fps: Frame rate that the samples must have.
        require: Members (of ``LACKED``) without which a sample is bad, each with its remedy.
        skip: Whether such samples are left out, or refused.

    Raises:
        ValueError: A folder has no sample of the split, another frame rate, or an index that
            contradicts itself.
        ClipError: A sample that lacks one, where those are refused, or nothing else.
    """
    shards: list[tuple[int, str]] = []
    tables, left_out, shard_bytes = [], Counter[str](), 0
    for number, folder in enumerate(folders):
        table = _usable_rows(folder, split, fps)
        for member, setting in require.items():
            lacking = table[f"{member}_length"] == 0
            if not lacking.any():
                continue
            if not skip:
                row = table[lacking].iloc[0]
                there = ", ".join(name for name in _MEMBERS if row[f"{name}_length"] > 0)
                where = f"{folder.files.name}/{row['shard']}: sample {row['key']!r}"
                raise lacks(member, where, there, setting)
            left_out[f"no-{LACKED[member]}"] += int(lacking.sum())
            table = table[~lacking]
        table = table.sort_values(["shard", "json_offset"], kind="stable")
        places, names = pandas.factorize(table["shard"])
        places += len(shards)
        shards += [(number, name) for name in names]
        shard_bytes += sum(int(folder.index.described[name]["bytes"]) for name in names)
        tables.append(table.assign(place=places, folder=number))
    table = pandas.concat(tables, ignore_index=True)
    if table.empty:
        wanted = [LACKED[member] for member in require]
        missed = [setting for name, setting in require.items() if left_out[f"no-{LACKED[name]}"]]
        remedy = f"pass {' and '.join(missed)}"
        if "on_bad: skip" in missed:  # which is how nothing was left
            remedy = "give shards that have it, or read the other modality"
        raise ClipError(
            f"{', '.join(folder.name for folder in folders)}: no sample of split {split!r} has "
            f"{' and '.join(wanted)} ({left_out.total()} were left out); {remedy}",
            min(left_out),
        )
    shard_numbers = table["place"].to_numpy(dtype=np.int32)
    # The same name in another folder is another person.
    speakers = table.groupby(["folder", "speaker"], sort=False, dropna=True).ngroup()
    return Corpus(
        files=tuple(folder.files for folder in folders),
        shards=tuple(shards),
        sizes=np.bincount(shard_numbers, minlength=len(shards)),
        numbers=np.ascontiguousarray(table[list(_NUMBERS)].to_numpy(dtype=np.int64)),
        checksums=table["blocks_xxh3"].to_numpy(dtype=np.uint64),
        shard_numbers=shard_numbers,
        keys=pyarrow.array(table["key"].tolist(), type=pyarrow.string()),
        speakers=speakers.fillna(-1).to_numpy(dtype=np.int32),
        is_mixed=bool((table[["mjpg_length", "wav_length"]] == 0).to_numpy().any()),
        shard_bytes=shard_bytes,
        left_out=dict(left_out),
    )


def read_frame(
    index: Index, files: ShardFiles, row: int, info: SampleInfo, frame: int
) -> np.ndarray:
    """Read one image: number ``frame`` of the sample at position ``row`` of the index.

    Returns: uint8 (H, W, 3), RGB.
    Raises: ClipError: It cannot be read.
    """
    shard, offset = index.table["shard"].iloc[row], int(index.table["mjpg_offset"].iloc[row])
    start, stop = info.frame_offsets[frame : frame + 2]
    where = f"{index.folder / shard}: sample {info.key!r}"
    jpeg = files.read(shard, offset + start, stop - start, where)
    frames = decode_frames(jpeg, (0, stop - start), np.array([0]), where)
    return np.asarray(frames[0], dtype=np.uint8)


def _usable_rows(folder: ShardFolder, split: str, fps: float) -> pandas.DataFrame:
    table = folder.rows(split)
    other = table[table["fps"] != fps]
    if len(other):
        raise ValueError(
            f"{folder.name}: {len(other)} samples, {other['key'].iloc[0]!r} first, have "
            f"{other['fps'].iloc[0]:g} frames a second, the model takes {fps:g}; rebuild "
            "the shards at that rate"
        )
    places, names = pandas.factorize(table["shard"])  # a shard at a time, not a row
    described = [folder.index.described.get(name) for name in names]
    sizes = np.array([np.nan if shard is None else shard["bytes"] for shard in described])
    ends = pandas.Series(sizes[places], index=table.index)
    bad = ends.isna() | (table["num_frames"] < 1)
    for member in _MEMBERS:
        offset, length = table[f"{member}_offset"], table[f"{member}_length"]
        absent = (length == 0) if member in LACKED else False
        bad |= ~(absent | ((offset >= 512) & (length > 0) & (offset + length <= ends)))
    if bad.any():
        row = table[bad].iloc[0]
        raise ValueError(
            f"{folder.name}: the index places sample {row['key']!r} outside of its shard "
            f"{row['shard']} ({int(bad.sum())} samples are so); build it again"
        )
    return table
