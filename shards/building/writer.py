"""What a sample is made of, as files, and tars of samples: the same bytes for the same samples.

Not for choosing images, sound or source: ``prepare.py`` does that.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import wave
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import xxhash

from hicmae.files import DigestingFile, file_sha256, kept_while_unchanged, naming, sync_to_disk
from hicmae.media.crops import encode_jpeg
from hicmae.media.missing import cut_off
from shards.index import index_row
from shards.schema import (
    SAMPLE_RATE,
    Label,
    SampleInfo,
    SourceFile,
    blocks_of,
    is_safe_key,
    sample_json,
)
from shards.settings import BuildConfig


def source_file(path: Path, name: str, images: Sequence[Path] | None = None) -> SourceFile:
    """Name, digest and length of a file, and what it lacks; of a folder, of its ``images`` in turn.

    The digest of images is over their names too (each ended by a zero byte, before its content).
    """
    if images is None:
        return replace(_whole_file(path), path=name)
    digest, size = hashlib.sha256(), 0
    for file in images:
        digest.update(os.fsencode(file.name) + b"\0")
        with file.open("rb") as opened:
            hashlib.file_digest(opened, lambda: digest)
            size += opened.tell()
    return SourceFile(path=name, sha256=digest.hexdigest(), bytes=size)


@kept_while_unchanged  # by the spans of one recording
def _whole_file(path: Path) -> SourceFile:
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        size = opened.tell()
    return SourceFile(path=path.name, sha256=digest, bytes=size, cut_off=cut_off(path))


def write_wav(path: Path, samples: np.ndarray) -> str:
    """Write 16-bit mono PCM (n,) at ``SAMPLE_RATE``; returns the file's SHA-256."""
    with naming(path), wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.astype("<i2").tobytes())
    return file_sha256(path)


def write_mjpg(
    path: Path, images: Iterable[np.ndarray], config: BuildConfig
) -> tuple[tuple[int, ...], str]:
    """Write N images (H, W, 3) uint8 RGB one after another as JPEG.

    Returns: N + 1 byte offsets, the last being the length; and the file's SHA-256.
    """
    offsets = [0]
    with naming(path), path.open("wb") as file:
        digesting = DigestingFile(file.write)
        for image in images:
            digesting.write(encode_jpeg(image, quality=config.jpeg_quality, chroma=config.chroma))
            offsets.append(digesting.num_bytes)
    return tuple(offsets), digesting.sha256


class ShardWriter:
    """Writes ``<split>-%06d.tar`` files into a folder, each beside its name and then renamed.

    Use it as a context manager: leaving it closes the open shards, leaving it by an error drops
    them. Afterwards ``rows`` holds the index rows and ``shards`` what
    ``index.json`` says of each.

    Args:
        finished: Shards that an interrupted build closed, by name, as ``shards`` describes them;
            they are not written again, and their samples are handed to ``keep`` in their places.
        on_shard: Called with the description of a shard once it is on the disk.
    """

    def __init__(
        self,
        folder: Path,
        *,
        samples_per_shard: int,
        finished: Mapping[str, dict[str, Any]] | None = None,
        on_shard: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.folder = folder
        self.samples_per_shard = samples_per_shard
        self.rows: list[dict[str, Label | None]] = []
        self._finished = finished or {}
        self._on_shard = on_shard
        self._kept: Counter[str] = Counter()
        self._keys: set[str] = set()
        self._open: dict[str, _Shard] = {}
        self._closed: dict[str, list[dict[str, Any]]] = {}

    @property
    def shards(self) -> list[dict[str, Any]]:
        """Name, bytes, sha256 and num_samples of every closed shard, by name."""
        every = (shard for shards in self._closed.values() for shard in shards)
        return sorted(every, key=lambda shard: str(shard["name"]))

    def keep(self, row: dict[str, Label | None]) -> None:
        """Pass over a sample that lies in a finished shard."""
        split, name = str(row["split"]), str(row["shard"])
        assert name == self._next_name(split), (name, self._next_name(split))
        assert split not in self._open, name
        self._keys.add(str(row["key"]))
        self._kept[name] += 1
        self.rows.append(row)
        if self._kept[name] == self._finished[name]["num_samples"]:
            self._closed[split].append(self._finished[name])

    def add(
        self, info: SampleInfo, mjpg: bytes | Path | None, wav: bytes | Path | None
    ) -> dict[str, Label | None]:
        """Append a sample to the shard of its split.

        Args:
            mjpg: The images, or the file that holds them; None if and only if it has none.
            wav: The sound likewise.

        Returns: its index row.
        Raises: ValueError: the key is unsafe or was written before.
        """
        assert (mjpg is not None) == info.has_images, info.key
        assert (wav is not None) == info.has_sound, info.key
        if not is_safe_key(info.key):
            raise ValueError(
                f"sample key {info.key!r}: letters, digits, '_', '-' and '/' are allowed"
            )
        if info.key in self._keys:
            raise ValueError(f"sample key {info.key!r} was written before; keys must be unique")
        self._keys.add(info.key)
        shard = self._open.get(info.split)
        if shard is None:
            name = self._next_name(info.split)
            assert name not in self._finished, name
            shard = _Shard(self.folder / name)
            self._open[info.split] = shard
        contents = {"mjpg": mjpg, "wav": wav, "json": sample_json(info)}
        members = {}
        begin = shard.begin()
        for extension in info.members:
            content = contents[extension]
            assert content is not None
            members[extension] = shard.append(f"{info.key}.{extension}", content)
        first = f"{info.key}.{info.members[0]}"
        span = blocks_of(first, members[info.members[0]][0], sum(members["json"]))
        assert span == (begin, shard.file.num_bytes), (first, span, begin)
        shard.num_samples += 1
        row = index_row(info, shard.path.name, members, shard.file.blocks.intdigest() or 1)
        self.rows.append(row)
        if shard.num_samples >= self.samples_per_shard:
            self._close(info.split)
        return row

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            self.drop()
        for split in list(self._open):
            self._close(split)

    def drop(self) -> None:
        """Forget the open shards."""
        while self._open:
            self._open.popitem()[1].drop()

    def _next_name(self, split: str) -> str:
        """Of the shard that the next sample of a split lies in."""
        return shard_name(split, len(self._closed.setdefault(split, [])))

    def _close(self, split: str) -> None:
        described = self._open.pop(split).close()
        self._closed[split].append(described)
        if self._on_shard:
            self._on_shard(described)


def shard_name(split: str, number: int) -> str:
    """File name of a shard; ``number`` counts those of its split from 0."""
    return f"{split}-{number:06d}.tar"


@dataclass
class _Shard:
    """One open tar; counts, and digests what it writes."""

    path: Path
    num_samples: int = 0

    def __post_init__(self) -> None:
        self.beside = self.path.with_name(self.path.name + ".part")
        self.file = _ShardFile(self.beside)
        # GNU format: no extended headers with times, and long names are written the same anywhere.
        self.tar = tarfile.open(  # noqa: SIM115 (closed in close() or drop())
            fileobj=cast(BinaryIO, self.file), mode="w", format=tarfile.GNU_FORMAT
        )

    def begin(self) -> int:
        """Begin the blocks of another sample; returns where, bytes."""
        self.file.blocks.reset()
        return self.file.num_bytes

    def append(self, name: str, content: bytes | Path) -> tuple[int, int]:
        """Add a member; returns offset and length of its data, bytes."""
        member = tarfile.TarInfo(name)  # mtime, uid and gid are 0 and the owner's names empty
        member.mode = 0o644
        source: BinaryIO
        if isinstance(content, Path):
            member.size = content.stat().st_size
            source = content.open("rb")
        else:
            member.size = len(content)
            source = io.BytesIO(content)
        with source:
            self.tar.addfile(member, source)
        padded = -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return self.tar.offset - padded, member.size

    def close(self) -> dict[str, Any]:
        """Finish the tar and give it its name, once its bytes are on the disk."""
        self.tar.close()
        self.file.close()
        sync_to_disk(self.beside)
        self.beside.replace(self.path)
        sync_to_disk(self.path.parent)
        return {
            "name": self.path.name,
            "bytes": self.file.num_bytes,
            "sha256": self.file.sha256,
            "num_samples": self.num_samples,
        }

    def drop(self) -> None:
        """Forget the tar."""
        self.file.close()
        self.beside.unlink(missing_ok=True)


class _ShardFile(DigestingFile):
    """A file written from front to back, with its digest, and one of what was written last."""

    def __init__(self, path: Path) -> None:
        self.blocks = xxhash.xxh3_64()
        self._file = path.open("wb")
        super().__init__(self._file.write)

    def tell(self) -> int:
        return self.num_bytes

    def write(self, block: bytes) -> int:
        self.blocks.update(block)
        with naming(Path(self._file.name)):
            return super().write(block)

    def close(self) -> None:
        with naming(Path(self._file.name)):
            self._file.close()
