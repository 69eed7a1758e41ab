"""What the indexes of one or several folders say of the samples to be read, as compact arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas
import pyarrow

from shards.errors import LACKED, ClipError, lacks
from shards.reading.files import ShardFiles, ShardFolder
from shards.reading.remote import CacheConfig
from shards.schema import blocks_of

_MEMBERS = ("mjpg", "wav", "json")
_NUMBERS = (
    *(f"{member}_{what}" for member in _MEMBERS for what in ("offset", "length")),
    "num_frames",
    "num_samples",
)


_CACHE_SHARE = 0.8  # of the cache, for the shards that are being read


class Row(NamedTuple):
    """What the index says of one sample.

    Args:
        key: Its name.
        shard: File name of its tar.
        mjpg_offset: Of its images in the tar, bytes; each member alike. 0 bytes of mjpg: no images,
            of wav: no sound.
        num_frames: Images, or frames in the length of sound alone.
        num_samples: Samples of sound.
        blocks_xxh3: Checksum of all its blocks in the tar (``schema.checksum``); 0: none is known.
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

    @classmethod
    def rows_of(cls, table: pandas.DataFrame) -> list[Row]:
        """All rows of a table, in its order."""
        columns = [table[name].tolist() for name in cls._fields]
        return [cls(*values) for values in zip(*columns, strict=True)]

    @property
    def where(self) -> str:
        """How an error names the sample."""
        return f"{self.shard}: sample {self.key!r}"

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
        numbers = [*self.numbers[sample].tolist(), int(self.checksums[sample])]
        row = Row(self.keys[sample].as_py(), shard, *numbers)
        return row, self.files[folder]

    def prefetch(self, samples: Sequence[int]) -> None:
        """Begin to fetch the shards of samples that will be wanted soon."""
        for number in dict.fromkeys(self.shard_numbers[list(samples)].tolist()):
            folder, shard = self.shards[number]
            self.files[folder].prefetch(shard)


def read_corpus(
    folders: Sequence[ShardFolder], *, split: str, fps: float, require: Sequence[str], skip: bool
) -> Corpus:
    """Make one corpus of folders.

    Args:
        folders: One or more.
        split: To read, or ``all``.
        fps: Frame rate that the samples must have.
        require: Members (of ``LACKED``) without which a sample is bad.
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
        for member in require:
            lacking = table[f"{member}_length"] == 0
            if not lacking.any():
                continue
            if not skip:
                row = table[lacking].iloc[0]
                there = ", ".join(name for name in _MEMBERS if row[f"{name}_length"] > 0)
                raise lacks(member, f"{row['shard']}: sample {row['key']!r}", there, False)
            left_out[f"no-{LACKED[member]}"] += int(lacking.sum())
            table = table[~lacking]
        table = table.sort_values(["shard", "json_offset"], kind="stable")
        names = table["shard"].drop_duplicates().tolist()
        places = {name: len(shards) + place for place, name in enumerate(names)}
        shards += [(number, name) for name in names]
        shard_bytes += sum(int(folder.described[name]["bytes"]) for name in names)
        tables.append(table.assign(place=table["shard"].map(places), folder=number))
    table = pandas.concat(tables, ignore_index=True)
    if table.empty:
        raise ClipError(
            f"{', '.join(folder.name for folder in folders)}: no sample of split {split!r} has "
            f"{' and '.join(LACKED[member] for member in require)} ({left_out.total()} were left "
            f"out); pass {LACKED[require[-1]]}: optional",
            min(left_out),
        )
    shard_numbers = table["place"].to_numpy(dtype=np.int32)
    return Corpus(
        files=tuple(folder.files for folder in folders),
        shards=tuple(shards),
        sizes=np.bincount(shard_numbers, minlength=len(shards)),
        numbers=np.ascontiguousarray(table[list(_NUMBERS)].to_numpy(dtype=np.int64)),
        checksums=table["blocks_xxh3"].to_numpy(dtype=np.uint64),
        shard_numbers=shard_numbers,
        keys=pyarrow.array(table["key"].tolist(), type=pyarrow.string()),
        speakers=_speaker_numbers(table),
        is_mixed=bool((table[["mjpg_length", "wav_length"]] == 0).to_numpy().any()),
        shard_bytes=shard_bytes,
        left_out=dict(left_out),
    )


def _speaker_numbers(table: pandas.DataFrame) -> np.ndarray:
    """A number for each speaker; the same name in another folder is another person."""
    numbers = table.groupby(["folder", "speaker"], sort=False, dropna=True).ngroup()
    return numbers.fillna(-1).to_numpy(dtype=np.int32)


def _usable_rows(folder: ShardFolder, split: str, fps: float) -> pandas.DataFrame:
    every = folder.index.table
    table = every if split == "all" else every[every["split"] == split]
    if table.empty:
        found = ", ".join(sorted(every["split"].unique())) or "nothing"
        raise ValueError(f"{folder.name}: no samples of split {split!r} (found {found})")
    other = table[table["fps"] != fps]
    if len(other):
        raise ValueError(
            f"{folder.name}: {len(other)} samples, {other['key'].iloc[0]!r} first, have "
            f"{other['fps'].iloc[0]:g} frames a second, the model takes {fps:g}; rebuild "
            "the shards at that rate"
        )
    sizes = {name: shard["bytes"] for name, shard in folder.described.items()}
    ends = table["shard"].map(sizes)
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
